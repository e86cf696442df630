"""How values flow from module to module, by torch.fx."""

import copy
from collections import Counter
from collections.abc import Mapping

from torch import fx, nn


def nodes(net: nn.Module) -> list[fx.Node]:
    """The calls of `net` in order; none where torch.fx cannot trace it."""
    try:
        # On a copy: what its code stores in itself would be proxies.
        return list(fx.symbolic_trace(copy.deepcopy(net)).graph.nodes)
    except Exception:  # the network's own code runs on proxies and may raise anything
        return []


def called_once(net: nn.Module, found: list[fx.Node]) -> Mapping[str, nn.Module]:
    """The modules of `net` that one of the calls `found` runs, and no other, by name."""
    calls = Counter(str(node.target) for node in found if node.op == "call_module")
    return {name: module for name, module in net.named_modules() if calls[name] == 1}
