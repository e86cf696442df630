"""quantize: INT8 for inputs and weights of layers, half precision for those that cost too much."""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.base.errors import QualityError, UsageError
from compress.checkpoint import Model
from compress.context import Kind, Use, Work
from compress.graph import cost, draws
from compress.graph.padding import refuse_sides
from compress.quantization import equalise, error, layers, quantisers
from compress.quantization.quantisers import Method
from compress.quantization.records import QuantisedLayer
from compress.sparsity import pattern
from compress.steps.facts import QuantizeFacts
from compress.training.precision import Precision
from compress.training.samples import BATCH, samples

log = logging.getLogger(__name__)

SHOWN = 3
"""Layers whose reason is named where none can be INT8."""


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Round inputs and weights of convolutions and linear layers to INT8, with ModelOpt.

    Ranges come from training crops and stay. A `retrain` after it learns with the rounding
    (quantisation-aware training); masks hold throughout. Prune and sparsify come before it.
    """

    kind: ClassVar[Kind] = "compressing"

    format: Literal["int8"] = "int8"
    """The number format; the only one."""
    keep: Literal["auto"] | tuple[str, ...] = "auto"
    """Layers that stay in half precision: names or patterns such as "*.narrow.conv"; auto: those
    whose error is too large for `budget`, first those that buy most with the fewest MACs."""
    only: tuple[str, ...] = ()
    """Layers that may be INT8, named likewise; all where it is empty. The fused engine computes
    ["*.growth.conv", "*.wide.conv"] in INT8, and no others."""
    budget: float = 1.0
    """Root mean square in HU that auto lets INT8 change the output by, on calibration crops."""
    calibrate: int = 16
    """Training crops that ranges are taken from, rounded up to fours; the first four tell what a
    layer costs."""
    equalise: bool = True
    """Whether channels of an input are scaled to one range first, where the layer before can undo
    it, so that the function stays and is rounded less."""
    method: Method = "max"
    """Range of an input: its largest magnitude, the range of the least squared error of its
    values (mse), or one that 99.99 % of them lie in (percentile). Weights always have max."""

    def __post_init__(self) -> None:
        """Refuse what no calibration could follow."""
        if self.calibrate < 1:
            raise ValueError(f"calibrate must be at least 1, got {self.calibrate}")
        if not self.budget > 0:
            raise ValueError(f"budget must be positive, got {self.budget}")

    def uses(self, device: torch.device) -> Use:
        """ModelOpt, which there is no choice from."""
        return Use(name="modelopt", needs=(quantisers.LIBRARY,))

    def run(self, model: Model, work: Work) -> Model:
        """Calibrate, measure what each layer costs, and say of every layer whether it is INT8.

        Raises:
            UsageError: the network is quantised already, has no layer that can be, does not take
                such small slices, or `keep` or `only` names none.
            QualityError: every layer alone costs more than the budget.
        """
        self._refuse(model)
        model = model.rewritten("deconv_to_conv")
        reasons = self._reasons(model.net)
        inputs = self._inputs(work)
        net = copy.deepcopy(model.net).to(work.device).eval()
        names = {name for name, why in reasons.items() if not why}
        if names:
            _, _, height, width = inputs[0].shape
            refuse_sides(model.net, (height, width), "quantize: crops to measure on")
        with Precision(name="fp32", device=work.device, why="measuring").switches():
            equal = tuple[str, ...]()
            if self.equalise:
                net, equal = equalise.equalised(net, names, inputs)
            found, left = quantisers.calibrated(net, names, inputs, self.method)
            reasons |= left
            errors, facts = self._chosen(found, sorted(names - left.keys()), reasons, inputs[0])
        facts["layers"] = _rows(net, reasons, errors)
        facts["equalised"] = sum(not reasons[name] for name in equal)
        work.facts.update(facts)
        self._say(facts)
        int8 = {name: errors[name] for name, why in reasons.items() if not why}
        return replace(model, net=quantisers.settled(found).cpu(), quantised=int8)

    def _refuse(self, model: Model) -> None:
        if model.quantised:
            raise UsageError("quantize: the network is quantised already; leave the step out")
        if not cost.compressible(model.net):
            raise UsageError(
                "quantize: the network has no convolution or linear layer of these kinds: Conv2d, "
                "ConvTranspose2d, Linear; leave the step out"
            )
        pattern.check_finite(model.net)

    def _reasons(self, net: nn.Module) -> dict[str, str]:
        """Why layers stay in half precision, as far as the network tells; empty for the others."""
        able = cost.compressible(net).items()
        found = {name: layers.refusal(layer) or layers.zero(layer) for name, layer in able}
        asked = layers.others(net, self.only) if self.only else {}
        if self.keep != "auto":
            asked |= layers.asked(net, self.keep)
        return {name: asked.get(name) or why for name, why in found.items()}

    def _inputs(self, work: Work) -> list[Tensor]:
        count = math.ceil(self.calibrate / BATCH)
        drawn = samples(work.data.train, count, work.seed, work.device)
        return [low for low, _ in drawn]

    def _chosen(
        self, net: nn.Module, able: Sequence[str], reasons: dict[str, str], x: Tensor
    ) -> tuple[dict[str, float], QuantizeFacts]:
        """The error of each layer, and what was chosen; `net` and `reasons` follow the choice."""
        if not able:
            shown = [f"{name}: {why}" for name, why in reasons.items()][:SHOWN]
            raise UsageError(f"quantize: no layer can be INT8; {'; '.join(shown)}")
        if not draws.steady(net, x):
            raise draws.refused(net)
        exact = _exact(net, x)
        errors = error.each(net, able, x, exact)
        everything = left = error.of(net, able, x, exact)
        if self.keep == "auto":
            macs = {name: layer.macs for name, layer in cost.layers(net).items()}
            kept, left = error.kept(net, errors, macs, x, exact, self.budget)
            if len(kept) == len(able):
                least = min(errors.values())
                raise QualityError(
                    f"quantize: budget {self.budget:g} HU leaves no layer in INT8: the cheapest "
                    f"alone costs {least:.2g} HU"
                )
            reasons |= {
                n: f"alone it costs {errors[n]:.2g} HU, too much for the budget" for n in kept
            }
        return errors, {
            "format": self.format,
            "method": self.method,
            "crops": len(x) * math.ceil(self.calibrate / BATCH),
            "budget_hu": self.budget if self.keep == "auto" else None,
            "error_all_hu": everything,
            "error_hu": left,
            "equalised": 0,
            "layers": [],
        }

    def _say(self, facts: QuantizeFacts) -> None:
        int8 = sum(row["int8"] for row in facts["layers"])
        log.info(
            "%d of %d layers are INT8 and change the output by %.2f HU rms; all would by %.2f",
            int8,
            len(facts["layers"]),
            facts["error_hu"],
            facts["error_all_hu"],
        )


def _exact(net: nn.Module, x: Tensor) -> Tensor:
    """What a network gives where nothing is quantised."""
    quantisers.only(net, ())
    with torch.no_grad():
        y: Tensor = net(x)
    return y


def _rows(
    net: nn.Module, reasons: Mapping[str, str], errors: Mapping[str, float]
) -> list[QuantisedLayer]:
    used = cost.layers(net)
    return [
        {
            "name": name,
            "int8": not why,
            "reason": why,
            "error_hu": errors.get(name),
            "macs": used[name].macs if name in used else 0,
        }
        for name, why in reasons.items()
    ]
