"""From a network to the channels that go: ranks of its groups, what they cost, the plan."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from compress import selection
from compress.cost import CONVOLUTIONS, layers
from compress.dependencies import Group, Part, groups, remove
from compress.errors import UsageError
from compress.selection import Criterion, Ranked, Selection

Share = Literal["macs", "params", "channels"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What pruning would do to one network."""

    groups: tuple[Ranked, ...]
    selection: Selection
    removed: Mapping[Share, float]
    """Share removed of MACs, parameters and output channels."""

    @property
    def pruned(self) -> dict[str, tuple[int, ...]]:
        """Channels that go, by group name."""
        kept = self.selection.kept
        return {g.name: tuple(sorted({*range(g.width)} - {*kept[g.name]})) for g in self.groups}

    def apply(self, net: nn.Module) -> nn.Module:
        """A copy of `net`, the network that the plan was made for, without those channels."""
        return remove(net, self.pruned)


def plan(
    net: nn.Module,
    *,
    criterion: Criterion = "gaussian",
    amount: float | None = None,
    threshold: float | None = None,
    of: Share = "macs",
    align: int = 16,
    protect: Sequence[str] = (),
    seed: int = 0,
) -> Plan:
    """Choose the channels of `net` that go.

    Args:
        net: an (N, 1, H, W) network.
        criterion: see `selection.scores`.
        amount: share of `of` to remove, in (0, 1); or
        threshold: the rank below which channels go (z for gaussian).
        of: what `amount` is a share of.
        align: kept counts are multiples of it.
        protect: names of convolutions that keep all their channels; `*` stands for any text.
        seed: for the random criterion.

    Raises:
        UsageError: the amount cannot be reached, or a name in `protect` matches nothing.
    """
    found = groups(net)
    ranked = tuple(rank(net, found, criterion, _protected(net, protect), seed))
    ledger = Ledger(net, found)
    if threshold is not None:
        chosen = selection.select(ranked, threshold, align)
        counts = {name: len(kept) for name, kept in chosen.items()}
        picked = Selection(threshold, chosen, ledger.removed(counts)[of])
    else:
        assert amount is not None
        picked = _solved(ranked, amount, of, align, ledger)
    counts = {name: len(kept) for name, kept in picked.kept.items()}
    return Plan(groups=ranked, selection=picked, removed=ledger.removed(counts))


def rank(
    net: nn.Module,
    found: Sequence[Group],
    criterion: Criterion,
    protected: Mapping[str, str],
    seed: int,
) -> list[Ranked]:
    """The groups with the rank of every channel; a group's rank is the mean over its producers."""
    modules = dict(net.named_modules())
    ranked = []
    for index, group in enumerate(found):
        total, count = torch.zeros(2, group.width, dtype=torch.float64)
        statistics: list[Tensor] = []
        for part in group.producers:
            values = _scores(modules[part.module], part, criterion, seed)
            turn = (index + 0.5) / len(found)
            gaussian = criterion == "gaussian"
            ranks = selection.zscores(values) if gaussian else selection.quantiles(values, turn)
            members = torch.tensor(part.members)
            total.index_add_(0, members, ranks[list(part.channels)])
            count.index_add_(0, members, torch.ones(len(members), dtype=torch.float64))
            statistics.append(torch.stack((values.mean(), values.std(correction=0))))
        mean, sigma = torch.stack(statistics).mean(0).tolist()
        reasons = (protected.get(part.module, "") for part in group.producers)
        fixed = group.fixed or next(filter(None, reasons), "")
        ranked.append(Ranked(group.name, total / count, fixed, mean, sigma))
    return ranked


class Ledger:
    """Parameters, MACs and channels of a network as a function of the kept counts of its groups."""

    def __init__(self, net: nn.Module, found: Sequence[Group]) -> None:
        self._modules = dict(net.named_modules())
        self._positions = {name: layer.positions for name, layer in layers(net).items()}
        self._groups = tuple(found)
        self._whole = self._count({group.name: group.width for group in found})

    def removed(self, kept: Mapping[str, int]) -> dict[Share, float]:
        """Kept counts by group name -> share removed of each quantity, in [0, 1)."""
        rest = self._count(kept)
        return {share: 1 - rest[share] / whole for share, whole in self._whole.items()}

    def _count(self, kept: Mapping[str, int]) -> dict[Share, int]:
        sizes = {key: self._size(*key) for key in self._sides()}
        features = 0
        for group in self._groups:
            gone = group.width - kept[group.name]
            for part in group.parts:
                lost = len(part.channels) * gone // group.width
                if part.side == "feature":
                    parameters = list(self._modules[part.module].parameters(recurse=False))
                    features += lost * sum(p.numel() > 1 for p in parameters)
                else:
                    sizes[part.module, part.side] -= lost
        params = sum(p.numel() for m in self._modules.values() for p in m.parameters(recurse=False))
        macs = channels = 0
        for name in self._positions:
            module, out, into = self._modules[name], sizes[name, "out"], sizes[name, "in"]
            taps = _taps(module)
            whole = self._size(name, "out"), self._size(name, "in")
            bias = int(getattr(module, "bias", None) is not None)
            params -= whole[0] * (whole[1] * taps + bias) - out * (into * taps + bias)
            macs += self._positions[name] * out * into * taps
            channels += out
        return {"macs": macs, "params": params - features, "channels": channels}

    def _sides(self) -> list[tuple[str, str]]:
        return [(name, side) for name in self._positions for side in ("out", "in")]

    def _size(self, name: str, side: str) -> int:
        module = self._modules[name]
        if isinstance(module, CONVOLUTIONS):
            # A grouped convolution reads in / groups channels per output; its sizes never change.
            return module.out_channels if side == "out" else module.in_channels // module.groups
        assert isinstance(module, nn.Linear)
        return module.out_features if side == "out" else module.in_features


def _taps(module: nn.Module) -> int:
    return math.prod(module.kernel_size) if isinstance(module, CONVOLUTIONS) else 1


def _scores(module: nn.Module, part: Part, criterion: Criterion, seed: int) -> Tensor:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    if isinstance(module, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    own = zlib.crc32(part.module.encode()) + seed  # every layer draws for itself
    return selection.scores(weight, bias, criterion, own)


def _protected(net: nn.Module, protect: Sequence[str]) -> dict[str, str]:
    names = [n for n, m in net.named_modules() if isinstance(m, (*CONVOLUTIONS, nn.Linear))]
    reasons: dict[str, str] = {}
    for pattern in protect:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            near = get_close_matches(pattern, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"protect: no convolution is named {pattern!r}{hint}")
        reasons |= dict.fromkeys(matches, f"protected by {pattern!r}")
    return reasons


def _solved(
    ranked: Sequence[Ranked], amount: float, of: Share, align: int, ledger: Ledger
) -> Selection:
    def removed(counts: Mapping[str, int]) -> float:
        return ledger.removed(counts)[of]

    try:
        return selection.solve(ranked, amount, align, removed)
    except selection.Unreachable as error:
        found = f"amount {amount} of {of} cannot be removed at align {align}"
        most = f"the most is {math.floor(error.largest * 1e4) / 1e4}"
        raise UsageError(f"{found}; {most}{_way_out(ranked, amount, align, removed)}") from None


def _way_out(
    ranked: Sequence[Ranked],
    amount: float,
    align: int,
    removed: Callable[[Mapping[str, int]], float],
) -> str:
    """The largest smaller alignment that reaches the amount, as the end of a sentence."""
    for other in (8, 4, 2, 1):
        floor = {g.name: g.width if g.fixed else min(other, g.width) for g in ranked}
        if other < align and removed(floor) >= amount:
            return f", and align {other} reaches it"
    return ", and no alignment reaches it"
