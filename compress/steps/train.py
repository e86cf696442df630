"""train and retrain; the loop itself is in compress/training."""

import gc
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from compress.checkpoint import Model
from compress.context import Kind, Use, Work
from compress.data import loaders
from compress.data.pairs import digests
from compress.training import precision as formats
from compress.training.options import TrainOptions
from compress.training.recalibrate import recalibrated
from compress.training.session import Session


@dataclass(frozen=True, kw_only=True)
class Train(TrainOptions):
    """Train, or train again after pruning or sparsifying; masks hold throughout.

    Adam (Kingma and Ba, ICLR 2015) with the learning rate falling along half a cosine.
    """

    kind: ClassVar[Kind] = "training"

    def uses(self, device: torch.device) -> Use:
        """The number format on this device."""
        loaders.refuse(self.loader, device)
        chosen = formats.choose(self.precision, device)
        needs = ("apex.amp",) if chosen.name.startswith("apex") else ()
        return Use(name=chosen.name, why=chosen.why, needs=needs)

    def run(self, model: Model, work: Work) -> Model:
        """Train to the last epoch, from where an interrupted run left off.

        Raises:
            Stopped: a signal came; the state is saved and the next run goes on from there.
            CompressError: the loss is not finite, or a mask broke.
        """
        session = Session(self, model, work)
        session.run()
        work.facts.update(session.facts())
        trained = session.trained()
        del session
        gc.collect()  # a captured step and its loader refer to each other and fill the GPU's memory
        seen = model.trained_on.union(filter(None, digests(work.data.train)))
        net = recalibrated(trained, self.recalibrate, work)
        return replace(model, net=net, trained_on=seen)
