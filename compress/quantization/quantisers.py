"""ModelOpt's quantisers in a network. Only this file imports modelopt.torch.quantization.

A quantised layer has two: of its input, with one range, and of its weight, with a range for each
output channel. A range is the largest magnitude that is not clipped; values are rounded to 127
steps on each side of zero. Their ranges are buffers of the network, plain tensors in its state.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.base.tensors import cast
from compress.graph.cost import compressible
from compress.quantization.layers import refusal
from compress.quantization.records import Scale

Method = Literal["max", "mse", "percentile"]
"""How the range of an input is chosen from the values that were seen."""
LIBRARY = "modelopt.torch.quantization"
KINDS = ("input", "weight")
AXES = {"input": None, "weight": 0}
"""The dimension that has a range for each of its channels."""
SCALE = "_quantizer._amax"
"""Ending of the name of every range in the state of a network."""
LARGEST = 127.0
"""Steps in a range."""
TINY = 2.0**-24
"""Ranges up to here count as zero, as ModelOpt has it."""
NEVER_RAN = "calibration never ran it, so its input has no range"
ZERO = "its input was zero on every calibration crop"


def calibrated(
    net: nn.Module, names: Set[str], inputs: Iterable[Tensor], method: Method
) -> tuple[nn.Module, dict[str, str]]:
    """A copy of `net` whose layers `names` are quantised, with ranges from its own values.

    Args:
        net: in eval mode.
        names: layers that `layers.refusal` does not refuse.
        inputs: (N, C, H, W) in network range, on the network's device.
        method: how ranges of inputs are chosen.

    Returns:
        The copy, and why layers among `names` could not be quantised, by name.
    """
    found = _inserted(net, names)
    left, chosen = dict[str, str](), pairs(found)
    for pair in chosen.values():
        _collect(pair, method)
    with torch.no_grad():
        for x in inputs:
            found(x)
    for name, pair in chosen.items():
        if reason := _ranged(pair, method):
            left[name] = reason
    only(found, names - left.keys())
    return found, left


def restored(net: nn.Module, names: Collection[str], ranges: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `net` whose layers `names` are quantised with these ranges, by name in the state.

    Raises:
        ValueError: a range is missing, is none or of another shape, or belongs to no layer.
    """
    wanted = {f"{name}.{kind}{SCALE}" for name in names for kind in KINDS}
    if odd := sorted(wanted.symmetric_difference(ranges)):
        raise ValueError(f"{odd[0]} is {'missing' if odd[0] in wanted else 'of no INT8 layer'}")
    layers = compressible(net)
    for name in names:
        if name not in layers or (why := refusal(layers[name])):
            raise ValueError(f"{name} cannot be INT8: {why if name in layers else 'there is none'}")
    found = _inserted(net, names)
    for name, pair in pairs(found).items():
        for kind, quantiser in zip(KINDS, pair, strict=True):
            stored = ranges[f"{name}.{kind}{SCALE}"]
            if wrong := _wrong(stored, kind, layers[name]):
                raise ValueError(f"{name}.{kind}{SCALE} {wrong}")
            quantiser.amax = stored
    only(found, names)
    return found


def ranges(net: nn.Module) -> dict[str, Tensor]:
    """The ranges of the quantised layers of `net`, by their names in its state."""
    return {
        f"{name}.{kind}{SCALE}": quantiser.amax
        for name in quantised(net)
        for kind, quantiser in zip(KINDS, pairs(net)[name], strict=True)
    }


def scales(net: nn.Module, errors: Mapping[str, float]) -> dict[str, Scale]:
    """The ranges of the quantised layers `errors` of `net`, with the error of each in HU."""
    known, found = ranges(net), dict[str, Scale]()
    for name, error in errors.items():
        inputs, weights = (known[f"{name}.{kind}{SCALE}"] for kind in KINDS)
        found[name] = {
            "input_range": float(inputs),
            "weight_range": [float(weights.min()), float(weights.max())],
            "error_hu": error,
        }
    return found


def quantised(net: nn.Module) -> list[str]:
    """The layers of `net` that are quantised; empty for every other network."""
    return [name for name, pair in pairs(net).items() if pair[0].is_enabled]


def unmeasured(net: nn.Module) -> dict[str, float]:
    """The quantised layers of a network of which nobody says what they cost: 0 HU each."""
    return dict.fromkeys(quantised(net), 0.0)


def pairs(net: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The quantisers of input and weight of every layer that has them, at work or not."""
    return {
        name: (module.input_quantizer, module.weight_quantizer)
        for name, module in net.named_modules()
        if hasattr(module, "weight_quantizer")
    }


def only(net: nn.Module, names: Collection[str]) -> None:
    """Let these layers of `net` be quantised, in place, and no others."""
    for name, pair in pairs(net).items():
        for quantiser in pair:
            quantiser.enable() if name in names else quantiser.disable()


def half(net: nn.Module) -> nn.Module:
    """A copy of `net` in float16 whose INT8 layers round their weights to the same integers.

    Weights take the values of their integers before they become float16: else some that lie near
    the middle of two would go to the other one, in every pixel, which is a bias.
    """
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name in quantised(net):
            weight = net.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            inputs, weights = pairs(net)[name]
            weight.copy_(weights(weight))
            # Else ModelOpt 0.47 leaves an ONNX file in float32 from the first INT8 layer on.
            inputs.trt_high_precision_dtype = weights.trt_high_precision_dtype = "Half"
    return cast(net, torch.float16)


@dataclass(frozen=True)
class Integers:
    """What the weights and the input of a quantised layer are rounded to."""

    weight: Tensor
    """(out, in, kH, kW) int8."""
    steps: Tensor
    """(out,) float32: what 1 stands for, by output channel."""
    step: float
    """The same of an input, which is clipped to -128 .. 127 steps."""


def integers(layer: nn.Module) -> Integers | None:
    """The integers that a convolution computes with; None where it is not quantised."""
    pair = pairs(layer).get("")
    if pair is None or not pair[0].is_enabled:
        return None
    weight = layer.weight
    assert isinstance(weight, Tensor)
    inputs, ranges_ = (one.amax.detach().float() for one in pair)
    known = ranges_.flatten().expand(len(weight))
    per_unit = torch.where(known > TINY, LARGEST / known, 0.0)
    whole = (weight.detach().float() * per_unit.view(-1, 1, 1, 1)).round()
    steps = torch.where(per_unit > 0, 1 / per_unit, 1.0)
    int8 = whole.clamp(-LARGEST - 1, LARGEST).to(torch.int8)
    return Integers(int8, steps, float(1 / (LARGEST / inputs)))


def settled(net: nn.Module) -> nn.Module:
    """A copy of `net` with quantisers in the layers only that are quantised."""
    return _without(net, pairs(net).keys() - set(quantised(net)))


def plain(net: nn.Module) -> nn.Module:
    """`net` without quantisers, its weights as they are trained: a copy where it has any."""
    return _without(net, pairs(net)) if pairs(net) else net


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _inserted(net: nn.Module, names: Collection[str]) -> nn.Module:
    """A copy of `net` with quantisers in these layers, not yet at work.

    Layer by layer, because `mtq.quantize` also converts pools, norms and layers whose weight a
    parametrization computes, of which it raises.
    """
    with _quiet():
        from modelopt.torch.quantization.nn import QuantModuleRegistry, TensorQuantizer

    net = copy.deepcopy(net)
    for name in names:
        layer = QuantModuleRegistry.convert(net.get_submodule(name))  # in place
        for module in layer.modules():
            if isinstance(module, TensorQuantizer):  # of the output, too
                module.disable()
        for kind, quantiser in zip(KINDS, pairs(layer)[""], strict=True):
            quantiser.set_from_attribute_config({"num_bits": 8, "axis": AXES[kind]})
    return net


def _without(net: nn.Module, names: Collection[str]) -> nn.Module:
    """A copy of `net` without the quantisers of these layers."""
    net = copy.deepcopy(net)
    for name in names:
        net.get_submodule(name).export()  # type: ignore[operator]  # in place
    return net


def _collect(pair: tuple[Any, Any], method: Method) -> None:
    """Let a layer's quantisers look at values, in place, and change none."""
    if method != "max":
        pair[0].set_from_attribute_config({"calibrator": "histogram"})
    for quantiser in pair:
        quantiser.enable()
        quantiser.disable_quant()
        quantiser.enable_calib()


def _ranged(pair: tuple[Any, Any], method: Method) -> str:
    """Give a layer's quantisers their ranges, in place; why it has none, or empty."""
    arguments = (() if method == "max" else (method,), ())
    with _quiet():
        for quantiser, given in zip(pair, arguments, strict=True):
            quantiser.load_calib_amax(*given, strict=False)
            quantiser.disable_calib()
            quantiser.enable_quant()
    amax = pair[0].amax
    if bool(amax.isnan().any()):
        return NEVER_RAN
    return ZERO if float(amax) <= TINY else ""


def _wrong(stored: Tensor, kind: str, layer: nn.Module) -> str:
    """What makes a tensor unusable as a range, as the end of a sentence; empty for nothing."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    many = kind == "weight" and len(weight) > 1  # of one output channel the range is one number
    shape = (len(weight), *[1] * (weight.dim() - 1)) if many else ()
    if tuple(stored.shape) != shape:
        return f"has shape {list(stored.shape)}, not {list(shape)}"
    if stored.dtype != torch.float32 or not bool((stored.isfinite() & (stored >= 0)).all()):
        return "holds something else than ranges"
    return ""
