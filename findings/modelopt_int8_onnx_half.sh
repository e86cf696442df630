#!/usr/bin/env bash
# ModelOpt's INT8 ONNX file of a half-precision network is float32 from the first quantiser on.
#
# A quantised network turned to half precision computes in half precision in PyTorch, and its exported
# file begins so. Behind the first INT8 layer everything is float32, also in layers that are not
# quantised: each quantiser casts its input to float32, and the cast back is made but not used. A
# strongly typed TensorRT (11, RTX) takes types from the file, so half precision is lost there. The
# quantisers' trt_high_precision_dtype, "Float" unless told otherwise, keeps the file in half precision
# when it is set to "Half".
#
# Versions: Python 3.11, nvidia-modelopt 0.47.0, torch 2.13.0 (CPU), onnx 1.23.2. 2026-11-29.
# Output seen: "convolutions behind the first quantiser in half precision: 0 of 3; with Half: 3 of 3"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 onnx==1.23.2 requests huggingface_hub
cat >"$folder/half.py" <<'PYTHON'
import io
import sys

import onnx
import torch
from torch import nn

import modelopt.torch.quantization as mtq

torch.manual_seed(0)
x = torch.rand(1, 8, 16, 16)
layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)]
net = mtq.quantize(nn.Sequential(*layers).eval(), mtq.INT8_DEFAULT_CFG, lambda m: m(x))
for layer in net[1:]:  # the first layer alone stays quantised
    for quantiser in (layer.input_quantizer, layer.weight_quantizer):
        quantiser.disable()
net = net.half()


def halves():
    """How many convolutions give half precision in the file."""
    file = io.BytesIO()
    torch.onnx.export(net, (x.half(),), file, dynamo=False, opset_version=20)
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(file.getvalue()))
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    found = [kinds[node.output[0]] for node in model.graph.node if node.op_type == "Conv"]
    return sum(kind == onnx.TensorProto.FLOAT16 for kind in found), len(found)


usual = halves()
for quantiser in (net[0].input_quantizer, net[0].weight_quantizer):
    quantiser.trt_high_precision_dtype = "Half"
told = halves()
assert net(x.half()).dtype == torch.float16
print("convolutions behind the first quantiser in half precision: %d of %d; with Half: %d of %d" % (*usual, *told))
sys.exit(usual != (0, 3) or told != (3, 3))
PYTHON
"$folder/venv/bin/python" "$folder/half.py" 2>/dev/null | tail -1
