"""One optimizer step: all that the device does, from a raw batch to masked weights."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.base.errors import CompressError
from compress.base.reasons import reason
from compress.base.world import World
from compress.checkpoint import Model
from compress.data.loaders import Loader
from compress.sparsity.masks import Holder
from compress.training import distill, losses
from compress.training.cuda_graph import Stepper
from compress.training.facts import UpdateFacts
from compress.training.options import TrainOptions
from compress.training.parts import Objective, adam, compiled, freeze_norms, trainable
from compress.training.precision import Precision
from compress.training.profiling import span
from compress.training.twin import compilable

log = logging.getLogger(__name__)
CLOSE = 0.02
"""How far a compiled loss may be from the network's own, which bfloat16 rounds by 0.3 %."""

QUANTISED = "ModelOpt's quantisers read ranges from the device in every step"
"""Why steps of a quantised network are neither compiled nor captured."""


class Update:
    """A network in training with its optimizer, loss and masks: call it with a raw batch to step.

    Args:
        options: of the stage.
        model: where training starts; it is copied.
        loader: where raw batches come from.
        precision: the number format, which names the device, too.
        world: the processes that train together.
        target: what the output is trained towards.

    Raises:
        UsageError: `sync_norm` was asked for without GPUs.
    """

    def __init__(
        self,
        options: TrainOptions,
        model: Model,
        loader: Loader,
        precision: Precision,
        world: World = World(),  # noqa: B008  (frozen)
        target: distill.Target = distill.full_dose,
    ) -> None:
        self.options, self.loader, self.precision, self.world = options, loader, precision, world
        self.net = trainable(model.net, options, precision.device, world)
        self.optimizer = adam(self.net, options.lr, options.weight_decay)
        self.amp = precision.start(self.net, self.optimizer, model.masks.keys())
        # Two networks where the number format keeps float32 masters beside the one that computes.
        self._nets = list(dict.fromkeys((self.net, self.amp.net)))
        self._held = [Holder(n, model.masks, model.pattern) for n in self._nets]
        self.total = torch.zeros((), device=precision.device)
        """Sum of the losses of the steps since it was last set to zero."""
        self.micro = options.batch // world.size
        """Crops that go through the network at once."""
        self.compiled_why = "asked for" if options.compile else "not asked for"
        if options.compile and model.quantised:
            self.compiled_why = QUANTISED
        self._plain = Objective(self.net, losses.loss(options.loss))
        self._target = target
        self._quantised = bool(model.quantised)
        self._norm_frozen = self._tried = self._uncompiled = False
        if options.norm_is_frozen(0):
            self.freeze_norm()
        else:
            self._begin_anew()

    def __call__(self, raw: Tensor, rate: float) -> None:
        """One step on a raw batch with this learning rate; queued, not waited for.

        Where memory runs out the batch goes through in halves, quarters and so on.

        Raises:
            CompressError: one crop alone does not fit into memory; or memory runs out after the
                rehearsal while several processes train, or under synchronised BatchNorm.
        """
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)
        before = self.micro
        while not self._fits(raw):
            self._halve()
        if self.micro < before:
            log.warning("%s", self._micro_why)

    def freeze_norm(self) -> None:
        """Let BatchNorm keep its statistics from now on."""
        if not self._norm_frozen:
            for net in self._nets:
                freeze_norms(net)
            self._norm_frozen = True
            self._begin_anew()

    def check(self) -> None:
        """Make sure that the masks hold; waits for the device.

        Raises:
            CompressError: names the layer whose mask is broken.
        """
        for hold in self._held:
            hold.check()

    def facts(self) -> UpdateFacts:
        """How the steps are executed, and why so."""
        return {
            "cuda_graph": self.stepper.graph,
            "cuda_graph_why": self.stepper.why,
            "compiled": self.compiled,
            "compiled_why": self.compiled_why,
            "micro_batch": self.micro,
            "micro_batch_why": self._micro_why,
        }

    def _step(self, raw: Tensor) -> None:
        """What may be captured: it queues work on tensors that stay in place, and reads nothing."""
        self.optimizer.zero_grad()
        seen = torch.zeros_like(self.total)
        for part in torch.split(raw, self.micro):
            with span("forward"):
                loss = self._loss(part) * (len(part) / len(raw))
            with span("backward"):
                self.amp.backward(loss)
            seen += loss.detach()
        with span("optimizer"):
            self.world.average(p.grad for p in self.net.parameters() if p.grad is not None)
            self.amp.step()
            self._after_step()
        self.total += seen  # last, so that a step that does not fit into memory adds nothing

    def _loss(self, raw: Tensor) -> Tensor:
        low, full = self.loader.decode(raw)
        full = self._target(low, full)
        with self.precision.autocast():
            loss: Tensor = self._objective(low, full)
        return loss

    def _after_step(self) -> None:
        """What holds after every optimizer step."""
        for hold in self._held:
            hold()

    def _stepper(self) -> Stepper:
        graph, why = True, "a GPU"
        if not self.options.cuda_graph:
            graph, why = False, "cuda_graph: false"
        elif self._quantised:
            graph, why = False, QUANTISED
        elif self.precision.device.type != "cuda":
            graph, why = False, "no GPU"
        elif self.amp.uncapturable:
            graph, why = False, self.amp.uncapturable
        return Stepper(self._step, self._kept, graph=graph, why=why)

    def _fits(self, raw: Tensor) -> bool:
        """Do the step; False where memory ran out, and then no weight has changed."""
        try:
            if not self._tried and not self._rehearsed(raw):
                return False
            self.stepper(raw)
        except torch.OutOfMemoryError as error:
            # Of several processes the others may be one average ahead already.
            if self.micro == 1 or self.world.size > 1:
                raise self._too_large() from error
            return False
        return True

    def _rehearsed(self, raw: Tensor) -> bool:
        """Go forward and back once without training: here compilers fail and memory runs out.

        No process waits for another meanwhile, so that they can agree: False where one is short.
        """
        short = False
        try:
            if self._uncompiled:
                self._compile(raw)
                self._uncompiled = False
            self._loss_and_gradients(raw)
        except torch.OutOfMemoryError as error:
            # Synchronised BatchNorm does wait for others in the middle.
            if self.micro == 1 or (self.world.size > 1 and self.options.sync_norm):
                raise self._too_large() from error
            short = True
        self._tried = not self.world.any(short)
        return self._tried

    def _loss_and_gradients(self, raw: Tensor) -> Tensor:
        """The loss of as many crops as go through at once; what that changes is put back."""
        with self._kept():
            loss = self._loss(raw[: self.micro])
            loss.backward()  # type: ignore[no-untyped-call]  # unscaled: an overflow has effects
            return loss.detach()

    def _too_large(self) -> CompressError:
        what = f"out of GPU memory with a micro-batch of {self.micro}"
        return CompressError(f"{what}; take a smaller crop or batch")

    def _halve(self) -> None:
        """Let half as many crops go through at once; what had been captured is captured anew."""
        self.micro = -(-self.micro // 2)
        self.optimizer.zero_grad()
        self.amp.load_state_dict(self.amp.state_dict())  # forgets the step that broke off
        self._rehearse_again()

    def _begin_anew(self) -> None:
        """Compile and capture the next step, which does other work than the last."""
        self._objective: nn.Module = self._plain
        self._uncompiled = self.options.compile and not self._quantised
        self.compiled = False
        self._rehearse_again()

    def _rehearse_again(self) -> None:
        """Rehearse and capture the next step."""
        self.stepper, self._tried = self._stepper(), False
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _micro_why(self) -> str:
        whole = self.options.batch // self.world.size
        if self.micro == whole:
            return "the whole batch fits"
        frozen = self.options.norm_is_frozen(0)
        norm = not frozen and any(isinstance(m, _BatchNorm) for m in self.net.modules())
        rough = ", roughly, because BatchNorm sees one part at a time" if norm else ""
        return (
            f"out of memory with {whole} crops at once: gradients are accumulated over parts of "
            f"{self.micro}, for the same effective batch{rough}"
        )

    def _compile(self, raw: Tensor) -> None:
        """Compile network and loss, else the network alone, else nothing."""
        expected = self._expected(raw)
        twin, loss = compilable(self.net), losses.loss(self.options.loss)
        # Networks of earlier stages count, and after the eighth nothing would be compiled.
        torch.compiler.reset()
        try:
            if failure := self._fails(compiled(Objective(twin, loss)), raw, expected):
                parts = Objective(compiled(twin), loss)
                self.compiled_why = f"the network without the loss, which fails: {failure}"
                failure = self._fails(parts, raw, expected)
        except torch.OutOfMemoryError:
            self._objective = self._plain
            raise
        if failure:
            self._objective = self._plain
            self.compiled_why = f"torch.compile does not work here: {failure}"
            log.warning("%s; the network runs uncompiled, slower", self.compiled_why)

    def _expected(self, raw: Tensor) -> float:
        """The loss of the network as it is."""
        with self._kept(), torch.no_grad():
            return float(self._loss(raw[: self.micro]))

    def _fails(self, objective: nn.Module, raw: Tensor, expected: float) -> str:
        """Take `objective` and use it once, because compilers fail then; what is wrong, or ''."""
        self._objective = objective
        try:
            loss = float(self._loss_and_gradients(raw))
            # torch 2.13 on a CPU gives 111 for 0.92 in float32, with no word of it.
            if not abs(loss - expected) <= CLOSE * abs(expected):
                return f"it makes the loss {loss:.4g} instead of {expected:.4g}"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError, ImportError, AssertionError) as error:
            return reason(error)
        self.compiled = True
        return ""

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Put back, in place, all that steps change: warming up and trying are no training."""
        tensors = [*self.net.state_dict().values(), self.total]
        tensors += [t for values in self.optimizer.state.values() for t in values.values()]
        before, amp = [tensor.clone() for tensor in tensors], self.amp.state_dict()
        try:
            with torch.random.fork_rng(devices=[]):  # the draws of dropout on the CPU
                yield
        finally:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            self.amp.load_state_dict(amp)
            self.optimizer.zero_grad()
