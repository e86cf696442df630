"""The sidecar of an engine: a JSON file beside it that says what it was built from and for.

An engine is code for one GPU, one driver family and one set of library versions. It is loaded only
when its own bytes and everything that it depends on are as the sidecar says.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from compress import checkpoint
from compress.base import machine
from compress.base.errors import UsageError
from compress.base.filekind import wrong_kind
from compress.base.files import read_json, sha256, write_json
from compress.base.hu import HU_MAX, HU_MIN
from compress.checkpoint.files import NONE, NORMALISATION, TABLE, Kinds, unlike
from compress.checkpoint.hashes import CODE
from compress.engines.base import Format, Runner, Shape
from compress.engines.formats import FormatName, formats
from compress.engines.precision import Precision
from compress.engines.records import Built, Place, Sidecar
from compress.graph.padding import AnySize

SCHEMA = 1
ENTRIES: Kinds = {
    "format": str,
    "precision": str,
    "batch": int,
    "size": int,
    "dynamic_batch": bool,
    "weights": str,
    "model": (str, NONE),
    "place": dict,
    "built": dict,
}
"""What of a sidecar is read, and the types that it may have."""
PLACE: Kinds = {"device": str, "gpu": (str, NONE)}
"""The same of its entry `place`."""
WORDS = {
    "gpu": "GPU",
    "sm": "compute capability",
    "cpu": "CPU instructions",
    "tensorrt": "TensorRT",
}


def place(device: torch.device) -> Place:
    """What an engine that is built for `device` here depends on."""
    cuda = device.type == "cuda"
    major, minor = torch.cuda.get_device_capability(device) if cuda else (0, 0)
    found = {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "sm": f"{major}.{minor}" if cuda else None,
        "cpu": None if cuda else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cuda": torch.version.cuda,
        "driver": machine.driver(device) if cuda else None,
        "torch": torch.__version__,
        **{k: v for one in formats().values() for k, v in one.place(device).items()},
    }
    return cast("Place", found)


def write(
    engine: Path,
    *,
    format_: FormatName,
    precision: Precision,
    shape: Shape,
    weights: str,
    device: torch.device,
    built: Built,
    model: Path | None = None,
) -> Path:
    """Write the sidecar of the file `engine`, named like it with .json at the end.

    Args:
        engine: the engine's file.
        format_: its format.
        precision: of the arithmetic inside.
        shape: the input that it takes.
        weights: hash of the checkpoint that it was built from.
        device: what it was built for.
        built: further facts: `layers` as in inspection.py, and what the format found. A format that
            can tell names in `eligible` and `picked` the layers that the engine could run and
            does run with sparse kernels, and in `seconds` the time of each layer.
        model: folder of that checkpoint, where there is one; the engine is refused as soon as
            other weights, or other code of an imported network, are there.
    """
    path = engine.with_name(f"{engine.name}.json")
    facts: Sidecar = {
        "schema": SCHEMA,
        "format": format_,
        "file": engine.name,
        "sha256": sha256(engine),
        "bytes": engine.stat().st_size,
        "precision": precision,
        "batch": shape.batch,
        "size": shape.size,
        "dynamic_batch": shape.dynamic,
        "neighbours": (shape.channels - 1) // 2,
        "normalisation": {"hu_min": HU_MIN, "hu_max": HU_MAX},
        "weights": weights,
        CODE: None if model is None else checkpoint.code_of(model),
        "model": None if model is None else os.path.relpath(model, engine.parent),
        "place": place(device if formats()[format_].needs_same else torch.device("cpu")),
        "built": built,
    }
    write_json(path, facts)
    return path


def of(path: Path) -> Path:
    """The sidecar of an engine that is named by its file or by the sidecar itself.

    Raises:
        UsageError: there is none.
    """
    side = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
    if not side.is_file() and not path.exists():
        raise UsageError(f"{path}: there is no such checkpoint folder, engine or sidecar")
    if not side.is_file():
        raise UsageError(f"{path} is neither a checkpoint folder nor an engine with a sidecar")
    return side


def refuse_folder(folder: Path) -> None:
    """Refuse a folder of engines, where one of them or a checkpoint's folder is meant.

    Raises:
        UsageError: it holds engines and no checkpoint; names one of them.
    """
    engines = [side.with_suffix("") for side in sorted(folder.glob("*.json"))]
    found = next((engine for engine in engines if engine.is_file()), None)
    if found is not None and not (folder / TABLE).exists():
        raise UsageError(f"{folder} holds no checkpoint, but engines; try {found}")


def read(path: Path) -> tuple[Sidecar, Path]:
    """A sidecar and the path of its engine, after it was checked against that file.

    Raises:
        UsageError: no sidecar, one of another schema, or the engine's file was altered.
    """
    try:
        facts: Sidecar = read_json(path)
        engine = path.with_name(Path(facts["file"]).name)
        same = sha256(engine) == facts["sha256"].lower()
    except FileNotFoundError as error:
        gone = "its engine" if path.exists() else "it"
        raise UsageError(f"{path} is no sidecar of an engine: {gone} does not exist") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = wrong_kind(path) or error
        raise UsageError(f"{path} is no sidecar of an engine: {why}") from error
    if facts.get("schema") != SCHEMA:
        raise UsageError(f"{path} has schema {facts.get('schema')}, not {SCHEMA}")
    if wrong := _wrong(facts):
        raise UsageError(f"{path} is damaged: {wrong}; copy it again, or export the engine again")
    if not same:
        why = wrong_kind(engine) or f"its hash is not the {facts['sha256'][:12]} in {path.name}"
        again = rebuild(facts, engine)
        raise UsageError(f"{engine} was altered or cut off: {why}; build it again: {again}")
    return facts, engine


def _wrong(facts: Mapping[str, Any]) -> str:
    """What makes a sidecar unusable; empty for nothing."""
    if wrong := unlike(facts, ENTRIES) or unlike(facts["place"], PLACE, "place."):
        return wrong
    if facts["format"] not in formats():
        return f"its format is {facts['format']!r:.40}; there are: {', '.join(formats())}"
    if facts["place"]["device"] not in ("cpu", "cuda"):
        return f"its place.device is {facts['place']['device']!r:.40}"
    beside = facts.get("neighbours", 0)  # engines of version 0.1 do not say
    if not isinstance(beside, int) or min(facts["batch"], facts["size"], beside + 1) < 1:
        return f"its batch, size and neighbours are {facts['batch']}, {facts['size']} and {beside}"
    if facts.get("normalisation", NORMALISATION) != NORMALISATION:
        return f"it maps {facts['normalisation']!r:.60}, not {NORMALISATION}"
    return ""


def load(path: Path) -> tuple[Sidecar, Runner]:
    """The engine of a sidecar, after it was checked against its file and this machine.

    Returns:
        The sidecar's content, and the engine as a function.

    Raises:
        UsageError: the file was altered, or the engine was built for another place or from
            other weights or code than its checkpoint has now; the sentence names both sides and
            the command that builds it again. Or a package is missing that runs it.
    """
    facts, engine = read(path)
    device = torch.device(facts["place"]["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"{engine} was built for GPU {facts['place']['gpu']}, here is none; where there is "
            f"one, build it again: {rebuild(facts, engine)}"
        )
    _check_model(engine, facts)
    _check_place(engine, facts, place(device))
    format_ = formats()[facts["format"]]
    try:
        return facts, format_.load(engine, device)
    except ImportError as error:
        raise UsageError(f"{engine} cannot be loaded: {error}{_getting(format_, error)}") from error


def _getting(format_: Format, error: ImportError) -> str:
    """The command that installs a package of the format, if that is what could not be imported."""
    commands = {package.module: package.get for package in format_.packages()}
    command = commands.get(error.name or "")
    return f"; {command} would help" if command else ""


def trained_on(path: Path) -> frozenset[str]:
    """`Model.trained_on` of the checkpoint that an engine was built from; empty where it is gone.

    Args:
        path: the engine's file or sidecar; `load` took it.
    """
    side = of(path)
    model = _model(read_json(side), side)
    return frozenset() if model is None else checkpoint.trained_on(model)


def any_size(facts: Sidecar, runner: Runner) -> AnySize:
    """An engine as `load` gives it, as a network of any batch and any side up to its own."""
    fixed = None if facts["dynamic_batch"] else int(facts["batch"])
    return AnySize(runner, int(facts["size"]), fixed, beside=facts.get("neighbours", 0))


def rebuild(facts: Sidecar, engine: Path) -> str:
    """The command that builds the engine of a sidecar again."""
    known = _model(facts, engine)
    model = known if known and known.is_dir() else "MODEL"  # an engine may have been moved
    dynamic = " --dynamic-batch" if facts["dynamic_batch"] else ""
    return (
        f"compress export {model} --format {facts['format']} --precision {facts['precision']} "
        f"--batch {facts['batch']}{dynamic} --size {facts['size']} --out {engine.parent}"
    )


def _model(facts: Sidecar, engine: Path) -> Path | None:
    """The checkpoint folder that the engine was built from, where the sidecar names one."""
    name = facts.get("model")
    return Path(os.path.normpath(engine.parent / name)) if name else None


def _check_model(engine: Path, facts: Sidecar) -> None:
    """Refuse an engine whose checkpoint has changed; one whose checkpoint is gone is taken."""
    model = _model(facts, engine)
    if model is None:
        return
    for what, built, now in (
        ("weights", facts["weights"], checkpoint.weights_hash(model)),
        ("code", facts.get(CODE), checkpoint.code_of(model)),
    ):
        if built and now and now != built:
            raise UsageError(
                f"{engine} was built from {what} {built[:12]}, {model} now holds {now[:12]}; "
                f"build it again: {rebuild(facts, engine)}"
            )


def _check_place(engine: Path, facts: Sidecar, here: Mapping[str, Any]) -> None:
    there: Mapping[str, Any] = facts["place"]
    for key in formats()[facts["format"]].needs_same:
        if there.get(key) != here[key]:
            own = "there is none" if here[key] is None else f"it is {here[key]}"
            raise UsageError(
                f"{engine} was built for {WORDS.get(key, key)} {there.get(key)}, here {own}; "
                f"build it again: {rebuild(facts, engine)}"
            )
