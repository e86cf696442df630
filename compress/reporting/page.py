"""The pages: report.html, one file with everything in it, and report.md, without pictures."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compress.base.words import listed
from compress.quality import metrics
from compress.quality.metrics import Window
from compress.quality.ssim import MS_SSIM_SIDE
from compress.reporting import asked, charts, formatting, physics, physics_plots, pictures, speed
from compress.reporting.records import Facts, Picture, Report

FOLDER = Path(__file__).parent

METRICS = tuple((column.key, column.label, column.digits) for column in metrics.columns())
"""Metrics as evaluate names them, what the page calls them, and their decimals."""
PATIENT_METRICS = tuple(m for m in METRICS if m[0] in ("psnr", "ssim", "rmse_hu"))
NETWORKS = {"input": "Low-dose input", "dense": "Dense network", "compressed": "Compressed network"}
IMAGES = {"low": "Low dose", "dense": "Enhanced, dense", "compressed": "Enhanced, compressed"}
VIEWS = {
    "lung": "Lung, −600 / 1500 HU",  # noqa: RUF001
    "mediastinum": "Mediastinum, 50 / 400 HU",
    "bone": "Bone, 400 / 1800 HU",
}
WINDOWS = {
    "lung": metrics.WINDOWS["_lung"],
    "mediastinum": metrics.WINDOWS["_mediastinum"],
    "bone": Window(-500.0, 1300.0),  # only looked at
}


PRUNING = {"asked": asked.amount, "threshold": asked.threshold, "scale": asked.scale}
"""What they call those that read what a pruning was asked for."""
SPEED = {"engine_time": speed.of_engine, "gain": speed.gain, "way": speed.way}
"""What the templates call the functions that read times."""
SMALL = f"MS-SSIM is left out: it needs slices of at least {MS_SSIM_SIDE} pixels a side."
SCALES = {
    "z": "Distance from the mean in deviations, −3.5 to 3.5",  # noqa: RUF001
    "place": "Place in the layer, 0 to 1",
    "score": "Score, from the layer's lowest to its highest",
}
"""What channels were compared by -> the head of its column."""


def html(
    report: Report,
    slices: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray] | None = None,
) -> str:
    """The page of a report as `collect` makes it.

    Args:
        report: the dictionary of report.json.
        slices: low, dense, compressed (where there is one) and full, (K, H, W) float32 in HU.
        maps: of bias, noise and 2-D NPS, see `physics`; None without any.
    """
    evaluation = report["evaluation"]
    shown = evaluation["pictures"] if evaluation and slices else []
    span = pictures.span(slices["low"], slices["full"]) if shown else 0  # one scale for all
    training = [stage for stage in report["training"] if stage["loss"]]
    return _render(
        "report.html.j2",
        r=report,
        escape=True,
        curve=charts.training(training, _between(report["stages"])) if training else "",
        shown=[_slice(i, about, slices, span) for i, about in enumerate(shown)],
        span=span,
        colourbar=pictures.gradient(),
        strip=charts.strip,
        histogram=charts.histogram,
        scales=SCALES,
        views=VIEWS,
        physics=_physics(report, maps or {}),
        **_measured(report),
        **_script(),
    )


def markdown(report: Report) -> str:
    """The same facts as Markdown, without pictures and channels."""
    found = report["physics"]
    told = physics.markdown(found) if found else ""
    return _render("report.md.j2", r=report, escape=False, physics=told, **_measured(report))


def _physics(report: Report, maps: Mapping[str, np.ndarray]) -> Facts | None:
    found = report["physics"]
    if not found:
        return None
    return {
        "about": physics.about(found),
        "costs": physics.costs(found),
        "limits": physics.limits(found),
        "notices": found["notices"],
        "networks": physics.networks(found),
        "table": physics.table(found),
        "figures": physics_plots.figures(found, maps),
    }


def comparison(found: Facts, compared: Sequence[metrics.Column], chart: str) -> str:
    """The page of what `compare.compare` found, with the chart of its points."""
    context = {"c": found, "compared": compared, "chart": chart, **_script()}
    return _render("compare.html.j2", escape=True, **context)


def _script() -> dict[str, str]:
    """The page's own script, and its SHA-256 by which the page allows no other."""
    source = (FOLDER / "report.js.j2").read_text(encoding="utf-8")
    digest = hashlib.sha256(source.encode()).digest()
    return {"script": Markup(source), "script_hash": base64.b64encode(digest).decode()}


def _render(template: str, *, escape: bool, **context: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**formatting.FILTERS, **SPEED, **PRUNING}
    return environment.get_template(template).render(networks=NETWORKS, **context)


def _measured(report: Report) -> Facts:
    """The metrics to show, and a sentence on one that no slice was large enough for."""
    tables = report["quality"].values()
    means = [found["ms_ssim"]["mean"] for found in tables if "ms_ssim" in found]
    small = bool(means) and not any(mean is not None for mean in means)
    measured = [m for m in METRICS if all(m[0] in found for found in tables)]  # new ones are not
    return {
        "metrics": [m for m in measured if not (small and m[0] == "ms_ssim")],
        "patient_metrics": [m for m in PATIENT_METRICS if m in measured],
        "absent": SMALL if small else "",
    }


def _between(stages: list[Facts]) -> dict[str, str]:
    """Name of each training stage -> the steps since the training before it."""
    done: list[str] = []
    found = {}
    for stage in stages:
        if stage["kind"] == "training":
            found[stage["stage"]] = listed(done)
            done = []
        elif stage["kind"] == "compressing":
            done.append(stage["step"])
    return found


def _slice(index: int, about: Picture, slices: Mapping[str, np.ndarray], span: float) -> Facts:
    """Every picture of one slice: in each window, and its differences, -span to span HU."""
    full = slices["full"][index]
    images = {name: slices[name][index] for name in IMAGES if name in slices}
    labels = {**{name: IMAGES[name] for name in images}, "full": "Full dose"}
    psnr = {"low" if name == "input" else name: value for name, value in about["psnr"].items()}
    return {
        "slice": about["slice"],
        "patient": about["patient"],
        "images": [
            {
                "label": label,
                "psnr": psnr.get(name),
                "views": {
                    view: pictures.windowed({**images, "full": full}[name], WINDOWS[view])
                    for view in VIEWS
                },
            }
            for name, label in labels.items()
        ],
        "differences": [
            {"label": IMAGES[name], "uri": pictures.difference(image, full, span)}
            for name, image in images.items()
        ],
    }
