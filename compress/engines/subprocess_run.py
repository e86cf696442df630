"""One engine, one process: loads an engine from its files alone and runs it on given slices.

`python -m compress.engines.subprocess_run SIDECAR INPUT OUTPUT`, the slices as .npy files. What
another
process can load is what users will load; the one that built the engine still holds its parts.
"""

import faulthandler
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.base.errors import QualityError

TIMEOUT = 600
"""Seconds that loading and running may take."""


def run(sidecar: Path, slices: Tensor) -> Tensor:
    """The outputs of an engine, from a process of its own.

    Args:
        sidecar: the engine's sidecar.
        slices: (N, C, H, W) float32 in network range, as the engine takes them.

    Returns:
        (N, 1, H, W) float32.

    Raises:
        QualityError: the process failed; with the last line that it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        low, enhanced = Path(folder) / "low.npy", Path(folder) / "enhanced.npy"
        np.save(low, slices.cpu().numpy())
        files = map(str, (sidecar, low, enhanced))
        command = [sys.executable, "-m", "compress.engines.subprocess_run", *files]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        except subprocess.TimeoutExpired as error:
            raise QualityError(f"{sidecar.stem} gave no answer in {TIMEOUT} s") from error
        except subprocess.CalledProcessError as error:
            said = _said(error, answered=enhanced.exists())
            raise QualityError(f"{sidecar.stem} does not run in a fresh process: {said}") from error
        return torch.from_numpy(np.load(enhanced))


def _said(error: subprocess.CalledProcessError, *, answered: bool) -> str:
    """Why the process failed: its last words, or which signal ended it and where it was then."""
    lines = error.stderr.strip().splitlines()
    if error.returncode >= 0:
        return str((lines or [f"exit status {error.returncode}"])[-1])
    mark = next((k for k, line in enumerate(lines) if line.startswith("Current thread")), -2)
    place = f" at {lines[mark + 1].strip()}" if 0 <= mark < len(lines) - 1 else ""
    when = ", after it had answered" if answered else ""
    return f"it was ended by {signal.Signals(-error.returncode).name}{place}{when}"


def main(sidecar: str, low: str, enhanced: str) -> None:
    """Load the engine, run it on the slices in `low`, write what it gives to `enhanced`."""
    from compress.engines.sidecar import load

    faulthandler.enable()
    _, engine = load(Path(sidecar))
    y = engine(torch.from_numpy(np.load(low)))
    np.save(enhanced, y.float().cpu().numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
