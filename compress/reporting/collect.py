"""From the facts of a run to the one dictionary that the report shows.

The keys of report.json are those of `records.Report`, always all there: None or empty where a run
has no such step.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from compress.base.errors import UsageError
from compress.base.files import read_json, sha256
from compress.reporting import layers, sentences, speed, storage
from compress.reporting.records import (
    Collected,
    Costs,
    Evaluation,
    Facts,
    Metrics,
    Number,
    Picture,
    Quality,
    Report,
    Speed,
    Stored,
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
        UsageError: `run` has no manifest.json.
    """
    if not (run / "manifest.json").is_file():
        raise UsageError(f"{run} holds no run: it has no manifest.json")
    manifest = read_json(run / "manifest.json")
    paths = sorted(path for path in run.glob("*/facts.json") if path.parent.name < before)
    found = {path: _with_kind(read_json(path)) for path in paths}
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
        **_costs(stages),
        "stages": [
            _pick(s, ("stage", "step", "kind", "seconds", "options", "cost")) for s in stages
        ],
        "training": [_remembered(s) for s in stages if s["kind"] == "training"],
        "baseline": [_remembered(s) for s in stages if s["kind"] == "baseline"],
        "pruning": pruning,
        "sparse24": sparse24,
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
        *_stored(report["numbers"], report["storage"]),
        _latency(report["speed"]),
        _psnr(report["quality"]),
    ]
    return {**report, **sentences.write(report)}


def pictures(run: Path, report: Report) -> dict[str, np.ndarray]:
    """The slices kept by the last evaluation, (K, H, W) float32 HU by name; empty without any."""
    evaluation = report["evaluation"]
    if not evaluation or not evaluation["pictures"] or evaluation["file"] is None:
        return {}
    with np.load(run / evaluation["stage"] / evaluation["file"]) as found:
        return {name: found[name] for name in found.files if name != "names"}


def maps(run: Path, report: Report) -> dict[str, np.ndarray]:
    """Maps that the last evaluation kept of its physics; empty without any."""
    found, evaluation = report["physics"], report["evaluation"]
    if not found or not evaluation:
        return {}
    with np.load(run / evaluation["stage"] / found["file"]) as kept:
        return {name: kept[name] for name in kept.files}


def _network(run: Path, stages: list[Facts]) -> Facts:
    """What the last checkpoint says of the network that it was made from."""
    tables = [run / stage["stage"] / "model.json" for stage in stages]
    found = [table for table in tables if table.is_file()]
    network: Facts = read_json(found[-1])["network"] if found else {}
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


def _costs(stages: list[Facts]) -> Costs:
    """The dense network's cost and the last one's, as `numbers` and `removed`."""
    cut = next((i for i, s in enumerate(stages) if s["kind"] == "compressing"), len(stages))
    # A recipe that starts by pruning given weights has no dense stage; prune knows what it met.
    met = stages[cut]["facts"].get("before", {}) if cut < len(stages) else {}
    dense: Facts = stages[cut - 1]["cost"] if cut else met
    final: Facts = stages[-1]["cost"] if stages else {}

    def number(key: str, label: str, kind: str) -> Number:
        return {
            "key": key,
            "label": label,
            "kind": kind,
            "before": dense.get(key),
            "after": final.get(key),
            "note": "",
        }

    return {
        "numbers": [
            number("macs", "MACs, 512x512 slice", "count"),
            number("params", "Parameters", "count"),
            number("bytes", "File size", "bytes"),
        ],
        "removed": {
            "macs": _removed(dense, final, "macs"),
            "params": _removed(dense, final, "params"),
        },
    }


def _removed(dense: Mapping[str, int], final: Mapping[str, int], key: str) -> float | None:
    return 1 - final[key] / dense[key] if dense.get(key) and key in final else None


def _stored(numbers: list[Number], files: list[Stored]) -> list[Number]:
    """The numbers with the size of the files instead of that of the plain weights."""
    if not files:
        return numbers
    sizes = {"before": files[0]["bytes"], "after": files[-1]["bytes"], "note": ""}
    resized = [{**n, **sizes} if n["key"] == "bytes" else n for n in numbers]
    return cast("list[Number]", resized)


def _latency(bench: Speed | None) -> Number:
    """From the network that others were compared with to the fastest."""
    number: Number = {
        "key": "latency",
        "label": "Latency, per slice",
        "kind": "milliseconds",
        "before": None,
        "after": None,
        "note": "not measured",
    }
    if bench is None:
        return number
    if bench["own"]:
        label, ratio = "Speed, beside the dense network", bench["rows"][-1]["ratio"]
        note = f"{speed.spread(bench)}; {speed.way(bench)}"
        return {**number, "label": label, "kind": "times", "after": ratio, "note": note}
    first, best = bench["before"], bench["after"]
    note = f"{first['how']} → {best['how']}, batch {best['batch']}, {bench['where']}"
    return {**number, "before": first["p50_ms"], "after": best["p50_ms"], "note": note}


def _engine(run: Path, stage: Facts, row: Facts) -> Facts:
    """An engine with what its sidecar says: `layers`, `place`, and hashes of file and weights."""
    path = run / stage["stage"] / (row.get("sidecar") or "none")
    side = read_json(path) if path.is_file() else {}
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


def _psnr(quality: Metrics) -> Number:
    means = {name: found["psnr"]["mean"] for name, found in quality.items()}
    note = "not evaluated"
    if means.get("input") is not None:
        note = f"low-dose input {means['input']:.2f} dB"
    return {
        "key": "psnr",
        "label": "Quality (PSNR)",
        "kind": "decibels",
        "before": means.get("dense"),
        "after": means.get("compressed", means.get("dense")),
        "note": note,
    }


def _quality(run: Path, evaluation: Facts | None) -> Quality:
    """The last evaluation, with the PSNR of every slice that is shown as a picture."""
    if evaluation is None:
        return {"quality": {}, "by_patient": {}, "evaluation": None}
    file = evaluation.get("pictures")
    shown = []
    if file:
        with np.load(run / evaluation["stage"] / file) as found:
            shown = [_shown(str(name), evaluation["rows"]) for name in found["names"]]
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
