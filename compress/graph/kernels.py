"""Kernels that can lose their outer ring of taps: which, why not others, and the cut.

Without its outer ring a 5x5 is the 3x3 in its middle. With one pixel less of padding on each side
it reads the same pixels by the same weights, so it computes what the 5x5 with zeros around it
computes: whatever stride, dilation, groups and way of padding, and for deconvolutions as well.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from compress.graph import plain
from compress.graph.cost import CONVOLUTIONS, convolutions

Rings = Mapping[str, int]
"""How many rings go, by the module name of a convolution."""
Padding = tuple[int, ...] | str


def cuttable(net: nn.Module, least: int) -> tuple[dict[str, int], dict[str, str]]:
    """The rings that each convolution can lose, and why others can lose none.

    Args:
        net: the network, whose code is not looked at; `pruning/proof.py` tries what it does.
        least: the smallest side, odd.

    Returns:
        At least 1 by module name; and a reason by module name for every other convolution that has
        a side larger than `least`.
    """
    owners = plain.owners(net)
    most, reasons = {}, {}
    for name, module in convolutions(net).items():
        if max(module.kernel_size) <= least:
            continue
        shared = owners[id(module.weight)] > 1
        if reason := _reason(module, shared=shared):
            reasons[name] = reason
        else:
            room = (module.kernel_size[0] - least) // 2
            most[name] = min(room, *_padded(module)) if module.padding != "same" else room
    return most, reasons


def _reason(module: nn.Conv2d | nn.ConvTranspose2d, *, shared: bool) -> str:
    """Why a convolution can lose no ring; empty where it can."""
    height, width = module.kernel_size
    if plain.computed(module):
        return "its weight is computed while it runs"
    if shared:
        return "other layers have the same weight"
    if height != width or height % 2 == 0:
        return f"its kernel is {height}x{width}, not square and odd"
    if module.padding == "same":
        return ""
    if min(_padded(module)) < 1:
        by = module.padding if isinstance(module.padding, str) else f"{min(module.padding)} pixels"
        return f"it pads by {by}, so a smaller kernel would read other pixels"
    return ""


def _padded(module: nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, ...]:
    """Rings by which the padding can shrink, on each axis."""
    if isinstance(module.padding, str):
        return 0, 0
    pairs = zip(module.padding, module.dilation, strict=True)
    return tuple(pad // step for pad, step in pairs)


def smaller_padding(
    padding: Padding, dilation: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> Padding:
    """The padding with which the middle of a kernel reads what it read before.

    Args:
        padding: of the kernel before, in pixels on each side; or same, valid.
        dilation: pixels between taps.
        before: sides of the kernel.
        after: sides of its middle.

    Raises:
        ValueError: `after` is no middle of `before`, or there is too little padding.
    """
    steps = zip(dilation, before, after, strict=True)
    gone = [step * (old - new) for step, old, new in steps]
    if any(one < 0 for one in gone) or any((b - a) % 2 for b, a in zip(before, after, strict=True)):
        raise ValueError(f"{list(after)} is not the middle of a kernel of {list(before)}")
    if padding == "same" and all(side % 2 for side in before):
        return padding
    if isinstance(padding, str):
        left = [-1] if any(gone) else [0]
    else:
        left = [pad - one // 2 for pad, one in zip(padding, gone, strict=True)]
    if min(left) < 0:
        raise ValueError(f"padding {padding} is too little for a kernel of {list(after)}")
    return padding if isinstance(padding, str) else tuple(left)


def set_sides(module: nn.modules.conv._ConvNd, sides: tuple[int, ...]) -> None:
    """Give a convolution, in place, the record of the kernel that its weight is.

    Args:
        module: with the kernel and the padding from before.
        sides: of the weight, in the middle of the kernel from before.

    Raises:
        ValueError: as for `smaller_padding`.
    """
    if sides == tuple(module.kernel_size):
        return
    given: Padding = module.padding
    padding = smaller_padding(given, module.dilation, module.kernel_size, sides)
    module.kernel_size = sides
    module.padding = padding
    steps = zip(module.dilation, sides, strict=True)
    pads = [d * (k - 1) // 2 for d, k in steps] if isinstance(padding, str) else padding
    # What torch pads by where the padding is no zeros: the last axis first, both sides.
    module._reversed_padding_repeated_twice = [pad for pad in reversed(pads) for _ in range(2)]


def middle(weight: Tensor, rings: int) -> Tensor:
    """(..., k, k) -> (..., k - 2 rings, k - 2 rings), the middle."""
    side = weight.shape[-1] - 2 * rings
    return weight.narrow(-1, rings, side).narrow(-2, rings, side)


def ring_sums(taps: Tensor, rings: int) -> Tensor:
    """(..., k, k) values of taps -> (..., rings) their sums over each ring, the outermost first."""
    inside = [middle(taps, ring).sum((-2, -1)) for ring in range(rings + 1)]
    return torch.stack([one - two for one, two in pairwise(inside)], -1)


def cut(net: nn.Module, rings: Rings) -> nn.Module:
    """A copy of `net` whose convolutions have lost rings, see `cuttable`."""
    net = copy.deepcopy(net)
    for name, count in rings.items():
        module = net.get_submodule(name)
        assert isinstance(module, CONVOLUTIONS)
        small = middle(module.weight.detach(), count).clone()
        module.weight = nn.Parameter(small, requires_grad=module.weight.requires_grad)
        set_sides(module, tuple(small.shape[2:]))
    return net


def smaller(net: nn.Module, least: int) -> list[nn.Module]:
    """Copies of `net` with one ring less of each kernel, two less, and so on.

    Args:
        net: the network.
        least: the smallest side, odd.
    """
    most = cuttable(net, least)[0]
    levels = range(1, max(most.values(), default=0) + 1)
    return [cut(net, {name: min(count, level) for name, count in most.items()}) for level in levels]
