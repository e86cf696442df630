"""`compress export`: the step `export` on a checkpoint folder, without a recipe."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from compress import checkpoint
from compress.base import devices
from compress.base.errors import CompressError, UsageError
from compress.base.files import read_json, write_json
from compress.checkpoint import Model
from compress.context import Work
from compress.data import Data, DataOptions, Unavailable, load
from compress.data.folder import NONE, held_out
from compress.engines import triton_server as server
from compress.engines.records import EngineRow, Exported
from compress.graph.padding import refuse_sides
from compress.graph.slices import neighbours
from compress.steps.export import NOTHING, Export

log = logging.getLogger(__name__)

NO_PAIRS = Data(train=NONE, test=NONE, source="folder", fingerprint="")
FILE = "export.json"
"""What was built, beside the engines: {schema, engines: rows as in the step's facts}."""


def run(
    model: Path,
    out: Path,
    options: Mapping[str, Any],
    *,
    data: Path | None = None,
    device: str | None = None,
    fallback: bool = True,
    triton: Path | None = None,
    triton_name: str | None = None,
) -> Exported:
    """Build engines of a checkpoint and compare each, in a fresh process, with the network.

    Args:
        model: folder of the checkpoint.
        out: folder for engines, sidecars and export.json; made where missing.
        options: those of the step `Export` that differ from its defaults.
        data: folder of pairs whose held-out slices are compared on; without one the demo set
            where it is in the cache, else phantoms.
        device: cpu, cuda or cuda:N; the GPU where there is one.
        fallback: whether phantoms may stand in for the demo set; otherwise it is fetched.
        triton: folder of a Triton model repository that the engines are put into, too.
        triton_name: what the model is called there; see `triton_server.Repository`.

    Returns:
        The content of export.json.

    Raises:
        UsageError: model, options, data or device are not usable.
        QualityError: an engine differs too much from the network, or does not load.
    """
    try:
        step = Export(**options)
    except ValueError as error:
        raise UsageError(f"export: {error}") from error
    if triton is not None:
        server.check(step.formats)
    chosen, loaded = devices.choose(device), checkpoint.load(model)
    refuse_sides(loaded.net, (step.image_size, step.image_size), f"--size {step.image_size}")
    able = step.uses(chosen).name != NOTHING  # else there is nothing to compare
    pairs = _pairs(step, model, data, fallback, neighbours(loaded.net)) if able else NO_PAIRS
    work = Work(stage=out, device=chosen, data=pairs, seed=0)
    repository = _repository(step, loaded, work, triton, triton_name)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[EngineRow] = []
    try:
        rows += step.build(loaded, work, model)
    finally:
        found: Exported = {"schema": 1, "engines": work.facts.get("engines", rows)}
        if found["engines"]:  # stopped before the first, it says nothing of those of before
            write_json(out / FILE, found)
    for row in rows:
        if repository and row["status"] == "built":
            repository.add(out / row["sidecar"])
    return found


def _repository(
    step: Export, model: Model, work: Work, folder: Path | None, name: str | None
) -> server.Repository | None:
    """Where engines are served from; refuses, before any is built, to replace another network."""
    if folder is None:
        if name is not None:
            raise UsageError("--triton-name is for --triton, which is missing")
        return None
    jobs = step.jobs(model, work, None)
    repository = server.Repository(folder=folder, name=name, several=len(jobs) > 1)
    weights = checkpoint.fingerprint(model)
    for job in jobs:
        repository.refuse(job.stem, dynamic=job.shape.dynamic, weights=weights)
    return repository


def complain(found: Exported) -> None:
    """Raise where something that was asked for was not built.

    Raises:
        CompressError: names the format, the reason and what would help.
    """
    reasons = []
    for row in found["engines"]:
        if row["status"] != "built":
            would = f"; {row['command']} would help" if row["command"] else ""
            reasons.append(f"{row['format']} was not built: {row['reason']}{would}")
    if reasons:
        raise CompressError("; ".join(dict.fromkeys(reasons)))


def render(found: Exported) -> None:
    """Print what was built, if anything, as a table on standard output."""
    from rich.console import Console
    from rich.table import Column, Table

    from compress.reporting.formatting import figure, size

    # All three are differences from the network, of the engine; none says how good the image is.
    heads = ("size", "at most, HU", "on average, HU", "PSNR to the\nnetwork, dB")
    numbers = (Column(head, no_wrap=True, justify="right") for head in heads)
    table = Table(Column("engine", overflow="fold"), *numbers, box=None)
    for row in found["engines"]:
        if row["status"] == "built":
            p = row["parity"]
            differs = (figure(p["max_hu"], 4), figure(p["mean_hu"], 4), figure(p["psnr"], 1))
            table.add_row(row["file"], size(row["bytes"]), *differs)
    if table.row_count:
        Console().print(table)


def _pairs(step: Export, model: Path, data: Path | None, fallback: bool, beside: int = 0) -> Data:
    """Held-out slices, no more than the largest batch."""
    if data is not None:
        return Data(train=NONE, test=held_out(data, beside), source="folder", fingerprint="")
    source: Literal["demo", "phantom"] = "phantom" if fallback and _unfetched(model) else "demo"
    count = min(6, max(step.batch))
    wanted = DataOptions(
        source=source,
        train_slices=1,
        test_slices=count,
        image_size=step.image_size,
        neighbours=beside,
    )
    return load(wanted, seed=0, fallback=fallback)


def _unfetched(model: Path) -> bool:
    """Whether the demo set would be fetched for nothing but a comparison, or the run had none."""
    from compress.data import demo

    try:
        if read_json(model.parent / "manifest.json")["data"]["source"] == "phantom":
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a checkpoint without its run
    try:
        lacking = demo.lacking()
    except Unavailable:
        lacking = ["all"]
    kind = "phantoms" if lacking else "chest CT of the demo set"
    log.info("engines are compared on %s; --data names slices of your own", kind)
    return bool(lacking)
