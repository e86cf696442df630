"""Physics facts as `evaluate: {physics: true}` leaves them, added to a run folder of `runs`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import run_folders

from compress.quality.similarity import LABELS
from compress.quality.tissues import TISSUES

NETWORKS = ("input", "dense", "compressed", "full")
LEVEL = {"input": 60.0, "dense": 15.0, "compressed": 14.0, "full": 30.0}
"""Noise in HU."""


def add(run: Path) -> Path:
    """Physics of three networks on slices of 64 pixels."""
    (stage,) = run.glob("*-evaluate")
    facts = json.loads((stage / "facts.json").read_text())
    facts["facts"]["physics"] = found()
    run_folders.write(stage / "facts.json", facts)
    draw = np.random.default_rng(0)
    shapes = {"bias": (64, 64), "sd": (64, 64), "nps": (32, 32)}
    maps = {f"{k}-{n}": draw.normal(0, 5, s) ** 2 for k, s in shapes.items() for n in NETWORKS}
    np.savez(stage / "physics.npz", **maps)
    return run


def found() -> dict[str, Any]:
    """Facts with numbers like those of a run on the demo set."""
    x = np.arange(0.0125, 0.8, 0.025)
    curves = {n: (v**2 * x * np.exp(-x * 60 / v)).tolist() for n, v in LEVEL.items()}
    return {
        "realisations": 24,
        "slices": ["C-005", "C-015"],
        "patients": ["C"],
        "photons": 1e5,
        "dose_ratio": 4.0,
        "networks": list(NETWORKS),
        "tissues": {
            n: {t: {"bias": -0.5, "bias_rms": None, "sd": v} for t in TISSUES}
            for n, v in LEVEL.items()
        },
        "noise": {
            "frequency": x.tolist(),
            "curves": curves,
            "mean_frequency": dict.fromkeys(NETWORKS, 0.3),
            "peak_frequency": dict.fromkeys(NETWORKS, 0.2),
            "to_full": dict.fromkeys(NETWORKS, 1.0),
            "places": 14,
        },
        "sharpness": [_sharpness(x, contrast) for contrast in (15.0, 40.0, 300.0)],
        "detection": [_detection(*disc) for disc in ((4.0, 40.0), (10.0, 10.0))],
        "indices": {n: dict.fromkeys(LABELS, 0.9) for n in NETWORKS},
        "losses": {
            "compressed": {
                "bias_hu": 0.4,
                "dprime_loss": {"value": 0.012, "low": -0.01, "high": 0.03},
                "nps_shift": 0.04,
            }
        },
        "file": "physics.npz",
        "seconds": {"simulation": 10.0},
        "notices": ["VIF and GMSD were left out: no piq"],
    }


def _sharpness(x: np.ndarray, contrast: float) -> dict[str, Any]:
    return {
        "contrast": contrast,
        "diameter": 12.0,
        "places": 4,
        "frequency": x.tolist(),
        "curves": {n: np.exp(-x * 90 / v).tolist() for n, v in LEVEL.items()},
        "f50": {"input": None, "dense": 0.4, "compressed": 0.39, "full": None},
        "recovery": dict.fromkeys(NETWORKS, 0.98),
        "cnr": {n: contrast / v for n, v in LEVEL.items()},
    }


def _detection(diameter: float, contrast: float) -> dict[str, Any]:
    estimates = {n: {"value": 90 / v, "low": 80 / v, "high": 101 / v} for n, v in LEVEL.items()}
    return {
        "diameter": diameter,
        "contrast": contrast,
        "places": 4,
        "observers": {"npwe": estimates, "cho": estimates},
    }
