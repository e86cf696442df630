"""What this machine has: the parts that a recipe may need, each tried as far as that is safe.

A package counts as working when a process of its own can import it: the version in its metadata
says nothing of a missing dependency or a broken driver, and importing here could end this process.
Only what this process is about to import anyway is tried in it, by `why_not`.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from compress import __version__
from compress.base import openmp
from compress.base.reasons import compilers, quiet, reason

IMAGE = "nvcr.io/nvidia/pytorch:25.05-py3"
"""The newest container known to hold apex.amp; `pip install apex` gets an unrelated package."""
CONTAINER = f"docker pull {IMAGE}"
GPU, COMPILER = "GPU", "C++ compiler"
"""Names of two parts that are no packages."""
TIMEOUT = 120
"""Seconds that a package may take to be imported."""


@dataclass(frozen=True)
class Package:
    """Something to import."""

    distribution: str
    """Name in the package index."""
    module: str
    """What is imported to know that it works."""
    use: str
    """What it is here for."""
    get: str
    """Command that installs it."""
    lack: str = ""
    """Why no command brings it here; empty where `get` does."""


def packages() -> tuple[Package, ...]:
    """The packages that steps and clusters use besides those of the engine formats."""
    modelopt = "pip install nvidia-modelopt requests huggingface_hub"
    return (
        Package("nvidia-modelopt", "modelopt.torch.sparsity", "sparsify", modelopt),
        Package("nvidia-modelopt", "modelopt.torch.quantization", "quantize", modelopt),
        Package("apex", "apex.contrib.sparsity", "sparsify, backend asp", CONTAINER),
        Package("apex", "apex.amp", "training in apex's mixed precision", CONTAINER),
        Package("ray", "ray", "--cluster ray", "pip install 'compress-ct[ray]'"),
        Package(
            "submitit", "submitit", "--cluster slurm and local", "pip install 'compress-ct[slurm]'"
        ),
    )


class Part(TypedDict):
    """Something that can be missing."""

    name: str
    """What is looked for."""
    works: bool
    """Whether it works here."""
    found: str
    """What is there, such as a version; empty where nothing is."""
    note: str
    """What is wrong; empty where it works."""
    use: str
    """What it is here for."""
    get: str
    """Command that brings it; empty where it works or no command does."""


class Machine(TypedDict):
    """Versions, cores and system."""

    compress: str
    """Version of this package."""
    python: str
    """Version of Python."""
    torch: str
    """Version of PyTorch."""
    CUDA: str
    """Version of CUDA that PyTorch was built with, or none."""
    cores: int
    """CPU cores that this process may use."""
    system: str
    """Operating system and its version."""


def machine() -> Machine:
    """Versions, cores and system."""
    return {
        "compress": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
    }


def part(name: str, use: str, *, found: str = "", note: str = "", get: str = "") -> Part:
    """A part; it works unless there is a note."""
    return {
        "name": name,
        "works": not note,
        "found": found,
        "note": note,
        "use": use,
        "get": get if note else "",
    }


def gpu() -> Part:
    """What the driver sees, and whether PyTorch can use it."""
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    rows = _output(["nvidia-smi", query, "--format=csv,noheader"]).splitlines()
    shown = [
        "{}, SM {}, {}, driver {}".format(*map(str.strip, fields))
        for fields in (row.split(",") for row in rows)
        if len(fields) == 4
    ]
    name, use, found = GPU, "fast training, 2:4 kernels, TensorRT", "; ".join(shown)
    if torch.cuda.is_available():
        return part(name, use, found=found or torch.cuda.get_device_name())
    if not shown:
        return part(name, use, note="no NVIDIA GPU is visible")
    note = f"PyTorch {torch.__version__} cannot use it"
    return part(name, use, found=found, note=note, get="pip install --force-reinstall torch")


def smi(device: torch.device, *fields: str) -> dict[str, str]:
    """What nvidia-smi says of a GPU, by field; nothing where it does not answer.

    Args:
        device: a CUDA device.
        fields: names that `nvidia-smi --help-query-gpu` lists, such as clocks.sm.
    """
    which = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = f"--query-gpu={','.join(fields)}"
    said = _output(["nvidia-smi", query, "--format=csv,noheader,nounits", "-i", which])
    values = [value.strip() for value in said.strip().split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def driver(device: torch.device) -> str | None:
    """The version of the NVIDIA driver."""
    return smi(device, "driver_version").get("driver_version") or None


def compiler() -> Part:
    """Whether the compiler that AOTInductor calls turns one line into a library."""
    name, use, command = COMPILER, "export aot_inductor", os.environ.get("CXX", "g++")
    get = "apt-get install g++"
    if shutil.which(command) is None:
        return part(name, use, note=f"{command} is not installed", get=get)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "line.cpp"
        source.write_text("#include <vector>\nint f() { return std::vector<int>(1).size(); }\n")
        run = [command, "-shared", "-fPIC", str(source), "-o", f"{folder}/line.so"]
        error = _failure(run)
    version = (_output([command, "--version"]).splitlines() or [""])[0]
    note = f"{command} does not compile one line: {error}" if error else ""
    return part(name, use, found=version, note=note, get=get)


def waiting() -> Part:
    """How OpenMP's threads wait, and how to change it."""
    found = f"{openmp.setting() or 'default of the runtime'}; set {openmp.POLICY} to change it"
    return part("OpenMP", "threads that wait on CPU cores", found=found)


def disk() -> Part:
    """Room in the working folder, where runs go."""
    free = shutil.disk_usage(".").free
    found = f"{free / 2**30:.1f} GiB free in the working folder"
    note = "" if os.access(".", os.W_OK) else "it is not writable; use --out"
    return part("disk", "run folders", found=found, note=note)


def examine(package: Package) -> Part:
    """A package: not there, another of that name, broken, or working with its version."""
    name, top = package.module, package.module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None:
        lack = f": {package.lack}" if package.lack else ""
        return part(name, package.use, note=f"not installed{lack}", get=package.get)
    found = version_of(package.distribution) or version_of_module(top)
    found = found or "installed, without a version"
    places = list(spec.submodule_search_locations or [])
    if top == "apex" and not any((Path(place) / "contrib").is_dir() for place in places):
        note = "an unrelated package of that name; pip uninstall apex"
    else:
        error = _failure([sys.executable, "-c", f"import {package.module}"])
        note = f"cannot be imported: {error}" if error else ""
    return part(name, package.use, found=found, note=note, get=package.get)


def why_not(module: str) -> str:
    """Why this process cannot import a module, as words behind its name; '' where it can.

    Examples:
        >>> why_not("json"), why_not("no_such_package.part")
        ('', 'is not installed')
    """
    try:
        with quiet():
            importlib.import_module(module)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        return "is not installed" if absent else f"cannot be imported: {reason(error)}"
    return ""


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_of_module(module: str) -> str | None:
    """The version of the distribution that brings a module, under whatever name; None without one.

    Torch-TensorRT asks for `tensorrt` up to 2.13 and for `tensorrt-cu13` alone after; both bring
    the module `tensorrt`.
    """
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        return None
    brought_by = importlib.metadata.packages_distributions().get(module)
    return version_of(brought_by[0]) if brought_by else None


def _failure(command: list[str]) -> str:
    """Why a command fails, by its line that tells; empty where it succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT} s"
    except OSError as error:
        return str(error.strerror)
    if done.returncode == 0:
        return ""
    return compilers(done.stderr.strip().splitlines()) or f"exit status {done.returncode}"


def _output(command: list[str]) -> str:
    """What a command prints; nothing where it is not there or fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
