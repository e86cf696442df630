"""The state inside a training stage on disk: one safetensors file, replaced atomically.

Tensors: `net.<name>` for parameters and buffers, `adam.<key>.<name>` for the optimizer's state of a
parameter, `rng` for torch's random generator on the CPU, which dropout draws from; older files lack
it. Everything else is JSON in the file's header, so that both are always of the same moment.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from compress.base.files import write_atomic
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
    write_atomic(path, to_bytes(tensors, {"values": json.dumps(values)}))


def load(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Fill `net` and `optimizer`, whose state is there already, in place from `path`.

    Random draws on the CPU go on from where they were.

    Returns:
        The values that were saved.
    """
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["values"])
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    net.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
    for name, parameter in net.named_parameters():
        # In place, so in the parameter's strides, which Adam's one kernel on a GPU insists on.
        for key, tensor in optimizer.state[parameter].items():
            tensor.copy_(tensors[f"adam.{key}.{name}"])
    if RANDOM in tensors:
        torch.set_rng_state(tensors[RANDOM])
    return values
