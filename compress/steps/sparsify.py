"""sparsify: 2:4 zeros in every convolution that can bear them; masks then hold to the end."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.base.errors import QualityError, UsageError
from compress.base.renamed import Renamed
from compress.checkpoint import Model
from compress.context import Kind, Use, Work
from compress.graph import cost
from compress.sparsity import eligibility, masks, pattern, permutation, reconstruction
from compress.sparsity.eligibility import Rule
from compress.steps.facts import (
    MaskFacts,
    Permutation,
    Reconstruction,
    SparseCounts,
    SparseLayer,
)
from compress.training.samples import samples

log = logging.getLogger(__name__)

SHOWN = 3
"""Layers whose reason is named where none can be 2:4."""


@dataclass(frozen=True, kw_only=True)
class Sparsify:
    """Make weights 2:4 sparse: of every four consecutive input channels two are zero.

    Layers that the network does not train stay dense: nothing could make up for their zeros.
    """

    kind: ClassVar[Kind] = "compressing"
    RENAMED: ClassVar[Mapping[str, Renamed]] = {
        "rule": Renamed("eligibility", {"backend": "asp", "trt": "tensorrt"}),
    }
    ADDED: ClassVar[tuple[str, ...]] = ("update", "batches")

    pattern: Literal["2:4"] = "2:4"
    """The pattern of NVIDIA's sparse tensor cores; the only one."""
    backend: Literal["auto", "modelopt", "asp"] = "auto"
    """Who computes the masks; auto: Apex ASP where it and a GPU are there, else ModelOpt."""
    eligibility: Literal["asp", "tensorrt"] = "asp"
    """Which layers: those that ModelOpt and Apex ASP take (input channels a multiple of 16, output
    channels of 8), or with tensorrt also those that TensorRT could run (input channels a multiple
    of 4), masked by our own function."""
    permute: bool = False
    """First put channels in an order that lets the masks keep more magnitude; the network computes
    the same."""
    update: Literal["none", "obs"] = "none"
    """none: the weights that stay are as they were. obs: masks and weights that keep each layer's
    output on training crops, by the optimal brain surgeon as in SparseGPT (Frantar and Alistarh,
    ICML 2023)."""
    batches: int = 4
    """Batches of 4 training crops for obs."""
    at_least: float = 0.0
    """Share of the weights of convolutions and linear layers that must lie in 2:4 layers, in
    [0, 1]; less is an error."""

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 <= self.at_least <= 1:
            raise ValueError(f"at_least must lie in [0, 1], got {self.at_least}")
        if self.update == "obs" and self.backend != "auto":
            raise ValueError(f"update obs computes its own masks; leave out backend {self.backend}")
        if self.batches < 1:
            raise ValueError(f"batches must be at least 1, got {self.batches}")

    @property
    def rule(self) -> Rule:
        """The rule of `eligibility`."""
        return "backend" if self.eligibility == "asp" else "trt"

    def uses(self, device: torch.device) -> Use:
        """The back end that computes the masks."""
        if self.update == "obs":
            return Use(name="obs", why="update: obs")
        backend, why = masks.choose(self.backend)
        return Use(name=backend, why=why, needs=(masks.MODULES[backend],))

    def run(self, model: Model, work: Work) -> Model:
        """Compute the masks, apply them, and say of every layer what was done or why not."""
        self._refuse(model)
        model = self._permuted(model.rewritten("deconv_to_conv"), work)
        before = model.net
        used = self.uses(work.device)
        model, found = self._computed(model, work)
        # Masks hold to the end, that is all a user is told of them: a later sparsify chooses anew
        # in the layers that it takes, and lets no layer of an earlier one go.
        held = {**model.masks, **found}
        sparse = replace(model, net=_masked(model, held), masks=held)
        facts: MaskFacts = {
            "pattern": self.pattern,
            "rule": self.rule,
            "backend": used.name,
            "why": used.why,
            **describe(sparse.net, held, self.rule),
            "kept_magnitude": _kept(before, held),
            "masks_from_before": sorted(held.keys() - found.keys()),
        }
        work.facts.update(facts)
        self._say(sparse, facts)
        if facts["share_of_weights"] < self.at_least:
            share = f"{facts['share_of_weights']:.3f} of the weights lie in 2:4 layers"
            raise QualityError(f"sparsify: {share}, the recipe asks for at least {self.at_least}")
        return sparse

    def _computed(self, model: Model, work: Work) -> tuple[Model, Mapping[str, Tensor]]:
        """The masks, and the model with the weights that they are for."""
        if self.update == "none":
            backend, _ = masks.choose(self.backend)
            return model, masks.compute(model.net, backend, self.rule)
        pattern.check_finite(model.net)
        reasons = eligibility.reasons(model.net, self.rule)
        taken = [name for name, why in reasons.items() if not why]
        drawn = samples(work.data.train, self.batches, work.seed, work.device)
        inputs = [low for low, _ in drawn]
        net = copy.deepcopy(model.net).to(work.device)
        made = reconstruction.reconstruct(net, taken, inputs)
        gain: Reconstruction = {
            "slices": sum(len(low) for low in inputs),
            "loss": made.loss,
            "loss_magnitude": made.loss_magnitude,
        }
        work.facts["reconstruction"] = gain
        log.info(
            "masks change the outputs of layers by %.2f %% in power; %.2f %% by magnitude alone",
            100 * made.loss,
            100 * made.loss_magnitude,
        )
        return replace(model, net=made.net.cpu()), made.masks

    def _refuse(self, model: Model) -> None:
        """Refuse networks that cannot get masks, or that have such as this step would break."""
        if model.quantised:
            raise UsageError("sparsify: the network is quantised; put sparsify before quantize")
        if model.masks and model.pattern != "2:4":
            raise UsageError("sparsify: single weights were masked before, and 2:4 would undo that")
        if model.masks and self.permute:
            raise UsageError(
                "sparsify: the network has masks, and permute would move channels away from under "
                "them; permute in the first sparsify, or leave it out here"
            )
        if not cost.compressible(model.net):
            raise UsageError(
                "sparsify: the network has no convolution or linear layer of these kinds: Conv2d, "
                "ConvTranspose2d, Linear; leave the step out"
            )

    def _say(self, sparse: Model, facts: MaskFacts) -> None:
        """Log how many layers are 2:4, and where none is, why."""
        before = len(facts["masks_from_before"])
        kept = f", {before} of them by masks from before" if before else ""
        log.info("%d of %d layers are 2:4%s", facts["done"], facts["convolutions"], kept)
        if frozen := sum(row["reason"] == eligibility.FROZEN for row in facts["layers"]):
            log.info(
                "left dense: %d frozen %s, as training could not make up for zeros there "
                "(requires_grad is False)",
                frozen,
                "layer" if frozen == 1 else "layers",
            )
        if not sparse.masks:
            shown = [f"{row['name']}: {row['reason']}" for row in facts["layers"]][:SHOWN]
            log.warning("sparsify: no layer can be 2:4, so nothing was done; %s", "; ".join(shown))

    def _permuted(self, model: Model, work: Work) -> Model:
        """The model, or where asked for the same with its channels in a better order."""
        if not self.permute:
            return model
        reasons = eligibility.reasons(model.net, self.rule)
        found = permutation.permute(model.net, [name for name, why in reasons.items() if not why])
        gain: Permutation = {
            "exchanges": found.exchanges,
            "kept_before": found.kept_before,
            "kept": found.kept,
        }
        work.facts["permutation"] = gain
        log.info(
            "masks keep %.2f %% of the magnitude, %.2f %% before %d exchanges of channels",
            100 * found.kept,
            100 * found.kept_before,
            found.exchanges,
        )
        return replace(model, net=found.net)


def describe(
    net: nn.Module, found: Mapping[str, Tensor], rule: eligibility.Rule = "backend"
) -> SparseCounts:
    """Every layer of `net` with its shape, whether it is 2:4, and why `rule` refuses it."""
    layers: list[SparseLayer] = []
    weights, covered, zeros = 0, 0, 0
    modules = cost.compressible(net)
    whys = {rule: eligibility.reasons(net, rule) for rule in eligibility.RULES}
    for name, module in modules.items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        weights += weight.numel()
        if name in found:
            covered += weight.numel()
            zeros += weight.numel() - int(torch.count_nonzero(weight))
        shape, reason = list(weight.shape), whys[rule][name]
        if name in found:
            refused = eligibility.refusal(module)
            reason = f"by TensorRT's rule; the back end refuses: {refused}" if refused else ""
        layers.append({"name": name, "shape": shape, "done": name in found, "reason": reason})
    able = {rule: sum(not why for why in found.values()) for rule, found in whys.items()}
    return {
        "convolutions": len(modules),
        "done": len(found),
        "eligible_backend": able["backend"],
        "eligible_trt": able["trt"],
        "layers": layers,
        "share_of_weights": covered / weights,
        "zeros_in_sparse_layers": zeros / covered if covered else 0.0,
    }


def _kept(net: nn.Module, held: Mapping[str, Tensor]) -> float:
    """Share of the magnitude of the masked layers, the sum of |w|, that their masks keep."""
    weights = {n: net.get_parameter(f"{n}.weight").detach().abs().double() for n in held}
    whole = sum(float(weight.sum()) for weight in weights.values())
    rest = sum(float(weight[held[n].to(weight.device)].sum()) for n, weight in weights.items())
    return rest / whole if whole else 1.0


def _masked(model: Model, found: Mapping[str, Tensor]) -> nn.Module:
    net = copy.deepcopy(model.net)
    masks.apply(net, found)
    return net
