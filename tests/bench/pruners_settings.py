"""What `pruners.py` compares: arms, networks, and what is the same for all arms."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.checkpoint import ModelOptions
from compress.models.ddnet import KERNELS
from compress.pruning.options import Kernels
from compress.steps.train import Train

TABLE, ROW = "latency.json", "row.json"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A dense network and how it is trained."""

    about: Mapping[str, Any]
    """Fields of `ModelOptions`."""
    crop: int | None = None
    batch: int = 2
    lr: float = 1e-3
    slices_per_epoch: int | None = None
    """Crops in an epoch; None: those of the settings."""


NETWORKS = {
    "ddnet": Network(about={"name": "ddnet", "options": {"residual": True}}),
    "redcnn": Network(about={"name": "redcnn"}, crop=64, batch=8, lr=1e-4, slices_per_epoch=256),
    "basicunet": Network(
        about={
            "import_": "monai.networks.nets:BasicUNet",
            "options": {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "norm": "batch"},
        },
        crop=128, batch=8, slices_per_epoch=256,
    ),
}  # fmt: skip
"""BasicUNet: 1,978,433 parameters, of MONAI."""
TINY: Mapping[str, Mapping[str, Any]] = {
    "ddnet": {"bottleneck": 32},
    "redcnn": {"channels": 8},
    "basicunet": {"features": [8] * 6},
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One network of the comparison."""

    name: str
    how: str = "ours"
    """none, ours, latency, torch_pruning or fastnas: what prunes."""
    removed: float = 0.0
    """Share of the MACs of the network, with 5x5 kernels, that is to go; for latency: the arm by
    MACs whose predicted milliseconds it has as its budget."""
    criterion: str = "variance"
    solver: str = "auto"
    kernels: tuple[int, ...] = KERNELS
    """Of the dense network."""
    smaller: Kernels = "keep"
    """For ours and latency: whether the plan makes kernels smaller, the option `kernels`."""
    sparse: bool = False
    """Whether it is 2:4 from the cut on."""
    int8: str = ""
    """After its training INT8, trained on with the rounding: fused, the layers that the engine
    computes so, or all; those that cost more than 1 HU stay in half precision."""
    network: str = "ddnet"
    realisations: int = 1
    """Low-dose versions of a training slice."""
    train: tuple[tuple[str, Any], ...] = ()
    """Options of its training that differ from the others'."""
    seed: int = 0
    """Of initial weights, crops and the random criterion."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for all arms."""

    out: Path
    report: Path
    """Where rows go; `out` is for networks."""
    device: str
    data: Mapping[str, Any]
    """Options of the recipe's `data`."""
    epochs: int
    at: float
    """Share of the epochs before the cut."""
    slices_per_epoch: int
    tiny: bool = False
    """Whether networks are narrow and slices small, to see whether it runs."""
    latency_from: str = "fused"
    latency_size: int = 512
    one_shot: bool = False
    """Measure the pruned network before it is trained, too."""
    rounded: int = 4
    """Epochs with the rounding to INT8, after the others."""
    until: float = float("inf")
    """When no arm is begun any more, on the clock of time.time."""

    @property
    def cut(self) -> int:
        """Epochs before channels go."""
        return max(1, round(self.at * self.epochs))

    def train(self, arm: Arm, epochs: int, **options: Any) -> Train:
        """A training of an arm's network."""
        network = NETWORKS[arm.network]
        slices = network.slices_per_epoch or self.slices_per_epoch
        values: dict[str, Any] = {
            "epochs": epochs, "batch": network.batch, "lr": network.lr,
            "crop": None if self.tiny else network.crop,
            "slices_per_epoch": 4 if self.tiny else slices,
        }  # fmt: skip
        return Train(**{**values, **options, **dict(arm.train)})

    def origin(self, arm: Arm) -> ModelOptions:
        """How the dense network of an arm is built."""
        about = dict(NETWORKS[arm.network].about)
        options = {**about.pop("options", {}), **(TINY[arm.network] if self.tiny else {})}
        if arm.kernels != KERNELS:
            options["kernels"] = list(arm.kernels)
        return ModelOptions(options=options, **about)
