"""Which layers a network's code uses otherwise than as `layer(x)`."""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from compress.base.errors import UsageError
from compress.graph.slices import channels
from compress.graph.trial import DEVICES, SLICE, copied, output_shape, slice_size

ABOUT = tuple(
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad")
)
"""Looking at these of a weight computes nothing with it."""


class _Watching(TorchFunctionMode):
    """Finds the layers whose parameters a function gets while the layer itself does not run."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self._owners = {id(p): name for name, m in layers.items() for p in m.parameters()}
        self._running: list[str] = []
        self.found: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and note whose parameters it got."""
        if func not in ABOUT:
            given = {self._owners.get(id(leaf)) for leaf in tree_leaves((args, kwargs))}
            self.found |= {name for name in given if name and name not in self._running}
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def inside(self, layers: dict[str, nn.Module]) -> Iterator[None]:
        """Know which of the layers run, and note those that are given more than one tensor."""

        def enter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._running.append(name)
            if len(args) != 1 or kwargs:
                self.found.add(name)

        handles = []
        for name, layer in layers.items():
            before = lambda _, args, kwargs, name=name: enter(name, args, kwargs)  # noqa: E731
            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(layer.register_forward_hook(lambda *_: self._running.pop() and None))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Uses(NamedTuple):
    """How a network's code uses its layers."""

    otherwise: frozenset[str]
    """Those of some layers that are called with more than one tensor, or whose weight is used."""
    path: tuple[str, ...]
    """The modules in the order in which they run; none where no slice comes out."""
    size: tuple[int, int]
    """H and W of the slice that was tried."""
    device: str
    """Where, one of `trial.DEVICES`."""


def seen(net: nn.Module, names: Collection[str]) -> Uses | None:
    """How the code of a network uses some of its layers; None where it does not run.

    Args:
        net: an (N, 1, H, W) network; it is run as `cost.layers` runs it, and once more as in
            training. It is not changed.
        names: of layers.
    """
    with contextlib.suppress(UsageError):
        for size in (SLICE, None):
            for device in DEVICES[:2] if size else DEVICES:
                with contextlib.suppress(Exception):  # whatever the network's code raises
                    return _seen(net, names, size or slice_size(net), device)
    return None


def borrowed(net: nn.Module, names: Collection[str]) -> set[str]:
    """Those of some layers that never run, and whose weight a function takes; as `seen`."""
    used = seen(net, names) if names else None
    return set() if used is None or not used.path else set(used.otherwise - {*used.path})


def path(net: nn.Module, before: Uses) -> tuple[str, ...]:
    """The modules of a network in the order in which they run, tried as another was."""
    with contextlib.suppress(Exception):  # whatever the network's code raises
        return _seen(net, (), before.size, before.device).path
    return ()


def _seen(net: nn.Module, names: Collection[str], size: tuple[int, int], device: str) -> Uses:
    shadow = copied(net, device)
    layers = {name: shadow.get_submodule(name) for name in names}
    watching, order = _Watching(layers), list[str]()
    given = (1, channels(net), *size)
    with torch.no_grad(), watching.inside(layers), watching:
        with _noting(shadow, order):
            shape = output_shape(shadow, given, device)
        if names:
            with contextlib.suppress(Exception):  # a norm may want more than one value
                output_shape(shadow.train(), given, device)
    whole = shape == (1, 1, *size)  # else what ran on the meta device may run nowhere else
    return Uses(frozenset(watching.found), tuple(order if whole else ()), size, device)


@contextlib.contextmanager
def _noting(net: nn.Module, order: list[str]) -> Iterator[None]:
    """Write down which modules run."""
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in net.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
