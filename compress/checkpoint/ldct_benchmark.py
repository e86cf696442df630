"""Checkpoints of ldct-benchmark (Eulig et al., Medical Physics 51(12), 2024), as it saves them.

`torch.save` of {args: argparse.Namespace, iteration: int, model_state_dict: tensors by name}.
"""

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

KEY = "model_state_dict"
STORED = -1024.0
"""HU of a stored value 0 in its data set; its statistics are of stored values."""
SCALES: Mapping[str, tuple[float, float]] = {
    "meanstd": (481.45419786099086 + STORED, 502.18507379395044),
    "minmax": (STORED, 4095.0),
}
"""What its networks see as (HU - mean) / std, by the name of its normalisation: `data/info.yml`."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds."""

    state: Mapping[str, Tensor]
    scale: str
    """Name of the normalisation that the network was trained with; that of its published weights
    where the file does not say."""

    @property
    def advice(self) -> str:
        """What a recipe must say of the normalisation, as the end of a sentence."""
        mean, std = SCALES[self.scale]
        known = f"trained with its normalisation {self.scale}"
        return f"they were {known}: write hu_mean: {mean:.8g} and hu_std: {std:.8g} in model"


def read(path: Path) -> Saved | None:
    """A checkpoint; None for any other archive of torch.save. Code in the file is never run."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, KeyError, EOFError):
        return None
    state = found.get(KEY) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        return None
    scale = str(getattr(found.get("args"), "data_norm", ""))
    return Saved(state, scale if scale in SCALES else "meanstd")
