"""How the labels of an operator's operands combine; used by the rules of `rules.py`."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from compress.graph.labels import short
from compress.graph.trace import Call, Tracer

STAY = "joins them with channels that stay"


def together(tracer: Tracer, operands: Sequence[Tensor], out: Tensor) -> Tensor | None:
    """Join the labels of operands that broadcast to `out`; returns those of the result.

    An operand of one entry along the channels of the others serves them all, so its own channel
    stays. One that is as long as they are but belongs to no channel cannot get shorter: they stay.
    """
    rank = out.dim()
    found = [(t, tracer.roots(t)) for t in operands]
    axes = {
        dim + rank - roots.dim()
        for _, roots in found
        if roots is not None
        for dim in range(roots.dim())
        if varies(roots, dim)
    }
    result: Tensor | None = None
    bare = False
    for tensor, roots in found:
        if axes and all(_size(tensor, rank, axis) == 1 for axis in axes):
            tracer.hold([tensor], f"{tracer.where} uses one channel for several others")
        elif (labels := _labels(tracer, tensor, roots, rank, axes)) is not None:
            result = labels if result is None else _merged(tracer, result, labels)
        else:
            bare = bare or tensor.numel() > 1
    if bare and result is not None:
        tracer.sets.hold(result.numpy(), f"{tracer.where} {STAY}")
    return None if result is None else result.expand(out.shape)


def varies(labels: Tensor, dim: int) -> bool:
    """Whether labels, as `Tracer.roots` gives them, differ along a dimension."""
    return labels.shape[dim] > 1 and labels.stride(dim) != 0


def tie(tracer: Tracer, labels: Tensor, dim: int) -> None:
    """Join all labels along a dimension."""
    labels = short(labels)
    first = labels.narrow(dim, 0, 1).expand_as(labels)
    tracer.sets.join(first.numpy(), labels.numpy())


def flat(tracer: Tracer, labels: Tensor, dims: Iterable[int]) -> Tensor:
    """Join along some dimensions, of which one entry is left; the others as they are."""
    labels = short(labels)
    for dim in dims:
        if labels.shape[dim] > 1:
            tie(tracer, labels, dim)
        labels = labels.narrow(dim, 0, 1)
    return torch.from_numpy(tracer.sets.find(labels.numpy()))


def fresh(tracer: Tracer, call: Call) -> None:
    """Outputs in new memory have no labels; those in place, and views, keep theirs."""
    if not call.op._schema.is_mutable and not call.op.is_view:
        for out in call.outputs:
            if not any(out is t for t in call.inputs):
                tracer.shadows.put(out, None)


def _labels(
    tracer: Tracer, tensor: Tensor, roots: Tensor | None, rank: int, axes: set[int]
) -> Tensor | None:
    """Labels of an operand with the rank of the output; 1 entry where they do not vary."""
    if roots is not None:
        roots = short(roots)
        return roots.view([1] * (rank - roots.dim()) + list(roots.shape))
    known = tracer.whole.find(tensor)
    if known is None or len(axes) != 1:
        return None
    (axis,) = axes  # a parameter of several dimensions, of which one is that of the channels
    place = axis - (rank - tensor.dim())
    dim = known[1][place] if place >= 0 else None
    if dim is None:
        return None
    labels = torch.from_numpy(tracer.axis(known[0], dim, tensor.shape[place]))
    return labels.view([-1 if d == axis else 1 for d in range(rank)])


def _merged(tracer: Tracer, one: Tensor, other: Tensor) -> Tensor:
    """Join labels place by place; a channel that meets an entry without one stays."""
    shape = [max(sizes) for sizes in zip(one.shape, other.shape, strict=True)]
    a, b = one.expand(shape), other.expand(shape)
    tracer.sets.join(a.numpy(), b.numpy())
    alone = torch.cat((a[(b == 0) & (a != 0)], b[(a == 0) & (b != 0)]))
    tracer.sets.hold(alone.numpy(), f"{tracer.where} {STAY}")
    return torch.where(a != 0, a, b)


def _size(tensor: Tensor, rank: int, axis: int) -> int:
    """Size of an operand along a dimension of the output; 1 where one entry is repeated."""
    place = axis - (rank - tensor.dim())
    if place < 0 or tensor.stride(place) == 0:
        return 1
    return tensor.shape[place]
