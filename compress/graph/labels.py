"""Which entries of which tensors belong to which channel while a network runs.

Every axis of a parameter gets one number, its *label*, for each index. Labels travel with the
values: a tensor's storage has a second storage of integers beside it, so that views, slices
and in-place writes need no rule of their own. Where two channels must go together their labels
are joined (a disjoint-set forest); where a channel must stay its set is held, with the reason.
Label 0 means: belongs to no channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Ids = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


@dataclass(frozen=True)
class Axis:
    """One dimension of a parameter or buffer."""

    tensor: str
    """Its name in the network's state."""
    dim: int


class Sets:
    """Labels in disjoint sets, each with a reason to stay or none."""

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1, np.int32)
        self._held: dict[int, str] = {}
        self._axes: dict[Axis, int] = {}
        self._sizes: dict[Axis, int] = {}

    def axis(self, axis: Axis, size: int) -> Ids:
        """The labels of an axis, (size,); new ones where it has none yet."""
        if axis not in self._axes:
            first = len(self._parent)
            self._axes[axis], self._sizes[axis] = first, size
            self._parent = np.append(self._parent, np.arange(first, first + size, dtype=np.int32))
        first = self._axes[axis]
        return np.arange(first, first + size, dtype=np.int32)

    def axes(self) -> Iterator[tuple[Axis, Ids]]:
        """Every axis with the set of each of its indices, in the order of their labels."""
        for axis, size in self._sizes.items():
            yield axis, self.find(self.axis(axis, size))

    def find(self, labels: Ids) -> Ids:
        """The representative of each label's set."""
        return np.asarray(self._parent[labels])  # of a single label, too

    def join(self, one: Ids, other: Ids) -> None:
        """Put labels at equal places of two arrays into one set; pairs with label 0 are left."""
        a, b = self.find(one).ravel(), self.find(other).ravel()
        differ = (a != b) & (a != 0) & (b != 0)
        if not differ.any():
            return
        keys = np.unique(a[differ].astype(np.int64) * len(self._parent) + b[differ])
        for key in keys.tolist():
            self._unite(*divmod(key, len(self._parent)))
        while True:  # every label points at its representative again
            shorter = self._parent[self._parent]
            if (shorter == self._parent).all():
                return
            self._parent = shorter

    def hold(self, labels: Ids, reason: str, *, first: bool = False) -> None:
        """Have the sets of these labels stay; the first reason counts, or this one."""
        for root in np.unique(self.find(labels)).tolist():
            if root and (first or root not in self._held):
                self._held[root] = reason

    def reason(self, root: int) -> str:
        """Why a set must stay; empty where it may go."""
        return self._held.get(root, "")

    def _unite(self, one: int, other: int) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        if low == high:
            return
        self._parent[high] = low
        if high in self._held:
            self._held.setdefault(low, self._held.pop(high))

    def _root(self, label: int) -> int:
        while (above := int(self._parent[label])) != label:
            label = above
        return label


class Shadows:
    """The labels beside the values of tensors, by storage.

    Most tensors have one label in a channel, whatever its size. Such labels are kept small, in
    dimensions of 1, until another view of the storage is asked for.

    Args:
        limit: bytes of values and labels beyond which `Shadows` gives up.
    """

    def __init__(self, limit: int) -> None:
        self._shadows: dict[tuple[int, int], Tensor] = {}
        self._small: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # the view, its labels
        self._blank: dict[tuple[int, int], Tensor] = {}
        # A storage that is freed could give its address, and so its labels, to another.
        self._kept: dict[int, torch.UntypedStorage] = {}
        self._left = limit

    def keep(self, tensor: Tensor) -> None:
        """Keep the tensor's storage alive.

        Raises:
            MemoryError: more than the limit is kept.
        """
        if tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._kept:
            self._kept[storage.data_ptr()] = storage
            self._left -= 2 * storage.nbytes()
        if self._left < 0:
            raise MemoryError

    def get(self, tensor: Tensor) -> Tensor | None:
        """The labels of a tensor in its shape, int32; None where all are 0, as in sparse ones."""
        if tensor.layout is not torch.strided:
            return None
        view, labels = self._small.get(_key(tensor), (None, None))
        if view is not None and labels is not None and _same(view, tensor):
            return labels.expand(tensor.shape)
        shadow = self._spread(tensor)
        return None if shadow is None else _like(shadow, tensor)

    def put(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Label a tensor, and so all views of it. `labels` broadcasts to its shape."""
        if tensor.layout is not torch.strided:
            return
        key = _key(tensor)
        if tensor.numel() == _entries(tensor):
            self._shadows.pop(key, None)
            self._small.pop(key, None)
            if labels is not None:
                self._small[key] = tensor.detach(), labels
            return
        blank = self._blank.pop(key, None)
        if labels is None and blank is not None:
            return
        if blank is not None and labels is not None and _fits(short(labels), tensor, blank):
            self._small[key] = blank, short(labels)
            return
        if (shadow := self._spread(tensor)) is None:
            if labels is None:
                return
            shadow = self._shadows[key] = torch.zeros(_entries(tensor), dtype=torch.int32)
        written = _like(shadow, tensor)
        written.copy_(torch.zeros((), dtype=torch.int32) if labels is None else labels)

    def blank(self, tensor: Tensor) -> None:
        """Note new memory: what is not written later, as beside a slice, counts as written."""
        self.put(tensor, None)
        self._blank[_key(tensor)] = tensor.detach()

    def _spread(self, tensor: Tensor) -> Tensor | None:
        """The labels of all entries of the tensor's storage."""
        key = _key(tensor)
        if key in self._small:
            view, labels = self._small.pop(key)
            self._shadows[key] = torch.zeros(_entries(view), dtype=torch.int32)
            _like(self._shadows[key], view).copy_(labels)
        return self._shadows.get(key)


def short(labels: Tensor) -> Tensor:
    """One entry of each dimension along which labels are known not to vary."""
    for dim, step in enumerate(labels.stride()):
        if step == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels


def shortened(labels: Tensor) -> Tensor:
    """The same labels, with step 0 in every dimension along which they do not vary."""
    shape, labels = labels.shape, short(labels)
    for dim in sorted(range(labels.dim()), key=lambda d: -labels.shape[d]):
        first = labels.narrow(dim, 0, 1)
        if bool((labels == first).all()):
            labels = first
    return labels.expand(shape)


def _fits(labels: Tensor, written: Tensor, whole: Tensor) -> bool:
    """Whether labels of a part hold for all, as they do not vary along what the part lacks."""
    if labels.dim() != whole.dim() or written.dim() != whole.dim():
        return False
    sizes = zip(labels.shape, written.shape, whole.shape, strict=True)
    return all(label == 1 or part == size for label, part, size in sizes)


def _entries(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _same(one: Tensor, other: Tensor) -> bool:
    places = [(t.shape, t.stride(), t.storage_offset()) for t in (one, other)]
    return places[0] == places[1]


def _key(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), tensor.element_size()


def _like(shadow: Tensor, tensor: Tensor) -> Tensor:
    return shadow.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
