"""The one training loop of the project: a run of a stage, from its start or its last saved step."""

import copy
import logging
import math
import time
import zlib
from collections.abc import Iterator
from itertools import islice

from torch import Tensor, nn

from compress.base.errors import CompressError, Stopped, UsageError
from compress.base.progress import track
from compress.checkpoint import Model
from compress.context import Work
from compress.data import loaders
from compress.data.crops import draws, sides
from compress.training import distill, epoch_log, state
from compress.training import precision as formats
from compress.training.facts import History, TrainingFacts
from compress.training.options import TrainOptions
from compress.training.precision import Precision
from compress.training.profiling import Recorder, span
from compress.training.remaining import Remaining
from compress.training.update import Update

log = logging.getLogger(__name__)

AGREE = 16
"""Steps after which several processes ask each other whether a signal came."""
SAVE_EVERY = 20.0
"""Seconds from one save of the state to the next, at ends of epochs; a signal saves at once."""


class Session:
    """One training run: what is trained, how far it is, and what has been seen so far."""

    def __init__(self, options: TrainOptions, model: Model, work: Work) -> None:
        self.options, self.work, self.model = options, work, model
        self.world = work.world
        self.precision = _precision(options, work)
        pairs = work.data.train
        shape = sides(pairs, options.crop)
        self.loader_choice = loaders.choose(options.loader, pairs, work.device)
        self.loader = loaders.build(self.loader_choice, pairs, shape, work.device)
        target = distill.target(options.distill, work)
        self.update = Update(options, model, self.loader, self.precision, work.world, target)
        self.step = 0
        self.seconds = 0.0
        self.history: History = {"loss": [], "lr": []}

    def run(self) -> None:
        """Train to the last epoch.

        Raises:
            Stopped: a signal came; the state is saved.
            CompressError: the loss is not finite, or a mask broke.
        """
        self._resume()
        folder = self.work.stage if self.work.profile and self.world.first else None
        recorder = Recorder(folder, self._steps - self.step, self.work.device)
        saved = time.monotonic()
        try:
            for _ in self._epochs():
                leaving = self.epoch(recorder) and self.step < self._steps
                if self.world.any(leaving or time.monotonic() - saved > SAVE_EVERY):
                    self._save()
                    saved = time.monotonic()
                if leaving:
                    raise Stopped(f"{self.work.stage.name}: stopped and saved; run again to go on")
        finally:
            recorder.close()
            self.update.amp.close()
        if self.world.first:
            self.work.stage.joinpath(state.FILE).unlink(missing_ok=True)

    def _epochs(self) -> Iterator[None]:
        """One item for each epoch that is left, with what the first process says of the time."""
        ended, each = self._epoch, self.options.steps_per_epoch
        left = self.options.epochs - ended
        remaining = Remaining(self.options, self.work.data.train, left, self.work.later)
        epochs = range(left)
        shown = track(epochs, self.work.stage.name, note=remaining.words, before=ended)
        for _ in shown if self.world.first else epochs:
            before, steps = self.seconds, each - self.step % each
            yield
            remaining.done(self.seconds - before, steps / each)

    def epoch(self, recorder: Recorder) -> bool:
        """Train to the end of the epoch; True where a signal came, and then perhaps not so far.

        Raises:
            CompressError: the loss is not finite, or a mask broke.
        """
        started, epoch, stopping = time.monotonic(), self._epoch, False
        if self.options.norm_is_frozen(epoch):
            self.update.freeze_norm()
        with self.precision.switches():
            for raw in self._batches(epoch):
                recorder.step()
                with span("step"):
                    self.update(raw, self.options.rate(self.step))
                self.step += 1
                if stopping := self._stopping():
                    break
            if self._epoch > epoch:  # all its steps are done
                self._end_epoch(epoch)
        self.seconds += time.monotonic() - started
        return stopping

    def trained(self) -> nn.Module:
        """The network as it is now, on the CPU, in eval mode."""
        net = copy.deepcopy(self.model.net)
        net.load_state_dict(self.update.amp.net.state_dict())
        return net.eval()

    def facts(self) -> TrainingFacts:
        """What facts.json keeps of the training."""
        options = self.options
        return {
            "epochs": options.epochs,
            "steps": self.step,
            "batch": options.batch,
            "crop": options.crop,
            "precision": self.precision.name,
            "precision_why": self.precision.why,
            "scope": self.precision.scope,
            "processes": self.world.size,
            "device": str(self.work.device),
            "loader": self.loader_choice.name,
            "loader_why": self.loader_choice.why,
            **self.update.facts(),
            "train_seconds": round(self.seconds, 3),
            **self.history,
        }

    def _stopping(self) -> bool:
        """Whether a signal came; several processes must agree on the step, and asking waits."""
        if self.world.size > 1 and self.step % AGREE and self.step % self.options.steps_per_epoch:
            return False
        return self.world.any(self.work.stop.is_set())

    @property
    def _steps(self) -> int:
        return self.options.epochs * self.options.steps_per_epoch

    @property
    def _epoch(self) -> int:
        return self.step // self.options.steps_per_epoch

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        """The epoch's raw batches, without those that were seen before an interruption."""
        options = self.options
        drawn = draws(
            self.work.data.train,
            count=options.steps_per_epoch,
            batch=options.batch,
            crop=options.crop,
            seed=(self.work.seed, zlib.crc32(self.work.stage.name.encode()), epoch),
            transposes=options.transposes,
        )
        own = self.world.share(options.batch)
        left = islice(drawn, self.step % options.steps_per_epoch, None)
        return self.loader.batches(crops[own] for crops in left)

    def _end_epoch(self, epoch: int) -> None:
        """The one place where the host waits for the device and reads from it."""
        self.world.average([self.update.total])
        mean = float(self.update.total) / self.options.steps_per_epoch
        self.update.total.zero_()
        if not math.isfinite(mean):
            raise CompressError(
                f"{self.work.stage.name}: the loss of epoch {epoch + 1} is {mean}; "
                "try a lower lr or precision fp32"
            )
        self.update.check()
        self.history["loss"].append(mean)
        self.history["lr"].append(self.options.rate(self.step - 1))
        if self.world.first:
            log_file = self.work.stage / "log.csv"
            epoch_log.write(log_file, self.history, self.options.steps_per_epoch)

    def _save(self) -> None:
        self.world.average([self.update.total])  # what each has seen of a broken epoch
        if not self.world.first:
            return
        state.save(
            self.work.stage / state.FILE,
            self.update.amp.net,
            self.update.optimizer,
            {
                "step": self.step,
                "seconds": self.seconds,
                "history": self.history,
                "scaler": self.update.amp.state_dict(),
                "total": float(self.update.total),
            },
        )

    def _resume(self) -> None:
        """Fill what a captured step will work on, so this comes before the first step."""
        path = self.work.stage / state.FILE
        if not path.exists():
            return
        saved = state.load(path, self.update.amp.net, self.update.optimizer)
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.history = saved["history"]
        self.update.amp.load_state_dict(saved["scaler"])
        self.update.total.fill_(saved["total"])
        log.info("%s: resuming from step %d", self.work.stage.name, self.step)


def _precision(options: TrainOptions, work: Work) -> Precision:
    """The number format, and what several processes cannot do refused."""
    chosen = formats.choose(options.precision, work.device, options.scope)
    size = work.world.size
    if options.batch % size:
        raise UsageError(f"a batch of {options.batch} cannot be shared by {size} processes equally")
    if size > 1 and chosen.name.startswith("apex"):
        raise UsageError(f"precision {chosen.name} trains on one GPU; take fp16 or bf16 on several")
    return chosen
