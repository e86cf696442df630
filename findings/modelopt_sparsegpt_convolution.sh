#!/usr/bin/env bash
# ModelOpt's SparseGPT makes convolutions 2:4 along the taps of a kernel, where sparse tensor cores need it along input channels.
#
# mts.sparsify in mode "sparsegpt" takes Conv2d layers and says so. Half of their weights become zero, but the groups of four run
# through a filter's weights in the order of memory (input channel, row, column): four neighbouring taps of one channel. Along the input
# channels, where its mode "sparse_magnitude" puts them and TensorRT looks for them, 2 of 4 are zero in some 39 % of the groups by
# chance. 1x1 convolutions come out right. So the share of zeros is as expected, and no engine has a sparse kernel for the layer.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), nvidia-modelopt 0.47.0. 2026-11-30.
# Output seen:
#   sparse_magnitude 3x3: 50 % zeros; 2:4 in 100 % of the groups along input channels, in 37 % along taps
#   sparsegpt 3x3: 50 % zeros; 2:4 in 39 % of the groups along input channels, in 100 % along taps
#   sparsegpt 1x1: 50 % zeros; 2:4 in 100 % of the groups along input channels, in 100 % along taps
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# requests and huggingface_hub are imported by ModelOpt and not declared by it.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub
cat >"$folder/groups.py" <<'PYTHON'
import contextlib
import io
import sys

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import modelopt.torch.sparsity as mts


def two_of_four(mask):
    """Percent of the groups of four along the last axis that keep two."""
    return round(100 * float((mask.unflatten(-1, (-1, 4)).sum(-1) == 2).float().mean()))


def sparse(mode, size):
    """Percent of zeros; of groups along input channels; of groups in the order of memory."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, size))
    images = [torch.randn(4, 16, 12, 12) for _ in range(4)]
    config = {"data_loader": images, "collect_func": lambda batch: batch}
    with contextlib.redirect_stdout(io.StringIO()):
        mask = mts.sparsify(net, mode, config=config)[0]._weight_mask
    zeros = round(100 * float((~mask).float().mean()))
    return zeros, two_of_four(mask.movedim(1, -1)), two_of_four(mask.flatten(1))


found = []
for mode, size in (("sparse_magnitude", 3), ("sparsegpt", 3), ("sparsegpt", 1)):
    zeros, channels, taps = sparse(mode, size)
    found.append((zeros, channels > 99, taps > 99))
    print(
        f"{mode} {size}x{size}: {zeros} % zeros; 2:4 in {channels} % of the groups along input channels, "
        f"in {taps} % along taps"
    )
sys.exit(found != [(50, True, False), (50, False, True), (50, True, True)])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/groups.py" 2>/dev/null
