"""What operators do that move values as they are: slices, reshapes, concatenations, padding.

Views need a rule only where they split a dimension or pick entries: labels lie beside storages.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor

from compress.graph.joins import flat, fresh, tie, varies
from compress.graph.labels import short
from compress.graph.trace import Call, Tracer

aten = torch.ops.aten


def free(tracer: Tracer, call: Call) -> None:
    """An operator whose output has no channels, or whose labels are right already."""
    fresh(tracer, call)


def like(tracer: Tracer, call: Call) -> None:
    """A new tensor as large as another: its channels are those of the other."""
    labels = tracer.roots(call.inputs[0])
    same = labels is not None and call.inputs[0].shape == call.out.shape
    tracer.shadows.put(call.out, labels if same else None)


def copied(tracer: Tracer, call: Call) -> None:
    """copy_(to, from): the labels are copied as well."""
    to, source = call.args[0], call.args[1]
    labels = tracer.roots(source) if isinstance(source, Tensor) else None
    tracer.shadows.put(to, labels)


def blank(tracer: Tracer, call: Call) -> None:
    """New memory, which slices are written to later."""
    tracer.shadows.blank(call.out)


def moved(tracer: Tracer, call: Call) -> None:
    """Entries move as they are: so do their labels, by the same operator."""

    def labels(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        found = tracer.roots(value)
        return torch.zeros(value.shape, dtype=torch.int32) if found is None else found

    if not any(tracer.roots(t) is not None for t in call.inputs):
        return fresh(tracer, call)
    args = [[*map(labels, a)] if isinstance(a, list | tuple) else labels(a) for a in call.args]
    tracer.shadows.put(call.out, call.op(*args))


def padded(tracer: Tracer, call: Call) -> None:
    """constant_pad_nd: a border belongs to its channel; whole channels of zeros to none."""
    labels = tracer.roots(call.args[0])
    if labels is None:
        return fresh(tracer, call)
    pads = list(call.args[1]) + [0] * (2 * labels.dim() - len(call.args[1]))
    for place in range(labels.dim()):
        if not varies(labels, labels.dim() - 1 - place):
            pads[2 * place : 2 * place + 2] = [0, 0]
    tracer.shadows.put(call.out, call.op(short(labels), pads))


def picked(tracer: Tracer, call: Call) -> None:
    """Entries are taken at fixed places: along an axis of channels these would change."""
    value, dims = call.args[0], _touched(call)
    labels = tracer.roots(value)
    if labels is not None and any(varies(labels, dim) for dim in dims):
        tracer.hold(call.inputs, f"{tracer.where} takes channels at fixed places ({call.name})")
        if not call.op.is_view:
            fresh(tracer, call)
    elif not call.op.is_view:
        rest = call.args[1:]
        tracer.shadows.put(call.out, None if labels is None else call.op(labels, *rest))


def sliced(tracer: Tracer, call: Call) -> None:
    """slice, split, chunk along channels: equal parts lose the same channels each."""
    value, dim = call.args[0], _slice_dim(call)
    labels, parts = tracer.roots(value), {out.shape[dim] for out in call.outputs}
    size, part = value.shape[dim], min(parts)
    if labels is None or part == size or not varies(labels, dim):
        return
    step = call.args[4] if call.op.overloadpacket is aten.slice and len(call.args) > 4 else 1
    start = call.out.storage_offset() - value.storage_offset()
    even = start % (part * value.stride(dim)) == 0
    if len(parts) > 1 or part == 1 or size % part or step != 1 or not even:
        tracer.hold([value], f"{tracer.where} takes channels at fixed places ({call.name})")
        return
    tie(tracer, _split(labels, dim, size // part), dim)


def gated(tracer: Tracer, call: Call) -> None:
    """glu: the two halves of a dimension are multiplied, so they lose the same channels."""
    labels, dim = tracer.roots(call.args[0]), _slice_dim(call, -1)
    if labels is None:
        return fresh(tracer, call)
    if varies(labels, dim):
        tie(tracer, _split(labels, dim, 2), dim)
        labels = labels.narrow(dim, 0, call.out.shape[dim])
    tracer.shadows.put(call.out, short(labels))


def regrouped(tracer: Tracer, call: Call) -> None:
    """view, reshape: where a dimension of channels is split, its longest part goes on varying."""
    value, out = call.inputs[0], call.out
    labels = tracer.roots(value)
    if labels is None:
        return
    for before, after in _blocks(value.shape, out.shape):
        long = [dim for dim in after if out.shape[dim] > 1]
        if len(long) < 2 or not any(varies(labels, dim) for dim in before):
            continue
        found = tracer.roots(out)
        assert found is not None
        varying = [dim for dim in long if varies(found, dim)]
        for dim in sorted(varying, key=lambda d: (out.shape[d], d))[:-1]:
            tie(tracer, found, dim)


def recast(tracer: Tracer, call: Call) -> None:
    """view_as_real, view_as_complex: a last dimension of two comes or goes."""
    labels = tracer.roots(call.inputs[0])
    if labels is not None:
        more = call.op.overloadpacket is aten.view_as_real
        labels = labels[..., None] if more else flat(tracer, labels, [labels.dim() - 1])[..., 0]
    tracer.shadows.put(call.out, labels)


def shuffled(tracer: Tracer, call: Call) -> None:
    """pixel_shuffle, channel_shuffle: channels that end in one go together; then they move."""
    value, count = call.args[0], call.args[1]
    labels = tracer.roots(value)
    if labels is not None:
        labels = flat(tracer, labels, [2, 3])[:, :, :1, :1]
        size = value.shape[1]
        if call.op.overloadpacket is aten.pixel_shuffle:
            tie(tracer, _split(labels, 1, size // count**2), 2)
        elif call.op.overloadpacket is not aten.pixel_unshuffle:
            tie(tracer, _split(labels, 1, count), 1)
    moved(tracer, call)


def patches(tracer: Tracer, call: Call) -> None:
    """im2col, (N, C, H, W) -> (N, C * taps, L), and col2im, its reverse."""
    value = call.args[0]
    labels = tracer.roots(value)
    if labels is None:
        return fresh(tracer, call)
    if call.op.overloadpacket is aten.im2col:
        taps = call.out.shape[1] // value.shape[1]
        labels = flat(tracer, labels, [2, 3])[:, :, :1, 0].repeat_interleave(taps, 1)
    else:
        taps = value.shape[1] // call.out.shape[1]
        apart = _split(flat(tracer, labels, [2])[:, :, :1], 1, call.out.shape[1])
        tie(tracer, apart, 2)
        labels = apart[:, :, 0, :, None]
    tracer.shadows.put(call.out, labels)


def argument(call: Call, name: str) -> Any:
    """An argument by its name in the operator's schema, given by place or by name."""
    for index, argument in enumerate(call.op._schema.arguments):
        if argument.name == name:
            given = call.args[index] if index < len(call.args) else None
            return call.kwargs.get(name, given)
    return None


def _split(labels: Tensor, dim: int, count: int) -> Tensor:
    """A dimension as `count` equal runs: (..., count * n, ...) -> (..., count, n, ...)."""
    shape = list(labels.shape)
    shape[dim : dim + 1] = [count, shape[dim] // count]
    return labels.reshape(shape)


def _slice_dim(call: Call, default: int = 0) -> int:
    dim = argument(call, "dim")
    rank: int = call.args[0].dim()
    return (default if dim is None else int(dim)) % rank


def _touched(call: Call) -> list[int]:
    """The dimensions along which entries are picked."""
    value = call.args[0]
    if call.op.overloadpacket is aten.index:
        return [dim for dim, index in enumerate(call.args[1]) if index is not None]
    names = {aten.roll: "dims", aten.unfold: "dimension"}
    given = argument(call, names.get(call.op.overloadpacket, "dim"))
    dims = given if isinstance(given, list | tuple) else [given or 0]
    return [dim % value.dim() for dim in dims] or [*range(value.dim())]


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[range, range]]:
    """The runs of dimensions that a reshape turns into each other; their sizes have one product.

    Example: (2, 6, 5) -> (2, 3, 2, 5) gives 0 and 0, 1 and 1 to 2, 2 and 3.
    """
    one, other = _ends(before), _ends(after)
    i = j = 0
    for product in sorted({*one} & {*other}):
        yield range(i, one[product]), range(j, other[product])
        i, j = one[product], other[product]


def _ends(shape: Sequence[int]) -> dict[int, int]:
    """The number of leading dimensions by the product of their sizes."""
    return {product: count for count, product in enumerate(accumulate(shape, mul), 1)}
