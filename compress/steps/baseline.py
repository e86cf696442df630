"""baseline: the dense network trained on, so that quality is compared after equal training."""

from dataclasses import dataclass, fields
from typing import ClassVar

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model
from compress.context import BASELINE, Kind, Work
from compress.steps.train import Train


@dataclass(frozen=True, kw_only=True)
class Baseline(Train):
    """Train the dense network on, so that it is compared after as many optimizer steps.

    Without options the dense network is trained once for every `retrain` before, with its options
    but without distillation. `evaluate` then measures it in the place of the dense network from
    before; the compressed network is not touched.
    """

    kind: ClassVar[Kind] = "baseline"

    epochs: int = 0
    """Passes, as in train; 0: those of every retrain before, one stage each."""

    def __post_init__(self) -> None:
        """Refuse options that would be replaced by those of the retrain steps."""
        if self.epochs:
            return super().__post_init__()
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if given:
            raise ValueError(f"{given[0]} needs epochs beside it; without options all is retrain's")
        return None

    def run(self, model: Model, work: Work) -> Model:
        """Train the dense network and keep it in the stage's folder; `model` passes through.

        Raises:
            UsageError: there is no dense network from before.
            Stopped: a signal came; the state is saved and the next run goes on from there.
        """
        if work.dense is None:
            raise UsageError("baseline: no dense network was trained before")
        dense = checkpoint.load(work.dense)
        trained = super().run(dense, work)
        if work.world.first:
            folder = work.stage / BASELINE
            folder.mkdir(exist_ok=True)
            checkpoint.save(trained, folder)
        return model
