"""A file of weights that a recipe starts from, into a network."""

import shlex
from pathlib import Path

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from compress.base.errors import UsageError
from compress.base.filekind import ARCHIVE, PICKLE, kind, wrong_kind
from compress.base.reasons import reason
from compress.checkpoint import ldct_benchmark
from compress.checkpoint.files import BITS
from compress.models.ddnet import DDnet, from_2dnet

CONVERT = (
    "import torch; from safetensors.torch import save_file; "
    "found = torch.load({old!r}, map_location='cpu', weights_only=True); "
    "found = found.get('state_dict', found); "
    "tensors = {{k: v.contiguous().clone() for k, v in found.items() if torch.is_tensor(v)}}; "
    "save_file(tensors, {new!r})"
)
"""Python that makes safetensors of what torch.save wrote; weights_only runs no code of the file."""


def fill(net: nn.Module, path: Path, *, standardised: bool = False) -> None:
    """Give `net`, in place, the weights of a file: safetensors, or ldct-benchmark's checkpoints.

    Args:
        net: with our names, or 2dnet's for ddnet; of ldct-benchmark with its own.
        path: the file.
        standardised: whether the network sees standardised HU, as those of ldct-benchmark must.

    Raises:
        UsageError: it is no such file, and then how it becomes one; or it does not fit.
    """
    try:
        found = ldct_benchmark.read(path) if kind(path) == ARCHIVE else None
        if found is not None and not standardised:
            raise UsageError(f"the weights {path} are ldct-benchmark's; {found.advice}")
        if found is None and (other := _other(path)):
            raise UsageError(f"the weights {path} are no safetensors file: {other}")
        state = found.state if found else safetensors.load_file(path)
        if any(name.endswith(BITS) for name in state):  # their layers may be rewritten, too
            why = "are of a stage with 2:4 masks; name those of a stage before sparsify"
            raise UsageError(f"the weights {path} {why}")
        if isinstance(net, DDnet) and "dnet1.conv1_0.weight" in state:
            state = from_2dnet(state)
        net.load_state_dict(state)
    except SafetensorError as error:
        raise UsageError(f"the weights {path} are no safetensors file: {error}") from error
    except (OSError, KeyError, RuntimeError) as error:
        raise UsageError(f"the weights {path} do not fit the network: {reason(error)}") from error


def _other(path: Path) -> str:
    """What a file is that is no safetensors file, and what to do; empty where nothing tells."""
    found = kind(path)
    if found in (ARCHIVE, PICKLE):
        code = CONVERT.format(old=str(path), new=str(path.with_suffix(".safetensors")))
        return f"it is {found} of torch.save; convert it: python -c {shlex.quote(code)}"
    if wrong := wrong_kind(path):
        return wrong
    return f"it is {found}; write its tensors with safetensors.torch.save_file" if found else ""
