"""Masks on single weights, as the study's comparison has them: zeros, and no faster network.

    magnitude_weights   the weights nearest to zero go (Han et al., NeurIPS 2015)
    random_weights      uniform draws

The tensors keep their shapes, so no multiply-accumulate is saved; no kernel skips such zeros.
"""

import zlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph.cost import convolutions

Kind = Literal["magnitude_weights", "random_weights"]
KINDS: tuple[Kind, ...] = ("magnitude_weights", "random_weights")


def masks(
    net: nn.Module, kind: Kind, amount: float, *, per_layer: bool = True, seed: int = 0
) -> dict[str, Tensor]:
    """A mask for the weight of every convolution that has one of its own and trains it.

    All else stays: nothing could make up for zeros in a frozen weight.

    Args:
        net: any network.
        kind: which weights go first.
        amount: share of the weights that goes, in (0, 1), rounded to the nearest weight.
        per_layer: the share holds in every layer; else over the whole network.
        seed: for random_weights.

    Returns:
        Bool, of each weight's shape, by module name; True = stays.

    Raises:
        UsageError: there is no such convolution.
    """
    own = {n: m.weight for n, m in convolutions(net).items() if "weight" in m._parameters}
    trained = {name: weight for name, weight in own.items() if weight.requires_grad}
    if not trained:
        has = (
            "trains no two-dimensional convolution" if own else "has no two-dimensional convolution"
        )
        raise UsageError(f"prune: {type(net).__name__} {has} to mask")
    scores = {name: _scores(name, weight, kind, seed) for name, weight in trained.items()}
    if per_layer:
        return {name: _largest(found, amount) for name, found in scores.items()}
    whole = _largest(torch.cat([found.flatten() for found in scores.values()]), amount)
    parts = torch.split(whole, [found.numel() for found in scores.values()])
    return {
        name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)
    }


def zeros(net: nn.Module, masks: Mapping[str, Tensor]) -> float:
    """Share of all convolution weights of `net` that the masks hold at zero; 0 of none."""
    whole = sum(layer.weight.numel() for layer in convolutions(net).values())
    return sum(int((~mask).sum()) for mask in masks.values()) / max(whole, 1)


def _scores(name: str, weight: Tensor, kind: Kind, seed: int) -> Tensor:
    if kind == "magnitude_weights":
        return weight.detach().cpu().abs()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    return torch.rand(weight.shape, generator=generator)


def _largest(scores: Tensor, amount: float) -> Tensor:
    """True for all but the lowest share `amount` of the scores; of equal ones the first stay."""
    gone = round(amount * scores.numel())
    order = scores.flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[: scores.numel() - gone]] = True
    return mask.reshape(scores.shape)
