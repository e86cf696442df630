#!/usr/bin/env bash
# safetensors.numpy writes a transposed array in the order of its memory, under its transposed shape.
#
# safetensors.numpy.save takes an array such as a.T or one in Fortran order without a word, and what
# is read back has the right shape and the right numbers in the wrong places. safetensors.torch.save
# refuses the same tensor and names the cure, contiguous(). A kernel kept as (H, W, in, out) and
# saved as its transpose changes its layout in silence; numpy.ascontiguousarray before saving helps.
#
# Versions: Python 3.11, safetensors 0.8.0, numpy 2.4.6, torch 2.13.0 (CPU). 2026-11-28.
# Output seen: "numpy: saved [[0, 3], [1, 4], [2, 5]], read [[0, 1], [2, 3], [4, 5]]; torch: ValueError"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
cat >"$folder/transposed.py" <<'PYTHON'
import sys

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

array = np.arange(6).reshape(2, 3)
read = safetensors.numpy.load(safetensors.numpy.save({"weight": array.T}))["weight"]
try:
    safetensors.torch.save({"weight": torch.from_numpy(array).T})
    other = "saved"
except Exception as error:
    other = type(error).__name__
print(f"numpy: saved {array.T.tolist()}, read {read.tolist()}; torch: {other}")
sys.exit(read.tolist() != [[0, 1], [2, 3], [4, 5]] or other != "ValueError")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/transposed.py"
