"""report: one page that says what was done, what it cost and what it did to image quality."""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch

from compress import checkpoint
from compress.base.files import write_json
from compress.checkpoint import Model
from compress.context import Kind, Use, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html, report.md and report.json from the facts of the stages before this one.

    On a CPU the dense and the compressed network are timed in turns before that, some seconds long.
    """

    kind: ClassVar[Kind] = "measuring"

    def uses(self, device: torch.device) -> Use:
        """What the stages before left on disk."""
        return Use(name="the facts of the run")

    def run(self, model: Model, work: Work) -> Model:
        """Read the facts and write the pages; the model passes through."""
        from compress import reporting

        self._measure(model, work)
        page = reporting.write(work.stage.parent, work.stage)
        log.info("report: %s", page)
        return model

    def _measure(self, model: Model, work: Work) -> None:
        """Time dense and compressed network where that was done on a CPU, for the page."""
        from compress.reporting import speed
        from compress.steps import cpu_speed

        file = work.stage.parent / speed.OWN
        file.unlink(missing_ok=True)
        if work.device.type != "cpu" or work.dense is None:
            return
        if model.quantised:  # simulated INT8 takes longer than float32, and no engine computes so
            return
        dense = checkpoint.load(work.dense)
        if checkpoint.channels(dense.net) == checkpoint.channels(model.net) and not model.masks:
            return
        if found := cpu_speed.measure(dense.net, model.net):
            write_json(file, found)
