"""What a recipe can say of its network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from compress.base.errors import UsageError
from compress.base.reasons import reason
from compress.checkpoint import noise_level, standardised
from compress.checkpoint.imported import network_class
from compress.checkpoint.weights import fill
from compress.graph import fitness
from compress.graph.slices import Neighbouring
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN

NETWORKS: Mapping[str, type[nn.Module]] = {"ddnet": DDnet, "redcnn": RedCNN}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The recipe's `model:` section: which dense network, and with which weights it starts."""

    name: str | None = None
    """A network of this package, see `NETWORKS`; or"""
    import_: str | None = None
    """`package.module:Class` of your own; the module is imported, that is, its code is run."""
    weights: str | None = None
    """A safetensors file to start from, seen from the recipe's folder: our names, or 2dnet's for
    ddnet. Or a checkpoint of ldct-benchmark (.pt); it is read without running any code in it."""
    folder: str | None = None
    """Where `import_` is looked for first: the recipe's folder."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the network's class; `noise_level`, where that is none of them, is given
    to the network with every slice. With `hu_mean` and `hu_std` it sees (HU - mean) / std."""
    neighbours: int = 0
    """The recipe's `data.neighbours`: slices on each side that the network sees, too."""

    def network_class(self) -> Callable[..., nn.Module]:
        """The class of the network.

        Raises:
            UsageError: there is no such name, module or class.
        """
        if self.import_ is None:
            if self.name is None or self.name not in NETWORKS:
                known = ", ".join(NETWORKS)
                raise UsageError(f"there is no network {self.name!r}; there are: {known}")
            return NETWORKS[self.name]
        return network_class(self.import_, self.folder)

    def build(self) -> nn.Module:
        """The dense network, with its starting weights where the recipe names some.

        Raises:
            UsageError: unknown network, wrong options, a class that fails or makes no module, or
                weights that do not fit.
        """
        network, name = self.network_class(), self.name or self.import_
        options, level, scale = dict(self.options), None, None
        if self.import_ is not None:
            options, level = noise_level.split(network, options)
            options, scale = standardised.split(network, options)
        try:
            net = network(**options)
        except Exception as error:  # the user's own code raises whatever it likes
            raise UsageError(f"the network {name}: {reason(error)}") from error
        if not isinstance(net, nn.Module):
            raise UsageError(f"the network {name} is a {type(net).__name__}, no torch.nn.Module")
        if net.train(net.training) is None:
            raise UsageError(f"the network {name}: {fitness.NO_SELF}")
        if self.weights is not None:
            fill(net, Path(self.weights), standardised=scale is not None)
        if level is not None:
            net = noise_level.AtNoiseLevel(net, level)
        if scale is not None:
            net = standardised.Standardised(net, *scale)
        return Neighbouring(net, self.neighbours) if self.neighbours else net
