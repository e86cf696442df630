"""ONNX: a portable model, checked with ONNX Runtime on the CPU."""

import ast
import importlib.util
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.base.machine import Package
from compress.engines.base import Format, NotBuilt, Runner, Served, Shape, broken, giving_up, placed
from compress.engines.precision import Precision
from compress.engines.records import Built
from compress.quantization.quantisers import quantised
from compress.sparsity.pattern import is_2to4

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
"""Operator set: the newest that TensorRT 10, ONNX Runtime 1.20 and torch 2.8 all know."""
LAYERS = ("Conv", "MatMul", "Gemm")
"""Operators that hold the weight of a layer."""
ROUNDING = ("QuantizeLinear", "DequantizeLinear")
"""Operators between the weight of an INT8 layer and the layer."""
TURNED = ".T"
"""Ending of the name of a transposed weight."""
TENSORS = ("low", "enhanced")
"""Names of input and output."""
COMMAND = f"pip install {' '.join(PACKAGES)}"


class Onnx(Format):
    """`.onnx` files; the weights lie inside."""

    suffix = ".onnx"
    precisions = ("fp32", "fp16")  # in opset 20 convolutions take no bfloat16
    quantised: tuple[Precision, ...] = ("fp32", "fp16")
    requires = PACKAGES
    served = Served("onnxruntime", "model.onnx")

    def packages(self) -> tuple[Package, ...]:
        """The exporter, its operators and the runtime that checks the file."""
        return tuple(Package(name, name, "export onnx", COMMAND) for name in PACKAGES)

    def missing(self, device: torch.device) -> NotBuilt | None:
        """The packages that it takes; any device will do."""
        absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if absent:
            reason = f"not installed: {', '.join(absent)}"
            return NotBuilt(reason, f"pip install {' '.join(absent)}")
        return broken(self.packages())

    def build(self, subject: nn.Module, shape: Shape, path: Path, device: torch.device) -> Built:
        """Trace on the CPU, write, and check the file's form; facts: opset, convolutions, 2:4."""
        import onnx

        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        subject = subject.to("cpu")
        with warnings.catch_warnings(), giving_up("the ONNX exporter"):
            warnings.simplefilter("ignore")
            model = _traced(subject, shape) if quantised(subject) else _exported(subject, shape)
        _name(model.graph)
        _strip(model)
        onnx.save(model, path)
        with giving_up("ONNX's checker"):  # bfloat16 inside a network is no type of a convolution
            onnx.checker.check_model(str(path), full_check=True)
        return _facts(path)

    def weights(self, path: Path) -> dict[str, Tensor]:
        """Those of the convolutions and linear layers."""
        return weights(path)

    def load(self, path: Path, device: torch.device) -> Runner:
        """The model in ONNX Runtime on the CPU, with as many threads as torch has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)

        def run(x: Tensor) -> Tensor:
            (y,) = session.run(None, {TENSORS[0]: placed(x, torch.device("cpu")).numpy()})
            return torch.from_numpy(y)

        return run


def _exported(subject: nn.Module, shape: Shape) -> Any:
    """The model of a network on the CPU."""
    program = torch.onnx.export(
        subject,
        (shape.example(torch.device("cpu")),),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[TENSORS[0]],
        output_names=[TENSORS[1]],
        dynamic_shapes=shape.dynamic_shapes(),
    )
    assert program is not None  # with dynamo=True it always returns the program
    return program.model_proto


def _traced(subject: nn.Module, shape: Shape) -> Any:
    """The model of a quantised network on the CPU, by the former exporter.

    ModelOpt writes QuantizeLinear and DequantizeLinear there only: torch.export, which the newer
    one begins with, cannot follow its quantisers (Model-Optimizer 0.47, pull request 2418).
    """
    import onnx

    written, batch = io.BytesIO(), {0: "batch"}
    torch.onnx.export(
        subject,
        (shape.example(torch.device("cpu")),),
        written,  # type: ignore[arg-type]  # the former exporter takes files, too
        dynamo=False,
        opset_version=OPSET,
        input_names=[TENSORS[0]],
        output_names=[TENSORS[1]],
        dynamic_axes=dict.fromkeys(TENSORS, batch) if shape.dynamic else None,
    )
    return onnx.load_model_from_string(written.getvalue())


def weights(path: Path) -> dict[str, Tensor]:
    """The weights in a model's file, (out, in, ...) float32, by the layer's name.

    A linear layer is a MatMul, whose weight is transposed, or a Gemm. Weights of INT8 layers are
    those before rounding; rounding leaves zeros what they are.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    rounded = {n.output[0]: n.input[0] for n in graph.node if n.op_type in ROUNDING}
    turns = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Transpose"}
    found = {}
    for node in graph.node:
        if node.op_type not in LAYERS or len(node.input) < 2:
            continue
        name = node.input[1]
        behind = turns.get(name)  # of an INT8 linear layer: a weight as PyTorch has it
        name = behind if behind in rounded else name
        while name in rounded:
            name = rounded[name]
        if name in values and len(values[name].dims) > 1:  # a vector is no layer's weight
            weight = torch.from_numpy(numpy_helper.to_array(values[name]).astype("f4"))
            turned = behind in rounded or any(a.name == "transB" and a.i for a in node.attribute)
            if node.op_type != "Conv" and not turned and weight.dim() == 2:
                weight = weight.T
            found[_layer(name)] = weight
    return found


def _layer(weight: str) -> str:
    """The module that a weight was exported from, by its name."""
    return weight.removeprefix("net.").removesuffix(TURNED).removesuffix(".weight")


def _name(graph: Any) -> None:
    """Name the weights of linear layers, in place: the exporter's transposed ones have numbers."""
    stored, names = {tensor.name for tensor in graph.initializer}, {}
    for node in graph.node:
        scopes = [p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
        if node.op_type == "MatMul" and node.input[1] in stored and scopes:
            module = ast.literal_eval(scopes[0])[-2]
            names[node.input[1]] = f"{module}.weight{TURNED}"
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _strip(message: Any) -> None:
    """Remove metadata and comments from a protobuf message and those in it, in place.

    torch.onnx keeps with each node the lines of source that made it, with the paths of the files
    on the machine that exported it. Nothing computes with them.
    """
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _strip(inner)


def _facts(path: Path) -> Built:
    """What lies in the file: how many convolutions and linear layers, and how many are 2:4."""
    import onnx

    found = weights(path)
    opsets = onnx.load(path, load_external_data=False).opset_import
    return {
        "tensors": list(TENSORS),
        "opset": next(opset.version for opset in opsets if not opset.domain),
        "convolutions": len(found),
        "sparse24": sum(is_2to4(weight) for weight in found.values()),
    }
