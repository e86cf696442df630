"""A stand-in for apex.amp that does on the CPU, in bfloat16, what Apex at its tag 25.05 does.

Same names, same order of things, same traps: O1 patches torch's functions for the whole process,
O2 makes its float32 masters late and copies them over the network's weights after every step.
"""

import sys
import types
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

HALF = torch.bfloat16


class Handle:
    """What knows which functions were patched."""

    def __init__(self) -> None:
        self._is_active = True
        self._all_wrappers: list[tuple[Any, str, Any]] = []
        self._cache: dict[torch.Tensor, torch.Tensor] = {}

    def _clear_cache(self) -> None:
        self._cache.clear()

    def cast(self, weight: torch.Tensor) -> torch.Tensor:
        """As Apex's cached_cast, which with torch 2.11 fails where it meets a cast of before."""
        if torch.is_grad_enabled() and weight.requires_grad and weight in self._cache:
            raise IndexError("tuple index out of range")
        self._cache[weight] = weight.to(HALF)
        return self._cache[weight]

    def wrap(self, module: Any, name: str) -> None:
        original = module[name] if isinstance(module, dict) else getattr(module, name)

        def wrapper(x, weight, bias=None, *rest):
            if not self._is_active:
                return original(x, weight, bias, *rest)
            bias = bias if bias is None else bias.to(HALF)
            return original(x.to(HALF), self.cast(weight), bias, *rest)

        self._all_wrappers.append((module, name, original))
        set_func(module, name, wrapper)


def set_func(module: Any, name: str, function: Any) -> None:
    """As apex.amp.utils.set_func: what is patched may stand in a dict."""
    if isinstance(module, dict):
        module[name] = function
    else:
        setattr(module, name, function)


RNN = {"RNN_TANH": torch.tanh}
"""One of the dicts whose functions O1 patches."""


class Scaler:
    """Static here; Apex's is dynamic."""

    scale, unskipped = 1024.0, 0


STATE = SimpleNamespace()


def initialize(net: nn.Module, optimizer: Any, *, opt_level: str, verbosity: int) -> Any:
    """As apex.amp.initialize for one network and one optimizer."""
    assert not hasattr(optimizer, "_amp_stash"), "an optimizer is initialised once"
    STATE.level, STATE.scaler = opt_level, Scaler()
    optimizer._amp_stash = SimpleNamespace(
        all_fp16_params=[], all_fp32_from_fp16_params=[], lazy_init_called=False
    )
    if opt_level == "O2":
        _halve(net)
        optimizer.load_state_dict(optimizer.state_dict())
        _patch_optimizer(optimizer)
    else:
        STATE.handle = Handle()
        for _ in range(2):  # some functions stand in two of Apex's lists
            STATE.handle.wrap(F, "conv2d")
        STATE.handle.wrap(RNN, "RNN_TANH")
        optimizer._amp_lazy_init = lambda: None
    return net, optimizer


def _halve(net: nn.Module) -> None:
    for module in net.modules():
        if not isinstance(module, nn.BatchNorm2d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(HALF)
    forward = net.forward
    net.forward = lambda x: forward(x.to(HALF)).float()


def _lazy_init(self: Any) -> None:
    stash = self._amp_stash
    if stash.lazy_init_called:
        return
    stash.lazy_init_called = True
    for group in self.param_groups:
        for i, parameter in enumerate(group["params"]):
            if parameter.dtype == HALF:
                master = parameter.detach().clone().float()
                master.requires_grad = True
                group["params"][i] = master
                stash.all_fp16_params.append(parameter)
                stash.all_fp32_from_fp16_params.append(master)
                self.state[master] = self.state.pop(parameter)
    self.load_state_dict(self.state_dict())


def _copy_back(self: Any) -> None:
    stash = self._amp_stash
    with torch.no_grad():
        torch._foreach_copy_(stash.all_fp16_params, stash.all_fp32_from_fp16_params)


def _step(self: Any) -> None:
    type(self).step(self)
    self._master_params_to_model_params()
    for master in self._amp_stash.all_fp32_from_fp16_params:
        master.grad = None


def _zero_grad(self: Any) -> None:
    for parameter in (*self._amp_stash.all_fp16_params, *self.param_groups[0]["params"]):
        parameter.grad = None


def _patch_optimizer(optimizer: Any) -> None:
    for name, function in {
        "_amp_lazy_init": _lazy_init, "_master_params_to_model_params": _copy_back,
        "step": _step, "zero_grad": _zero_grad,
    }.items():  # fmt: skip
        setattr(optimizer, name, types.MethodType(function, optimizer))


@contextmanager
def scale_loss(loss: torch.Tensor, optimizer: Any) -> Any:
    """As apex.amp.scale_loss; gradients of several backward passes add up."""
    scale = STATE.scaler.scale
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    halves = optimizer._amp_stash.all_fp16_params
    before = {id(p): p.grad for p in parameters}
    for parameter in (*parameters, *halves):
        parameter.grad = None
    yield loss.float() * scale
    masters = optimizer._amp_stash.all_fp32_from_fp16_params
    for half, master in zip(halves, masters, strict=True):
        master.grad = None if half.grad is None else half.grad.float()
    for parameter in parameters:
        new, old = parameter.grad, before[id(parameter)]
        if new is not None:
            parameter.grad = new / scale if old is None else old + new / scale
    STATE.scaler.unskipped += 1
    if getattr(STATE, "handle", None) is not None:
        STATE.handle._clear_cache()


def state_dict() -> dict[str, Any]:
    """As apex.amp.state_dict."""
    return {"loss_scaler0": {"loss_scale": STATE.scaler.scale, "unskipped": STATE.scaler.unskipped}}


def load_state_dict(state: dict[str, Any]) -> None:
    """As apex.amp.load_state_dict."""
    STATE.scaler.unskipped = state["loss_scaler0"]["unskipped"]


def install(monkeypatch: Any) -> None:
    """Make `from apex import amp` find this module."""
    amp = sys.modules[__name__]
    inner = types.ModuleType("apex.amp._amp_state")
    inner._amp_state = STATE  # type: ignore[attr-defined]
    utils = types.ModuleType("apex.amp.utils")
    utils.set_func = set_func  # type: ignore[attr-defined]
    apex = types.ModuleType("apex")
    apex.amp = amp  # type: ignore[attr-defined]
    monkeypatch.setattr(amp, "_amp_state", STATE, raising=False)  # hides the module, as in Apex
    for module in (apex, inner, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "apex.amp", amp)
    STATE.__dict__.clear()
