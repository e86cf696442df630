"""Whether a pruned network equals the dense one with what was pruned masked, by trying.

Both run on one random slice in float64, with random weights and normalisation statistics: a last
layer that starts at zero would hide everything. The reference is the dense network itself, whose
consumers get zeros where they read pruned channels, and whose kernels have zeros in the rings that
go. What only training runs, such as a second head, has nothing to compare; it must run.
"""

import contextlib
import copy
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compress.base.reasons import reason
from compress.base.tensors import cast
from compress.graph import draws
from compress.graph.draws import seeded
from compress.graph.groups import Group, cuts, reads, remove
from compress.graph.kernels import Rings, middle
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


class Cut(NamedTuple):
    """What goes from a network."""

    pruned: Pruned
    """Members by group name."""
    rings: Rings
    """Of kernels, by module name."""

    @property
    def parts(self) -> list["Cut"]:
        """One of each group and kernel."""
        groups = [Cut({name: gone}, {}) for name, gone in self.pruned.items() if gone]
        return groups + [Cut({}, {name: count}) for name, count in self.rings.items() if count]

    def joined(self, other: "Cut") -> "Cut":
        """Both."""
        return Cut({**self.pruned, **other.pruned}, {**self.rings, **other.rings})


NOTHING = Cut({}, {})


class Failing(NamedTuple):
    """What must stay, with the reason."""

    groups: Mapping[str, str]
    """By group name."""
    kernels: Mapping[str, str]
    """By module name."""

    def __bool__(self) -> bool:
        return bool(self.groups or self.kernels)

    def __or__(self, other: "Failing") -> "Failing":
        return Failing({**self.groups, **other.groups}, {**self.kernels, **other.kernels})


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
        self._comparable = draws.comparable(self._net, self._slice)

    def failing(self, pruned: Pruned, rings: Rings | None = None) -> Failing:
        """The groups and kernels that must stay whole; nothing where the plan is right.

        Args:
            pruned: members that go, by group name.
            rings: that go, by module name of a convolution.
        """
        return self._failing(Cut(pruned, rings or {}).parts)

    def difference(self, pruned: Pruned, rings: Rings | None = None) -> float:
        """Largest difference between pruned and masked network, as a share of the largest output.

        Raises:
            Exception: whatever the pruned network raises.
        """
        return self._difference(remove(self._net, self._found, pruned, rings), pruned, rings or {})

    def _difference(self, small: nn.Module, pruned: Pruned, rings: Rings) -> float:
        # With fewer channels other random numbers are drawn, which are no difference.
        with self._comparable:
            expected = seeded(_masked(self._net, self._found, pruned, rings), self._slice)
            got = seeded(small, self._slice)
        if got.shape != expected.shape:
            return float("inf")
        self.measured = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
        return self.measured

    def _failing(self, parts: Sequence[Cut]) -> Failing:
        """Those among `parts`; halved until each is alone."""
        why = self._reason(functools.reduce(Cut.joined, parts, NOTHING))
        if not why:
            return Failing({}, {})
        if len(parts) == 1:
            return _all(parts, why)
        if time.thread_time() > self._end:
            return _all(parts, "there was no time to find out whether they can go")
        half = len(parts) // 2
        one = self._failing(parts[:half])
        other = self._failing(parts[half:])
        # Right by themselves and wrong together: a half of them stays.
        return one | other or _all(parts[half:], why)

    def _reason(self, gone: Cut) -> str:
        """Why this cannot be pruned; empty where it can."""
        what, rest = ("some of them", "the others change")
        if not gone.pruned:
            what, rest = ("the outer ring of taps", "it computes something else")
        try:
            small = remove(self._net, self._found, gone.pruned, gone.rings)
            difference = self._difference(small, gone.pruned, gone.rings)
        except Exception as error:  # the network's own code meets sizes that it was not written for
            return f"the network does not run without {what}: {reason(error)}"
        if difference <= SAME[self.dtype]:
            why = self._training_error(small)
            return why and f"the network cannot be trained without {what}: {why}"
        return f"without {what} {rest} (by {difference:.2g} of the output)"

    def _training_error(self, small: nn.Module) -> str:
        """What the pruned network raises as in training, where the dense one raises nothing."""
        try:
            seeded(small.train(), self._slice)
        except Exception as error:  # as above, of code that only training runs
            with contextlib.suppress(Exception):
                seeded(copy.deepcopy(self._net).train(), self._slice)
                return reason(error)
        return ""


def _all(parts: Sequence[Cut], why: str) -> Failing:
    whole = functools.reduce(Cut.joined, parts, NOTHING)
    return Failing(dict.fromkeys(whole.pruned, why), dict.fromkeys(whole.rings, why))


def _telling(net: nn.Module, x: Tensor) -> nn.Module:
    """The network with random weights, in the arithmetic of `x`, whose output is not constant."""
    for strength, seed in DRAWS:
        found = _randomised(net, strength, seed, x.dtype)
        out = seeded(found, x)
        if out.isfinite().all() and float(out.std()) > 1e-6 * float(out.abs().max()):
            break
    return found


def _randomised(net: nn.Module, strength: float, seed: int, dtype: torch.dtype) -> nn.Module:
    """A copy in eval mode whose weights, and statistics of norms, are moved at random."""
    net = cast(copy.deepcopy(net).cpu(), dtype).eval()
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


def _masked(net: nn.Module, found: Sequence[Group], pruned: Pruned, rings: Rings) -> nn.Module:
    """The dense network with zeros in the weights that read pruned channels, and in rings."""
    net = copy.deepcopy(net)
    state, read = net.state_dict(), reads(net)
    for (name, dim), gone in cuts(found, pruned).items():
        if (name, dim) in read:
            state[name].index_fill_(dim, torch.tensor(sorted(gone)), 0.0)
    for name, count in rings.items():
        weight = state[f"{name}.weight"]
        inside = middle(weight, count).clone()
        middle(weight.zero_(), count).copy_(inside)
    return net
