"""2:4 weights in compressed form, as an engine's file holds them: 8.5 bytes for four float32.

Of every four neighbouring input channels the two that are kept, the lower one first, and four bits
that say which they were: what sparse tensor cores take as values and metadata (PTX ISA, mma.sp);
cuda/fragments.py puts them in the order of a warp's threads.
"""

import torch
from torch import Tensor

_SHIFTS = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)


def is_two_of_four(weight: Tensor) -> bool:
    """Whether of every four input channels of (out, in, k, k) at most two are not zero."""
    return weight.shape[1] % 4 == 0 and bool(((_groups(weight) != 0).sum(-1) <= 2).all())


def compressed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values and places of a 2:4 weight.

    Args:
        weight: (out, in, k, k), at most two of four input channels not zero.

    Returns:
        (out, k, k, in / 4, 2) and uint8 (groups / 2,): group g has bits 4 (g mod 2) to
        4 (g mod 2) + 3 of byte g // 2, the first value's place in the two low ones.
    """
    groups = _groups(weight)
    kept = (groups != 0).byte().argsort(dim=-1, descending=True, stable=True)[..., :2].sort(-1)[0]
    places = torch.nn.functional.pad(kept.flatten().to(torch.uint8), (0, -kept.numel() % 4))
    bits = places.view(-1, 4) << _SHIFTS
    return groups.gather(-1, kept).contiguous(), bits.sum(1, dtype=torch.uint8)


def restored(values: Tensor, index: Tensor) -> Tensor:
    """The weight (out, in, k, k) that `compressed` was given."""
    places = (index[:, None] >> _SHIFTS & 3).flatten()[: values.numel()].view(values.shape)
    groups = values.new_zeros(*values.shape[:-1], 4).scatter_(-1, places.long(), values)
    return groups.flatten(-2).movedim(-1, 1).contiguous()


def _groups(weight: Tensor) -> Tensor:
    """(out, in, k, k) -> (out, k, k, in / 4, 4)."""
    return torch.unflatten(weight.movedim(1, -1), -1, (-1, 4))
