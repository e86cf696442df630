"""What convolutions and matrix products do with channels: they read some and make others."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from compress.graph.joins import flat, fresh, together, varies
from compress.graph.labels import Ids
from compress.graph.layout import order
from compress.graph.trace import Call, Tracer

aten = torch.ops.aten


def convolution(tracer: Tracer, call: Call) -> None:
    """A convolution or deconvolution; its arguments are those of aten::convolution."""
    value, weight, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    known = tracer.whole.find(weight)
    if known is None or None in known[1][:2]:
        tracer.hold(call.inputs, f"the weight of {tracer.where} is computed while it runs")
        return fresh(tracer, call)
    name, (first, second) = known[0], known[1][:2]
    assert first is not None
    assert second is not None
    read = _vector(tracer, value, 1)
    made = call.out.shape[1]
    if groups == 1:
        out, into = (known[1][dim] for dim in order(transposed=transposed))
        assert out is not None
        assert into is not None
        _read(tracer, read, tracer.axis(name, into, len(read)))
        labels = tracer.axis(name, out, made)
    elif groups == len(read):
        own = tracer.axis(name, first, weight.shape[0])
        _read(tracer, np.repeat(read, len(own) // groups), own)
        labels = np.repeat(own, made // len(own))
    else:
        reason = f"{tracer.where} is a grouped convolution"
        tracer.hold([value], reason)
        labels = tracer.axis(name, first, weight.shape[0])
        tracer.sets.hold(labels, reason)
        labels = labels if not transposed else np.repeat(labels[:1], made)
    _made(tracer, call, labels, 1, bias)


def product(tracer: Tracer, call: Call) -> None:
    """mm(a, b), addmm(bias, a, b), bmm, baddbmm: a linear layer, or attention."""
    bias = call.args[0] if call.op.overloadpacket in (aten.addmm, aten.baddbmm) else None
    one, other = call.args[-2:]
    for weight, value, side in ((other, one, -1), (one, other, -2)):
        known = tracer.whole.find(weight)
        if known is None or None in known[1][-2:] or len(call.out.shape) > 2 < call.out.shape[0]:
            continue
        rows, columns = known[1][-2:]
        into, out = (rows, columns) if side == -1 else (columns, rows)
        assert into is not None
        assert out is not None
        read = _vector(tracer, value, value.dim() + side)
        _read(tracer, read, tracer.axis(known[0], into, len(read)))
        made = tracer.axis(known[0], out, call.out.shape[side])
        return _made(tracer, call, made, call.out.dim() + side, bias)
    _attention(tracer, call, one, other)
    if bias is not None:
        tracer.shadows.put(call.out, together(tracer, [call.out, bias], call.out))


def _attention(tracer: Tracer, call: Call, one: Tensor, other: Tensor) -> None:
    """A product of two values: only the channels of one, and not those summed over, may go on."""
    rank = call.out.dim()
    for value, absent, summed in ((one, other, rank - 1), (other, one, rank - 2)):
        labels = tracer.roots(value)
        if labels is None or tracer.roots(absent) is not None:
            continue
        if not any(varies(labels, dim) for dim in {summed, rank - 3} if dim >= 0):
            return tracer.shadows.put(call.out, flat(tracer, labels, [summed]))
    tracer.hold([one, other], f"{tracer.where} multiplies them with each other ({call.name})")
    fresh(tracer, call)


def _vector(tracer: Tracer, value: Tensor, dim: int) -> Ids:
    """The labels along one dimension, those of all other dimensions joined."""
    labels = tracer.roots(value)
    if labels is None:
        return np.zeros(value.shape[dim], np.int32)
    others = [d for d in range(value.dim()) if d != dim]
    found = flat(tracer, labels, others).flatten().expand(value.shape[dim]).numpy()
    return np.ascontiguousarray(found)


def _read(tracer: Tracer, read: Ids, own: Ids) -> None:
    """Let a weight's inputs follow the channels that it reads."""
    tracer.sets.join(read, own)
    tracer.sets.hold(own[read == 0], f"{tracer.where} reads channels that stay")


def _made(tracer: Tracer, call: Call, labels: Ids, dim: int, bias: Tensor | None) -> None:
    """Label an output along one dimension, with the bias of a layer."""
    shape: Sequence[int] = [-1 if d == dim else 1 for d in range(call.out.dim())]
    tracer.shadows.put(call.out, torch.from_numpy(labels).view(shape))
    if bias is not None:
        vector = bias.view(shape) if bias.dim() == 1 else bias
        tracer.shadows.put(call.out, together(tracer, [call.out, vector], call.out))
