"""CT slices in HU as PNG files, for people to look at."""

import base64
import io
import math

import numpy as np

from compress.quality.metrics import Window

LEAST = 10
"""HU at the end of the colours of a difference, at least."""
STOPS = ((109, 190, 255), (28, 90, 160), (18, 19, 21), (176, 74, 12), (255, 183, 112))
"""Colours (red, green, blue) of a difference from the most negative over zero (dark)."""


def windowed(hu: np.ndarray, window: Window) -> str:
    """A slice, (H, W) in HU, in gray from the window's low end to its high, as a data URI."""
    share = (np.clip(hu, window.low, window.high) - window.low) / window.width
    return _uri(np.rint(share * 255).astype(np.uint8))


def span(hu: np.ndarray, reference: np.ndarray) -> int:
    """HU at the end of the colours for differences like `hu - reference`: their RMS, rounded up.

    Rounded up to 10, 20, 50, 100, 200, 500 and so on. Noise beyond it has the colour of the end: a
    scale that shows all of the low dose's noise would leave the networks' differences dark.
    """
    rms = math.sqrt(float(np.mean(np.square(hu - reference, dtype=np.float64))))
    steps = (step * 10**power for power in range(1, 6) for step in (1, 2, 5))
    return next((step for step in steps if step >= max(rms, LEAST)), LEAST)


def difference(hu: np.ndarray, reference: np.ndarray, end: float) -> str:
    """`hu - reference`, both (H, W) in HU, in colours from -end to end, as a data URI."""
    share = (np.clip((hu - reference) / end, -1, 1) + 1) / 2
    return _uri(np.rint(share * 100).astype(np.uint8), _palette(101))


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
