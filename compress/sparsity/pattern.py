"""The 2:4 pattern: masks and checks, pure functions on tensors.

A weight is 2:4 when, for every output channel and kernel position, each four consecutive input
channels (0-3, 4-7, ...) hold at most two non-zeros: the pattern of NVIDIA's sparse tensor cores.
Mishra et al., "Accelerating sparse deep neural networks", arXiv:2104.08378.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError


@dataclass(frozen=True)
class Violation:
    """One group of four that holds more than two non-zeros."""

    out: int
    """Output channel."""
    first: int
    """First of the four input channels."""
    tap: tuple[int, ...]
    """Kernel position (row, column); empty for a linear layer."""
    nonzeros: int


def mask_2to4(weight: Tensor) -> Tensor:
    """The magnitude mask: the two largest of every four stay.

    Args:
        weight: (out, in, ...) with `in` a multiple of 4, any floating dtype.

    Returns:
        bool, shape of `weight`, True = stays; exactly two of every four. Ties: lower channel stays.

    Raises:
        ValueError: `in` is no multiple of 4.
    """
    groups = _groups_of_four(weight).abs()  # (out, ..., in / 4, 4)
    order = groups.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :2], True)
    return mask.flatten(-2).movedim(-1, 1)


def violations(weight: Tensor, most: int | None = None) -> list[Violation]:
    """The groups of four in `weight`, (out, in, ...), that hold more than two non-zeros.

    Args:
        weight: the weight.
        most: stop after so many; None gives all.

    Raises:
        ValueError: `in` is no multiple of 4.
    """
    counts = _nonzeros(weight)
    found = (counts > 2).nonzero()[:most].tolist()
    return [
        Violation(place[0], 4 * place[-1], tuple(place[1:-1]), int(counts[tuple(place)]))
        for place in found
    ]


def count_violations(weight: Tensor) -> int:
    """How many groups of four in `weight`, (out, in, ...), hold more than two non-zeros.

    Raises:
        ValueError: `in` is no multiple of 4.
    """
    return int((_nonzeros(weight) > 2).sum())


def is_2to4(weight: Tensor) -> bool:
    """Whether `weight`, (out, in, ...), is 2:4 along its inputs; False where in % 4 is not 0."""
    return weight.shape[1] % 4 == 0 and count_violations(weight) == 0


def check_finite(net: nn.Module) -> None:
    """Make sure that every parameter of `net` is finite: magnitudes do not rank NaN and infinity.

    Raises:
        UsageError: names the first one that is not.
    """
    for name, parameter in net.named_parameters():
        if broken := int((~parameter.detach().isfinite()).sum()):
            raise UsageError(
                f"{name} is NaN or infinite in {broken:,} of {parameter.numel():,} places, so its "
                "magnitudes rank nothing; start from other weights, or train with a lower rate"
            )


def unaligned(count: int, side: str, multiple: int) -> str:
    """A sentence on channels that are too few or too many, such as 1 input channel.

    Args:
        count: of the channels.
        side: input or output.
        multiple: that their number should be of.
    """
    noun, verb = ("channel", "is") if count == 1 else ("channels", "are")
    return f"{count} {side} {noun} {verb} no multiple of {multiple}"


def _nonzeros(weight: Tensor) -> Tensor:
    """Non-zeros in every group of four, (out, ..., in / 4)."""
    return _groups_of_four(weight != 0).sum(-1)


def _groups_of_four(weight: Tensor) -> Tensor:
    """(out, in, ...) -> (out, ..., in / 4, 4)."""
    if weight.shape[1] % 4:
        raise ValueError(unaligned(weight.shape[1], "input", 4))
    last = weight.detach().movedim(1, -1)  # (out, ..., in)
    return last.reshape(*last.shape[:-1], -1, 4)
