"""Slices as NumPy arrays through a network, for callers from Python."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from compress.base import devices
from compress.base.around import around
from compress.base.errors import QualityError, UsageError
from compress.base.hu import enhanced_hu, to_network
from compress.data.pairs import numbers
from compress.graph.padding import AnySize, ready


def enhance(net: nn.Module, image: ArrayLike, *, device: str | None = None) -> NDArray[np.float32]:
    """Enhance CT slices of any size; `compress enhance` does it with DICOM series.

    Args:
        net: the network, in any mode; a copy of it runs, in eval mode. Or a loaded engine.
        image: (H, W) or (N, H, W) in HU; a volume in order where the network sees neighbours.
        device: cpu, cuda or cuda:N; the GPU where there is one.

    Returns:
        The same shape, float32 HU.

    Raises:
        UsageError: another number of dimensions, or pixels that are no finite numbers.
        QualityError: the network gives NaN or infinity.

    >>> import numpy as np
    >>> import torch
    >>> import compress
    >>> compress.enhance(torch.nn.Identity(), np.zeros((20, 30))).shape
    (20, 30)
    """
    hu = numbers(image, "image")
    if hu.ndim not in (2, 3):
        raise UsageError(f"image must be (H, W) or (N, H, W), got {hu.shape}")
    target = devices.choose(device)
    module = net if isinstance(net, AnySize) else ready(net, target)
    volume = to_network(torch.from_numpy(hu.reshape(-1, *hu.shape[-2:])).to(target))
    beside = [around(range(len(volume)), k, module.neighbours) for k in range(len(volume))]
    with torch.inference_mode():
        y = torch.cat([module(volume[list(own)][None]) for own in beside])
    enhanced: NDArray[np.float32] = enhanced_hu(y).cpu().numpy().reshape(hu.shape)
    if np.isnan(enhanced).any():
        raise QualityError("the network gives NaN or infinity")
    return enhanced
