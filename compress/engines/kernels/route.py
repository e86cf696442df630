"""Which operations of a plan one kernel computes: the cheapest way through it.

Behind the stem, a dense block is a row of operations: max-pool, bottleneck, 5x5, bottleneck, 5x5,
..., transition. Then come the decoders: upsampling, 5x5, upsampling, 5x5, ... Two neighbours can be
one kernel, as a `Chain` or as a `Layer`, and each operation belongs to one kernel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from compress.engines.kernels.plan import Chain, Conv, Plan, Pool, Upsample


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution, and what makes its input or reads its output, that one kernel may compute.

    A bottleneck or an upsampling is first: nobody else reads what that writes, so one kernel need
    not store it. Or a max-pool is second: the last decoder reads what the stem writes, so that is
    stored, too. Layers are not in a plan but found in it.
    """

    first: Conv | Upsample
    second: Conv | Pool

    @property
    def conv(self) -> Conv:
        """The convolution."""
        found = self.second if isinstance(self.second, Conv) else self.first
        assert isinstance(found, Conv)
        return found

    @property
    def before(self) -> Conv | Upsample | None:
        """What makes its input."""
        return self.first if isinstance(self.second, Conv) else None

    @property
    def pool(self) -> Pool | None:
        """What reads its output."""
        return self.second if isinstance(self.second, Pool) else None


Single = Conv | Pool | Upsample
Merged = Chain | Layer
"""Two operations in one kernel."""
Unit = Single | Merged
"""What one kernel, or PyTorch, computes."""


def singles(plan: Plan) -> list[Single]:
    """Every operation by itself, in order."""
    found = list[Single]()
    for one in plan.operations:
        found += [one.first, one.second] if isinstance(one, Chain) else [one]
    return found


def merges(plan: Plan) -> dict[int, Merged]:
    """Which neighbours can be one kernel, by the place of the first one in `singles`.

    At an even place of a dense block a chain begins, at an odd one a layer; at the stem and at an
    upsampling, too.
    """
    found = dict[int, Merged]()
    at = 0
    for one in plan.operations:
        if isinstance(one, Chain):
            if not one.plain:
                found[at] = one
            at += 1
        at += 1
    for at, (first, second) in enumerate(pairwise(singles(plan))):
        layer = _layer(first, second)
        if layer:
            found[at] = layer
    return found


def route(plan: Plan, wanted: Callable[[Merged], bool]) -> list[Unit]:
    """Every operation once, in order; two in one where that is wanted."""
    ops, pairs = singles(plan), merges(plan)
    found, at = list[Unit](), 0
    while at < len(ops):
        pair = pairs.get(at)
        both = pair is not None and wanted(pair)
        found.append(pair if pair is not None and both else ops[at])
        at += 2 if both else 1
    return found


def cheapest(plan: Plan, cost: Callable[[Unit], float]) -> list[Unit]:
    """The units that take the least time in all.

    Args:
        plan: operations.
        cost: time of a unit; infinite where nothing computes it.
    """
    ops, pairs = singles(plan), merges(plan)
    best: Mapping[int, tuple[float, list[Unit]]] = {0: (0.0, [])}
    for at in range(len(ops)):
        total, units = best[at]
        found = dict(best)
        steps: list[tuple[int, Unit]] = [(1, ops[at])]
        steps += [(2, pairs[at])] if at in pairs else []
        for length, unit in steps:
            made = (total + cost(unit), [*units, unit])
            if at + length not in found or made[0] < found[at + length][0]:
                found[at + length] = made
        best = found
    return best[len(ops)][1]


def _layer(first: Single, second: Single) -> Layer | None:
    """Two neighbours as a layer; None where they are none."""
    if isinstance(first, Conv) and isinstance(second, Pool):
        stem = first.size > 1 and first.target == second.source
        return Layer(first=first, second=second) if stem else None
    if not isinstance(second, Conv) or second.size == 1:
        return None
    if isinstance(first, Conv) and first.size == 1 and first.target == second.source:
        return Layer(first=first, second=second)
    if isinstance(first, Upsample) and first.target.buffer == second.source.buffer:
        return Layer(first=first, second=second)
    return None
