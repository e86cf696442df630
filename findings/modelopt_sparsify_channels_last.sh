#!/usr/bin/env bash
# ModelOpt's sparsify refuses a network in channels_last memory with an error that has no words.
#
# channels_last is what NVIDIA advises for convolutions on tensor cores. On such a network
# mts.sparsify(net, "sparse_magnitude") ends with an AssertionError whose text is empty; the same
# network in contiguous memory gets its 2:4 masks. Nothing in the error names the memory layout.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), nvidia-modelopt 0.47.0. 2026-11-28.
# Output seen: "contiguous: half of the weights kept; channels_last: AssertionError, text ''"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# requests and huggingface_hub are imported by ModelOpt and not declared by it.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub
cat >"$folder/sparsify.py" <<'PYTHON'
import contextlib
import io
import sys

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import modelopt.torch.sparsity as mts


def kept(layout):
    """The share of weights that the mask keeps, or the error."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(32, 32, 3)).to(memory_format=layout)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            sparse = mts.sparsify(net, "sparse_magnitude")
    except Exception as error:
        return f"{type(error).__name__}, text {str(error)!r}"
    share = float(sparse[0]._weight_mask.float().mean())
    return "half of the weights kept" if share == 0.5 else f"{share} kept"


found = kept(torch.contiguous_format), kept(torch.channels_last)
print(f"contiguous: {found[0]}; channels_last: {found[1]}")
sys.exit(found != ("half of the weights kept", "AssertionError, text ''"))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/sparsify.py" 2>/dev/null
