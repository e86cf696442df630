"""Every layer of a network: its zeros, whether it is 2:4 sparse, and why it cannot be.

A row, as `layers` gives it and as the sidecars of engines keep it, is a `records.LayerRow`.
"""

from dataclasses import asdict
from typing import cast

from torch import Tensor, nn

from compress.graph import cost
from compress.graph.layout import by_output
from compress.graph.rewrite import deconv_to_conv
from compress.sparsity import eligibility, pattern
from compress.sparsity.records import Group, LayerRow, WeightRow

SHOWN = 3
"""Failing groups that are named for a layer; all are counted."""
ENGINE_COLUMNS = {"eligible": "eligible_engine", "picked": "picked"}
"""Facts in a sidecar that list layers -> the column of a row that says whether the layer is one."""


def layers(net: nn.Module) -> list[LayerRow]:
    """Every convolution and linear layer of `net`, (N, 1, H, W) -> (N, 1, H, W)."""
    net = deconv_to_conv(net)
    counted = cost.counted(net)
    used, total = cost.by_layer(counted), counted.macs
    rows: list[LayerRow] = []
    for name, module in cost.compressible(net).items():
        macs = used[name].macs if name in used else None
        reasons = {rule: eligibility.refusal(module, rule) for rule in eligibility.RULES}
        row = {
            "name": name,
            "kind": type(module).__name__,
            **described(by_output(module)),
            **{f"eligible_{rule}": not reason for rule, reason in reasons.items()},
            **{f"reason_{rule}": reason for rule, reason in reasons.items()},
            **dict.fromkeys(ENGINE_COLUMNS.values(), "unknown"),
            "macs": macs,
            "share_of_macs": None if macs is None else macs / total,
            "share_of_time": None,
        }
        rows.append(cast("LayerRow", row))
    return rows


def described(weight: Tensor) -> WeightRow:
    """What a row says of the values of a weight, (out, in, *kernel)."""
    whole = weight.shape[1] % 4 == 0
    broken = pattern.violations(weight, most=SHOWN) if whole else []
    return {
        "shape": list(weight.shape),
        "zeros": int((weight == 0).sum()),
        "sparse24": whole and not broken,
        "failing": pattern.count_violations(weight) if whole else None,
        "first": [cast("Group", asdict(one) | {"tap": list(one.tap)}) for one in broken],
    }
