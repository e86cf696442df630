"""What PyTorch's operators do with channels, for `trace.py`.

A rule joins the channels that must go together, holds those that must stay, and labels the
output. Views need none but where they split a dimension: labels lie beside storages.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.graph import layout_rules as layout
from compress.graph.joins import flat, fresh, together, varies
from compress.graph.labels import short
from compress.graph.layer_rules import convolution, product
from compress.graph.layout_rules import argument
from compress.graph.trace import Call, Tracer

Rule = Callable[[Tracer, Call], None]
aten = torch.ops.aten


def follow(tracer: Tracer, call: Call) -> None:
    """Apply the rule of an operator; without one, hold all that goes into it."""
    packet = call.op.overloadpacket
    rule = RULES.get(packet, unknown)
    if torch.Tag.pointwise in call.op.tags or packet in POINTWISE:
        rule = pointwise
    rule(tracer, call)


def unknown(tracer: Tracer, call: Call) -> None:
    """Hold every channel that goes in; what comes out belongs to none."""
    tracer.hold(call.inputs, f"{tracer.where} mixes channels ({call.name})")
    fresh(tracer, call)


def pointwise(tracer: Tracer, call: Call) -> None:
    """Entries at the same place of all operands go together; see `joins.together`."""
    labels = together(tracer, call.inputs, call.out)
    for out in call.outputs if labels is not None or not call.op._schema.is_mutable else ():
        tracer.shadows.put(out, None if labels is None else short(labels))


def reduced(tracer: Tracer, call: Call) -> None:
    """mean, sum, norm, softmax over some dimensions: no channels may lie along them."""
    value = call.inputs[0]
    labels = tracer.roots(value)
    if labels is None:
        return fresh(tracer, call)
    dims = _dims(call, value.dim())
    if any(varies(labels, dim) for dim in dims):
        tracer.hold([value], f"{tracer.where} computes a {call.name} over channels")
        return fresh(tracer, call)
    for out in call.outputs:
        kept = labels
        if out.shape != value.shape:
            kept = labels.amax(dims, keepdim=out.dim() == value.dim())
        tracer.shadows.put(out, kept)


def spatial(tracer: Tracer, call: Call) -> None:
    """Pooling, interpolation, padding, FFT: mix rows and columns, never channels."""
    value = call.inputs[0]
    labels = tracer.roots(value)
    if call.op.overloadpacket is aten.grid_sampler_2d:
        tracer.hold(call.inputs[1:], f"{tracer.where} samples at places that they say")
    if labels is None:
        return fresh(tracer, call)
    dims = [dim for dim in range(value.dim()) if dim in _mixed(call, value.dim())]
    labels = flat(tracer, labels, dims)
    for out in call.outputs:
        tracer.shadows.put(out, labels)


def normalised(tracer: Tracer, call: Call) -> None:
    """batch_norm(input, weight, bias, mean, var, ...): each channel by itself."""
    value, vectors = call.args[0], [v for v in call.args[1:5] if isinstance(v, Tensor)]
    labels = tracer.roots(value)
    others = [dim for dim in range(value.dim()) if dim != 1]
    if labels is not None:
        tracer.shadows.put(call.out, flat(tracer, labels, others))
    shape = [1, -1, *[1] * (value.dim() - 2)]
    operands = [call.out if labels is not None else value, *[v.view(shape) for v in vectors]]
    tracer.shadows.put(call.out, together(tracer, operands, call.out))


def over_channels(tracer: Tracer, call: Call) -> None:
    """group_norm, layer_norm: statistics of many channels at once."""
    value = call.args[0]
    labels = tracer.roots(value)
    group = call.op.overloadpacket is aten.native_group_norm
    last = range(value.dim() - (0 if group else len(call.args[1])), value.dim())
    if labels is not None and (group or any(varies(labels, dim) for dim in last)):
        tracer.hold([value], f"{tracer.where} normalises over channels")
    vectors = [t for t in call.args[1:4] if isinstance(t, Tensor)]
    if group:
        vectors = [t.view(1, -1, *[1] * (value.dim() - 2)) for t in vectors]
    tracer.shadows.put(call.out, together(tracer, [value, *vectors], call.out))


def _dims(call: Call, rank: int) -> list[int]:
    """The dimensions that a reduction names; all where it names none."""
    given = argument(call, "dim")
    if given is None or given == []:
        return [*range(rank)]
    return [dim % rank for dim in (given if isinstance(given, list | tuple) else [given])]


def _mixed(call: Call, rank: int) -> range | list[int]:
    given = argument(call, "dim")
    if given is not None:
        return [dim % rank for dim in given]
    return range(2 if rank > 3 else rank - 1, rank)


def _packets(names: str) -> list[Any]:
    """Operators by name, those that this version of PyTorch has."""
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


POINTWISE = set(_packets(
    "hardswish hardswish_ _prelu_kernel masked_fill where native_dropout _to_copy clone"
    " _conj _conj_physical dropout contiguous rrelu_with_noise log_sigmoid_forward"
    " masked_fill_ lift_fresh bernoulli complex polar real imag"
    " leaky_relu leaky_relu_ elu_ celu_ selu_ hardtanh_ hardsigmoid_"  # tagged by 2.13, not by 2.11
    " ldexp ldexp_"  # tagged by 2.11, not by 2.8
))  # fmt: skip
"""Those that some version of PyTorch does not tag as pointwise."""

RULES: dict[Any, Rule] = {
    **dict.fromkeys(_packets(
        "ones full rand randn arange linspace scalar_tensor"
        " new_ones new_full empty_strided eye tril_indices fill_ zero_ uniform_ normal_"
        " bernoulli_ exponential_"
        " sym_size is_same_size detach alias t transpose permute expand squeeze unsqueeze"
        " _reshape_alias"
    ), layout.free),
    **dict.fromkeys(_packets(
        "empty_like zeros_like ones_like full_like rand_like randn_like new_empty_strided"
    ), layout.like),
    **dict.fromkeys(_packets("copy_"), layout.copied),
    **dict.fromkeys(_packets("empty zeros new_empty new_zeros"), layout.blank),
    **dict.fromkeys(_packets("cat stack repeat flip"), layout.moved),
    **dict.fromkeys(_packets("constant_pad_nd"), layout.padded),
    **dict.fromkeys(_packets("glu"), layout.gated),
    **dict.fromkeys(_packets(
        "index index_select gather roll select unbind unfold"
    ), layout.picked),
    **dict.fromkeys(_packets("slice split split_with_sizes narrow chunk"), layout.sliced),
    **dict.fromkeys(_packets("view _unsafe_view reshape"), layout.regrouped),
    **dict.fromkeys(_packets(
        "mean sum amax amin max min prod var std var_mean std_mean norm linalg_vector_norm"
        " _softmax _log_softmax logsumexp cumsum cumprod any all argmax argmin"
    ), reduced),
    **dict.fromkeys(_packets(
        "max_pool2d_with_indices max_pool2d avg_pool1d avg_pool2d avg_pool3d"
        " adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d"
        " upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d"
        " _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_linear1d"
        " reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"
        " max_unpool2d grid_sampler_2d _fft_r2c _fft_c2c _fft_c2r"
    ), spatial),
    **dict.fromkeys(_packets("view_as_real view_as_complex"), layout.recast),
    **dict.fromkeys(_packets("convolution _convolution"), convolution),
    **dict.fromkeys(_packets("mm addmm bmm baddbmm"), product),
    **dict.fromkeys(_packets(
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"
    ), normalised),
    **dict.fromkeys(_packets("native_group_norm native_layer_norm"), over_channels),
    **dict.fromkeys(_packets(
        "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"
    ), layout.shuffled),
    **dict.fromkeys(_packets("im2col col2im"), layout.patches),
}  # fmt: skip
"""Rules by operator."""
