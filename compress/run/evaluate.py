"""compress evaluate: image quality of a checkpoint or an engine on pairs of your own.

The numbers are those of the recipe's step `evaluate`; here they are written as a table.
"""

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from compress.base.errors import UsageError
from compress.base.files import write_atomic, write_json
from compress.checkpoint import Model, ModelOptions, trained_on
from compress.context import Work
from compress.data import Data, Pairs
from compress.data.folder import NONE, held_out
from compress.data.pairs import digests
from compress.data.partners import unlike
from compress.engines import sidecar
from compress.imaging import inference
from compress.quality.metrics import METRICS, WINDOWS
from compress.quality.records import PhysicsFacts
from compress.quality.ssim import SSIM_SIDE
from compress.reporting import physics as words
from compress.run.records import ByWindow, Evaluated
from compress.steps.evaluate import Evaluate
from compress.steps.evaluate_facts import EvaluateFacts, Summary
from compress.steps.physics import Settings, check, measure

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

FULL = "full"
"""What the network range is called beside the windows."""
NAMES = {"input": "input", "dense": "model"}
"""What the step calls the untouched slices and the only network -> what they are called here."""
WINDOWED = [name for name, metric in METRICS.items() if metric.windowed]
WHOLE = [name for name in METRICS if name not in WINDOWED]
"""Metrics of every window, and those of the full range only."""


def windows(text: str | None) -> tuple[str, ...]:
    """Names of windows out of `lung,mediastinum`; all where nothing is said.

    Raises:
        UsageError: there is no such window.
    """
    known = [suffix.removeprefix("_") for suffix in WINDOWS if suffix]
    if text is None:
        return tuple(known)
    chosen = tuple(word.strip() for word in text.split(",") if word.strip())
    for name in chosen:
        if name not in known:
            raise UsageError(
                f"--windows: there is no window {name!r}; there are {', '.join(known)}"
            )
    return chosen


def run(
    model: Path,
    data: Path,
    out: Path,
    chosen: Sequence[str],
    device: str | None,
    physics: Settings | None = None,
) -> Evaluated:
    """Measure the input and what a network makes of it; writes evaluation.csv and .json.

    Args:
        model: a checkpoint's folder, or an engine's file or sidecar.
        data: folder of pairs; its part for testing where it has one, else all of it.
        out: where the two files go; made where missing.
        chosen: windows to measure in besides the full range.
        device: cpu, cuda or cuda:N; the GPU where there is one.
        physics: how much of the physics of image quality is measured, too; None: nothing.

    Returns:
        The content of evaluation.json.

    Raises:
        UsageError: model, data or device are not usable.
        QualityError: the network gives NaN or infinity.
    """
    net = inference.load(model, device=device, batch=None)
    pairs = held_out(data, net.net.neighbours)
    _check(pairs)
    seen = _seen(model, pairs)
    _warn(pairs, seen)
    work = Work(
        stage=out,
        device=net.device,
        data=Data(train=NONE, test=pairs, source="folder", fingerprint=""),
        seed=0,
    )
    if physics is not None:
        check(work, physics)
    out.mkdir(parents=True, exist_ok=True)  # now: hours of physics may come before it is needed
    measured = Model(net=net.net, origin=ModelOptions())
    Evaluate(batch=net.batch, pictures=0).measure(measured, work, NAMES)
    facts = cast("EvaluateFacts", work.facts)
    rows = [row for found in facts["rows"] for row in _long(found, chosen)]
    content: Evaluated = {
        "schema": 1,
        "model": net.model,
        "precision": net.precision,
        "slices": facts["slices"],
        "trained_on": seen,
        "data_range_hu": facts["data_range_hu"],
        "windows": [FULL, *chosen],
        "summary": _renamed(facts["summary"], chosen),
        "by_patient": {who: _renamed(own, chosen) for who, own in facts["by_patient"].items()},
        "rows": rows,
    }
    if physics is not None:
        content["physics"] = measure({"input": None, "model": net.net}, work, physics)
    _write(content, out)
    return content


def _write(content: Evaluated, out: Path) -> None:
    """Write the files, and say where."""
    if "physics" in content:
        write_atomic(out / "physics.md", (words.markdown(content["physics"]) + "\n").encode())
    write_json(out / "evaluation.json", content)
    write_atomic(out / "evaluation.csv", _csv(content["rows"]).encode())
    log.info("evaluate: all figures are in %s", out / "evaluation.json")


def render(content: Evaluated) -> None:
    """Print the means as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    from compress.reporting.formatting import figure

    heads = [f"{METRICS[name].label} {METRICS[name].unit}".strip() for name in WINDOWED]
    patients, slices = len(content["by_patient"]), content["slices"]
    count = f"{slices} slice{'s' * (slices != 1)} of {patients} patient{'s' * (patients != 1)}"
    if seen := content["trained_on"]:
        count += f"; {_learned(seen, slices)}"
    table = Table("network", "window", *heads, caption=count)
    for name, found in content["summary"].items():
        for window in content["windows"]:
            values = found[window]
            cells = [figure(values[key]["mean"], METRICS[key].digits) for key in WINDOWED]
            table.add_row(name, window, *cells)
    Console().print(table)
    if "physics" in content:
        Console().print(_physics(content["physics"]))


def _physics(found: PhysicsFacts) -> "Table":
    from rich.table import Table

    names = words.networks(found)
    table = Table("measured", *names.values(), caption=words.about(found))
    for group in words.table(found):
        table.add_section()
        table.add_row(f"[bold]{group['head']}")
        for label, cells in group["rows"]:
            table.add_row(label, *(cells[name] for name in names))
    return table


def _seen(model: Path, pairs: Pairs) -> int | None:
    """How many of these slices the network learned from; None where nobody knows."""
    known = trained_on(model) if model.is_dir() else sidecar.trained_on(model)
    return sum(digest in known for digest in digests(pairs)) if known else None


def _warn(pairs: Pairs, seen: int | None) -> None:
    if said := unlike(pairs):
        log.warning("%s", said)
    if seen:
        log.warning("%s", _learned(seen, len(pairs.names)))


def _learned(seen: int, slices: int) -> str:
    which = "these slices" if seen == slices else f"{seen} of these {slices} slices"
    return f"the network was trained on {which}: on others it may do worse than these figures say"


def _check(pairs: Pairs) -> None:
    for name, image in zip(pairs.names, pairs.full, strict=True):
        if min(image.shape) < SSIM_SIDE:
            height, width = image.shape
            need = f"SSIM needs {SSIM_SIDE} x {SSIM_SIDE}"
            raise UsageError(f"slice {name} has {height} x {width} pixels; {need}")


def _long(row: Mapping[str, Any], chosen: Sequence[str]) -> Iterator[dict[str, object]]:
    """One slice through one network: a row for each window."""
    about = {
        "slice": row["slice"],
        "patient": row["patient"],
        "network": NAMES[row["network"]],
    }
    for window in (FULL, *chosen):
        values = {metric: row[metric + _suffix(window)] for metric in WINDOWED}
        whole = {metric: row[metric] if window == FULL else None for metric in WHOLE}
        yield {**about, "window": window, **values, **whole}


def _renamed(summary: Summary, chosen: Sequence[str]) -> ByWindow:
    """Network -> window -> metric -> mean and standard deviation over slices."""
    result: ByWindow = {}
    for name, found in summary.items():
        by_window = {
            window: {metric: found[metric + _suffix(window)] for metric in WINDOWED}
            for window in (FULL, *chosen)
        }
        by_window[FULL] |= {metric: found[metric] for metric in WHOLE}
        result[NAMES[name]] = by_window
    return result


def _suffix(window: str) -> str:
    return "" if window == FULL else f"_{window}"


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    """As a table with a head; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
