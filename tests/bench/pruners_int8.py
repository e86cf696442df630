"""INT8 after the training of an arm of `pruners.py`, and what it changes on held-out slices."""

from collections import defaultdict
from typing import Any

import numpy as np
import pruners_arms as arms_of
import torch
from pruners_settings import Arm, Settings
from torch import nn

from compress.base.files import write_json
from compress.base.hu import to_hu, to_network
from compress.checkpoint import Model
from compress.quality import tissues
from compress.steps.quantize import Quantize

LAYERS = {"fused": ("*.growth.conv", "*.wide.conv"), "all": ()}
"""Layers that may be INT8."""
RATE = 1e-5
"""Of the training with the rounding, which comes after the other epochs."""


def quantised(model: Model, arm: Arm, settings: Settings) -> tuple[Model, dict[str, Any]]:
    """The network in INT8, trained on; its figures beside those before."""
    before = arms_of.quality(model, arm, settings)
    facts = {f"half_{name}": before[name] for name in ("psnr", "ssim", "rmse_hu")}
    with arms_of.work(arm, settings) as work:
        small = Quantize(only=LAYERS[arm.int8]).run(model, work)
        found = work.facts
    write_json(settings.out / "arms" / arm.name / "layers.json", found["layers"])
    facts |= {name: found[name] for name in ("error_all_hu", "error_hu")}
    facts["int8_layers"] = sum(row["int8"] for row in found["layers"])
    shot = arms_of.quality(small, arm, settings)
    facts |= {"one_shot_psnr": shot["psnr"], "one_shot_ssim": shot["ssim"]}
    step = settings.train(arm, settings.rounded, lr=RATE, freeze_norm=True)
    small = arms_of.trained(small, step, arm, settings)
    return small, facts | changed(model.net, small.net, arm, settings)


@torch.no_grad()
def changed(half: nn.Module, int8: nn.Module, arm: Arm, settings: Settings) -> dict[str, float]:
    """HU between two networks on the held-out slices: root mean square, and bias by tissue."""
    test, device = arms_of.slices(settings, arm.realisations).test, torch.device(settings.device)
    nets = [net.to(device).eval() for net in (half, int8)]
    squares, found = list[float](), defaultdict[str, list[np.ndarray]](list)
    for low, full in zip(test.low, test.full, strict=True):
        x = to_network(torch.from_numpy(low).to(device))[None, None]
        one, other = (to_hu(net(x)[0, 0].clamp(0, 1)).double().cpu().numpy() for net in nets)
        squares.append(float(np.square(other - one).mean()))
        for tissue, there in tissues.masks(full).items():
            found[tissue].append((other - one)[there])
    facts = {"change_rms_hu": float(np.sqrt(np.mean(squares)))}
    for name, values in found.items():
        if (every := np.concatenate(values)).size:
            facts[f"bias_hu_{name.replace(' ', '_')}"] = float(every.mean())
    return facts
