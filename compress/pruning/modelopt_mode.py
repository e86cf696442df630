"""Our channel pruning as a ModelOpt mode, so that mto.save and mto.restore carry it along.

    modelopt_mode.register()
    net = mto.apply_mode(net, [("compress_channels", {"amount": 0.6})])

The mode rewrites stride-1 deconvolutions as convolutions, which ModelOpt can then make 2:4 sparse,
and removes channels; its metadata are the rewrites and the shapes of all tensors, plain numbers, so
that restoring needs neither the former weights nor a dependency graph. ModelOpt has no entry points
for other packages' modes: `register` must have been called before mto.restore, too.

The only file that imports modelopt.torch.opt. `_ModeRegistryCls` has an underscore in 0.43 to 0.47
and is the one way in; tests hold it.
"""

from dataclasses import fields
from typing import Any, get_type_hints

import torch
from torch import nn

from compress.base.errors import UsageError
from compress.graph.resize import resize
from compress.graph.rewrite import REWRITES
from compress.pruning import plan
from compress.pruning.options import PruneOptions

NAME = "compress_channels"
_registries: list[Any] = []
"""The one registry; ModelOpt forgets a registry that nobody holds."""


def register() -> str:
    """Make the mode known to ModelOpt, once; returns its name."""
    if not _registries:
        from modelopt.torch.opt.mode import _ModeRegistryCls

        registry = _ModeRegistryCls("compress")
        registry.register_mode(_descriptor())
        _registries.append(registry)
    return NAME


def convert(net: nn.Module, options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Prune `net`, in place.

    Args:
        net: an (N, 1, H, W) network on any device.
        options: the mode's configuration, the fields of `PruneOptions`, seed and rewrites.

    Returns:
        `net`, and the metadata: rewrites, and shapes of all tensors by name.

    Raises:
        UsageError: amount and threshold are both given or both missing, or out of reach.
    """
    given = options.model_dump()
    rewrites, seed = given.pop("rewrites"), given.pop("seed")
    try:
        wanted = PruneOptions(**given)
    except ValueError as error:
        raise UsageError(f"{NAME}: {error}") from error
    device = next(net.parameters()).device
    small = _rewritten(net, rewrites)
    small = plan.plan(small, wanted, seed=seed).apply(small).to(device).train(net.training)
    _become(net, small)
    shapes = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    return net, {"rewrites": list(rewrites), "shapes": shapes}


def restore(net: nn.Module, options: Any, metadata: dict[str, Any]) -> nn.Module:
    """Give a fresh dense network, in place, the shapes that `convert` left behind.

    Args:
        net: the network as its class builds it.
        options: the mode's configuration; not used.
        metadata: what `convert` returned.

    Returns:
        `net`, its tensors not yet filled where their shape changed.
    """
    device = next(net.parameters()).device
    small = _rewritten(net, metadata["rewrites"])
    resize(small, {name: torch.zeros(shape) for name, shape in metadata["shapes"].items()})
    _become(net, small.to(device).train(net.training))
    return net


def _rewritten(net: nn.Module, rewrites: list[str]) -> nn.Module:
    for name in rewrites:
        net = REWRITES[name](net)
    return net


def _become(net: nn.Module, other: nn.Module) -> None:
    """Put the layers and tensors of `other` into `net`, the object that its owner holds."""
    for part in ("_modules", "_parameters", "_buffers"):
        getattr(net, part).clear()
        getattr(net, part).update(getattr(other, part))


def _descriptor() -> type:
    """The classes that ModelOpt wants to see; their bases exist only once it is imported."""
    from modelopt.torch.opt.mode import ModeDescriptor

    config = _config()

    class Mode(ModeDescriptor):  # type: ignore[misc]
        name = property(lambda self: NAME)
        config_class = property(lambda self: config)
        convert = property(lambda self: convert)
        restore = property(lambda self: restore)

    return Mode


def _config() -> type:
    """The fields of `PruneOptions` with a seed and rewrites, as a configuration of ModelOpt."""
    from modelopt.torch.opt.config import ModeloptBaseConfig, ModeloptField
    from pydantic import create_model

    kinds = get_type_hints(PruneOptions)
    own: dict[str, Any] = {
        field.name: (kinds[field.name], ModeloptField(default=field.default))
        for field in fields(PruneOptions)
    }
    rewrites = ModeloptField(default=["deconv_to_conv"], description="exact rewrites done before")
    more: dict[str, Any] = {
        "seed": (int, ModeloptField(default=0, description="for the random criterion")),
        "rewrites": (list[str], rewrites),
    }
    config: type = create_model("Config", __base__=ModeloptBaseConfig, **own, **more)
    return config
