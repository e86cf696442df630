"""Apex's mixed precision. The only file that imports apex.amp."""

import copy
import importlib.util
from typing import Any

from torch import Tensor, nn


class Apex:
    """Apex's mixed precision, level O1 or O2.

    Apex O2 halves the network in place and lets the optimizer change float32 masters beside it; the
    network kept is one made of the masters.
    """

    uncapturable = "Apex waits for the device in every step"

    def __init__(self, level: str, net: nn.Module, optimizer: Any) -> None:
        from apex import amp

        self._amp: Any = amp
        self._optimizer = optimizer  # Apex adds methods to it
        self.net = net if level == "O1" else copy.deepcopy(net)
        amp.initialize(net, optimizer, opt_level=level, verbosity=0)
        # Apex makes the masters when they are first needed; masks and saved states need them now.
        self._optimizer._amp_lazy_init()
        if level == "O2":
            self._adopt(net)

    def backward(self, loss: Tensor) -> None:
        """As of `precision.Amp`."""
        with self._amp.scale_loss(loss, self._optimizer) as scaled:
            scaled.backward()

    def step(self) -> None:
        """As of `precision.Amp`."""
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """As of `precision.Amp`."""
        return dict(self._amp.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of `precision.Amp`."""
        self._amp.load_state_dict(state)
        if (handle := _handle()) is not None:
            handle._clear_cache()  # casts of a step that broke off, or went back without Apex
        if hasattr(self._optimizer, "_master_params_to_model_params"):
            self._optimizer._master_params_to_model_params()

    def close(self) -> None:
        """Put the torch functions back that O1 has patched; its own way restores in wrong order."""
        from apex.amp.utils import set_func

        if (handle := _handle()) is None:
            return
        handle._is_active = False
        for module, name, function in reversed(handle._all_wrappers):
            set_func(module, name, function)
        handle._all_wrappers = []

    def _adopt(self, half: nn.Module) -> None:
        """Make `self.net` consist of the optimizer's tensors and the half network's buffers."""
        stash = self._optimizer._amp_stash
        masters = dict(zip(stash.all_fp16_params, stash.all_fp32_from_fp16_params, strict=True))
        for path, module in half.named_modules():
            own = self.net.get_submodule(path)
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    own._parameters[name] = masters.get(parameter, parameter)
            own._buffers.update(module._buffers)


def _handle() -> Any:
    """What has patched torch's functions for O1 and keeps their casts; None under O2."""
    # The package's own name _amp_state is the object inside the module of that name.
    from apex.amp._amp_state import _amp_state

    return getattr(_amp_state, "handle", None)


def why_missing() -> str:
    """Why Apex cannot be used here; empty where it can."""
    if importlib.util.find_spec("apex") is None:
        return "apex.amp is not installed"
    try:
        found = importlib.util.find_spec("apex.amp") is not None
    except ImportError:  # the unrelated package that `pip install apex` gets, or a broken build
        found = False
    return "" if found else "the installed apex has no amp, which left it in May 2025"
