"""prune: remove whole channels and rings of kernels; the network gets smaller and stays dense."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.checkpoint import Model
from compress.context import Kind, Use, Work
from compress.graph import cost, kernels
from compress.pruning import latency, taylor, unstructured, variance
from compress.pruning import plan as pruning
from compress.pruning.ledger import Ledger, Share
from compress.pruning.options import PruneOptions
from compress.pruning.selection import Ranked, score_at
from compress.pruning.worth import Worth
from compress.reporting import asked
from compress.reporting.formatting import SPACE
from compress.sparsity import masks
from compress.steps import latency as timed
from compress.steps.facts import PruneFacts, PruneGroup, PruneHead
from compress.training.recalibrate import recalibrated
from compress.training.samples import samples

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Prune(PruneOptions):
    """Remove whole channels: the network gets smaller and stays dense.

    Scores of a channel: gaussian and magnitude the norm of its weights and bias, l1 and l2 that of
    its weights, taylor what the loss would lose to first order, random a draw. gaussian compares
    them in standard deviations from their mean, the others by their place among the channels.
    variance is the share of the output's variance that runs through the channel, every channel in
    the scale where it varies by 1 (after NISP: Yu et al., CVPR 2018): rescaling a channel, which
    BatchNorm undoes, leaves it alone. It is divided by what the channel costs, one normal
    distribution is fitted to the logarithms of the whole network, and its low tail is removed.
    For comparison with studies that zero single weights, magnitude_weights and random_weights set
    the share `amount` of the convolution weights to zero and hold it there: no channel goes, and
    nothing gets faster.
    With target latency the cost of a channel is the milliseconds that it takes (after HALP: Shen et
    al., NeurIPS 2022): each shape of a layer is timed once on the device, and channels that cost
    nothing, because the kernels compute as many anyway, stay.
    Kernels may get smaller besides: a 5x5 becomes the 3x3 in its middle, with a pixel less of
    padding. With kernels weigh a ring of taps is worth the share of its layer's variance, or what
    the loss would lose to first order, and goes where that is less for what it saves.
    """

    kind: ClassVar[Kind] = "compressing"
    ADDED: ClassVar[tuple[str, ...]] = (*PruneOptions.ADDED, "at")

    base: Literal["current", "dense"] = "current"
    """Which network's: as it comes into this step, or before anything was pruned."""
    rounds: int = 1
    """Prune this many times, each followed by an equal part of the epochs of the `retrain` that
    comes next; the network gets smaller by the same factor each time."""
    at: float | None = None
    """Prune early: at this share of the epochs of the `train` before and the `retrain` after it, in
    (0, 1), which are divided anew, with one half cosine of the learning rate across both."""
    batches: int = 16
    """Batches of 4 training crops that taylor scores are averaged over, and variance scores where
    a layer reads something else than the output of BatchNorm."""
    recalibrate: int = 0
    """Batches of 4 training crops to measure BatchNorm statistics anew with; 0: leave them."""

    def __post_init__(self) -> None:
        """Refuse what no network could be pruned by."""
        super().__post_init__()
        if self.amount is None and (self.rounds > 1 or self.criterion in unstructured.KINDS):
            what = self.criterion if self.rounds == 1 else "rounds"
            raise ValueError(f"{what} needs an amount, a threshold is not enough")
        if self.at is not None and not 0 < self.at < 1:
            raise ValueError(f"at must lie in (0, 1), got {self.at}")
        if self.at is not None and self.rounds > 1:
            raise ValueError("give at or rounds, not both")
        for name in ("rounds", "batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.criterion in unstructured.KINDS:
            self._check_weights()
        if self.recalibrate < 0:
            raise ValueError(f"recalibrate must not be negative, got {self.recalibrate}")

    def _check_weights(self) -> None:
        """Refuse what single weights that are zero cannot do."""
        if self.target == "latency":
            raise ValueError(f"{self.criterion} removes no channels, so target cannot be latency")
        if self.kernels != "keep":
            raise ValueError(f"{self.criterion} removes no taps, so kernels must be keep")

    def uses(self, device: torch.device) -> Use:
        """Channel groups of the traced network; every plan is tried before it is used."""
        if self.criterion in unstructured.KINDS:
            return Use(name="masks on single weights, which save no time")
        return Use(name="channel groups of the traced network")

    def plan(
        self,
        model: Model,
        seed: int,
        importance: Mapping[str, Tensor] | Worth | None = None,
        device: torch.device = CPU,
    ) -> tuple[Model, pruning.Plan]:
        """The rewritten model that would be cut, and what would go.

        Args:
            model: what came in.
            seed: for the random criterion.
            importance: the scores of the taylor and variance criteria; without, l2 stands in for
                taylor, or variance where kernels are weighed, and inputs that no BatchNorm scales
                count as varying by 1 for variance.
            device: where layers are timed for target latency.
        """
        if model.masks:
            state = "2:4 sparse" if model.pattern == "2:4" else "masked"
            raise UsageError(
                f"prune: the network is {state}, and removing channels would break the pattern; "
                "prune first"
            )
        model = model.rewritten("deconv_to_conv")
        options = self
        if self.criterion == "taylor" and importance is None:
            options = replace(self, criterion="variance" if self.kernels == "weigh" else "l2")
        if options.criterion == "variance" and importance is None:
            importance = variance.worth(model.net, rings=self._rings(model.net))
        times = self._times(model, device)
        base = self._base(model, times)
        plan = pruning.plan(
            model.net, options, base=base, seed=seed, importance=importance, times=times
        )
        return model, plan

    def run(self, model: Model, work: Work) -> Model:
        """Choose channels by their ranks and cut them out of the network."""
        if model.quantised:
            raise UsageError("prune: the network is quantised; put prune before quantize")
        if self.criterion in unstructured.KINDS:
            return self._zero(model, work)
        model, plan = self.plan(model, work.seed, self._importance(model, work), work.device)
        pruned = replace(model, net=recalibrated(plan.apply(model.net), self.recalibrate, work))
        work.facts.update(self.describe(model, pruned, plan))
        said = asked.amount(work.facts).replace(SPACE, " ")
        log.info("removed %.1f %% of MACs%s", 100 * plan.removed["macs"], said and f" ({said})")
        if self.kernels != "keep":
            log.info("%d of %d kernels got smaller", len(plan.rings), len(plan.kernels))
        for name, reason in plan.failing.items():
            log.warning("%s stays whole: %s", name, reason)
        return pruned

    def _rings(self, net: nn.Module) -> dict[str, int]:
        """The rings whose worth is wanted."""
        return kernels.cuttable(net, self.min_kernel)[0] if self.kernels == "weigh" else {}

    def _importance(self, model: Model, work: Work) -> Worth | None:
        """Scores of the criteria that look at slices; None for those that look at weights."""
        if self.criterion not in ("taylor", "variance"):
            return None
        net = model.rewritten("deconv_to_conv").net
        drawn = partial(samples, work.data.train, self.batches, work.seed, work.device)
        rings = self._rings(net)
        if self.criterion == "taylor":
            return taylor.worth(net, drawn(), work.device, rings)
        return variance.worth(net, lambda: (low for low, _ in drawn()), work.device, rings)

    def describe(self, before: Model, after: Model, plan: pruning.Plan) -> PruneFacts:
        """The facts of a plan: shares removed, the threshold, and each group with its fit."""
        fitted = self.criterion == "gaussian" and self.scope == "layer" and not self.knapsack
        facts = {
            **self._head(before, after, dict(plan.removed)),
            "align": plan.align,
            "threshold": plan.selection.threshold,
            "reached": plan.selection.removed,
            "groups": [_group(g, plan, fitted) for g in plan.groups],
            "protected": [g.name for g in plan.groups if g.fixed],
            "proof": {
                "difference": plan.difference,
                "arithmetic": str(plan.tried_in).removeprefix("torch."),
                "failing": dict(plan.failing),
            },
        }
        if self.kernels != "keep":
            facts["kernels"] = [asdict(kernel) for kernel in plan.kernels]
        if plan.times is not None:
            facts["latency"] = timed.facts(self, plan.times)
        return cast("PruneFacts", facts)

    def _head(self, before: Model, after: Model, removed: dict[Share, float]) -> PruneHead:
        costs = {"before": cost.cost(before.net), "after": cost.cost(after.net)}
        head = {
            "criterion": self.criterion,
            "amount": self.amount,
            "of": self.target,
            "scope": "global" if self.knapsack else self.scope,
            "solver": "knapsack" if self.knapsack else "threshold",
            "removed": removed,
            "zeros": unstructured.zeros(after.net, after.masks),
            **{when: {"params": c.params, "macs": c.macs} for when, c in costs.items()},
        }
        return cast("PruneHead", head)

    def _zero(self, model: Model, work: Work) -> Model:
        """Mask single weights; the tensors keep their shapes."""
        assert self.amount is not None
        if model.masks:
            raise UsageError("prune: the network has masks, and new ones would undo them")
        found = unstructured.masks(
            model.net,
            self.criterion,  # type: ignore[arg-type]
            self.amount,
            per_layer=self.scope == "layer",
            seed=work.seed,
        )
        net = copy.deepcopy(model.net)
        masks.apply(net, found)
        net = recalibrated(net, self.recalibrate, work)
        masked = replace(model, net=net, masks=found, pattern="unstructured")
        none: dict[Share, float] = {"macs": 0.0, "params": 0.0, "channels": 0.0}
        facts = self._head(model, masked, none)
        work.facts.update(facts, align=None, threshold=None, groups=[], protected=[])
        log.info("%.1f %% of the weights are zero; no channel went", 100 * facts["zeros"])
        return masked

    def _times(self, model: Model, device: torch.device) -> latency.Table | None:
        """For target latency, times of the network's layers and of narrower ones."""
        if self.target != "latency":
            return None
        nets = [model.net] if self.base == "current" else [model.net, _dense(model)]
        return timed.table(self, nets, device)

    def _base(self, model: Model, times: latency.Table | None) -> float:
        """How many times as large the network is that `amount` is a share of."""
        if self.base == "current":
            return 1.0
        dense, now = (self._whole(net, times) for net in (_dense(model), model.net))
        return dense / now

    def _whole(self, net: nn.Module, times: latency.Table | None) -> float:
        """What `amount` is a share of, of a whole network."""
        size = (self.latency_size, self.latency_size)
        predictor = None if times is None else latency.Predictor(net, times, size)
        return Ledger(net, (), predictor).whole[self.target]


def _dense(model: Model) -> nn.Module:
    """The network before anything was pruned, with other weights."""
    dense = Model(net=replace(model.origin, weights=None).build(), origin=model.origin)
    return dense.rewritten("deconv_to_conv").net


def _group(group: Ranked, plan: pruning.Plan, fitted: bool) -> PruneGroup:
    kept = plan.selection.kept[group.name]
    normal = score_at(plan.selection.threshold, group)
    assert group.scores is not None
    return {
        "name": group.name,
        "width": group.width,
        "kept": len(kept),
        "mean": group.mean,
        "sigma": group.sigma,
        "threshold": normal if fitted else pruning.cut(group, kept),
        "z": [round(value, 6) for value in group.rank.tolist()],
        "scores": [float(f"{value:.6g}") for value in group.scores.tolist()],
        "fixed": group.fixed,
    }
