"""From the facts of a run to the one dictionary that the report shows.

The keys of report.json are those of `records.Report`, always all there: None or empty where a run
has no such step.
"""

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np

from compress.base.errors import UsageError
from compress.base.files import read_json, sha256
from compress.reporting import layers, refuse_no_run, sentences, speed, storage
from compress.reporting.numbers import costs, latency, psnr, stored
from compress.reporting.records import (
    Collected,
    Evaluation,
    Facts,
    Picture,
    Quality,
    Report,
)

SCHEMA = 1


KINDS = {
    "train": "training",
    "retrain": "training",
    "prune": "compressing",
    "sparsify": "compressing",
}
"""Kinds of the steps of older runs, see `context.Kind`."""


def collect(run: Path, before: str) -> Report:
    """Everything that the report of the run folder `run` says, as plain JSON values.

    Args:
        run: the run folder.
        before: only stages whose folder names sort before this one are read.

    Raises:
        UsageError: `run` has no manifest.json, or a file of it is damaged or gone.
    """
    refuse_no_run(run)
    manifest = _json(run / "manifest.json")
    paths = sorted(path for path in run.glob("*/facts.json") if path.parent.name < before)
    found = {path: _with_kind(_json(path)) for path in paths}
    stages = storage.as_stored(run, [s for s in found.values() if s["step"] != "report"])
    pruning = [{**p, "early": _early(stages, p["stage"])} for p in _of(stages, "prune")]
    sparse24 = _last(_of(stages, "sparsify"))
    engines = [
        _engine(run, stage, row) for stage in _of(stages, "export") for row in stage["engines"]
    ]
    report: Collected = {
        "schema": SCHEMA,
        "name": manifest["name"],
        "network": _network(run, stages),
        "device": manifest.get("gpu") or manifest.get("device"),
        "started": stages[0]["started"] if stages else None,
        **costs(stages),
        "stages": [
            _pick(s, ("stage", "step", "kind", "seconds", "options", "cost")) for s in stages
        ],
        "training": [_remembered(s) for s in stages if s["kind"] == "training"],
        "baseline": [_remembered(s) for s in stages if s["kind"] == "baseline"],
        "pruning": pruning,
        "sparse24": sparse24,
        "int8": _last(_of(stages, "quantize")),
        "layers": layers.rows(pruning, sparse24, [engine.pop("layers") for engine in engines]),
        "storage": storage.rows(run, stages),
        "speed": speed.read(run, [p for p in paths if found[p]["step"] != "report"]),
        **_quality(run, _last(_of(stages, "evaluate"))),
        "physics": (_last(_of(stages, "evaluate")) or {}).get("physics"),
        "engines": engines,
        "hashes": _hashes(run, stages, engines, manifest),
        "recipe": (run / "recipe.yaml").read_text(encoding="utf-8"),
        "manifest": manifest,
    }
    report["numbers"] = [
        *stored(report["numbers"], report["storage"]),
        latency(report["speed"]),
        psnr(report["quality"]),
    ]
    return {**report, **sentences.write(report)}


def pictures(run: Path, report: Report) -> dict[str, np.ndarray]:
    """The slices kept by the last evaluation, (K, H, W) float32 HU by name; empty without any."""
    evaluation = report["evaluation"]
    if not evaluation or not evaluation["pictures"] or evaluation["file"] is None:
        return {}
    found = _arrays(run / evaluation["stage"] / evaluation["file"])
    return {name: array for name, array in found.items() if name != "names"}


def maps(run: Path, report: Report) -> dict[str, np.ndarray]:
    """Maps that the last evaluation kept of its physics; empty without any."""
    found, evaluation = report["physics"], report["evaluation"]
    if not found or not evaluation:
        return {}
    return _arrays(run / evaluation["stage"] / found["file"])


def _network(run: Path, stages: list[Facts]) -> Facts:
    """What the last checkpoint says of the network that it was made from."""
    tables = [run / stage["stage"] / "model.json" for stage in stages]
    found = [table for table in tables if table.is_file()]
    network: Facts = _json(found[-1])["network"] if found else {}
    return _pick(network, ("name", "import")) | {"options": network.get("options", {})}


def _of(stages: Iterable[Facts], *steps: str) -> list[Facts]:
    """What the stages of these steps remembered, each with its stage's name."""
    return [_remembered(s) for s in stages if s["step"] in steps]


def _remembered(stage: Facts) -> Facts:
    """What a stage remembered, with its name."""
    return {"stage": stage["stage"], **stage["facts"]}


def _early(stages: list[Facts], pruned: str) -> str:
    """When channels went, where one schedule of the learning rate runs across; else empty."""
    trainings = [s for s in stages if s["kind"] == "training"]
    before = [s for s in trainings if s["stage"] < pruned][-1:]
    after = [s for s in trainings if s["stage"] > pruned][:1]
    if not before or not after:
        return ""
    until, since = before[0]["options"].get("lr_until", 1.0), after[0]["options"].get("lr_rewind")
    if until == 1.0 or until != since:
        return ""
    first, second = (s["facts"]["epochs"] for s in (*before, *after))
    return (
        f"Pruned after {first} of {first + second} epochs; one cosine schedule of the learning "
        "rate runs across."
    )


def _with_kind(stage: Facts) -> Facts:
    """The facts of a stage; those of a run before version 0.2 lack the kind of their step."""
    return {"kind": KINDS.get(stage["step"], "measuring"), **stage}


def _last(facts: list[Facts]) -> Facts | None:
    return facts[-1] if facts else None


def _pick(facts: Facts, keys: Iterable[str]) -> Facts:
    return {key: facts.get(key) for key in keys}


def _engine(run: Path, stage: Facts, row: Facts) -> Facts:
    """An engine with what its sidecar says: `layers`, `place`, and hashes of file and weights."""
    path = run / stage["stage"] / (row.get("sidecar") or "none")
    side = _json(path) if path.is_file() else {}
    told = side.get("built", {}).get("layers", [])
    return {**row, **_pick(side, ("sha256", "weights", "place")), "layers": told}


def _hashes(
    run: Path, stages: list[Facts], engines: list[Facts], manifest: Facts
) -> dict[str, str]:
    """What tells whether two runs, or two files, are the same."""
    data = manifest.get("data", {}).get("fingerprint")
    weights = [run / stage["stage"] / storage.FILE for stage in stages]
    last = [path for path in weights if path.is_file()][-1:]
    found = {
        "recipe.yaml": sha256(run / "recipe.yaml"),
        "data": data,
        **{f"stage {stage['stage']}": stage.get("hash") for stage in stages},
        **{f"{path.parent.name}/{path.name}": sha256(path) for path in last},
        **{engine["file"]: engine["sha256"] for engine in engines if engine["file"]},
    }
    return {what: value for what, value in found.items() if value}


def _quality(run: Path, evaluation: Facts | None) -> Quality:
    """The last evaluation, with the PSNR of every slice that is shown as a picture."""
    if evaluation is None:
        return {"quality": {}, "by_patient": {}, "evaluation": None}
    file = evaluation.get("pictures")
    shown = []
    if file:
        names = _arrays(run / evaluation["stage"] / file)["names"]
        shown = [_shown(str(name), evaluation["rows"]) for name in names]
    about = {
        **_pick(evaluation, ("stage", "slices", "data_range_hu")),
        "file": file,
        "pictures": shown,
    }
    return {
        "quality": evaluation["summary"],
        "by_patient": evaluation["by_patient"],
        "evaluation": cast("Evaluation", about),
    }


def _shown(name: str, rows: list[Facts]) -> Picture:
    own = [row for row in rows if row["slice"] == name]
    psnr = {row["network"]: row["psnr"] for row in own}
    return {"slice": name, "patient": own[0]["patient"], "psnr": psnr}


def _json(path: Path) -> Facts:
    """What a JSON file of the run says."""
    try:
        found = read_json(path)
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, f"it holds {found!r:.40}")
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file of the run."""
    try:
        with path.open("rb") as file, np.load(file) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError as error:
        raise _damaged(path, "it is gone") from error
    except (ValueError, EOFError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> UsageError:
    remedy = "copy it again, or remove its folder and run the recipe again"
    return UsageError(f"{path} cannot be shown: {why}; {remedy}")
