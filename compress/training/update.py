"""One optimizer step: all that the device does, from a raw batch to masked weights."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress import losses
from compress.checkpoint import Model
from compress.data.loaders import Loader
from compress.masks import Holder
from compress.precision import Precision
from compress.training.stepper import Stepper, first_line

if TYPE_CHECKING:
    from compress.steps.train import Train

log = logging.getLogger(__name__)


class Objective(nn.Module):
    """Network and loss as one module: what is differentiated, and what torch.compile compiles."""

    def __init__(self, net: nn.Module, loss: losses.Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, low: Tensor, full: Tensor) -> Tensor:
        """Low and full dose, each (N, 1, h, w) in network range -> the loss, a float32 scalar."""
        enhanced = self.net(low)
        with torch.autocast(low.device.type, enabled=False):
            return self.loss(enhanced.float(), full)


class Update:
    """A network in training with its optimizer, loss and masks: call it with a raw batch to step.

    Args:
        options: of the stage.
        model: where training starts; it is copied.
        loader: where raw batches come from.
        precision: the number format, which names the device, too.
    """

    def __init__(
        self, options: "Train", model: Model, loader: Loader, precision: Precision
    ) -> None:
        self.precision, self.loader = precision, loader
        device = precision.device
        net = copy.deepcopy(model.net).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net: nn.Module = net.train()
        self.optimizer = _adam(self.net, options.lr, options.weight_decay)
        self.amp = precision.start(self.net, self.optimizer)
        self.hold = Holder(self.net, model.masks)
        self.total = torch.zeros((), device=device)
        """Sum of the losses of the steps since it was last set to zero."""
        self.compiled, self.compiled_why = False, "not asked for"
        self._wants_compiled = options.compile
        self._objective: nn.Module = Objective(self.net, losses.loss(options.loss))
        self.stepper = self._stepper(options.graph)

    def __call__(self, raw: Tensor, rate: float) -> None:
        """One step on a raw batch with this learning rate; queued, not waited for."""
        if self._wants_compiled:
            self._wants_compiled = False
            self._compile(raw)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)
        self.stepper(raw)

    def facts(self) -> dict[str, Any]:
        """How the steps are executed, and why so."""
        return {
            "cuda_graph": self.stepper.graph,
            "cuda_graph_why": self.stepper.why,
            "compiled": self.compiled,
            "compiled_why": self.compiled_why,
        }

    def _step(self, raw: Tensor) -> None:
        """What may be captured: it queues work on tensors that stay in place, and reads nothing."""
        self.optimizer.zero_grad()
        loss = self._loss(raw)
        self.amp.backward(loss)
        self.amp.step()
        self._after_step()
        self.total += loss.detach()

    def _loss(self, raw: Tensor) -> Tensor:
        low, full = self.loader.decode(raw)
        with self.precision.autocast():
            loss: Tensor = self._objective(low, full)
        return loss

    def _after_step(self) -> None:
        """What holds after every optimizer step."""
        self.hold()

    def _stepper(self, asked: bool) -> Stepper:
        graph, why = asked, "a GPU"
        if not asked:
            why = "graph: false"
        elif self.precision.device.type != "cuda":
            graph, why = False, "no GPU"
        return Stepper(self._step, self._kept, graph=graph, why=why)

    def _compile(self, raw: Tensor) -> None:
        """Compile network and loss, and try them once, because compilers fail when first used."""
        plain = self._objective
        # torch.compile gives a module for a module.
        self._objective = torch.compile(plain, dynamic=False)  # type: ignore[assignment]
        try:
            with self._kept():
                self.amp.backward(self._loss(raw))
            self.compiled, self.compiled_why = True, "asked for"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError, ImportError) as error:
            self._objective = plain
            self.compiled_why = f"torch.compile does not work here: {first_line(error)}"
            log.warning("%s; the network runs uncompiled, slower", self.compiled_why)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Put back, in place, all that steps change: warming up and trying are no training."""
        tensors = [*self.net.state_dict().values(), self.total]
        tensors += [t for values in self.optimizer.state.values() for t in values.values()]
        before, amp = [tensor.clone() for tensor in tensors], self.amp.state_dict()
        try:
            yield
        finally:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            self.amp.load_state_dict(amp)
            self.optimizer.zero_grad()


def _adam(net: nn.Module, rate: float, weight_decay: float) -> torch.optim.Adam:
    """Adam in one kernel, its state in place from the start.

    The rate is a tensor, because a captured step reads it from where it lies.
    """
    parameters = list(net.parameters())
    device = parameters[0].device
    optimizer = torch.optim.Adam(
        parameters,
        torch.tensor(rate, device=device),
        weight_decay=weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
