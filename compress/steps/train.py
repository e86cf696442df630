"""train and retrain: the one training loop of the project."""

import copy
import logging
import math
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress import distill, losses
from compress import precision as formats
from compress.checkpoint import Model
from compress.data.crops import batches
from compress.errors import CompressError, Stopped
from compress.masks import Holder
from compress.precision import Precision
from compress.progress import track
from compress.recalibrate import recalibrated
from compress.steps import state
from compress.work import Use, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train, or train again after pruning or sparsifying; masks hold throughout.

    Adam (Kingma and Ba, ICLR 2015) with the learning rate falling along half a cosine.
    """

    epochs: int
    """Passes; each draws `slices_per_epoch` random crops."""
    batch: int = 8
    """Crops per optimizer step."""
    crop: int | None = 64
    """Side of the random square crops in pixels; null takes whole slices."""
    slices_per_epoch: int = 256
    """Crops drawn per epoch, rounded up to whole batches."""
    lr: float = 1e-3
    """Learning rate at the start."""
    lr_final: float = 0.01
    """Learning rate at the end, as a share of `lr`."""
    weight_decay: float = 0.0
    """L2 penalty on all parameters, as in Adam."""
    loss: losses.Name = "mse"
    """Mean squared error in network range, or the study's mix with MS-SSIM (sides >= 176)."""
    precision: formats.Name = "auto"
    """Number format of the convolutions; auto: fp16 on a GPU with tensor cores, else fp32."""
    rewind: float = 0.0
    """Where on the half cosine the rate starts, in [0, 1): 0 at `lr`; 0.75 is where a training
    four times as long would be (learning-rate rewinding: Renda et al., ICLR 2020)."""
    distill: float = 0.0
    """Weight of the dense network's output in the target, in [0, 1]; the rest is the full dose."""
    recalibrate: int = 0
    """Batches of 4 training crops to measure BatchNorm statistics anew with at the end; 0: none."""

    def __post_init__(self) -> None:
        """Refuse counts and rates that no training can have."""
        for name in ("epochs", "batch", "slices_per_epoch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"crop must be at least 1 pixel, got {self.crop}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.rewind < 1:
            raise ValueError(f"rewind must lie in [0, 1), got {self.rewind}")
        if not 0 <= self.distill <= 1:
            raise ValueError(f"distill must lie in [0, 1], got {self.distill}")
        if self.recalibrate < 0:
            raise ValueError(f"recalibrate must not be negative, got {self.recalibrate}")

    def uses(self, device: torch.device) -> Use:
        """The number format on this device."""
        chosen = formats.choose(self.precision, device)
        return Use(name=chosen.name, why=chosen.why)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return math.ceil(self.slices_per_epoch / self.batch)

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0 over all epochs."""
        done = self.rewind + (1 - self.rewind) * step / (self.epochs * self.steps_per_epoch)
        return self.lr * (self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * done)) / 2)

    def run(self, model: Model, work: Work) -> Model:
        """Train to the last epoch, from where an interrupted run left off.

        Raises:
            Stopped: a signal came; the state is saved and the next run goes on from there.
            CompressError: the loss is not finite, or a mask broke.
        """
        session = _Session(self, model, work)
        session.run()
        net = session.net.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        work.facts.update(session.facts())
        return replace(model, net=recalibrated(net.eval(), self.recalibrate, work))


class _Session:
    """One training run: network, optimizer and what has been seen so far."""

    def __init__(self, options: Train, model: Model, work: Work) -> None:
        self.options, self.work = options, work
        self.precision: Precision = formats.choose(options.precision, work.device)
        self.net = self.precision.prepare(copy.deepcopy(model.net)).train()
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), options.lr, weight_decay=options.weight_decay
        )
        self.scaler = self.precision.scaler()
        self.loss = losses.loss(options.loss)
        self.target = distill.target(options.distill, work)
        self.hold = Holder(self.net, model.masks, model.pattern)
        self.log = _Log(work.stage / "log.csv")
        self.step = 0
        self.seconds = 0.0
        self.history: dict[str, list[float]] = {"loss": [], "lr": []}
        self.total = torch.zeros((), device=work.device)  # loss summed over the epoch so far

    def run(self) -> None:
        self._resume()
        for epoch in track(range(self._epoch, self.options.epochs), self.work.stage.name):
            started = time.monotonic()
            for low, full in self._batches(epoch):
                self._step(low, full)
                if self.work.stop.is_set():
                    break
            if self._epoch > epoch:  # all its steps are done
                self._end_epoch(epoch)
            self._save(started)
            if self.step < self.options.epochs * self.options.steps_per_epoch:
                self._leave_if_asked()
        self.work.stage.joinpath(state.FILE).unlink(missing_ok=True)

    def _leave_if_asked(self) -> None:
        if self.work.stop.is_set():
            raise Stopped(f"{self.work.stage.name}: stopped and saved; run again to go on")

    def facts(self) -> dict[str, Any]:
        """What facts.json keeps of the training."""
        options = self.options
        return {
            "epochs": options.epochs,
            "steps": self.step,
            "batch": options.batch,
            "crop": options.crop,
            "precision": self.precision.name,
            "precision_why": self.precision.why,
            "device": str(self.work.device),
            "train_seconds": round(self.seconds, 3),
            **self.history,
        }

    @property
    def _epoch(self) -> int:
        return self.step // self.options.steps_per_epoch

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's batches, without those that were seen before an interruption."""
        options = self.options
        drawn = batches(
            self.work.data.train,
            count=options.steps_per_epoch,
            batch=options.batch,
            crop=options.crop,
            seed=(self.work.seed, zlib.crc32(self.work.stage.name.encode()), epoch),
            device=self.work.device,
        )
        return islice(drawn, self.step % options.steps_per_epoch, None)

    def _step(self, low: Tensor, full: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            enhanced = self.net(low)
        loss = self.loss(enhanced.float(), self.target(low, full))
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.hold()
        self.total += loss.detach()
        self.step += 1

    def _end_epoch(self, epoch: int) -> None:
        mean = float(self.total) / self.options.steps_per_epoch
        self.total.zero_()
        if not math.isfinite(mean):
            raise CompressError(
                f"{self.work.stage.name}: the loss of epoch {epoch + 1} is {mean}; "
                "try a lower lr or precision fp32"
            )
        self.hold.check()
        self.history["loss"].append(mean)
        self.history["lr"].append(self.options.rate(self.step - 1))

    def _save(self, started: float) -> None:
        self.seconds += time.monotonic() - started
        state.save(
            self.work.stage / state.FILE,
            self.net,
            self.optimizer,
            {
                "step": self.step,
                "seconds": self.seconds,
                "history": self.history,
                "scaler": self.scaler.state_dict(),
                "total": float(self.total),
            },
        )
        self.log.write(self.history, self.options.steps_per_epoch)

    def _resume(self) -> None:
        path = self.work.stage / state.FILE
        if not path.exists():
            return
        saved = state.load(path, self.net, self.optimizer)
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.history = saved["history"]
        self.scaler.load_state_dict(saved["scaler"])
        self.total.fill_(saved["total"])
        log.info("%s: going on from step %d", self.work.stage.name, self.step)


class _Log:
    """log.csv of a stage: one line an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, history: dict[str, list[float]], steps: int) -> None:
        rows = zip(history["loss"], history["lr"], strict=True)
        lines = [f"{i},{i * steps},{loss:.8g},{lr:.8g}" for i, (loss, lr) in enumerate(rows, 1)]
        self.path.write_text("\n".join(["epoch,step,loss,lr", *lines]) + "\n", encoding="utf-8")
