"""Every layer of a network: its zeros, whether it is 2:4 sparse, and why it cannot be.

A row, as `layers` gives it and as the sidecars of engines keep it:

name, kind, shape      module name, class, shape of the weight (out, in, *kernel)
zeros                  weights that are zero
sparse24, failing      whether the weight is 2:4 along its input channels; groups of four that are
                       not; None where the channels come in no fours
first                  the first such groups: [{out, first, tap, nonzeros}], see `pattern.Violation`
eligible_backend, eligible_trt   whether ModelOpt and ASP would take the layer, and TensorRT
reason_backend, reason_trt       why not; empty where they would
eligible_engine, picked   whether the engine could run a sparse kernel for the layer and whether it
                       does: "yes" or "no" where it tells, else "unknown"
macs, share_of_macs    multiply-accumulates for one 512x512 slice; None for a layer out of use
share_of_time          of the layers' time where the engine tells it, else None
kernel, sparse, us, floor_us   only where the engine tells it: what computes the layer, whether as
                       2:4, microseconds a slice, and the least time on an H100
"""

from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from compress.graph import cost
from compress.graph.rewrite import deconv_to_conv
from compress.sparsity import eligibility, pattern

SHOWN = 3
"""Failing groups that are named for a layer; all are counted."""
ENGINE_COLUMNS = {"eligible": "eligible_engine", "picked": "picked"}
"""Facts in a sidecar that list layers -> the column of a row that says whether the layer is one."""

Row = dict[str, Any]


def layers(net: nn.Module) -> list[Row]:
    """Every convolution and linear layer of `net`, (N, 1, H, W) -> (N, 1, H, W)."""
    net = deconv_to_conv(net)
    used = cost.layers(net)
    total = sum(layer.macs for layer in used.values())
    rows = []
    for name, module in eligibility.candidates(net).items():
        macs = used[name].macs if name in used else None
        reasons = {rule: eligibility.refusal(module, rule) for rule in eligibility.RULES}
        rows.append(
            {
                "name": name,
                "kind": type(module).__name__,
                **described(pattern.by_output(module)),
                **{f"eligible_{rule}": not reason for rule, reason in reasons.items()},
                **{f"reason_{rule}": reason for rule, reason in reasons.items()},
                **dict.fromkeys(ENGINE_COLUMNS.values(), "unknown"),
                "macs": macs,
                "share_of_macs": None if macs is None else macs / total,
                "share_of_time": None,
            }
        )
    return rows


def described(weight: Tensor) -> Row:
    """What a row says of the values of a weight, (out, in, *kernel)."""
    whole = weight.shape[1] % 4 == 0
    broken = pattern.violations(weight, most=SHOWN) if whole else []
    return {
        "shape": list(weight.shape),
        "zeros": int((weight == 0).sum()),
        "sparse24": whole and not broken,
        "failing": pattern.count_violations(weight) if whole else None,
        "first": [asdict(one) | {"tap": list(one.tap)} for one in broken],
    }
