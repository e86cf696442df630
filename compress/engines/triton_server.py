"""A model repository for NVIDIA's Triton Inference Server, out of engines.

    DIR/<model>/config.pbtxt    what Triton must know, in protobuf's text form (its ModelConfig)
    DIR/<model>/1/model.onnx    the engine, or model.plan; a higher number for each later export

An engine with a dynamic batch is served with Triton's dynamic batcher, which gathers requests of
several clients; one with a fixed batch takes that batch in every request. Networks see slices in
network range, (HU + 1024) / 2924 clipped to [0, 1], and give such; no HU map runs in the server.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.base.errors import UsageError
from compress.base.files import write_atomic
from compress.engines import sidecar
from compress.engines.base import Served
from compress.engines.formats import FormatName, formats

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
            raise UsageError(f"--triton serves {' and '.join(served)}, not {name}")


def add(side: Path, repository: Path) -> Path | None:
    """Put the engine of a sidecar into a model repository, as the newest version of its model.

    Args:
        side: the sidecar; its engine is copied.
        repository: folder of the repository; made where missing.

    Returns:
        The folder of the new version; None for a file that Triton has no back end for, such as the
        PyTorch program beside a plan.

    Raises:
        UsageError: the engine was altered, or its format is not served.
    """
    facts, engine = sidecar.read(side)
    check([facts["format"]])
    if engine.suffix == ".ep":
        return None
    name = _name(facts, engine)
    folder = repository / name
    taken = [int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdecimal()]
    version = folder / str(max(taken, default=0) + 1)
    version.mkdir(parents=True)
    shutil.copyfile(engine, version / _served(facts).file)
    write_atomic(folder / "config.pbtxt", text(config(name, facts)).encode())
    return version


def config(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Triton's ModelConfig of an engine as nested values; see `text`."""
    dynamic, batch, size = facts["dynamic_batch"], facts["batch"], facts["size"]
    dims = [1, size, size] if dynamic else [batch, 1, size, size]
    low, enhanced = facts["built"]["tensors"]
    kind = "KIND_GPU" if facts["place"]["device"] == "cuda" else "KIND_AUTO"
    found: dict[str, Any] = {
        "name": name,
        "backend": _served(facts).backend,
        "max_batch_size": batch if dynamic else 0,
        "input": [{"name": low, "data_type": Word("TYPE_FP32"), "dims": dims}],
        "output": [{"name": enhanced, "data_type": Word("TYPE_FP32"), "dims": dims}],
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


def _name(facts: Mapping[str, Any], engine: Path) -> str:
    """The model's name: the engine's, without the batch of an engine that takes many."""
    return engine.stem.rpartition("-b")[0] if facts["dynamic_batch"] else engine.stem


def _served(facts: Mapping[str, Any]) -> Served:
    """How the server runs the engine of a sidecar, whose format `check` has passed."""
    served = formats()[facts["format"]].served
    assert served is not None
    return served
