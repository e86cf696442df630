"""Ranks of the channels of groups: what a threshold cuts through, and which groups stay whole."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import cast, get_args

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.base.words import matched
from compress.graph.cost import compressible
from compress.graph.groups import Group, Part
from compress.graph.kernels import Rings
from compress.graph.layout import by_output
from compress.pruning import selection, variance
from compress.pruning.options import PruneOptions
from compress.pruning.selection import Criterion, Ranked
from compress.pruning.worth import Worth


def ranks(
    found: Sequence[Group], values: Mapping[str, Tensor], options: PruneOptions
) -> dict[str, Tensor]:
    """Scores by producer -> the numbers that one threshold cuts through.

    layer: z for gaussian, else the place in the layer. global: z in the normal distribution of all
    scores for gaussian, else the scores as they are (Molchanov et al., CVPR 2019, for taylor).
    """
    if options.knapsack:
        return dict(values)
    if options.scope == "global":
        if options.criterion != "gaussian":
            return dict(values)
        scaled = selection.zscores(torch.cat([*values.values()]))
        parts = torch.split(scaled, [len(v) for v in values.values()])
        return dict(zip(values, parts, strict=True))
    if options.criterion == "gaussian":
        return {name: selection.zscores(scores) for name, scores in values.items()}
    return {
        part.module: selection.quantiles(values[part.module], (index + 0.5) / len(found))
        for index, group in enumerate(found)
        for part in group.producers
    }


def ranked(
    found: Sequence[Group],
    values: Mapping[str, Tensor],
    ranks: Mapping[str, Tensor],
    held: Mapping[str, str],
    floor: float,
) -> Iterator[Ranked]:
    """The groups with the rank of every channel."""
    for group in found:
        fits = [selection.fit(values[part.module]) for part in group.producers]
        yield Ranked(
            name=group.name,
            rank=_over_producers(group, ranks),
            fixed=group.fixed or held.get(group.name, ""),
            mean=float(torch.stack([mean for mean, _ in fits]).mean()),
            sigma=float(torch.stack([sigma for _, sigma in fits]).mean()),
            least=math.ceil(floor * group.width),
            scores=_over_producers(group, values),
        )


def _over_producers(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    """(width,) mean over the group's producers of what each says of its channels."""
    total, count = torch.zeros(2, group.width, dtype=torch.float64)
    for part in group.producers:
        members = torch.tensor(part.members)
        total.index_add_(0, members, values[part.module].double()[list(part.channels)])
        count.index_add_(0, members, torch.ones(len(members), dtype=torch.float64))
    mean: Tensor = total / count
    return mean


def values(
    net: nn.Module,
    found: Sequence[Group],
    options: PruneOptions,
    seed: int,
    size: tuple[int, int],
    rings: Rings,
) -> Worth:
    """Scores of every channel by producer, and for variance of the rings of kernels."""
    if options.criterion not in get_args(Criterion):
        raise UsageError(f"criterion {options.criterion} removes no channels")
    if options.criterion == "variance":
        if missing := variance.unscaled(found, variance.from_batchnorm(net, size)):
            raise UsageError(
                f"criterion variance needs slices where no BatchNorm scales what a layer reads, as "
                f"in {min(missing)}; prune by a recipe"
            )
        return variance.worth(net, rings=rings)
    criterion = cast(Criterion, options.criterion)
    modules = dict(net.named_modules())
    parts = [part for group in found for part in group.producers]
    return Worth(channels={p.module: _scores(modules[p.module], p, criterion, seed) for p in parts})


def _scores(module: nn.Module, part: Part, criterion: Criterion, seed: int) -> Tensor:
    weight, bias = by_output(module), module.bias
    assert bias is None or isinstance(bias, Tensor)
    # The weight of a grouped deconvolution has a row for each input: of a depthwise one all outputs
    # of an input go with it; any other, which may have fewer outputs, stays whole.
    vector = None if bias is None or len(bias) % len(weight) else bias
    own = zlib.crc32(part.module.encode()) + seed  # every layer draws for itself
    return selection.scores(weight, vector, criterion, own)


def protected(net: nn.Module, ignore: Sequence[str]) -> dict[str, str]:
    """Why layers stay as they are that a pattern names, by module name."""
    patterns = matched([*compressible(net)], ignore, "ignore: no convolution")
    return {name: f"protected by {pattern!r}" for name, pattern in patterns.items()}


def ignored(found: Sequence[Group], layers: Mapping[str, str]) -> dict[str, str]:
    """Why groups stay that make the channels of protected layers, by the group's name."""
    held = {}
    for group in found:
        if reason := next(filter(None, (layers.get(p.module) for p in group.producers)), ""):
            held[group.name] = reason
    return held
