"""CT slices in HU as PNG files, for people to look at."""

import base64
import io

import numpy as np

from compress.quality.metrics import Window

DIFFERENCE_HU = 50.0
"""Differences are shown from minus to plus this."""
STOPS = ((109, 190, 255), (28, 90, 160), (18, 19, 21), (176, 74, 12), (255, 183, 112))
"""Colours (red, green, blue) of a difference from the most negative over zero (dark)."""


def windowed(hu: np.ndarray, window: Window) -> str:
    """A slice, (H, W) in HU, in gray from the window's low end to its high, as a data URI."""
    share = (np.clip(hu, window.low, window.high) - window.low) / window.width
    return _uri(np.rint(share * 255).astype(np.uint8))


def difference(hu: np.ndarray, reference: np.ndarray) -> str:
    """`hu - reference`, both (H, W) in HU, in colours, as a data URI."""
    share = (np.clip((hu - reference) / DIFFERENCE_HU, -1, 1) + 1) / 2
    return _uri(np.rint(share * 100).astype(np.uint8), _palette(101))  # a colour per HU


def gradient() -> str:
    """The colours of a difference as a CSS gradient, for the colour bar."""
    return "linear-gradient(to right, " + ", ".join(f"rgb{stop}" for stop in STOPS) + ")"


def _palette(count: int) -> bytes:
    places = np.linspace(0, len(STOPS) - 1, count)
    channels = [np.interp(places, range(len(STOPS)), stops) for stops in zip(*STOPS, strict=True)]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes()


def _uri(levels: np.ndarray, palette: bytes | None = None) -> str:
    from PIL import Image

    image = Image.fromarray(levels)
    if palette:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
