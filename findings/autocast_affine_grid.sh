#!/usr/bin/env bash
# Under autocast affine_grid rounds its coordinates: a turned slice is read 1.2 pixels off.
#
# Autocast keeps grid_sample in float32, and slice and matrix are float32. But affine_grid makes its
# coordinates with a matrix product, which autocast turns to bfloat16 or float16. They lie between
# -1 and 1, and above one half bfloat16 knows steps of 1/256 only: a whole pixel of a slice of 512.
# The error grows with the size. float16 is off by up to 0.09 pixels. The result is a float32 slice
# of the right shape, in which nothing shows the rounding. Making the grid outside of autocast, or
# with autocast disabled, helps.
# It hurts whoever turns, shifts or registers CT slices in a training step or a network that runs in
# mixed precision.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), numpy 2.4.6. 2026-12-01.
# Output seen, the largest error where the turned place is inside of the slice, at 10 degrees:
#   256 x 256, bfloat16: a grid in bfloat16 that is off by 0.32 pixels, a slice in float32
#   512 x 512, bfloat16: a grid in bfloat16 that is off by 1.21 pixels, a slice in float32
#   512 x 512, float16: a grid in float16 that is off by 0.09 pixels, a slice in float32
#   512 x 512, no autocast: a grid in float32 that is off by 0.00 pixels, a slice in float32
# Ends with status 0 as long as the error is above 0.2, 1 and 0.05 pixels under autocast and below
# 0.001 without.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat >"$folder/grid.py" <<'PYTHON'
import math
import sys

import numpy as np
import torch
from torch.nn import functional as F

ANGLE = math.radians(10)
TURN = np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])


def exact(side):
    """Where to look, in float64 from the definition, without torch."""
    middles = (2 * np.arange(side) + 1) / side - 1
    y, x = np.meshgrid(middles, middles, indexing="ij")
    return np.stack([x, y], -1) @ TURN.T


right = True
for side, dtype, least, most in (
    (256, torch.bfloat16, 0.2, 1),
    (512, torch.bfloat16, 1, 3),
    (512, torch.float16, 0.05, 0.3),
    (512, None, 0, 0.001),
):
    matrix = torch.from_numpy(np.hstack([TURN, np.zeros((2, 1))])).float()[None]
    image = torch.rand(1, 1, side, side)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        grid = F.affine_grid(matrix, image.shape, align_corners=False)
        turned = F.grid_sample(image, grid, align_corners=False)
    right_places = exact(side)
    inside = np.abs(right_places).max(-1) < 1
    off = np.abs(grid[0].double().numpy() - right_places)[inside]
    pixels = float(off.max()) * side / 2
    name = str(dtype).removeprefix("torch.") if dtype else "no autocast"
    kinds = [str(t.dtype).removeprefix("torch.") for t in (grid, turned)]
    print(
        f"{side} x {side}, {name}: a grid in {kinds[0]} that is off by {pixels:.2f} pixels, "
        f"a slice in {kinds[1]}"
    )
    right &= least <= pixels < most and turned.dtype == torch.float32
sys.exit(not right)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/grid.py"
