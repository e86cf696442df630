"""What a plan of channel pruning is asked for; checked where it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.base.renamed import Renamed
from compress.pruning.latency import From
from compress.pruning.ledger import Share

Scope = Literal["layer", "global"]
Solver = Literal["auto", "threshold", "knapsack"]
Kernels = Literal["keep", "weigh", "cut"]
ADDITIVE = ("variance", "taylor")
"""Criteria by which rings of kernels and channels are worth something in one currency."""


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Which channels are removed, and how many, and which kernels get smaller."""

    RENAMED: ClassVar[Mapping[str, Renamed]] = {
        "of": Renamed("target"),
        "floor": Renamed("min_keep"),
        "protect": Renamed("ignore"),
        "align": Renamed("round_to"),
    }
    ADDED: ClassVar[tuple[str, ...]] = (
        "solver", "kernels", "min_kernel", "latency_from", "latency_size", "latency_table",
    )  # fmt: skip
    FILES: ClassVar[tuple[str, ...]] = ("latency_table",)

    criterion: Literal[
        "gaussian", "l1", "l2", "magnitude", "random", "taylor", "variance",
        "magnitude_weights", "random_weights",
    ] = "gaussian"  # fmt: skip
    """How channels are ranked; gaussian: distance from the layer's mean norm in its deviations."""
    amount: float | None = None
    """Share of `target` to remove, in (0, 1); the threshold is solved from it."""
    threshold: float | None = None
    """Instead of `amount`: channels ranked below it are removed (gaussian: in standard
    deviations)."""
    target: Share = "macs"
    """What `amount` is a share of: multiply-accumulates, parameters, output channels, or latency:
    predicted milliseconds of the convolutions and linear layers, from a table of measured times."""
    round_to: int | None = 16
    """Kept channels are a multiple of this; 2:4 kernels need 16, tensor cores 8. null: the largest
    of 16, 8, 4, 2 and 1 that reaches the amount."""
    scope: Scope = "layer"
    """Compare channels within their layer, or over the whole network by their scores as they are.
    """
    solver: Solver = "auto"
    """threshold: one threshold on the ranks, then `round_to`. knapsack: what a channel is worth for
    what it costs, over the whole network whatever `scope`; the rest of the budget is filled up, and
    layers that `round_to` would halve stay whole as long as the others reach the amount. auto:
    knapsack for variance, target latency and kernels weigh, else threshold."""
    kernels: Kernels = "keep"
    """Whether square kernels of odd side may lose their outer rings, so that a 5x5 becomes the 3x3
    in its middle. keep: none. weigh: those whose taps are worth less for what they save than
    channels are, for the criteria variance and taylor. cut: all, and channels for the rest of the
    amount."""
    min_kernel: int = 3
    """Smallest side that kernels may get, odd; 3 makes 5x5 of 7x7, or 3x3."""
    min_keep: float = 0.0
    """Share of each layer's channels that are kept at least, in [0, 1]."""
    ignore: tuple[str, ...] = ()
    """Names of convolutions that keep all channels and taps; `*` stands for any text."""
    latency_from: From = "eager"
    """For target latency, what runs the layers that are timed: PyTorch (eager), torch.compile, or
    the kernels of the engine `fused`; each shape once, then kept in the user's cache."""
    latency_size: int = 512
    """For target latency, side of the slice that the network is timed for."""
    latency_table: str | None = None
    """For target latency, a file with measured times, in place of measuring on this machine; then
    `latency_from` is not used."""

    @property
    def knapsack(self) -> bool:
        """Whether channels are chosen by worth for cost."""
        weighed = (
            self.criterion == "variance" or self.target == "latency" or self.kernels == "weigh"
        )
        return self.solver == "knapsack" or (self.solver == "auto" and weighed)

    def __post_init__(self) -> None:
        """Refuse what no network could be pruned by."""
        if (self.amount is None) == (self.threshold is None):
            raise ValueError("give either amount or threshold")
        if self.amount is not None and not 0 < self.amount < 1:
            share = "it is a share, 0.5 for 50 %"
            raise ValueError(f"amount must lie in (0, 1), got {self.amount}; {share}")
        if not 0 <= self.min_keep <= 1:
            raise ValueError(f"min_keep must lie in [0, 1], got {self.min_keep}")
        if self.round_to is not None and self.round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {self.round_to}")
        self._check_kernels()
        if self.latency_size < 1:
            raise ValueError(f"latency_size must be at least 1, got {self.latency_size}")
        if self.latency_table is not None and self.target != "latency":
            raise ValueError(f"latency_table is for target latency, and target is {self.target}")

    def _check_kernels(self) -> None:
        """Refuse kernels that are none, and options by which taps and channels do not compare."""
        if self.min_kernel < 1 or self.min_kernel % 2 == 0:
            raise ValueError(f"min_kernel must be odd and at least 1, got {self.min_kernel}")
        if self.kernels != "weigh":
            return
        if self.criterion not in ADDITIVE:
            raise ValueError(
                f"kernels weigh is for the criteria {' and '.join(ADDITIVE)}, which count taps and "
                f"channels alike, got {self.criterion}; kernels cut is for any"
            )
        if self.amount is None:
            raise ValueError("kernels weigh needs an amount, a threshold is not enough")
        if self.solver == "threshold":
            raise ValueError("kernels weigh needs the solver knapsack")
