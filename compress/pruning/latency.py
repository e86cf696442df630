"""Predicted milliseconds of a network from a table of measured times, layer by layer.

The table has the microseconds of each family of layers, see `families.py`, on a grid of input and
output channels. In between they are interpolated, linearly in both counts, as multiply-accumulates
grow; below the smallest measured count the time stays the same. Measured times are made monotone
first: no shape counts as faster than one with fewer channels, so a prediction errs to the slow
side.

The prediction is the sum over the convolutions and linear layers, as in Shen et al., "Structural
pruning via latency-saliency knapsack", NeurIPS 2022. What runs in between costs nothing here.
`engines/layer_times.py` measures; nothing is measured here.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from torch import nn

from compress.base.errors import UsageError
from compress.base.files import digest, read_json
from compress.graph.kernels import Rings
from compress.pruning.families import Family, Knots, timed

FORMAT, SCHEMA = "compress-latency", 1
From = Literal["eager", "compile", "fused"]
"""What ran the layers that were timed."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """The microseconds of one family, never falling with a channel count."""

    knots: Knots
    us: tuple[tuple[float, ...], ...]
    """By input, then by output channels; as measured, `monotone` of it is looked up."""

    @property
    def monotone(self) -> tuple[tuple[float, ...], ...]:
        """The lowest times at or above the measured ones that do not fall with a count."""
        rows = [tuple(accumulate(row, max)) for row in self.us]
        columns = [tuple(accumulate(column, max)) for column in zip(*rows, strict=True)]
        return tuple(zip(*columns, strict=True))


class Lookup:
    """Microseconds of one family for any channel counts up to the largest measured."""

    def __init__(self, name: str, times: Times) -> None:
        self.name, self.knots, self.us = name, times.knots, times.monotone
        self._known: dict[tuple[int, int], float] = {}

    def __call__(self, ins: int, outs: int) -> float:
        """Bilinear between the knots, constant below the first ones.

        Raises:
            UsageError: a count is beyond the last knot.
        """
        found = self._known.get((ins, outs))
        if found is None:
            found = self._known[ins, outs] = self._between(ins, outs)
        return found

    def _between(self, ins: int, outs: int) -> float:
        low, high, a = self._place(self.knots.ins, ins)
        left, right, b = self._place(self.knots.outs, outs)
        rows = (self.us[low], self.us[high])
        one, other = (_mix(row[left], row[right], b) for row in rows)
        return _mix(one, other, a)

    def _place(self, knots: Sequence[int], count: int) -> tuple[int, int, float]:
        """The knots around a count, and how far it lies from the first to the second."""
        at = bisect_left(knots, count)
        if at == len(knots):
            raise UsageError(
                f"the latency table ends at {knots[-1]} channels for {self.name}, and the network "
                f"has {count}; measure a table for this network"
            )
        if at == 0 or knots[at] == count:
            return at, at, 0.0
        return at - 1, at, (count - knots[at - 1]) / (knots[at] - knots[at - 1])


def _mix(one: float, other: float, share: float) -> float:
    # One product: rounding must not let a value between two equal ones leave them.
    return min(other, one + (other - one) * share)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measured times, and where they come from."""

    device: str
    """Name of the GPU, or of the CPU with its threads."""
    engine: str
    """What ran the layers, see `From`."""
    torch: str
    """Its version."""
    arithmetic: str
    """Number format and layout."""
    families: Mapping[str, Times] = field(default_factory=dict)
    """By `Family.name`."""
    note: str = ""
    """What a reader of the times should know, a sentence; empty where nothing."""

    @property
    def shapes(self) -> int:
        """How many shapes were measured."""
        return sum(len(row) for one in self.families.values() for row in one.us)

    @property
    def sha256(self) -> str:
        """Of all its values."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in a file."""
        values = {key: getattr(self, key) for key in HEAD}
        families = {
            name: {"in": [*t.knots.ins], "out": [*t.knots.outs], "us": [[*row] for row in t.us]}
            for name, t in sorted(self.families.items())
        }
        return {"format": FORMAT, "schema": SCHEMA, **values, "families": families}


HEAD = ("device", "engine", "torch", "arithmetic", "note")
"""Texts of a table."""


def read(path: Path) -> Table:
    """A table from its file.

    Raises:
        UsageError: there is none, or something else is in it.
    """
    try:
        value = read_json(path)
        if value["format"] != FORMAT or value["schema"] != SCHEMA:
            raise ValueError(f"it is no {FORMAT} of schema {SCHEMA}")
        families = {name: _times(one) for name, one in value["families"].items()}
        return Table(**{key: str(value[key]) for key in HEAD}, families=families)
    except OSError as error:
        raise UsageError(f"latency_table: {path} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise UsageError(f"latency_table: {path} is no latency table: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"latency_table: {path} is no latency table: {error}") from error


def _times(value: Mapping[str, Any]) -> Times:
    """The times of a family in a file.

    Raises:
        ValueError: they are no grid of positive numbers over ascending counts.
    """
    knots = Knots(ins=tuple(value["in"]), outs=tuple(value["out"]))
    us = tuple(tuple(map(float, row)) for row in value["us"])
    for side in (knots.ins, knots.outs):
        whole = all(type(one) is int and one >= 0 for one in side)
        if not side or not whole or list(side) != sorted(set(side)):
            raise ValueError("channel counts must be ascending whole numbers")
    if len(us) != len(knots.ins) or any(len(row) != len(knots.outs) for row in us):
        raise ValueError("us must have a row for each of in, and a number for each of out")
    if not all(math.isfinite(one) and one > 0 for row in us for one in row):
        raise ValueError("times must be finite and positive")
    return Times(knots=knots, us=us)


class Predictor:
    """Milliseconds of a network as a function of the shapes of its weights.

    Args:
        net: the network.
        table: times of its layers.
        size: height and width of the slice that it is timed for.
        rings: that its convolutions may lose.

    Raises:
        UsageError: the table lacks a layer of it.
    """

    def __init__(
        self, net: nn.Module, table: Table, size: tuple[int, int], rings: Rings | None = None
    ) -> None:
        self.table = table
        self.rings: dict[str, int] = dict(rings or {})
        """Those of `rings` that the table has times for."""
        self.lacking: dict[str, str] = {}
        """Why others are missing, by module name."""
        names = {id(p): name for name, p in net.named_parameters()}
        self._looks: dict[str, Lookup] = {}
        self._calls: list[tuple[str, Family, Looks]] = []
        self._whole: dict[str, Sequence[int]] = {}
        for one in timed(net, size):
            module = net.get_submodule(one.name)
            family = Family.of(module, one.grid)
            if (look := self._look(family)) is None:
                raise UsageError(
                    f"the latency table has no times of {one.name}, a {family.name}; measure a "
                    "table for this network and latency_size"
                )
            looks = {family.kernel: look, **self._smaller(one.name, family)}
            weight = names.get(id(module.weight), f"{one.name}.weight")
            self._calls.append((weight, family, looks))
            self._whole[weight] = one.shape
        self.rings = {name: count for name, count in self.rings.items() if count}

    def _look(self, family: Family) -> Lookup | None:
        times = self.table.families.get(family.name)
        if times is None:
            return None
        return self._looks.setdefault(family.name, Lookup(family.name, times))

    def _smaller(self, name: str, family: Family) -> "Looks":
        """The times of a layer with smaller kernels, by the sides of those."""
        looks: Looks = {}
        for count in range(1, self.rings.get(name, 0) + 1):
            less = family.without(count)
            if (look := self._look(less)) is None:
                self.lacking[name] = f"the latency table has no times of a {less.name}"
                self.rings[name] = count - 1
                break
            looks[less.kernel] = look
        return looks

    def ms(self, shapes: Mapping[str, Sequence[int]] | None = None) -> float:
        """Milliseconds for one slice.

        Args:
            shapes: of the weights, by name; others take no time. None: as the network has them.
        """
        shapes = self._whole if shapes is None else shapes
        return sum(look(*counts) for _, look, counts in self._looked(shapes)) / 1000

    def narrow(self, shapes: Mapping[str, Sequence[int]]) -> set[str]:
        """Weights with smaller kernels, and fewer channels than those have kernels of `fused` for.

        Args:
            shapes: as for `ms`.
        """
        if self.table.engine != "fused":
            return set()
        return {
            name
            for name, look, (ins, outs) in self._looked(shapes)
            if tuple(shapes[name][2:]) != tuple(self._whole[name][2:])
            and (ins < look.knots.ins[0] or outs < look.knots.outs[0])
        }

    def _looked(
        self, shapes: Mapping[str, Sequence[int]]
    ) -> Iterator[tuple[str, Lookup, tuple[int, int]]]:
        """The weight of every call that is given, what knows its time, and its channels."""
        for name, family, looks in self._calls:
            if name in shapes:
                shape = shapes[name]
                yield name, looks[tuple(shape[2:])], family.counts(shape)


Looks = dict[tuple[int, ...], Lookup]
"""By the sides of a kernel."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a table says of a plan, in milliseconds for one slice."""

    table: Table
    before_ms: float
    """Of the network that the plan was made for."""
    after_ms: float
    """Of the pruned network."""
    budget_ms: float | None
    """What the amount leaves; None where a threshold was given."""
