#!/usr/bin/env bash
# ModelOpt's "per-channel" INT8 scales of a transposed convolution are per input channel.
#
# INT8_DEFAULT_CFG gives every weight one scale for each index of its first axis. For Conv2d that is
# the output channel; a ConvTranspose2d keeps its weight as (in, out, H, W), so there it is the input
# channel. Output channels of small weights then share the scale of large ones and lose their bits,
# and the ONNX file says axis=0, whose scales no INT8 kernel can take out of its sum. onnxruntime's
# quantize_static takes axis 1 for the same layer.
#
# Versions: Python 3.11, nvidia-modelopt 0.47.0, torch 2.13.0 (CPU). 2026-11-29.
# Output seen: "relative error of the weight of the small channel: convolution 0.004, deconvolution 0.383; scales (4, 1, 1, 1) for a weight (4, 2, 3, 3)"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub
cat >"$folder/scales.py" <<'PYTHON'
import sys

import torch
from torch import nn

import modelopt.torch.quantization as mtq

torch.manual_seed(0)
down, up = nn.Conv2d(4, 2, 3, padding=1), nn.ConvTranspose2d(4, 2, 3, padding=1)
with torch.no_grad():
    down.weight[1] *= 0.01  # the same output channel has small weights in both
    up.weight[:, 1] *= 0.01
net = mtq.quantize(
    nn.ModuleList([down, up]),
    mtq.INT8_DEFAULT_CFG,
    lambda m: [layer(torch.randn(1, 4, 16, 16)) for layer in m],
)


def error(weight, quantizer, axis):
    """Relative rounding error of the weights of output channel 1."""
    own, off = (t.select(axis, 1) for t in (weight, quantizer(weight) - weight))
    return (off.norm() / own.norm()).item()


down, up = net
errors = error(down.weight, down.weight_quantizer, 0), error(up.weight, up.weight_quantizer, 1)
scales, shape = tuple(up.weight_quantizer.amax.shape), tuple(up.weight.shape)
print(
    f"relative error of the weight of the small channel: convolution {errors[0]:.3f}, "
    f"deconvolution {errors[1]:.3f}; scales {scales} for a weight {shape}"
)
sys.exit(scales[0] != shape[0] or errors[0] > 0.01 or errors[1] < 0.1)
PYTHON
"$folder/venv/bin/python" "$folder/scales.py" 2>/dev/null | tail -1
