"""Whether a pruned network equals the dense one with the pruned channels masked, by trying.

Both run on one random slice in float64, with random weights and normalisation statistics: a last
layer that starts at zero would hide everything. The reference is the dense network itself, whose
consumers get zeros where they read pruned channels.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.base.reasons import reason
from compress.graph.groups import Group, cuts, reads, remove
from compress.graph.slices import channels

SAME = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference that counts as none, as a share of the largest output. float32 is for networks
that do not run in float64, as their code makes float32 values of its own."""
SECONDS = 60.0
"""Processor time of this thread to make a plan: following channels, which may take 45 s, and then
looking for the groups at fault."""
DRAWS = ((1.0, 1), (1.0, 2), (1.0, 3), (0.1, 4), (0.0, 5))
"""How far weights are moved, and the seed, until the output is finite and not constant."""

Pruned = Mapping[str, tuple[int, ...]]


class Proof:
    """Tries what pruning does to one network.

    Args:
        net: the dense network; it is not changed.
        found: its groups.
        size: height and width of the slice.
        end: processor time of this thread until which groups at fault are looked for; those not
            looked at by then stay whole.
    """

    def __init__(
        self,
        net: nn.Module,
        found: Sequence[Group],
        size: tuple[int, int],
        end: float = math.inf,
    ) -> None:
        self._found, self._end = tuple(found), end
        self.measured = 0.0
        """The difference of the last plan that was tried."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, channels(net), *size, generator=generator, dtype=torch.float64)
        self.dtype = torch.float64
        try:
            self._net = _telling(net, x)
        except Exception:  # whatever the network's code raises
            self.dtype = torch.float32
            self._net = _telling(net, x.float())
        self._slice = x.to(self.dtype)

    def failing(self, pruned: Pruned) -> dict[str, str]:
        """The groups that must stay whole, with the reason; empty where the plan is right.

        Args:
            pruned: members that go, by group name.
        """
        names = [name for name, members in pruned.items() if members]
        return self._failing(pruned, names)

    def difference(self, pruned: Pruned) -> float:
        """Largest difference between pruned and masked network, as a share of the largest output.

        Raises:
            Exception: whatever the pruned network raises.
        """
        expected = _run(_masked(self._net, self._found, pruned), self._slice)
        got = _run(remove(self._net, self._found, pruned), self._slice)
        if got.shape != expected.shape:
            return float("inf")
        self.measured = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
        return self.measured

    def _failing(self, pruned: Pruned, names: Sequence[str]) -> dict[str, str]:
        """Those among `names`; halved until each is alone."""
        part = {name: pruned[name] for name in names}
        why = self._reason(part)
        if not why:
            return {}
        if len(names) == 1:
            return {names[0]: why}
        if time.thread_time() > self._end:
            return dict.fromkeys(names, "there was no time to find out whether they can go")
        half = len(names) // 2
        one = self._failing(pruned, names[:half])
        other = self._failing(pruned, names[half:])
        # Right by themselves and wrong together: a half of them stays.
        return one | other or dict.fromkeys(names[half:], why)

    def _reason(self, pruned: Pruned) -> str:
        """Why this cannot be pruned; empty where it can."""
        try:
            difference = self.difference(pruned)
        except Exception as error:  # the network's own code meets sizes that it was not written for
            return f"the network does not run without some of them: {reason(error)}"
        if difference <= SAME[self.dtype]:
            return ""
        return f"without some of them the others change (by {difference:.2g} of the output)"


def _telling(net: nn.Module, x: Tensor) -> nn.Module:
    """The network with random weights, in the arithmetic of `x`, whose output is not constant."""
    for strength, seed in DRAWS:
        found = _randomised(net, strength, seed, x.dtype)
        out = _run(found, x)
        if out.isfinite().all() and float(out.std()) > 1e-6 * float(out.abs().max()):
            break
    return found


def _randomised(net: nn.Module, strength: float, seed: int, dtype: torch.dtype) -> nn.Module:
    """A copy in eval mode whose weights, and statistics of norms, are moved at random."""
    net = copy.deepcopy(net).cpu().to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and tensor.numel():
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                spread = float(tensor.std(correction=0)) or 0.1
                if name.endswith("running_var"):
                    noise = noise.abs()
                tensor.add_(noise, alpha=strength * min(spread, 1.0))
    return net


def _masked(net: nn.Module, found: Sequence[Group], pruned: Pruned) -> nn.Module:
    """The dense network with zeros in the weights that read pruned channels."""
    net = copy.deepcopy(net)
    state, read = net.state_dict(), reads(net)
    for (name, dim), gone in cuts(found, pruned).items():
        if (name, dim) in read:
            state[name].index_fill_(dim, torch.tensor(sorted(gone)), 0.0)
    return net


def _run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of networks that draw noise
        out: Tensor = net(x)
    return out
