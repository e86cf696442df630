"""Networks that draw random numbers in eval mode, as dropout that is always on does."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.base.errors import UsageError
from compress.graph.slices import Neighbouring, channels
from compress.graph.trial import copied, slice_size

aten = torch.ops.aten
NUMBERS = ("bernoulli", "exponential", "normal", "rand", "uniform")
"""What the names of operators begin with that fill a tensor with random numbers."""

ROUNDING = 1e-5
"""Difference that is none, as a share of the largest output."""


def check_steady(net: nn.Module) -> None:
    """Pass where a network gives the same for the same slice, whatever was drawn before.

    Raises:
        UsageError: it does not; says what to write instead.
    """
    net = copied(net, "cpu")
    x = torch.rand(1, channels(net), *slice_size(net), generator=torch.Generator().manual_seed(0))
    if not steady(net, x):
        raise refused(net)


def refused(net: nn.Module) -> UsageError:
    """What to say of a network that is not steady."""
    name = type(net.net if isinstance(net, Neighbouring) else net).__name__
    return UsageError(
        f"{name} gives something else each time it runs, in eval mode too, as dropout that is "
        "always on does; write F.dropout(x, p, self.training) in place of F.dropout(x, p)"
    )


def comparable(net: nn.Module, x: Tensor) -> AbstractContextManager[object]:
    """Where a network can be compared with one that has other channels, or others' order."""
    return nullcontext() if steady(net, x) else Still()  # type: ignore[no-untyped-call]


def steady(net: nn.Module, x: Tensor) -> bool:
    """Whether the output stays the same with other random numbers; the network's mode stays."""
    one, two = (seeded(net, x, seed).nan_to_num(posinf=0.0, neginf=0.0) for seed in (0, 1))
    return bool((one - two).abs().max() <= ROUNDING * one.abs().max())


def seeded(net: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """What a network gives after a seed; PyTorch's random numbers go on as before."""
    with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        out: Tensor = net(x)
    return out


class Still(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes all random numbers of a tensor equal: dropout drops nothing.

    So two networks can be compared that draw for other numbers of channels. Single numbers, and
    those of a generator of the network's own, stay as they are drawn.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator; where it drew random numbers, put others in their place."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return out
        if func.overloadpacket is aten.native_dropout:
            return args[0].clone(), torch.ones_like(out[1])
        drawn = func.overloadpacket.__name__.startswith(NUMBERS)
        own = any(isinstance(one, torch.Generator) for one in (*args, *kwargs.values()))
        return out.fill_(1) if drawn and not own and out.numel() > 1 else out
