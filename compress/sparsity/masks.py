"""Masks on a network: who computes 2:4 ones, who holds any. Only this file imports ASP or ModelOpt.

Back ends give a mask for every layer that they take. Holding them is ours, whoever computed them:
after each optimizer step the masked weights are set to zero again, so that weight decay, momentum,
loss scaling and a resumed run cannot bring them back.
"""

import contextlib
import copy
import importlib.util
import io
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.base.errors import CompressError, UsageError
from compress.base.machine import IMAGE
from compress.base.reasons import quiet
from compress.graph import cost
from compress.graph.layout import by_output
from compress.sparsity import eligibility
from compress.sparsity import pattern as sparsity

Backend = Literal["modelopt", "asp"]
Pattern = Literal["2:4", "unstructured"]
"""What a mask promises: two zeros in every four input channels, or nothing but zeros that stay."""
MODULES: Mapping[Backend, str] = {
    "modelopt": "modelopt.torch.sparsity",
    "asp": "apex.contrib.sparsity",
}
"""What is imported for a back end."""


def choose(asked: Literal["auto", "modelopt", "asp"]) -> tuple[Backend, str]:
    """The back end to use and why.

    Raises:
        UsageError: asked for by name and not usable here.
    """
    missing = _asp_missing()
    if asked == "asp":
        if missing:
            hint = f"the container {IMAGE} has it"
            raise UsageError(f"backend asp cannot be used: {missing}; {hint}, or take modelopt")
        return "asp", "asked for"
    if asked == "modelopt":
        return "modelopt", "asked for"
    return ("modelopt", f"auto: {missing}") if missing else ("asp", "auto: Apex ASP is installed")


def compute(
    net: nn.Module, backend: Backend, rule: eligibility.Rule = "backend"
) -> dict[str, Tensor]:
    """Magnitude masks by module name, bool, True = kept; `net` itself is not changed.

    Layers whose weight is not trained get none.

    Args:
        net: the network.
        backend: who computes the masks of the layers that it takes.
        rule: "trt" adds those that it refuses and TensorRT's rule admits, with `mask_2to4`.

    Raises:
        UsageError: a parameter is not finite.
        CompressError: the back end left a layer that it should take.
    """
    sparsity.check_finite(net)
    layers = cost.compressible(net)
    taken = {name for name, why in eligibility.reasons(net).items() if not why}
    found = {"modelopt": _modelopt, "asp": _asp}[backend](net, taken)
    for name, why in eligibility.reasons(net, rule).items():
        if name not in taken and not why:
            found[name] = sparsity.mask_2to4(by_output(layers[name])).cpu()
    return found


def apply(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masked weights of `net` to zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = net.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(mask.to(weight.device))


def check(net: nn.Module, masks: Mapping[str, Tensor], pattern: Pattern = "2:4") -> None:
    """Make sure that every masked weight is zero and every mask of the pattern.

    Raises:
        CompressError: names the first layer and position that broke.
    """
    for name, mask in masks.items():
        weight = net.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        if bool((weight.detach()[~mask.to(weight.device)] != 0).any()):
            kind = "2:4 mask" if pattern == "2:4" else "mask"
            raise CompressError(f"the {kind} of {name} is broken: a masked weight is not zero")
        # Of the mask, not the weight: a third place that is zero today is trained tomorrow.
        if pattern == "2:4" and (broken := sparsity.violations(mask)):
            raise CompressError(f"{name} is not 2:4: {broken[0]}")


def present(net: nn.Module) -> dict[str, Tensor]:
    """The masks of the layers whose weights are 2:4 sparse already: True where a weight is kept.

    A layer of nothing but zeros has none: it starts at zero to learn, as a last layer behind a
    residual does.
    """
    masks = {}
    for name, layer in cost.compressible(net).items():
        eligible = not eligibility.refusal(layer, "trt")
        if eligible and sparsity.is_2to4(by_output(layer)):
            mask = net.get_parameter(f"{name}.weight") != 0
            if mask.any():
                masks[name] = mask
    return masks


class Holder:
    """Keeps masks on a network while it trains: call the holder after every optimizer step.

    Raises:
        CompressError: a mask is not of the pattern, or a weight to be zeroed is not finite.
    """

    def __init__(
        self, net: nn.Module, masks: Mapping[str, Tensor], pattern: Pattern = "2:4"
    ) -> None:
        self._net, self._pattern = net, pattern
        self._masks = dict(masks)
        modules = {name: net.get_submodule(name) for name in masks}
        self._weights = [m.weight for m in modules.values() if isinstance(m.weight, Tensor)]
        # In the weights' own dtype and strides, those of 1x1 kernels too, which are contiguous in
        # either layout: one pair that differs makes PyTorch multiply them all one by one.
        self._factors = [
            torch.zeros_like(weight).copy_(mask)
            for mask, weight in zip(masks.values(), self._weights, strict=True)
        ]
        self()
        check(net, masks, pattern)  # then masked weights that are zero are all there is to look at

    @torch.no_grad()
    def __call__(self) -> None:
        """Set the masked weights to zero again."""
        if self._weights:
            torch._foreach_mul_(self._weights, self._factors)

    def check(self) -> None:
        """As `check` for the network held; reads from the device once where all is well."""
        if not self._holds():
            check(self._net, self._masks, self._pattern)

    @torch.no_grad()
    def _holds(self) -> bool:
        """Whether all masked weights are zero for sure; NaN and infinity count as violations."""
        if not self._weights:
            return True
        more = torch._foreach_sub(self._weights, torch._foreach_mul(self._weights, self._factors))
        return not torch.stack(torch._foreach_norm(more, math.inf)).any()


def _asp_missing() -> str:
    if importlib.util.find_spec("apex") is None:
        return "Apex is not installed"
    try:
        found = importlib.util.find_spec("apex.contrib.sparsity") is not None
    except ImportError:  # the unrelated package that `pip install apex` gets, or a broken build
        found = False
    if not found:
        return "the installed apex has no contrib.sparsity"
    return "" if torch.cuda.is_available() else "Apex ASP needs a GPU to compute masks"


def _modelopt(net: nn.Module, taken: set[str]) -> dict[str, Tensor]:
    # It wraps every convolution of a network, and a second class of one name, such as each layer
    # with a parametrization has, is an error to it. So it gets copies of the layers it shall mask.
    names = sorted(taken)
    if not names:
        return {}
    alone = nn.ModuleList(_plain(net.get_submodule(name)) for name in names)
    # ModelOpt prints a line a layer and warns of deprecations; both are noise to the user.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
        warnings.simplefilter("ignore")
        import modelopt.torch.sparsity as mts

        rules: dict[str, Any] = {"*": {}}
        mode = [("sparse_magnitude", {"nn.Conv2d": rules, "nn.Linear": rules})]
        sparse = mts.sparsify(alone, mode)
    masks = {}
    for name, layer in zip(names, sparse, strict=True):
        mask = getattr(layer, "_weight_mask", None)
        if mask is None:
            raise CompressError(f"ModelOpt left {name} dense against its own shape rule")
        masks[name] = mask.detach().bool().cpu().clone()
    return masks


def _plain(layer: nn.Module) -> nn.Module:
    """A layer of PyTorch's own class with a copy of the weight of `layer`, on the CPU."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    # ModelOpt refuses channels_last.
    weight = weight.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(layer, nn.Linear):
        found: nn.Module = nn.Linear(layer.in_features, layer.out_features, bias=False)
    else:
        assert isinstance(layer, nn.Conv2d)
        sizes = layer.in_channels, layer.out_channels, (weight.shape[2], weight.shape[3])
        found = nn.Conv2d(*sizes, bias=False)
    found.weight = nn.Parameter(weight)
    return found


def _asp(net: nn.Module, taken: set[str]) -> dict[str, Tensor]:
    from apex.contrib.sparsity import ASP

    _reset(ASP)
    net = copy.deepcopy(net).cuda()
    try:
        ASP.init_model_for_pruning(
            net,
            mask_calculator="m4n2_1d",
            verbosity=0,
            whitelist=[nn.Conv2d, nn.Linear],
            allowed_layer_names=sorted(taken),
            allow_permutation=False,  # its search does not end on this model, or crashes
        )
        ASP.init_optimizer_for_pruning(torch.optim.SGD(net.parameters(), lr=0.0))
        ASP.compute_sparse_masks()
        modules = {name: net.get_submodule(name) for name in sorted(taken)}
        return {n: getattr(m, "__weight_mma_mask").bool().cpu() for n, m in modules.items()}
    finally:
        _reset(ASP)


def _reset(asp: type) -> None:
    """ASP keeps its state in the class and refuses a second model in one process."""
    empty: dict[str, Callable[[], object]] = {"model": lambda: None, "optimizer": lambda: None}
    for name in ("sparse_parameters", "all_parameters"):
        empty[name] = list
    for name, value in empty.items():
        setattr(asp, f"_ASP__{name}", value())
