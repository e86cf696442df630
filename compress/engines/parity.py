"""How far an engine is from the network that it was built from, measured in a fresh process."""

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.base.errors import QualityError, UsageError
from compress.base.hu import DATA_RANGE, HU_MIN, to_hu, to_network
from compress.base.tensors import cast
from compress.data import Image, Pairs
from compress.engines import subprocess_run
from compress.engines.base import Shape
from compress.engines.precision import ARITHMETIC, INT8, Precision
from compress.engines.records import Parity
from compress.quantization.quantisers import quantised
from compress.training.precision import Precision as Switches

AIR = -500.0
"""HU below which a pixel that the image's border reaches is the air around a patient."""


def compare(
    net: nn.Module,
    side: Path,
    pairs: Pairs,
    shape: Shape,
    precision: Precision,
    device: torch.device,
) -> Parity:
    """The difference between an engine and the network in float32, on held-out slices.

    Args:
        net: the network.
        side: the engine's sidecar.
        pairs: held-out slices; the first ones are taken.
        shape: the engine's input.
        precision: of the engine; says the limits.
        device: where the network is computed.

    Returns:
        max_hu, max_at and mean_hu inside the body, max_hu_everywhere, psnr (dB, the network's
        output as the truth; None where both are equal), slices, both limits, and ok.

    Raises:
        QualityError: the engine does not load, or gives NaN, infinity or another shape.
    """
    low = slices(pairs, shape)
    got = subprocess_run.run(side, low)
    expected = _reference(net, low, device)
    if got.shape != expected.shape or not got.isfinite().all():
        raise QualityError(f"export: {side.stem} gives NaN, infinity or another shape")
    difference = (got - expected).abs() * DATA_RANGE
    middle = low.shape[1] // 2
    within = body(low[:, middle : middle + 1])
    inside = difference[within]
    highest = int(difference.where(within, -1.0).argmax())
    index, _, row, column = np.unravel_index(highest, tuple(difference.shape))
    limits = INT8 if quantised(net) else ARITHMETIC[precision]
    error = float((difference.double() ** 2).mean())
    max_hu, mean_hu = float(inside.max()), float(inside.mean())
    return {
        "max_hu": max_hu,
        "max_at": [int(index), int(row), int(column)],
        "mean_hu": mean_hu,
        "max_hu_everywhere": float(difference.max()),
        "psnr": 10 * torch.tensor(DATA_RANGE**2 / error).log10().item() if error else None,
        "slices": min(shape.batch, len(pairs.low)),
        "limit_max_hu": limits.max_hu,
        "limit_mean_hu": limits.mean_hu,
        "ok": max_hu <= limits.max_hu and mean_hu <= limits.mean_hu,
    }


def body(low: Tensor) -> Tensor:
    """Which pixels are not the air around the patient: all of a slice that is nothing but air.

    Args:
        low: (N, 1, H, W) in network range.

    Returns:
        The same shape, bool. Lungs and bowel gas belong to the body.
    """
    from scipy import ndimage

    tissue = (to_hu(low) >= AIR).cpu().numpy()
    # Air passes between pixels that touch at a corner, within a slice, never between slices.
    neighbours = np.ones((1, 1, 3, 3), dtype=bool)
    found = torch.from_numpy(ndimage.binary_fill_holes(tissue, neighbours))
    nothing = ~found.flatten(1).any(1)
    found[nothing] = True
    return found


def slices(pairs: Pairs, shape: Shape) -> Tensor:
    """Held-out slices cut or padded to the engine's input, from the first on, again when few."""
    inputs = pairs.inputs()
    if pairs.channels != shape.channels:
        seen = f"the network sees {shape.channels} slices of each"
        raise UsageError(f"export: {seen}, the pairs to compare on have {pairs.channels}")
    images = (inputs[i % len(inputs)] for i in range(shape.batch))
    return torch.stack([torch.cat([fitted(one, shape.size) for one in own]) for own in images])


def fitted(image: Image, size: int) -> Tensor:
    """(H, W) HU -> (1, size, size) in network range: the middle, or padded with air."""
    hu = torch.tensor(image)
    top, left = ((side - size) // 2 if side > size else 0 for side in hu.shape)
    hu = hu[top : top + size, left : left + size]
    pad = (0, size - hu.shape[1], 0, size - hu.shape[0])
    return to_network(F.pad(hu, pad, value=int(HU_MIN)))[None]


def _reference(net: nn.Module, low: Tensor, device: torch.device) -> Tensor:
    """The network in float32, one slice at a time, on the CPU at the end."""
    # The network itself: what an engine is made of is what is checked here.
    net = cast(copy.deepcopy(net).to(device), torch.float32).eval()
    exact = Switches(name="fp32", device=device, why="what engines are compared with")
    with torch.inference_mode(), exact.switches():
        return torch.cat([net(x[None].to(device)).cpu() for x in low])
