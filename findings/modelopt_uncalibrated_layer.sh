#!/usr/bin/env bash
# ModelOpt quantises a layer that calibration never ran by the range of each batch, not by a fixed one.
#
# mtq.quantize with INT8_DEFAULT_CFG measures fixed ranges in the calibration loop. A layer that the
# loop does not reach (here the branch for large slices) stays enabled, and its input's range is
# taken anew from every input, without a warning. As the range is that of the whole batch, the output
# of a slice depends on the slices beside it. Only ONNX export says "Quantizer has not been
# calibrated". Looking for `amax=dynamic` after calibration finds such layers.
#
# Versions: Python 3.11, nvidia-modelopt 0.47.0, torch 2.13.0 (CPU). 2026-11-29.
# Output seen: "calibrated branch: output moves by 0.0000; other branch: by 0.0617 of 1.5190; warnings: 0"
# Ends with status 0 as long as the second moves, the first does not, and nothing warns of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub
cat >"$folder/range.py" <<'PYTHON'
import sys
import warnings

import torch
from torch import nn

import modelopt.torch.quantization as mtq


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.small = nn.Conv2d(8, 8, 3, padding=1)
        self.large = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        return self.large(x) if x.shape[-1] > 32 else self.small(x)


def moves(net, slice_, other):
    """How far a slice's output moves when another slice is in its batch."""
    with torch.no_grad():
        alone, beside = net(slice_), net(torch.cat([slice_, other]))[:1]
    return (alone - beside).abs().max().item(), alone.abs().max().item()


torch.manual_seed(0)
net = Net().eval()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    net = mtq.quantize(net, mtq.INT8_DEFAULT_CFG, lambda m: m(torch.randn(4, 1, 32, 32)))
    slice_, other = torch.randn(1, 1, 64, 64), 100 * torch.randn(1, 1, 64, 64)
    fixed, _ = moves(net, slice_[..., :32, :32], other[..., :32, :32])
    free, size = moves(net, slice_, other)
about = [w for w in said if "calibrat" in str(w.message) or "amax" in str(w.message)]
print(
    f"calibrated branch: output moves by {fixed:.4f}; other branch: by {free:.4f} of {size:.4f}; "
    f"warnings: {len(about)}"
)
sys.exit(fixed > 1e-5 or free < 1e-3 or len(about) > 0)
PYTHON
"$folder/venv/bin/python" "$folder/range.py" 2>/dev/null | tail -1
