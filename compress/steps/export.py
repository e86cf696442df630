"""export: engines in files, each reloaded in a fresh process and compared with the network."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from compress import checkpoint
from compress.base.errors import QualityError, Stopped, UsageError
from compress.base.renamed import Renamed
from compress.checkpoint import Model
from compress.context import Kind, Use, Work
from compress.engines.base import Shape
from compress.engines.build import Job, Rewriting
from compress.engines.formats import FormatName, formats
from compress.engines.precision import Precision
from compress.engines.records import EngineRow
from compress.graph import trial
from compress.graph.slices import channels

log = logging.getLogger(__name__)
NOTHING = "nothing"
"""What a machine builds that no format can be built on."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Compile the network into engines; what cannot be built here is reported, never replaced.

    Each engine is reloaded from its file by a fresh process and compared with the network on
    held-out slices; one that differs too much ends the run with exit code 3.
    """

    kind: ClassVar[Kind] = "measuring"
    RENAMED: ClassVar[Mapping[str, Renamed]] = {"size": Renamed("image_size")}

    formats: tuple[FormatName, ...] = ("onnx",)
    """Engine formats to build."""
    precision: Literal["auto", Precision] = "auto"
    """Arithmetic inside the engines; auto: fp16 for a GPU, fp32 for the CPU and beside INT8."""
    batch: tuple[int, ...] = (1,)
    """Slices at once; an engine is built for each."""
    dynamic_batch: bool = False
    """One engine for every batch up to the largest instead."""
    image_size: int = 512
    """Height and width of the slices in pixels."""
    deconvolutions: Rewriting = "auto"
    """Stride-1 deconvolutions as the convolutions that they equal, or kept where no earlier step
    rewrote them; auto: whichever measures faster on a GPU, conv elsewhere and for onnx."""
    require: tuple[FormatName, ...] = ()
    """Formats without which the run fails, before any training where that can be known."""

    def __post_init__(self) -> None:
        """Refuse what no engine could be built for."""
        if not self.formats:
            raise ValueError("formats must name at least one")
        if not self.batch or min(self.batch) < 1:
            raise ValueError(f"batch must be numbers from 1 on, got {list(self.batch)}")
        if self.image_size < 16:
            raise ValueError(f"image_size must be at least 16 pixels, got {self.image_size}")
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
        return Use(name=", ".join(able) or NOTHING, why=asked)

    def run(self, model: Model, work: Work) -> Model:
        """Build every engine and compare it; the model passes through unchanged.

        Raises:
            QualityError: an engine does not load or differs too much, or a required one is missing.
            Stopped: a signal came.
        """
        self.build(model, work, _source(model, work.stage.parent))
        return model

    def build(self, model: Model, work: Work, source: Path | None) -> list[EngineRow]:
        """What `run` does, for a model that came from the checkpoint folder `source`.

        Returns:
            What the report says of each engine; it stands in `work.facts`, too.

        Raises:
            UsageError: the network takes no slices of that size.
        """
        trial.check_shape(model.net, (self.image_size, self.image_size), device="cpu")
        rows: list[EngineRow] = []
        work.facts["engines"] = rows
        for job in self.jobs(model, work, source):
            if work.stop.is_set():
                raise Stopped("export: stopped; run again to go on")
            rows += job.rows()
        self._gate(rows)
        return rows

    def jobs(self, model: Model, work: Work, source: Path | None) -> list[Job]:
        """The engines that `build` builds, in order."""
        return [
            Job(
                name=name,
                precision=self._precision(name, model, work.device),
                shape=shape,
                deconvolutions=self.deconvolutions,
                model=model,
                source=source,
                work=work,
            )
            for name in self.formats
            for shape in self._shapes(channels(model.net))
        ]

    def _precision(self, name: FormatName, model: Model, device: torch.device) -> Precision:
        if self.precision != "auto":
            return self.precision
        if model.quantised:
            return next(iter(formats()[name].quantised), "fp32")
        return "fp16" if device.type == "cuda" else "fp32"

    def _shapes(self, seen: int) -> list[Shape]:
        size, most = self.image_size, max(self.batch)
        if self.dynamic_batch:
            return [Shape(batch=most, size=size, dynamic=True, channels=seen)]
        return [Shape(batch=batch, size=size, channels=seen) for batch in self.batch]

    def _gate(self, rows: list[EngineRow]) -> None:
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


def _source(model: Model, run: Path) -> Path | None:
    """The last checkpoint in a run folder that holds the weights of `model`."""
    wanted = checkpoint.fingerprint(model)
    folders = sorted(path.parent for path in run.glob("*/model.json"))
    return next((f for f in reversed(folders) if checkpoint.weights_hash(f) == wanted), None)
