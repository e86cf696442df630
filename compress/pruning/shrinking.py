"""How products of values, as in attention, get smaller with the channels that are removed.

A layer's cost follows from the shape of its weight; what a product of values costs depends on the
network's code. So it is tried: the network runs without one channel of each group.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from compress.graph.cost import Counted, again
from compress.graph.groups import Group, remove
from compress.graph.products import Product
from compress.graph.trial import copied

Change = Mapping[int, tuple[int, ...]]
"""By the number of a product, how much smaller each of its sizes is."""


def shrinking(net: nn.Module, found: Sequence[Group], whole: Counted) -> dict[str, Change]:
    """What one channel of a group takes from the sizes of products, by the group's name.

    Args:
        net: the network; it is not changed.
        found: its groups. Without a channel of some a network may not run: those take nothing, and
            stay whole when the plan is tried.
        whole: what the network computes.
    """
    if not whole.products:
        return {}
    if whole.device == "meta":
        net = copied(net, "meta")  # without its values, which would be copied for each group
    return _shrinking(net, [g for g in found if not g.fixed and g.width > 1], whole)


def _shrinking(net: nn.Module, found: Sequence[Group], whole: Counted) -> dict[str, Change]:
    """As `shrinking`, of groups that may go; halved until each that changes something is alone."""
    now = _without(net, found, whole) if found else whole.products
    if now == whole.products:
        return {}
    if len(found) == 1:
        return {found[0].name: _change(whole.products, now)} if now else {}
    half = len(found) // 2
    return _shrinking(net, found[:half], whole) | _shrinking(net, found[half:], whole)


def _without(net: nn.Module, found: Sequence[Group], whole: Counted) -> tuple[Product, ...]:
    """The products without a channel of each group; none where the network does not run so."""
    try:
        small = remove(net, found, {group.name: (0,) for group in found})
        now = again(small, whole).products
    except Exception:  # the network's own code meets sizes that it was not written for
        return ()
    same = [len(one.sizes) for one in now] == [len(one.sizes) for one in whole.products]
    return now if same else ()


def _change(whole: Sequence[Product], now: Sequence[Product]) -> Change:
    pairs = enumerate(zip(whole, now, strict=True))
    return {
        index: tuple(a - b for a, b in zip(before.sizes, after.sizes, strict=True))
        for index, (before, after) in pairs
        if before != after
    }
