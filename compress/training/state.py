"""The state inside a training stage on disk: one safetensors file, replaced atomically.

Tensors: `net.<name>` for parameters and buffers, `adam.<key>.<name>` for the optimizer's state of a
parameter, `rng` for torch's random generator on the CPU, which dropout draws from; older files lack
it. Everything else is JSON in the file's header, so that both are always of the same moment.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.base.files import write_atomic
from compress.base.reasons import reason
from compress.base.tensors import to_bytes

FILE = "state.safetensors"
RANDOM = "rng"


def save(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer, values: Any) -> None:
    """Write network, optimizer and `values` (JSON-like) to `path`.

    Raises:
        OSError: the disk is full or the folder not writable; the former file is untouched.
    """
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        for key, tensor in optimizer.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = tensor
    tensors[RANDOM] = torch.get_rng_state()
    text = json.dumps(values)
    write_atomic(path, to_bytes(tensors, {"values": text, "sha256": _hash(tensors, text)}))


def load(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Fill `net` and `optimizer`, whose state is there already, in place from `path`.

    Random draws on the CPU go on from where they were.

    Returns:
        The values that were saved.

    Raises:
        UsageError: the file is damaged, or not of this training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("sha256", hashed := _hash(tensors, about["values"])) != hashed:  # not in 0.1
            raise ValueError("its hash is not the one in it")
        values = json.loads(about["values"])
        _fill(tensors, net, optimizer)
    except (
        SafetensorError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        remedy = "remove it to train the stage from its start"
        raise UsageError(f"{path} is damaged: {reason(error)}; {remedy}") from error
    return values


def _fill(tensors: Mapping[str, Tensor], net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    net.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
    for name, parameter in net.named_parameters():
        # In place, so in the parameter's strides, which Adam's one kernel on a GPU insists on.
        for key, tensor in optimizer.state[parameter].items():
            tensor.copy_(tensors[f"adam.{key}.{name}"])
    if RANDOM in tensors:
        torch.set_rng_state(tensors[RANDOM])


def _hash(tensors: Mapping[str, Tensor], text: str) -> str:
    """The SHA-256 of all that a file holds: a flipped bit would train on, from other weights."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
