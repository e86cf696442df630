"""prune: remove whole channels; the network gets smaller and stays dense."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch

from compress import cost, pruning
from compress.checkpoint import Model
from compress.errors import UsageError
from compress.pruning import Share
from compress.selection import Criterion
from compress.work import Use, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Remove whole channels: the network gets smaller and stays dense."""

    criterion: Criterion = "gaussian"
    """How channels are ranked; gaussian: distance from the layer's mean norm in its deviations."""
    amount: float | None = None
    """Share of `of` to remove, in (0, 1); the threshold is solved from it."""
    threshold: float | None = None
    """Instead of `amount`: channels ranked below it go (gaussian: in standard deviations)."""
    of: Share = "macs"
    """What `amount` is a share of: multiply-accumulates, parameters or output channels."""
    align: int = 16
    """Channels kept are a multiple of this; 2:4 kernels need 16, tensor cores 8."""
    protect: tuple[str, ...] = ()
    """Names of convolutions that keep all channels; `*` stands for any text."""

    def __post_init__(self) -> None:
        """Refuse what no network could be pruned by."""
        if (self.amount is None) == (self.threshold is None):
            raise ValueError("give either amount or threshold")
        if self.amount is not None and not 0 < self.amount < 1:
            raise ValueError(f"amount must lie in (0, 1), got {self.amount}")
        if self.align < 1:
            raise ValueError(f"align must be at least 1, got {self.align}")

    def uses(self, device: torch.device) -> Use:
        """The dependency graph of torch_pruning; channels are chosen here."""
        return Use(name="torch_pruning's dependency graph", needs=("torch_pruning",))

    def plan(self, model: Model, seed: int) -> tuple[Model, pruning.Plan]:
        """The rewritten model that would be cut, and what would go."""
        if model.masks:
            raise UsageError("prune: the network is 2:4 sparse, and removing channels would end it")
        model = model.rewritten("deconv_to_conv")
        plan = pruning.plan(
            model.net,
            criterion=self.criterion,
            amount=self.amount,
            threshold=self.threshold,
            of=self.of,
            align=self.align,
            protect=self.protect,
            seed=seed,
        )
        return model, plan

    def run(self, model: Model, work: Work) -> Model:
        """Choose channels by their ranks and cut them out of the network."""
        model, plan = self.plan(model, work.seed)
        pruned = replace(model, net=plan.apply(model.net))
        work.facts.update(self.describe(model, pruned, plan))
        log.info("removed %.1f %% of MACs", 100 * plan.removed["macs"])
        return pruned

    def describe(self, before: Model, after: Model, plan: pruning.Plan) -> dict[str, Any]:
        """The facts of a plan: shares removed, the threshold, and each group with its fit."""
        costs = {"before": cost.cost(before.net), "after": cost.cost(after.net)}
        return {
            "criterion": self.criterion,
            "amount": self.amount,
            "of": self.of,
            "align": self.align,
            "threshold": plan.selection.threshold,
            "removed": dict(plan.removed),
            **{when: {"params": c.params, "macs": c.macs} for when, c in costs.items()},
            "groups": [
                {
                    "name": g.name,
                    "width": g.width,
                    "kept": len(plan.selection.kept[g.name]),
                    "mean": g.mean,
                    "sigma": g.sigma,
                    "threshold": g.mean + g.sigma * plan.selection.threshold,
                    "z": [round(value, 6) for value in g.rank.tolist()],
                    "fixed": g.fixed,
                }
                for g in plan.groups
            ],
            "protected": [g.name for g in plan.groups if g.fixed],
        }
