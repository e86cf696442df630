#!/usr/bin/env bash
# torchmetrics' VIF prefers a noisy slice in the range 0 to 1 and a blurred one in 0 to 255.
#
# Visual information fidelity assumes an eye with a noise of variance 2 that looks at grey values
# from 0 to 255. Unlike torchmetrics' SSIM and PSNR, its VIF takes no data range, and it scales
# nothing. On slices from 0 to 1 the eye's noise covers every detail and all noise of the image, and
# VIF sees little but contrast. On CT numbers the eye's noise is next to nothing. So the unit
# decides the number of one pair of images and the order of two results. The value of 0 to
# 255 comes back in every unit with sigma_n_sq = 2 * (range / 255) ** 2.
# It hurts whoever chooses among compressed networks by VIF: one that leaves noise and one that
# blurs change places with the unit.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), torchmetrics 1.9.0, numpy 2.4.6. 2026-12-01.
# Output seen:
#   0 to    1: noisy 0.998, blurred 0.795; noisy with sigma_n_sq scaled 0.554
#   0 to  255: noisy 0.554, blurred 0.658; noisy with sigma_n_sq scaled 0.554
#   0 to 4095: noisy 0.309, blurred 0.529; noisy with sigma_n_sq scaled 0.554
# Ends with status 0 as long as the order turns round and sigma_n_sq brings one value back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cat >"$folder/vif.py" <<'PYTHON'
import sys

import torch
from torch.nn import functional as F
from torchmetrics.functional.image import visual_information_fidelity as vif

RANGES = (1, 255, 4095)

torch.manual_seed(0)
side = torch.arange(128.0) - 63.5
y, x = torch.meshgrid(side, side, indexing="ij")
body = ((x / 48) ** 2 + (y / 36) ** 2 < 1).float()
full = (0.05 + body * (0.6 + 0.1 * torch.sin(x / 2)))[None, None].double()  # in [0, 1]
noisy = full + 0.03 * torch.randn_like(full)
line = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
wide = F.pad(full, (1, 1, 1, 1), mode="reflect")
blurred = F.conv2d(wide, (line[:, None] * line)[None, None])

right = True
values = {}
for top in RANGES:
    values[top] = [float(vif(image * top, full * top)) for image in (noisy, blurred)]
    scaled = float(vif(noisy * top, full * top, sigma_n_sq=2 * (top / 255) ** 2))
    values[top].append(scaled)
    noise, blur, _ = values[top]
    print(
        f"0 to {top:4}: noisy {noise:.3f}, blurred {blur:.3f}; "
        f"noisy with sigma_n_sq scaled {scaled:.3f}"
    )
    right &= abs(scaled - float(vif(noisy * 255, full * 255))) < 1e-3
right &= values[1][0] > values[1][1] + 0.1 and values[255][0] < values[255][1] - 0.05
right &= values[4095][0] < values[255][0] - 0.1
sys.exit(not right)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/vif.py"
