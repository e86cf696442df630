"""Perceptual indices of one slice, beside those of `metrics`: VIF, GMSD, and SSIM by two libraries.

VIF:  visual information fidelity in the pixel domain, Sheikh and Bovik, IEEE TIP 15(2), 2006.
GMSD: gradient magnitude similarity deviation, Xue et al., IEEE TIP 23(2), 2014; 0 is equal.
Both by piq, which is optional: `pip install 'compress-ct[physics]'`.

SSIM is two numbers: torchmetrics averages over all pixels with mirrored borders, as `metrics` does;
scikit-image leaves out a border of 5 pixels. `findings/ssim_two_borders.sh` shows the difference.
"""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from compress.base.hu import to_network
from compress.base.reasons import reason
from compress.quality import ssim

LABELS: Mapping[str, str] = {
    "vif": "VIF (piq)",
    "gmsd": "GMSD (piq)",
    "ssim_all": "SSIM, all pixels (torchmetrics)",
    "ssim_inside": "SSIM, without a border of 5 pixels (scikit-image)",
}
"""Each index and what it is called."""
VIF_SIDE = 41
"""Smallest side in pixels that VIF's coarsest scale takes."""


@cache
def lacking() -> str:
    """Why VIF and GMSD cannot be computed; empty where they can."""
    try:
        import piq  # noqa: F401
    except ModuleNotFoundError as error:
        return f"VIF and GMSD were left out: no {error.name}; pip install 'compress-ct[physics]'"
    except Exception as error:  # torchvision of another build than torch raises what it likes
        return f"VIF and GMSD were left out: piq cannot be imported: {reason(error)}"
    return ""


def indices(image: Tensor, reference: Tensor) -> dict[str, float | None]:
    """The indices of one slice in the full network range.

    Args:
        image: (H, W) in HU, sides at least 11 pixels.
        reference: the same shape and unit.

    Returns:
        The value of each key of `LABELS`; None for VIF and GMSD without piq or on small slices.
    """
    x, y = (to_network(one)[None, None] for one in (image, reference))
    similarity = ssim.similarity_map(x.double(), y.double(), 1.0)
    edge = ssim.RADIUS
    found: dict[str, float | None] = {
        "vif": None,
        "gmsd": None,
        "ssim_all": float(similarity.mean()),
        "ssim_inside": float(similarity[..., edge:-edge, edge:-edge].mean()),
    }
    if not lacking() and min(image.shape) >= VIF_SIDE:
        import piq

        with torch.inference_mode():
            found["vif"] = float(piq.vif_p(x, y, data_range=1.0))
            found["gmsd"] = float(piq.gmsd(x, y, data_range=1.0))
    return found
