"""The two files of a checkpoint as they are read: nothing is built, everything is looked at.

A file can be damaged and readable all the same. `read` refuses what `checkpoint.load`
could not use, so that it can trust what it gets.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from compress.base.errors import UsageError
from compress.base.filekind import wrong_kind
from compress.base.files import digest, read_json
from compress.base.hu import HU_MAX, HU_MIN
from compress.graph.rewrite import REWRITES
from compress.sparsity.masks import Pattern

SCHEMA = 1
WEIGHTS, TABLE = "model.safetensors", "model.json"
RUN = "recipe.yaml"
"""A file of every run folder."""
BITS = ".mask24"
"""Suffix of a mask's tensor: uint8, the mask's bits in the weight's order, eight to a byte."""
TRAINED_ON = "trained_on"
"""The entry of model.json that tells of the slices that a network was trained on, if it was."""
REMEDY = "copy the checkpoint again, or run its step again"

Kinds = Mapping[str, type | tuple[type, ...]]
NONE = type(None)
ENTRIES: Kinds = {"network": dict, "rewrites": list, "pattern": (str, NONE), "sha256": str}
"""What of model.json is read, and the types that it may have."""
NETWORK: Kinds = {
    "name": (str, NONE),
    "import": (str, NONE),
    "folder": (str, NONE),
    "options": dict,
}
"""The same of its entry `network`."""
NEIGHBOURS: Kinds = {"neighbours": int}
"""The same of what `network` holds only for networks of neighbouring slices."""

NORMALISATION = {"hu_min": HU_MIN, "hu_max": HU_MAX}
"""Which HU networks see as 0 and 1; of others the output would be wrong without a word."""

OWN = "description_sha256"
"""The entry of model.json that holds the hash of its others; absent in 0.1 and 0.2.0."""
MOVES = "folder"
"""The entry of `network` that may change with the place of a network's code."""

INT8: Kinds = {"int8": dict}
"""What there is only for quantised networks: INT8 layers by name, and the error of each in HU."""


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The two files of a checkpoint: the value of model.json and every tensor, masks as bits.

    Raises:
        UsageError: no checkpoint, another schema, a description that cannot be used, or tensors
            that were altered; the sentence names the file and what is wrong.
    """
    try:
        table = read_json(folder / TABLE)
        data = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        why = _missing(folder) or error
        raise UsageError(f"{folder} holds no checkpoint: {why}") from error
    if wrong := _wrong(table):
        raise UsageError(f"{folder}/{TABLE} {wrong}")
    if other := wrong_kind(folder / WEIGHTS):
        raise UsageError(f"{folder}/{WEIGHTS} is damaged: {other}")
    if hashlib.sha256(data).hexdigest() != table["sha256"]:
        raise UsageError(f"{folder}/{WEIGHTS} was altered: its hash is not in {TABLE}")
    try:
        tensors = safetensors.load(data)
        for name in [name for name in tensors if name.endswith(BITS)]:
            _check_bits(name, tensors)
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{folder}/{WEIGHTS} is damaged: {error}; {REMEDY}") from error
    return table, tensors


def to_bits(mask: Tensor) -> Tensor:
    """A bool mask as it is stored: uint8, eight entries to a byte, the first in the highest bit."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def from_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """The bool mask of `shape` that `to_bits` stored.

    Raises:
        ValueError: it is not what `to_bits` stores for that shape.
    """
    size = shape.numel()
    if bits.dtype != torch.uint8 or bits.shape != (-(-size // 8),):
        kind = f"{str(bits.dtype).removeprefix('torch.')} of shape {list(bits.shape)}"
        raise ValueError(f"{kind} is no mask of {size:,} weights, a bit each")
    flat = np.unpackbits(bits.numpy()).astype(bool)
    if flat[size:].any():
        raise ValueError(f"there are more bits than the {size:,} of the weight")
    return torch.from_numpy(flat[:size]).reshape(shape)


def _wrong(table: Any) -> str:
    """What makes the value of model.json unusable, as the end of a sentence; empty for nothing."""
    if not isinstance(table, dict):
        return f"is damaged: it holds no description of a network; {REMEDY}"
    if table.get("schema") != SCHEMA:
        return f"has schema {table.get('schema')}, not {SCHEMA}"
    if wrong := unlike(table, ENTRIES) or _unlike_optional(table):
        return f"is damaged: {wrong}; {REMEDY}"
    if table.get("normalisation", NORMALISATION) != NORMALISATION:
        return f"is of networks that map {table['normalisation']!r:.60}, not {NORMALISATION}"
    return _wrong_values(table)


def _wrong_values(table: Mapping[str, Any]) -> str:
    """The same of a table whose entries are of the right types."""
    known = [str(pattern) for pattern in get_args(Pattern)]
    if table["pattern"] not in (None, *known):
        return f"names the pattern {table['pattern']!r}; there are: {', '.join(known)}"
    if unknown := [name for name in table["rewrites"] if name not in list(REWRITES)]:
        return f"names the rewrite {unknown[0]!r}; there are: {', '.join(REWRITES)}"
    if table.get(OWN, own := description_hash(table)) != own:
        return (
            "was edited: the hash of its entries is not the one in it, so the network might "
            f"compute something else; {REMEDY}"
        )
    return ""


def description_hash(table: Mapping[str, Any]) -> str:
    """OWN of a model.json: what its entries say, but for the place of the network's code."""
    network = {key: value for key, value in table["network"].items() if key != MOVES}
    others = {key: value for key, value in table.items() if key != OWN}
    return digest(json.loads(json.dumps({**others, "network": network})))


def _unlike_optional(table: Mapping[str, Any]) -> str:
    """As `unlike`, of the network and of what there need not be."""
    network, int8 = table["network"], table.get("int8", {})
    kinds = {**NETWORK, **(NEIGHBOURS if "neighbours" in network else {})}
    learned = table.get(TRAINED_ON, [])
    if not isinstance(learned, list):
        return f"its {TRAINED_ON} is {learned!r:.40}"
    return (
        unlike(network, kinds, "network.")
        or unlike({"int8": int8}, INT8)
        or unlike(int8, dict.fromkeys(int8, float), "int8.")
        or next((f"its {TRAINED_ON} holds {x!r:.40}" for x in learned if type(x) is not str), "")
    )


def unlike(values: Mapping[str, Any], kinds: Kinds, prefix: str = "") -> str:
    """The first entry that is missing or of another type than it should have; empty for none.

    Args:
        values: what was read.
        kinds: type of each entry that there must be.
        prefix: of their names, for the sentence.
    """
    for key, kind in kinds.items():
        if key not in values:
            return f"it has no {prefix}{key}"
        if not isinstance(values[key], kind):
            return f"its {prefix}{key} is {values[key]!r:.40}"
    return ""


def _check_bits(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the tensor `name` is no mask of a weight among `tensors`."""
    weight = tensors.get(f"{name.removesuffix(BITS)}.weight")
    if weight is None or weight.dim() < 2:
        raise ValueError(f"{name} is a mask, but its layer has no weight of inputs and outputs")
    try:
        from_bits(tensors[name], weight.shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _missing(folder: Path) -> str:
    if other := (folder / TABLE).exists() and wrong_kind(folder / TABLE):
        return f"of {TABLE}, {other}"
    gone = ", ".join(f"no {name}" for name in (TABLE, WEIGHTS) if not (folder / name).exists())
    inside = sorted(folder.glob(f"*/{TABLE}"))
    if not inside and (folder.parent / RUN).is_file():  # another stage of a run
        inside = sorted(folder.parent.glob(f"[0-9]*/{TABLE}"))
    return f"{gone}; try {inside[-1].parent}" if gone and inside else gone
