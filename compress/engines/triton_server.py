"""A model repository for NVIDIA's Triton Inference Server, out of engines.

    DIR/<model>/config.pbtxt    what Triton must know, in protobuf's text form (its ModelConfig)
    DIR/<model>/1/model.onnx    the engine, or model.plan; a higher number for each later export
    DIR/<model>/1/compress.json its sidecar: which network a version is of

An engine with a dynamic batch is served with Triton's dynamic batcher, which gathers requests of
several clients; one with a fixed batch takes that batch in every request. Networks see slices in
network range, (HU + 1024) / 2924 clipped to [0, 1], and give such; no HU map runs in the server.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.base.errors import UsageError
from compress.base.files import read_json, write_atomic
from compress.base.words import listed
from compress.engines import sidecar
from compress.engines.base import Served
from compress.engines.formats import FormatName, formats

SIDECAR = "compress.json"
DELAY = 2000
"""Microseconds that a request may wait for others to join its batch: about one slice's time."""


def check(names: Iterable[FormatName]) -> None:
    """Refuse formats that Triton has no back end for.

    Raises:
        UsageError: names the first one.
    """
    served = {name: format_.served for name, format_ in formats().items() if format_.served}
    for name in names:
        if name not in served:
            raise UsageError(f"--triton serves {listed(served)}, not {name}")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model repository, and what the models that are put into it are called."""

    folder: Path
    """Made where missing."""
    name: str | None = None
    """Of the model; of several engines, what their names begin with. None: the engines' names."""
    several: bool = False
    """Whether several engines are put into it."""

    def __post_init__(self) -> None:
        """Refuse names that are no name of a folder or of a model.

        Raises:
            UsageError: names it.
        """
        if self.name is not None and not re.fullmatch(r"\w[\w.-]*", self.name, re.ASCII):
            raise UsageError(f"--triton-name {self.name!r}: give letters, digits, _, . and -")

    def model(self, stem: str, *, dynamic: bool) -> str:
        """The name of the model that serves an engine.

        Args:
            stem: the engine's file name without its suffix.
            dynamic: whether it takes many batches; then the batch is left out.
        """
        own = stem.rpartition("-b")[0] if dynamic else stem
        if self.name is None:
            return own
        return f"{self.name}-{own}" if self.several else self.name

    def refuse(self, stem: str, *, dynamic: bool, weights: str) -> None:
        """Refuse to replace another network that is served under the engines' own names.

        Raises:
            UsageError: names it, and what to give.
        """
        name = self.model(stem, dynamic=dynamic)
        versions = _versions(self.folder / name)
        if self.name is not None or not versions:
            return
        served = _facts(versions[-1]).get("weights")
        if served != weights:
            whose = f"weights {served[:12]}" if served else "another network"
            raise UsageError(
                f"{self.folder / name} serves {whose}, not {weights[:12]}; give this network a "
                f"--triton-name of its own, or --triton-name {name} to make it the next version"
            )

    def add(self, side: Path) -> Path | None:
        """Put the engine of a sidecar into the repository, as the newest version of its model.

        The configuration of a model that is there already stays as it is: it may have been tuned.

        Args:
            side: the sidecar; it is copied beside the engine.

        Returns:
            The folder of the new version; None for a file that Triton has no back end for, such as
            the PyTorch program beside a plan.

        Raises:
            UsageError: the engine was altered, its format is not served, or the model that is
                there is of another network or takes another input.
        """
        facts, engine = sidecar.read(side)
        check([facts["format"]])
        if engine.suffix == ".ep":
            return None
        dynamic = facts["dynamic_batch"]
        self.refuse(engine.stem, dynamic=dynamic, weights=facts["weights"])
        name = self.model(engine.stem, dynamic=dynamic)
        folder = self.folder / name
        versions = _versions(folder)
        if versions and config(name, _facts(versions[-1])) != config(name, facts):
            raise UsageError(
                f"{folder} serves engines of another size, batch or format; give another "
                "--triton-name"
            )
        folder.mkdir(parents=True, exist_ok=True)
        version = folder / str(int(versions[-1].name) + 1 if versions else 1)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
            half = Path(temporary) / version.name  # a server that polls sees whole versions only
            half.mkdir()
            shutil.copyfile(engine, half / _served(facts).file)
            shutil.copyfile(side, half / SIDECAR)
            if not versions:
                write_atomic(folder / "config.pbtxt", text(config(name, facts)).encode())
            half.replace(version)
        return version


def _versions(folder: Path) -> list[Path]:
    """Folders of the versions of a model, the newest last."""
    found = [path for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def _facts(version: Path) -> dict[str, Any]:
    """The sidecar of a version; empty where it was not written by this program."""
    try:
        return dict(read_json(version / SIDECAR))
    except (OSError, ValueError, TypeError):
        return {}


def config(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Triton's ModelConfig of an engine as nested values; see `text`. Empty without facts."""
    if not facts:
        return {}
    dynamic, batch, size = facts["dynamic_batch"], facts["batch"], facts["size"]
    seen = 2 * facts.get("neighbours", 0) + 1
    dims = [[n, size, size] if dynamic else [batch, n, size, size] for n in (seen, 1)]
    low, enhanced = facts["built"]["tensors"]
    kind = "KIND_GPU" if facts["place"]["device"] == "cuda" else "KIND_AUTO"
    found: dict[str, Any] = {
        "name": name,
        "backend": _served(facts).backend,
        "max_batch_size": batch if dynamic else 0,
        "input": [{"name": low, "data_type": Word("TYPE_FP32"), "dims": dims[0]}],
        "output": [{"name": enhanced, "data_type": Word("TYPE_FP32"), "dims": dims[1]}],
        "instance_group": [{"kind": Word(kind), "count": 1}],
    }
    if dynamic:
        found["dynamic_batching"] = {
            "preferred_batch_size": [batch],
            "max_queue_delay_microseconds": DELAY,
        }
    return found


class Word(str):
    """A value of an enumeration, written without quotes."""


def text(message: Mapping[str, Any]) -> str:
    """Nested values in protobuf's text form; a list is a repeated field."""
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{indent}{key} {{"
                yield from _lines(one, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{key}: {one if isinstance(one, Word) else json.dumps(one)}"


def _served(facts: Mapping[str, Any]) -> Served:
    """How the server runs the engine of a sidecar, whose format `check` has passed."""
    served = formats()[facts["format"]].served
    assert served is not None
    return served
