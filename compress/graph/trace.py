"""Runs a network once and finds which channels must go together, operator by operator.

`rules.py` says what each of PyTorch's operators does with channels; an operator that it does
not know holds whatever goes into it. So an unknown network is left whole, never cut wrongly.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.base.errors import UsageError
from compress.base.reasons import reason
from compress.graph.labels import Axis, Ids, Sets, Shadows, short, shortened
from compress.graph.parameters import Whole
from compress.graph.products import layer_by_layer

SECONDS = 45.0
"""Processor time of this thread that tracing may take: the same on a busy machine."""
BYTES = 4 * 2**30
"""Memory that tracing may take, values and labels."""
OUTPUT = "feeds the network's output"


@dataclass(frozen=True)
class Call:
    """One call of an operator."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Tensor, ...]
    """The tensors among the arguments."""
    outputs: tuple[Tensor, ...]

    @property
    def out(self) -> Tensor:
        """The first output."""
        return self.outputs[0]

    @property
    def name(self) -> str:
        """The operator's name, such as mean."""
        return str(self.op.overloadpacket.__name__).strip("_")


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the channels of a network while it runs.

    Args:
        net: the network; its modules name the reasons.
        rule: what an operator does with channels; gets the tracer and the call.
    """

    def __init__(self, net: nn.Module, rule: Callable[["Tracer", Call], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sets, self.shadows = Sets(), Shadows(BYTES)
        state = {id(t): (name, t) for name, t in reversed(net.state_dict(keep_vars=True).items())}
        self.whole = Whole(dict(reversed(state.values())))
        self._rule, self._path = rule, [""]
        self.entered: set[str] = set()
        """Modules that ran."""
        self._end = time.thread_time() + SECONDS
        for name, tensor in reversed(state.values()):
            self.shadows.keep(tensor)
            self._label(name, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, then follow the channels through it."""
        out = func(*args, **(kwargs or {}))
        if time.thread_time() > self._end:
            raise TimeoutError
        call = Call(func, args, kwargs or {}, _tensors((args, kwargs)), _tensors(out))
        for tensor in call.outputs:
            self.shadows.keep(tensor)
        self._rule(self, call)
        return out

    @property
    def where(self) -> str:
        """The module that runs, for a reason."""
        return self._path[-1] or "the network"

    @contextmanager
    def inside(self, net: nn.Module) -> Iterator[None]:
        """Know which module of `net` runs."""
        handles = []
        for name, module in net.named_modules():
            push = self._entering(name)
            handles.append(module.register_forward_pre_hook(push))
            handles.append(module.register_forward_hook(lambda *_: self._leave()))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def roots(self, tensor: Tensor) -> Tensor | None:
        """The sets of a tensor's entries in its shape; None where no channel is in it.

        Along dimensions in which they do not vary, their step is 0.
        """
        labels = self.shadows.get(tensor)
        if labels is None:
            return None
        found = torch.from_numpy(self.sets.find(short(labels).numpy()))
        return shortened(found.expand(labels.shape)) if bool(found.any()) else None

    def hold(self, tensors: Sequence[Tensor], reason: str, *, first: bool = False) -> None:
        """Have every channel in these tensors stay."""
        for tensor in tensors:
            if (roots := self.roots(tensor)) is not None:
                self.sets.hold(short(roots).numpy(), reason, first=first)

    def axis(self, name: str, dim: int, size: int) -> Ids:
        """The labels of a dimension of a parameter."""
        return self.sets.axis(Axis(name, dim), size)

    def _label(self, name: str, tensor: Tensor) -> None:
        """Label a vector, such as a scale of each channel, from the start; see `Whole`."""
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(long) == 1 and tensor.is_floating_point():
            labels = torch.from_numpy(self.axis(name, long[0], tensor.shape[long[0]]))
            self.shadows.put(tensor.detach(), labels.view(tensor.shape))

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._path.append(name)
            self.entered.add(name)

        return enter

    def _leave(self) -> None:
        self._path.pop()


def trace(net: nn.Module, example: Tensor, rule: Callable[[Tracer, Call], None]) -> Sets:
    """The channel sets of a network.

    Layers that only training runs, such as a second head, are followed as well.

    Args:
        net: any network; it is not changed.
        example: what it is run with.
        rule: see `Tracer`.

    Raises:
        UsageError: it takes too much time or memory.
    """
    net = copy.deepcopy(net).cpu().eval()
    tracer = Tracer(net, rule)
    try:
        with torch.no_grad(), tracer.inside(net), layer_by_layer(), tracer:
            out = net(example)
            tracer.hold(_tensors(out), OUTPUT, first=True)
            if _waiting(net, tracer.entered):
                _follow_training(net, example, tracer)
    except (TimeoutError, MemoryError) as error:
        what = f"{SECONDS:g} s" if isinstance(error, TimeoutError) else f"{BYTES >> 30} GiB"
        name = type(net).__name__
        raise UsageError(
            f"following the channels of {name} takes more than {what}, so it cannot be pruned; "
            "leave prune out"
        ) from None
    except Exception as error:  # the network's own code may raise anything
        name = type(net).__name__
        raise UsageError(
            f"{name} does not run where its channels are followed: {reason(error)}"
        ) from error
    return tracer.sets


def _waiting(net: nn.Module, entered: Collection[str]) -> bool:
    """Whether a module with weights of its own did not run."""
    modules = net.named_modules()
    return any(n not in entered and [*m.parameters(recurse=False)] for n, m in modules)


def _follow_training(net: nn.Module, example: Tensor, tracer: Tracer) -> None:
    """Run the network once more as in training, where it does, but for dropout."""
    for module in net.train().modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    with contextlib.suppress(RuntimeError, ValueError):  # a norm may want more than one slice
        tracer.hold(_tensors(net(example)), OUTPUT, first=True)


def _tensors(tree: Any) -> tuple[Tensor, ...]:
    return tuple(leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
