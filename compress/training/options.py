"""Options of the training loop, checked where they are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from compress.base.renamed import Renamed
from compress.data import loaders
from compress.training import losses
from compress.training import precision as formats


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a training: Adam (Kingma and Ba, ICLR 2015) with cosine learning-rate decay."""

    RENAMED: ClassVar[Mapping[str, Renamed]] = {
        "rewind": Renamed("lr_rewind"),
        "graph": Renamed("cuda_graph"),
    }
    ADDED: ClassVar[tuple[str, ...]] = ("lr_until", "transposes", "freeze_norm_last")

    epochs: int
    """Passes; each draws `slices_per_epoch` random crops."""
    batch: int = 8
    """Crops per optimizer step."""
    crop: int | None = 64
    """Side of the random square crops in pixels; null takes whole slices."""
    slices_per_epoch: int = 256
    """Crops drawn per epoch, rounded up to whole batches."""
    transposes: bool = False
    """Transpose every second crop, at random, besides the mirror images that are always drawn: all
    eight symmetries of a square instead of four."""
    lr: float = 1e-3
    """Learning rate at the start."""
    lr_final: float = 0.01
    """Learning rate at the end, as a share of `lr`."""
    weight_decay: float = 0.0
    """L2 penalty on all parameters, as in Adam."""
    loss: losses.Name = "mse"
    """Mean squared error in network range, or the study's mix with MS-SSIM (sides >= 176)."""
    precision: formats.Name = "auto"
    """Number format of the convolutions; auto: bf16 from Ampere on, fp16 on Volta and Turing, fp32
    elsewhere. Apex is taken by name only: its steps cannot be captured as a CUDA graph."""
    scope: formats.Scope = "all"
    """Where the format applies: everywhere, or in the 2:4 sparse layers only, the rest in fp32."""
    loader: loaders.Name = "auto"
    """Where crops are cut: gpu keeps the whole training set in GPU memory, workers cut ahead in
    threads and stream, host cuts when needed; auto: gpu where the set fits into a quarter of the
    free memory, else workers; host on the CPU."""
    cuda_graph: bool = True
    """Run the whole training step as one CUDA graph on a GPU: the same numbers, fewer waits."""
    compile: bool = False
    """Compile network and loss with torch.compile: up to a minute before the first step, then
    faster; rounding differs a little."""
    freeze_norm: bool = False
    """BatchNorm keeps the statistics that it has and uses them; its scale and shift learn."""
    freeze_norm_last: float = 0.0
    """Share of the epochs, at the end and rounded to whole ones, that are trained as with
    `freeze_norm`: the weights settle on the statistics that the network will be used with."""
    sync_norm: bool = False
    """On several GPUs BatchNorm takes its statistics over the whole batch, not a GPU's share."""
    lr_rewind: float = 0.0
    """Where on the half cosine the rate starts, in [0, 1): 0 at `lr`; 0.75 is where a training
    four times as long would be (learning-rate rewinding: Renda et al., ICLR 2020)."""
    lr_until: float = 1.0
    """Where on the half cosine the rate ends, in (lr_rewind, 1]: 0.1 is the first tenth of a
    training ten times as long."""
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
        self._check_rates()
        self._check_formats()
        self._check_targets()

    def _check_rates(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        for name in ("lr_final", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:  # NaN is refused, too
                value = getattr(self, name)
                raise ValueError(f"{name} must be finite and not negative, got {value}")

    def _check_formats(self) -> None:
        if self.scope != "all" and self.precision not in ("auto", "fp16", "bf16"):
            raise ValueError(f"scope {self.scope} needs fp16, bf16 or auto, got {self.precision}")
        if self.compile and self.precision.startswith("apex"):
            raise ValueError(f"compile cannot be used with precision {self.precision}")
        if self.freeze_norm and self.sync_norm:
            raise ValueError("give freeze_norm or sync_norm, not both")
        if self.freeze_norm and self.freeze_norm_last:
            raise ValueError("give freeze_norm or freeze_norm_last, not both")
        if not 0 <= self.freeze_norm_last <= 1:
            raise ValueError(f"freeze_norm_last must lie in [0, 1], got {self.freeze_norm_last}")

    def _check_targets(self) -> None:
        if not 0 <= self.lr_rewind < 1:
            raise ValueError(f"lr_rewind must lie in [0, 1), got {self.lr_rewind}")
        if not self.lr_rewind < self.lr_until <= 1:
            raise ValueError(f"lr_until must lie in (lr_rewind, 1], got {self.lr_until}")
        if not 0 <= self.distill <= 1:
            raise ValueError(f"distill must lie in [0, 1], got {self.distill}")
        if self.recalibrate < 0:
            raise ValueError(f"recalibrate must not be negative, got {self.recalibrate}")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return math.ceil(self.slices_per_epoch / self.batch)

    def norm_is_frozen(self, epoch: int) -> bool:
        """Whether BatchNorm keeps its statistics in `epoch`, counted from 0."""
        last = round(self.epochs * self.freeze_norm_last)
        return self.freeze_norm or epoch >= self.epochs - last

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0 over all epochs."""
        part = (self.lr_until - self.lr_rewind) * step / (self.epochs * self.steps_per_epoch)
        done = self.lr_rewind + part
        return self.lr * (self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * done)) / 2)
