#!/usr/bin/env bash
# Six tools count the multiply-accumulates of a transposed convolution of stride 2: two are right, four count four times as many.
#
# A transposed convolution multiplies each pixel of its input with every weight of that channel. At stride 2 the output has four
# times the pixels, and Torch-Pruning, thop, torchinfo and torchprofile (0.0.4, by which ModelOpt's FastNAS counts) take those. PyTorch's
# own FlopCounterMode and fvcore take the input's. With groups torchprofile leaves them out as well: 16 times. At stride 1 all six
# agree, and so they do for convolutions. In a U-Net the decoder then looks costlier than it is, and a pruner that is given a share of
# the MACs takes it from the wrong layers. Here: 16 to 8 channels, 4x4, an input of 32x32.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), torch-pruning 1.6.1, torchinfo 1.8.0, torchprofile 0.0.4, thop 0.1.1.post2209072238,
# fvcore 0.1.5.post20221221. 2026-11-30.
# Output seen:
#   stride 2: 2097152 are right; torch 1, fvcore 1, Torch-Pruning 4, thop 4, torchinfo 4, torchprofile 4 times
#   stride 2, groups 4: 524288 are right; torch 1, fvcore 1, Torch-Pruning 4, thop 4, torchinfo 4, torchprofile 16 times
#   stride 1: 3276800 are right; torch 1, fvcore 1, Torch-Pruning 1, thop 1, torchinfo 1, torchprofile 1 times
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torch-pruning==1.6.1 torchinfo==1.8.0 torchprofile==0.0.4 \
    thop==0.1.1.post2209072238 fvcore==0.1.5.post20221221
cat >"$folder/count.py" <<'PYTHON'
import copy
import sys

import thop
import torch
import torch_pruning
import torchinfo
import torchprofile
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

IMAGE = torch.randn(1, 16, 32, 32)


def by_torch(net):
    with FlopCounterMode(display=False) as counter:
        net(IMAGE)
    return counter.get_total_flops() / 2


def by_fvcore(net):
    return FlopCountAnalysis(net, IMAGE).unsupported_ops_warnings(False).total()


TOOLS = {
    "torch": by_torch,
    "fvcore": by_fvcore,
    "Torch-Pruning": lambda net: torch_pruning.utils.count_ops_and_params(net, IMAGE)[0],
    "thop": lambda net: thop.profile(net, (IMAGE,), verbose=False)[0],
    "torchinfo": lambda net: torchinfo.summary(net, input_data=IMAGE, verbose=0).total_mult_adds,
    "torchprofile": lambda net: torchprofile.profile_macs(net, IMAGE),
}
CASES = {
    "stride 2": (nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1, bias=False), [1, 1, 4, 4, 4, 4]),
    "stride 2, groups 4": (
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1, groups=4, bias=False),
        [1, 1, 4, 4, 4, 16],
    ),
    "stride 1": (nn.ConvTranspose2d(16, 8, 5, padding=2, bias=False), [1] * 6),
}
same = True
for name, (layer, seen) in CASES.items():
    right = IMAGE[0, 0].numel() * layer.weight.numel()  # each pixel, each weight of its channel
    times = [tool(nn.Sequential(copy.deepcopy(layer)).eval()) / right for tool in TOOLS.values()]
    said = ", ".join(f"{tool} {value:g}" for tool, value in zip(TOOLS, times))
    print(f"{name}: {right} are right; {said} times")
    same &= times == seen
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/count.py" 2>/dev/null
