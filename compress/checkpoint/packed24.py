"""A checkpoint in one file, its 2:4 weights in compressed form: `compress pack` and `unpack`.

The file is safetensors. Its header's metadata: `format` is "compress-packed24", `version` is "1",
`model.json` is that file's text. Its tensors are those of model.safetensors, except that a masked
weight L.weight of shape (out, in, *kernel) and its mask L.mask24 are stored as

L.weight.values24  dtype of the weight, (out, *kernel, in / 4, 2): of every four consecutive input
                   channels the two that the mask keeps, lower channel first
L.weight.index24   uint8, one dimension: where they stood. Groups of four are counted row by row of
                   (out, *kernel, in / 4); group g has bits 4 (g mod 2) to 4 (g mod 2) + 3 of byte
                   g // 2: the first value's place in the group in the two low bits, the second's
                   in the two high ones

that is, 8.5 bytes instead of 16 for four float32. The four bits of a group are those that NVIDIA's
sparse tensor cores take as metadata for 2:4 in 8- and 16-bit types (PTX ISA, mma.sp).
docs/packed24.md has an example. Unpacking gives the same files back, bit for bit, and makes sure of
it by the hash in model.json.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from compress import checkpoint
from compress.base.errors import UsageError
from compress.base.files import json_bytes, write_atomic
from compress.checkpoint import Model
from compress.checkpoint.files import BITS, TABLE, WEIGHTS, from_bits, read, to_bits

FORMAT, VERSION = "compress-packed24", "1"
VALUES, INDEX = ".weight.values24", ".weight.index24"


@dataclass(frozen=True)
class Summary:
    """What packing did."""

    bytes: int
    """Size of the packed file."""
    bytes_before: int
    """Size of model.safetensors and model.json."""
    packed: tuple[str, ...]
    """Layers in compressed form."""
    left: tuple[str, ...]
    """Masked layers that are stored as they were, because their dropped weights are not all +0.0
    or their mask does not keep exactly two of four: compressed, they would lose bits."""

    def sentence(self) -> str:
        """The summary in words."""
        share = self.bytes / self.bytes_before
        left = f", masked but left as they were: {len(self.left)}" if self.left else ""
        size = f"{self.bytes:,} bytes instead of {self.bytes_before:,} ({share:.1%})"
        return f"{size}; layers in 2:4 form: {len(self.packed)}{left or self._hint()}"

    def _hint(self) -> str:
        return "" if self.packed else ", nothing is 2:4; the step sparsify of a recipe makes it so"


def pack(folder: Path, file: Path) -> Summary:
    """Write the checkpoint in `folder` to `file`, masked weights in compressed form.

    The folder of `file` is made where missing; an older packed checkpoint is replaced.

    Raises:
        UsageError: `folder` holds no checkpoint, or one that was altered or is damaged, or `file`
            is something else than a packed checkpoint.
        OSError: `file` cannot be written.
    """
    table, tensors = read(folder)
    if table["network"]["import"] is None:  # else its code would be run, which packing needs not
        checkpoint.described(folder, table)
    _spare(file, folder)
    text = (folder / TABLE).read_bytes()
    data, summary = _pack(text, tensors, (folder / WEIGHTS).stat().st_size)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, data)
    return summary


def summarise(model: Model) -> Summary:
    """What packing the checkpoint of `model` would do; writes nothing."""
    table, data = checkpoint.contents(model)
    return _pack(json_bytes(table), safetensors.load(data), len(data))[1]


def unpack(file: Path, folder: Path) -> None:
    """Write the checkpoint that was packed into `file` to `folder`, which is made where missing.

    Raises:
        UsageError: `file` is no packed checkpoint or was altered, or `folder` holds a file of the
            name of one of a checkpoint's.
        OSError: `folder` cannot be written.
    """
    text, data = _unpack(file)
    if there := [name for name in (WEIGHTS, TABLE) if os.path.lexists(folder / name)]:
        raise UsageError(f"{folder} holds {' and '.join(there)} already; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, data)
    write_atomic(folder / TABLE, text)


def is_packed(file: Path) -> bool:
    """Whether `file` says that it is a packed checkpoint, of whatever version; reads its header."""
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def compressed(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A masked weight in compressed form.

    Args:
        weight: (out, in, *kernel), `in` a multiple of 4, any dtype.
        mask: bool, the same shape, True for exactly two of every four input channels.

    Returns:
        Values (out, *kernel, in / 4, 2) and index uint8 (ceil(groups / 2),), as the module says.
    """
    kept = _groups(mask).byte().argsort(dim=-1, descending=True, stable=True)[..., :2]
    values = _groups(weight).gather(-1, kept)
    places = kept.flatten().to(torch.uint8)
    places = torch.nn.functional.pad(places, (0, -len(places) % 4)).reshape(-1, 4)
    bits = places << torch.tensor([0, 2, 4, 6], dtype=torch.uint8)
    return values.contiguous(), bits.sum(dim=1, dtype=torch.uint8)


def restored(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The weight (out, in, *kernel) and the mask that `compressed` was given.

    Raises:
        ValueError: the index does not fit the values.
    """
    places = (index[:, None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)) & 3
    if values.shape[2:] == () or values.shape[-1] != 2 or len(index) != -(-values.numel() // 4):
        raise ValueError(f"{len(index)} bytes of index for values of shape {list(values.shape)}")
    kept = places.flatten()[: values.numel()].long().reshape(values.shape)
    if bool((kept[..., 0] >= kept[..., 1]).any()):
        raise ValueError("the places in a group of four do not rise")
    groups = (*values.shape[:-1], 4)
    weight = torch.zeros(groups, dtype=values.dtype).scatter_(-1, kept, values)
    mask = torch.zeros(groups, dtype=torch.bool).scatter_(-1, kept, True)
    return _ungrouped(weight), _ungrouped(mask)


def _spare(file: Path, folder: Path) -> None:
    """Refuse to write over anything but an older packed checkpoint."""
    if not os.path.lexists(file):
        return
    if any(file.exists() and file.samefile(folder / name) for name in (WEIGHTS, TABLE)):
        raise UsageError(f"{file} belongs to the checkpoint that is to be packed; name a new file")
    if not is_packed(file):
        raise UsageError(f"{file} exists and is no packed checkpoint; name a new file")


def _pack(text: bytes, tensors: dict[str, Tensor], size: int) -> tuple[bytes, Summary]:
    """The packed file of a checkpoint with `tensors`, whose model.safetensors has `size` bytes."""
    tensors = dict(tensors)
    packed, left = [], []
    for layer in sorted(name.removesuffix(BITS) for name in tensors if name.endswith(BITS)):
        weight = tensors[f"{layer}.weight"]
        mask = from_bits(tensors[layer + BITS], weight.shape)
        if not _fits(weight, mask):
            left.append(layer)
            continue
        tensors[layer + VALUES], tensors[layer + INDEX] = compressed(weight, mask)
        del tensors[f"{layer}.weight"], tensors[layer + BITS]
        packed.append(layer)
    metadata = {"format": FORMAT, "version": VERSION, TABLE: text.decode()}
    data = safetensors.save(tensors, metadata)
    return data, Summary(len(data), size + len(text), tuple(packed), tuple(left))


def _unpack(file: Path) -> tuple[bytes, bytes]:
    """The text of model.json and the bytes of model.safetensors."""
    if file.is_dir():
        raise UsageError(f"{file} is a folder; name the file that compress pack wrote")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file} is no packed checkpoint: {error}") from error
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{file} is no packed checkpoint: its header does not say {FORMAT}")
    if metadata.get("version") != VERSION:
        raise UsageError(f"{file} has version {metadata.get('version')}, not {VERSION}")
    try:
        for layer in [name.removesuffix(VALUES) for name in tensors if name.endswith(VALUES)]:
            weight, mask = restored(tensors.pop(layer + VALUES), tensors.pop(layer + INDEX))
            tensors[f"{layer}.weight"], tensors[layer + BITS] = weight, to_bits(mask)
        data, text = safetensors.save(tensors), metadata[TABLE]
        same = hashlib.sha256(data).hexdigest() == json.loads(text)["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} was altered: {error}") from error
    if not same:
        raise UsageError(f"{file} was altered: what it holds is not what was packed")
    return text.encode(), data


def _fits(weight: Tensor, mask: Tensor) -> bool:
    """Whether the compressed form loses no bit of weight or mask."""
    if weight.shape[1] % 4 or not bool((_groups(mask).sum(-1) == 2).all()):
        return False
    dropped = weight.masked_fill(mask, 0).flatten()
    return not bool(dropped.view(torch.uint8).any())  # by bits: -0.0 is not nothing


def _groups(tensor: Tensor) -> Tensor:
    """(out, in, *kernel) -> (out, *kernel, in / 4, 4)."""
    last = tensor.movedim(1, -1)
    return last.reshape(*last.shape[:-1], -1, 4)


def _ungrouped(groups: Tensor) -> Tensor:
    """(out, *kernel, in / 4, 4) -> (out, in, *kernel)."""
    return groups.flatten(-2).movedim(-1, 1).contiguous()
