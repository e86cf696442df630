"""Run manifest: versions, commit, GPU and data of a run, written to manifest.json."""

import os
import platform
import subprocess
from pathlib import Path

import torch

import compress
from compress.base import machine
from compress.data import Data
from compress.recipe import Recipe
from compress.run.records import Manifest

PACKAGES = (
    "torch",
    "nvidia-modelopt",
    "torch-tensorrt",
    "tensorrt",
    "apex",
    "onnx",
    "onnxruntime",
    "pydicom",
    "numpy",
)


def manifest(recipe: Recipe, device: torch.device, data: Data) -> Manifest:
    """What a reader of the results must know about the place: JSON-like, without paths."""
    return {
        "schema": 1,
        "name": recipe.name,
        "overrides": list(recipe.overrides),
        "versions": versions(),
        "commit": commit(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "reseed": recipe.reseed,
        "data": {
            "source": data.source,
            "fingerprint": data.fingerprint,
            "train": len(data.train.names),
            "test": len(data.test.names),
            "patients": {
                "train": sorted(set(data.train.patients)),
                "test": sorted(set(data.test.patients)),
            },
            "notices": list(data.notices),
        },
        "notices": list(data.notices),
    }


def versions() -> dict[str, str]:
    """Installed versions of Python, this package and those that decide results."""
    found = {"python": platform.python_version(), "compress": compress.__version__}
    for package in PACKAGES:
        module = package.replace("-", "_")
        if version := machine.version_of(package) or machine.version_of_module(module):
            found[package] = version
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str | None:
    """The git commit of this package's code, `-dirty` where files differ; None outside its clone.

    The variable COMPRESS_COMMIT gives it for a copy of the files that is no clone. A repository
    that merely surrounds an installed package, such as a project with its virtual environment
    inside, is not the package's own.
    """
    if stated := os.environ.get("COMPRESS_COMMIT"):
        return stated
    package = Path(compress.__file__).parent
    if _git(package, "ls-files", "--full-name", "__init__.py") != "compress/__init__.py":
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40") or None


def _git(folder: Path, *words: str) -> str:
    """What git prints in `folder`; nothing where it fails or is missing."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
