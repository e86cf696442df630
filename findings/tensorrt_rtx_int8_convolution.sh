#!/usr/bin/env bash
# TensorRT-RTX before 1.7 takes an ONNX file with an INT8 convolution, and then builds no plan of it.
#
# A convolution between QuantizeLinear and DequantizeLinear is parsed without a complaint by 1.6.1 and
# 1.7.1. Only 1.7.1 builds it; 1.6.1 gives no plan and an internal error that names the types it has:
# float, half, bfloat16, FP8. A matrix product with the same Q and DQ is built by both. So INT8 works
# in transformers and not in convolutional networks, for every compute capability that can be named
# (7.5, 8.0, 8.6, 8.9, 12.0). No GPU is needed to see it: the builder of TensorRT-RTX takes a compute
# capability and works without one, where TensorRT's measures on the GPU.
#
# Versions: Python 3.11, tensorrt-rtx-cu13-bindings 1.6.1.120 and 1.7.1.116 with the libraries of
# onnxruntime-ep-nv-tensorrt-rtx-cu13 0.4.0 and 0.5.0, onnx 1.23.2. 2026-11-29.
# Output seen: "1.6.1.120: parsed 10 of 10, built convolution 0, linear 5" and
#              "1.7.1.116: parsed 10 of 10, built convolution 5, linear 5"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/plans.py" <<'PYTHON'
import ctypes
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

for pattern in ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*"):
    (path,) = Path(sys.argv[1]).rglob(pattern)
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
import tensorrt_rtx_bindings as trt


class Silent(trt.ILogger):
    def log(self, severity, message):
        pass


def model(kind):
    """y = DQ(Q(x)) times DQ(Q(w)) in half precision, 16 channels to 16."""
    half, whole = np.float16, np.int8
    shape, axis = ((16, 16, 3, 3), 0) if kind == "convolution" else ((16, 16), 1)
    sides = [1, 16, 32, 32] if kind == "convolution" else [1, 64, 16]
    values = {
        "w": np.random.default_rng(0).normal(size=shape, scale=0.1).astype(half),
        "sx": half(0.02), "zx": whole(0), "sw": np.full(16, 0.003, half), "zw": np.zeros(16, whole),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "sw", "zw"], ["wq"], axis=axis),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], axis=axis),
        helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1] * 4)
        if kind == "convolution"
        else helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, sides) for n in ("x", "y")]
    held = [numpy_helper.from_array(np.asarray(v), n) for n, v in values.items()]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], held)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


parsed, built = 0, {"convolution": 0, "linear": 0}
for kind in built:
    for capability in ("SM75", "SM80", "SM86", "SM89", "SM120"):
        builder = trt.Builder(Silent())
        network = builder.create_network(0)
        parsed += trt.OnnxParser(network, Silent()).parse(model(kind))
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
        built[kind] += builder.build_serialized_network(network, config) is not None
print(f"{trt.__version__}: parsed {parsed} of 10, built convolution {built['convolution']}, linear {built['linear']}")
PYTHON
run() { # BINDINGS LIBRARIES EXPECTED
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet --no-deps "tensorrt-rtx-cu13-bindings==$1"
    "$folder/$1/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
    "$folder/$1/bin/pip" download --quiet --no-deps -d "$folder/$1/wheel" "onnxruntime-ep-nv-tensorrt-rtx-cu13==$2"
    "$folder/$1/bin/python" -m zipfile -e "$folder/$1"/wheel/*.whl "$folder/$1/lib"
    said=$("$folder/$1/bin/python" "$folder/plans.py" "$folder/$1/lib" 2>/dev/null | tail -1)
    echo "$said"
    [ "$said" = "$1: parsed 10 of 10, built $3" ]
}
run 1.6.1.120 0.4.0 "convolution 0, linear 5"
run 1.7.1.116 0.5.0 "convolution 5, linear 5"
