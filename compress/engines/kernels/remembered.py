"""Tilings that earlier builds measured, kept in the user's cache: one file a kind of GPU.

A file counts for one version of Triton and of the kernels. What it says is no matter of trust:
`search.py` compares the result of every remembered tiling with PyTorch's before it takes it.
"""

import hashlib
import importlib.metadata
import logging
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.base.files import cache_folder, read_json, write_json
from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.cuda.moves import Move
from compress.engines.kernels.cuda.window import Window
from compress.engines.kernels.session import Cut, Key
from compress.engines.kernels.tiling import Tiling

log = logging.getLogger(__name__)
KERNELS = (
    "conv.py", "chain.py", "launch.py", "packing.py", "memory.py", "moves.py", "tiling.py",
    "search.py", "choose.py", "timed.py",
)  # fmt: skip
CUDA = (
    "*.cu", "*.cuh", "window.py", "products.py", "launch.py", "moves.py", "wgmma.py", "compiler.py",
)  # fmt: skip
"""Files that decide what a cut costs and which one is taken, those of folder cuda by pattern."""


@contextmanager
def tilings(gpu: str) -> Iterator[MutableMapping[Key, Cut]]:
    """What is known of a kind of GPU; what the block adds is written at its end, if it can be.

    Args:
        gpu: its name, and what else they are remembered for.
    """
    path = _path(gpu)
    known = _read(path)
    before = dict(known)
    try:
        yield known
    finally:
        new = {key: cut for key, cut in known.items() if before.get(key) != cut}
        if new and path is not None:
            _write(path, _read(path) | new)  # another build may have added its own meanwhile


def _path(gpu: str) -> Path | None:
    """None where there is no cache folder."""
    try:
        found, folder = stamp(), cache_folder() / "tilings"
    except (importlib.metadata.PackageNotFoundError, RuntimeError):
        return None
    return folder / f"{re.sub(r'[^0-9A-Za-z]+', '-', gpu)}-{found}.json"


def stamp() -> str:
    """What decides the time of a cut but the GPU, in twelve digits: Triton and the kernels.

    Raises:
        PackageNotFoundError: there is no Triton.
    """
    total = hashlib.sha256(importlib.metadata.version("triton").encode())
    here = Path(__file__).parent
    for path in (*(here / name for name in KERNELS), *_cuda(here / "cuda")):
        total.update(path.read_bytes())
    total.update(f"{compiler.available()} {compiler.only_a100()}".encode())
    return total.hexdigest()[:12]


def _cuda(folder: Path) -> list[Path]:
    return sorted(path for pattern in CUDA for path in folder.glob(pattern))


def cut(value: Mapping[str, Any]) -> Cut:
    """A cut from its fields.

    Raises:
        TypeError: it has other fields.
    """
    if value.keys() == {"strip"}:
        return Move(**value)
    return Window(**value) if "kind" in value else Tiling(**value)


def _read(path: Path | None) -> dict[Key, Cut]:
    """Nothing where the file is missing or is not understood."""
    try:
        return {key: cut(one) for key, one in read_json(path).items()} if path else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, known: dict[Key, Cut]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {key: asdict(known[key]) for key in sorted(known)})
    except OSError as error:  # a cache that cannot be written costs time, not the engine
        log.debug("tilings are not remembered: %s", error)
