"""report: one page that says what was done, what it cost and what it did to image quality."""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch

from compress.checkpoint import Model
from compress.context import Kind, Use, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html, report.md and report.json from the facts of the stages before this one."""

    kind: ClassVar[Kind] = "measuring"

    def uses(self, device: torch.device) -> Use:
        """What the stages before left on disk."""
        return Use(name="the facts of the run")

    def run(self, model: Model, work: Work) -> Model:
        """Read the facts and write the pages; the model passes through."""
        from compress import reporting

        page = reporting.write(work.stage.parent, work.stage)
        log.info("report: %s", page)
        return model
