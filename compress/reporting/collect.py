"""From the facts of a run to the one dictionary that the report shows.

Keys of report.json, always all there; None or empty where a run has no such step:

schema, name, network {name, import, options}, device, started, recipe (text), manifest
verdict, notices, kernels, limits   sentences, see verdict.py
numbers       [{key, label, kind, before, after, note}]: before compression -> at the end
removed       {macs, params}: shares of the dense network
stages        [{stage, step, seconds, options, cost: {params, macs, nonzero_weights, ...}}]
training      [{stage, epochs, steps, batch, loss: [per epoch], lr: [per epoch], ...}]
pruning       [{stage, criterion, threshold, removed, groups: [{name, width, kept, z, ...}], ...}]
sparse24      {done, eligible_backend, eligible_trt, convolutions, layers: [...], ...}
storage       [{label, bytes, share}]: checkpoint files, dense to 2:4 packed, see storage.py
quality       {input | dense | compressed: {psnr | ssim | rmse_hu | ...: {mean, sd}}}
by_patient    {patient: the same as quality}
evaluation    {stage, slices, data_range_hu, pictures: [{slice, patient, psnr: {network: dB}}]}
engines       [{format, precision, status, reason, command, file, bytes, parity, ...}]
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UsageError
from compress.files import read_json
from compress.reporting import storage, verdict

Facts = dict[str, Any]
SCHEMA = 1


def collect(run: Path, before: str) -> Facts:
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
    found = sorted(path for path in run.glob("*/facts.json") if path.parent.name < before)
    stages = [facts for facts in map(read_json, found) if facts["step"] != "report"]
    report: Facts = {
        "schema": SCHEMA,
        "name": manifest["name"],
        "network": _network(run, stages),
        "device": manifest.get("gpu") or manifest.get("device"),
        "started": stages[0]["started"] if stages else None,
        **_costs(stages),
        "stages": [_pick(s, ("stage", "step", "seconds", "options", "cost")) for s in stages],
        "training": _of(stages, "train", "retrain"),
        "pruning": _of(stages, "prune"),
        "sparse24": _last(_of(stages, "sparsify")),
        "storage": storage.rows(run, stages),
        **_quality(run, _last(_of(stages, "evaluate"))),
        "engines": [engine for stage in _of(stages, "export") for engine in stage["engines"]],
        "recipe": (run / "recipe.yaml").read_text(encoding="utf-8"),
        "manifest": manifest,
    }
    report["numbers"].append(_psnr(report["quality"]))
    return {**report, **verdict.sentences(report)}


def pictures(run: Path, report: Facts) -> dict[str, np.ndarray]:
    """The slices kept by the last evaluation, (K, H, W) float32 HU by name; empty without any."""
    evaluation = report["evaluation"]
    if not evaluation or not evaluation["pictures"]:
        return {}
    with np.load(run / evaluation["stage"] / evaluation["file"]) as found:
        return {name: found[name] for name in found.files if name != "names"}


def _network(run: Path, stages: list[Facts]) -> Facts:
    """What the last checkpoint says of the network that it was made from."""
    tables = [run / stage["stage"] / "model.json" for stage in stages]
    found = [table for table in tables if table.is_file()]
    network: Facts = read_json(found[-1])["network"] if found else {}
    return _pick(network, ("name", "import")) | {"options": network.get("options", {})}


def _of(stages: Iterable[Facts], *steps: str) -> list[Facts]:
    """What the stages of these steps remembered, each with its stage's name."""
    return [{"stage": s["stage"], **s["facts"]} for s in stages if s["step"] in steps]


def _last(facts: list[Facts]) -> Facts | None:
    return facts[-1] if facts else None


def _pick(facts: Facts, keys: Iterable[str]) -> Facts:
    return {key: facts.get(key) for key in keys}


def _costs(stages: list[Facts]) -> Facts:
    """The dense network's cost and the last one's, as `numbers` and `removed`."""
    cut = next((i for i, s in enumerate(stages) if s["step"] in verdict.COMPRESSING), len(stages))
    # A recipe that starts by pruning given weights has no dense stage; prune knows what it met.
    met = stages[cut]["facts"].get("before", {}) if cut < len(stages) else {}
    dense: Facts = stages[cut - 1]["cost"] if cut else met
    final: Facts = stages[-1]["cost"] if stages else {}

    def number(key: str, label: str, kind: str, note: str = "") -> Facts:
        values = {"before": dense.get(key), "after": final.get(key)}
        return {"key": key, "label": label, "kind": kind, **values, "note": note}

    return {
        "numbers": [
            number("macs", "MACs, 512x512 slice", "count"),
            number("params", "Parameters", "count"),
            number("nonzero_weights", "Nonzero conv weights", "count"),
            number("bytes", "Weights on disk", "bytes", "zeros are stored"),
            number("latency", "Latency", "seconds", "not measured"),
        ],
        "removed": {key: _removed(dense, final, key) for key in ("macs", "params")},
    }


def _removed(dense: Mapping[str, int], final: Mapping[str, int], key: str) -> float | None:
    return 1 - final[key] / dense[key] if dense.get(key) and key in final else None


def _psnr(quality: Facts) -> Facts:
    means = {name: found["psnr"]["mean"] for name, found in quality.items()}
    values = {"before": means.get("dense"), "after": means.get("compressed", means.get("dense"))}
    note = "not evaluated"
    if means.get("input") is not None:
        note = f"low-dose input {means['input']:.2f} dB"
    return {"key": "psnr", "label": "Quality (PSNR)", "kind": "decibels", **values, "note": note}


def _quality(run: Path, evaluation: Facts | None) -> Facts:
    """The last evaluation, with the PSNR of every slice that is shown as a picture."""
    if evaluation is None:
        return {"quality": {}, "by_patient": {}, "evaluation": None}
    file = evaluation.get("pictures")
    shown = []
    if file:
        with np.load(run / evaluation["stage"] / file) as found:
            shown = [_shown(str(name), evaluation["rows"]) for name in found["names"]]
    return {
        "quality": evaluation["summary"],
        "by_patient": evaluation["by_patient"],
        "evaluation": {
            **_pick(evaluation, ("stage", "slices", "data_range_hu")),
            "file": file,
            "pictures": shown,
        },
    }


def _shown(name: str, rows: list[Facts]) -> Facts:
    own = [row for row in rows if row["slice"] == name]
    psnr = {row["network"]: row["psnr"] for row in own}
    return {"slice": name, "patient": own[0]["patient"], "psnr": psnr}
