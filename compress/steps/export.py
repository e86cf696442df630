"""export: engines in files, each reloaded in a fresh process and compared with the network."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import checkpoint, inspection
from compress.checkpoint import Model
from compress.data import Image, Pairs
from compress.data.hu import DATA_RANGE, HU_MIN, to_network
from compress.engines import FormatName, NotBuilt, Precision, Shape, formats, fresh, sidecar
from compress.engines.subject import Subject
from compress.errors import QualityError, Stopped, UsageError
from compress.work import Use, Work

log = logging.getLogger(__name__)

LIMITS: Mapping[Precision, tuple[float, float]] = {
    "fp32": (1.0, 0.1),
    "fp16": (20.0, 1.0),
    "bf16": (150.0, 8.0),  # 8 bits of mantissa, three fewer than fp16
}
"""Largest and mean difference from the network in float32 that an engine may have, in HU."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Compile the network into engines; what cannot be built here is reported, never replaced.

    Each engine is reloaded from its file by a fresh process and compared with the network on
    held-out slices; one that differs too much ends the run with exit code 3.
    """

    formats: tuple[FormatName, ...] = ("onnx",)
    """Engine formats to build."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Arithmetic inside the engines; auto: fp16 for a GPU, fp32 for the CPU."""
    batch: tuple[int, ...] = (1,)
    """Slices at once; an engine is built for each."""
    dynamic_batch: bool = False
    """One engine for every batch up to the largest instead."""
    size: int = 512
    """Height and width of the slices in pixels."""
    require: tuple[FormatName, ...] = ()
    """Formats without which the run fails, before any training where that can be known."""

    def __post_init__(self) -> None:
        """Refuse what no engine could be built for."""
        if not self.formats:
            raise ValueError("formats must name at least one")
        if not self.batch or min(self.batch) < 1:
            raise ValueError(f"batch must be numbers from 1 on, got {list(self.batch)}")
        if self.size < 16:
            raise ValueError(f"size must be at least 16 pixels, got {self.size}")
        if missing := [name for name in self.require if name not in self.formats]:
            raise ValueError(f"require names {missing[0]}, which is not among the formats")

    def uses(self, device: torch.device) -> Use:
        """The formats that can be built here; an error where a required one cannot."""
        known = formats()
        absent = {name: known[name].missing(device) for name in self.formats}
        for name in self.require:
            if found := absent[name]:
                help_ = f"; {found.command} would help" if found.command else ""
                raise UsageError(f"export: {name} cannot be built here: {found.reason}{help_}")
        able = [name for name, found in absent.items() if found is None]
        asked = f"asked for {', '.join(self.formats)}"
        return Use(name=", ".join(able) or "nothing", why=asked)

    def run(self, model: Model, work: Work) -> Model:
        """Build every engine and compare it; the model passes through unchanged.

        Raises:
            QualityError: an engine does not load or differs too much, or a required one is missing.
            Stopped: a signal came.
        """
        precision = self._precision(work.device)
        subject = Subject(model.net, precision)
        rows = []
        for name in self.formats:
            for shape in self._shapes():
                if work.stop.is_set():
                    raise Stopped("export: stopped; run again to go on")
                job = _Job(name, precision, shape, model, work)
                rows.append(job.row(subject))
        work.facts["engines"] = rows
        self._gate(rows)
        return model

    def _precision(self, device: torch.device) -> Precision:
        if self.precision == "auto":
            return "fp16" if device.type == "cuda" else "fp32"
        return self.precision

    def _shapes(self) -> list[Shape]:
        if self.dynamic_batch:
            return [Shape(batch=max(self.batch), size=self.size, dynamic=True)]
        return [Shape(batch=batch, size=self.size) for batch in self.batch]

    def _gate(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["format"] in self.require and row["status"] != "built":
                raise QualityError(f"export: {row['format']} was not built: {row['reason']}")
            if row["parity"] and not row["parity"]["ok"]:
                p = row["parity"]
                raise QualityError(
                    f"export: {row['file']} differs from the network by {p['max_hu']:.3g} HU at "
                    f"most and {p['mean_hu']:.3g} HU on average, more than "
                    f"{p['limit_max_hu']:g} and {p['limit_mean_hu']:g} HU"
                )


@dataclass(frozen=True)
class _Job:
    """One engine to build."""

    name: FormatName
    precision: Precision
    shape: Shape
    model: Model
    work: Work

    def row(self, subject: nn.Module) -> dict[str, Any]:
        """What the report says of the engine."""
        row: dict[str, Any] = {
            "format": self.name,
            "precision": self.precision,
            "batch": self.shape.batch,
            "dynamic_batch": self.shape.dynamic,
            "status": "not built",
            **dict.fromkeys(("reason", "command"), ""),
            **dict.fromkeys(("file", "bytes", "sidecar", "parity"), None),
        }
        try:
            side = self._build(subject)
        except NotBuilt as error:
            log.warning("%s was not built: %s", self.name, error.reason)
            return row | {"reason": error.reason, "command": error.command}
        parity = self._parity(side)
        engine = side.with_suffix("")
        size = engine.stat().st_size
        log.info("%s: at most %.3g HU from the network", engine.name, parity["max_hu"])
        built = {"status": "built", "file": engine.name, "bytes": size}
        return row | built | {"sidecar": side.name, "parity": parity}

    def _build(self, subject: nn.Module) -> Path:
        work, format_ = self.work, formats()[self.name]
        if missing := format_.missing(work.device):
            raise missing
        batch = f"b1-{self.shape.batch}" if self.shape.dynamic else f"b{self.shape.batch}"
        stem = f"{self.name}-{self.precision}-{batch}"
        path = work.stage / f"{stem}{format_.suffix}"
        built = format_.build(subject, self.shape, path, work.device)
        if built.get("sparse24", len(self.model.masks)) < len(self.model.masks):
            done = f"{built['sparse24']} of {len(self.model.masks)}"
            raise QualityError(f"export: only {done} masked layers are 2:4 in {path.name}")
        return sidecar.write(
            path,
            format_=self.name,
            precision=self.precision,
            shape=self.shape,
            weights=checkpoint.fingerprint(self.model),
            device=work.device,
            built={**built, "layers": inspection.layers(self.model.net)},
        )

    def _parity(self, side: Path) -> dict[str, Any]:
        """How far the engine, in a fresh process, is from the network in float32, in HU."""
        low = _slices(self.work.data.test, self.shape)
        got = fresh.run(side, low)
        expected = _reference(self.model.net, low, self.work.device)
        if got.shape != expected.shape or not got.isfinite().all():
            raise QualityError(f"export: {side.stem} gives NaN, infinity or another shape")
        difference = (got - expected).abs() * DATA_RANGE
        largest, mean = LIMITS[self.precision]
        found = {"max_hu": float(difference.max()), "mean_hu": float(difference.mean())}
        return {
            **found,
            "slices": min(self.shape.batch, len(self.work.data.test.low)),
            "limit_max_hu": largest,
            "limit_mean_hu": mean,
            "ok": found["max_hu"] <= largest and found["mean_hu"] <= mean,
        }


def _reference(net: nn.Module, low: Tensor, device: torch.device) -> Tensor:
    """The network in float32, one slice at a time, on the CPU at the end."""
    net = Subject(net, "fp32").to(device)
    with torch.inference_mode():
        return torch.cat([net(x[None].to(device)).cpu() for x in low])


def _slices(pairs: Pairs, shape: Shape) -> Tensor:
    """Held-out slices cut or padded to the engine's input, from the first on, again when few."""
    count = len(pairs.low)
    images = [_fitted(pairs.low[i % count], shape.size) for i in range(shape.batch)]
    return torch.stack(images)


def _fitted(image: Image, size: int) -> Tensor:
    """(H, W) HU -> (1, size, size) in network range: the middle, or padded with air."""
    hu = torch.tensor(image)
    top, left = ((side - size) // 2 if side > size else 0 for side in hu.shape)
    hu = hu[top : top + size, left : left + size]
    pad = (0, size - hu.shape[1], 0, size - hu.shape[0])
    return to_network(F.pad(hu, pad, value=int(HU_MIN)))[None]
