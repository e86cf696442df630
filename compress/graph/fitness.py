"""What makes a network one that no step can handle, whatever slices it takes."""

from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from compress.base.errors import UsageError

NO_SELF = "its train() gives nothing; end it by return self"
"""Of a network whose class keeps some layers in eval mode, and forgets what train() gives."""


def check(net: nn.Module, *, values: bool = False) -> None:
    """Pass where a network is one, can be copied and saved, and its layers be seen.

    Args:
        net: the network.
        values: whether its weights must have some, which those on the meta device have not.

    Raises:
        UsageError: it cannot; says what to write instead.
    """
    if not isinstance(net, nn.Module):
        raise UsageError(f"a network is a torch.nn.Module, got {_kind(net)}")
    if values and any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
        raise UsageError(f"{type(net).__name__} has no weights yet: they are on the meta device")
    if why := _wrong(net):
        raise UsageError(f"{type(net).__name__} {why}")


def _kind(net: object) -> str:
    return f"the class {net.__name__}; make one of it" if isinstance(net, type) else f"{net!r:.60}"


def _wrong(net: nn.Module) -> str:
    """What is wrong, as the end of a sentence; empty for nothing."""
    modules = dict(net.named_modules())
    for name, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) and [*module.parameters()]:
            return f"hides layers in torch.jit.script{_of(name)}: leave that out"
        for place, held in _holding(module, set(modules.values())):
            return (
                f"keeps a function{_of(name)} that encloses a {type(held).__name__} ({place}): in "
                "a copy it would still use the original; make it a method"
            )
    for name, tensor in net.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            return f"stores something else than a tensor, {name}: checkpoints hold tensors only"
        if is_lazy(tensor):
            return (
                f"has no shape for {name} before it first runs: write its input channels in place "
                "of a lazy layer"
            )
        if tensor.layout is not torch.strided:
            return (
                f"stores a sparse tensor, {name}, which checkpoints do not hold: register the "
                "buffer with persistent=False"
            )
    return ""


def _of(name: str) -> str:
    return f" in {name}" if name else ""


def _holding(module: nn.Module, modules: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Attributes and hooks of a module that are functions, and the module that each encloses."""
    values = dict(vars(module))
    hooks = (values.pop("_forward_hooks"), values.pop("_forward_pre_hooks"))
    for name, value in (*values.items(), *(("a hook", one) for one in hooks)):
        for one in _inside(value):
            cells = one.__closure__ if isinstance(one, FunctionType) else None
            for cell in cells or ():
                held = _content(cell)
                if isinstance(held, nn.Module) and held in modules:
                    yield name, held


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty one
        return None
