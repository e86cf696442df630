#!/usr/bin/env bash
# SSIM with equal parameters is one number in scikit-image and another in torchmetrics.
#
# Both take a Gaussian of sigma 1.5 over 11 x 11 pixels, population covariance and the same data
# range. torchmetrics averages over every pixel, with the borders mirrored; scikit-image leaves out
# a border of 5 pixels. Inside that border their maps agree to rounding. So a paper's SSIM depends on
# the library, most where the border matters, such as air around a body: name the library.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), torchmetrics 1.9.0, scikit-image 0.26.0. 2026-11-28.
# Output seen: "scikit-image 0.7151, torchmetrics 0.7971, largest difference of the maps inside 2.1e-13"
# Ends with status 0 as long as the means differ by more than 0.01 and the maps inside by less than 1e-5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 scikit-image==0.26.0
cat >"$folder/compare.py" <<'PYTHON'
import sys

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

y, x = np.mgrid[:64, :64] - 31.5
full = np.where((x / 24) ** 2 + (y / 18) ** 2 < 1, 0.6, 0.0)  # a body in air, in [0, 1]
inside = full > 0
low = full + inside * np.random.default_rng(0).normal(0, 0.08, full.shape)
options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
one, map_one = structural_similarity(full, low, full=True, **options)
pair = [torch.from_numpy(image)[None, None] for image in (low, full)]
other, map_other = structural_similarity_index_measure(
    *pair, data_range=1.0, return_full_image=True
)
difference = np.abs(map_one - map_other[0, 0].numpy())[5:-5, 5:-5].max()
print(f"scikit-image {one:.4f}, torchmetrics {float(other):.4f}, "
      f"largest difference of the maps inside {difference:.1e}")
sys.exit(not (abs(one - float(other)) > 0.01 and difference < 1e-5))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/compare.py"
