"""Networks as they flow from step to step, and on disk.

A checkpoint is a folder with `model.safetensors` (plain tensors in pruned shapes, masks applied and
stored as bits beside the weights) and `model.json` (how the dense network is built, rewrites,
tables of channels and kernels, pattern of the masks, INT8 layers, HU range, which slices it learned
from, hashes of the tensors and of all this).
Loading builds the dense network, applies the rewrites, gives the layers the shapes of the tensors,
fills these in and puts quantisers where they were. Never a pickle.
"""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.base.errors import CompressError, UsageError
from compress.base.files import write_atomic, write_json
from compress.base.reasons import reason
from compress.base.tensors import to_bytes
from compress.checkpoint.files import (
    BITS,
    NORMALISATION,
    OWN,
    REMEDY,
    SCHEMA,
    TABLE,
    TRAINED_ON,
    WEIGHTS,
    description_hash,
    from_bits,
    read,
    to_bits,
)
from compress.checkpoint.hashes import of_import, warn_of_other_code
from compress.checkpoint.options import ModelOptions
from compress.graph.cost import CONVOLUTIONS, convolutions
from compress.graph.resize import resize
from compress.graph.rewrite import REWRITES
from compress.quantization.quantisers import SCALE, restored
from compress.sparsity import masks as masking


@dataclass(frozen=True, kw_only=True)
class Model:
    """What flows from step to step."""

    net: nn.Module
    """(N, 1, H, W) float32 in network range -> the same shape; for `graph.slices.Neighbouring` the
    input holds the slices beside it, too."""
    origin: ModelOptions
    rewrites: tuple[str, ...] = ()
    """Names in `rewrite.REWRITES`, in the order done."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Module name -> bool mask of its weight's shape, True = kept."""
    pattern: masking.Pattern = "2:4"
    """What the masks promise, where there are any."""
    quantised: Mapping[str, float] = field(default_factory=dict)
    """Layers that `net` computes in INT8 -> root mean square in HU of what each alone changed when
    it was quantised; their ranges are in the state of `net`."""

    trained_on: frozenset[str] = frozenset()
    """`data.pairs.digests` of the slices that its weights learned from, as far as that is known."""

    def rewritten(self, name: str) -> "Model":
        """The model after one more rewrite; the same where it was done before."""
        if name in self.rewrites:
            return self
        return replace(self, net=REWRITES[name](self.net), rewrites=(*self.rewrites, name))


def channels(net: nn.Module) -> dict[str, list[int]]:
    """The channel table: [in, out] of every convolution and linear layer by module name."""
    table = {}
    for name, module in net.named_modules():
        if isinstance(module, CONVOLUTIONS):
            table[name] = [module.in_channels, module.out_channels]
        elif isinstance(module, nn.Linear):
            table[name] = [module.in_features, module.out_features]
    return table


def kernels(net: nn.Module) -> dict[str, list[int]]:
    """The table of kernels: height and width of every convolution's by module name."""
    return {name: [*module.kernel_size] for name, module in convolutions(net).items()}


def save(model: Model, folder: Path) -> None:
    """Write the checkpoint of `model` into an existing folder; each file is replaced atomically.

    Raises:
        CompressError: a mask is broken; nothing is written.
        OSError: the disk is full or the folder not writable.
    """
    masking.check(model.net, model.masks, model.pattern)
    data, origin = _serialised(model), model.origin
    table = {
        "schema": SCHEMA,
        "network": {
            "name": origin.name,
            "import": origin.import_,
            "folder": origin.folder,
            "options": dict(origin.options),
            **({"neighbours": origin.neighbours} if origin.neighbours else {}),
            "source_sha256": _source_hash(model.net),
            **of_import(origin.import_, origin.folder),
        },
        "rewrites": list(model.rewrites),
        "channels": channels(model.net),
        "kernels": kernels(model.net),
        "pattern": model.pattern if model.masks else None,
        **({"int8": dict(model.quantised)} if model.quantised else {}),
        "normalisation": NORMALISATION,
        **({TRAINED_ON: sorted(model.trained_on)} if model.trained_on else {}),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomic(folder / WEIGHTS, data)
    write_json(folder / TABLE, {**table, OWN: description_hash(table)})


def load(folder: Path) -> Model:
    """The model in a checkpoint folder, on the CPU, in eval mode.

    Raises:
        UsageError: no checkpoint, a damaged one, tensors that were altered or do not fit, or
            masks that do not hold.
    """
    table, tensors = read(folder)
    origin, net = _described(folder, table)
    bits = {name: tensors.pop(name) for name in list(tensors) if name.endswith(BITS)}
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith(SCALE)}
    _take(net, tensors, folder / WEIGHTS)
    masks = {}
    for name, stored in bits.items():
        layer = name.removesuffix(BITS)
        masks[layer] = from_bits(stored, tensors[f"{layer}.weight"].shape)
    rewrites = tuple(table["rewrites"])
    pattern: masking.Pattern = table["pattern"] or "2:4"
    quantised: Mapping[str, float] = table.get("int8", {})
    try:
        masking.check(net, masks, pattern)
        net = restored(net.eval(), quantised, scales) if quantised or scales else net.eval()
    except (CompressError, ValueError) as error:  # ValueError: input channels in no fours
        raise UsageError(f"{folder / WEIGHTS} is damaged: {error}; {REMEDY}") from error
    return Model(
        net=net,
        origin=origin,
        rewrites=rewrites,
        masks=masks,
        pattern=pattern,
        quantised=quantised,
        trained_on=frozenset(table.get(TRAINED_ON, ())),
    )


def _described(folder: Path, table: Mapping[str, Any]) -> tuple[ModelOptions, nn.Module]:
    """The network of a model.json before its tensors are filled in, and how it was built.

    Args:
        folder: of the checkpoint, for the sentence.
        table: the first value that `files.read` gives.

    Raises:
        UsageError: it cannot be built.
    """
    network = table["network"]
    origin = ModelOptions(
        name=network["name"],
        import_=network["import"],
        folder=network["folder"],
        options=network["options"],
        neighbours=network.get("neighbours", 0),
    )
    try:
        net = origin.build()
    except UsageError as error:
        raise UsageError(f"{folder / TABLE}: {error}") from error
    warn_of_other_code(folder, table)
    for name in table["rewrites"]:
        net = REWRITES[name](net)
    return origin, net


def fingerprint(model: Model) -> str:
    """The SHA-256 of the file model.safetensors that `save` would write, in hexadecimal."""
    return hashlib.sha256(_serialised(model)).hexdigest()


def _serialised(model: Model) -> bytes:
    tensors = dict(model.net.state_dict())
    for name, mask in model.masks.items():
        # Masking leaves -0.0 where a weight was negative; on disk a zero is a zero.
        weight = tensors[f"{name}.weight"].detach().cpu()
        tensors[f"{name}.weight"] = weight.masked_fill(~mask.cpu(), 0.0)
        tensors[name + BITS] = to_bits(mask)
    return to_bytes(tensors)


def _take(net: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Give `net`, in place, the shapes and values of `tensors`, which are those of `file`."""
    try:
        resize(net, tensors)
        net.load_state_dict(tensors)
    except (AttributeError, RuntimeError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{file} does not fit the network: {reason(error)}; {REMEDY}") from error


def _source_hash(net: nn.Module) -> str | None:
    """The SHA-256 of the file that defines the network, to tell when the code has changed."""
    try:
        source = inspect.getsource(inspect.getmodule(type(net)) or type(net))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()
