"""The Python entry: `import compress`, then `compress.load`, `prune`, `sparsify`, `export`, ...

Each function takes any network (N, 1, H, W) -> (N, 1, H, W) on normalised intensity in [0, 1],
leaves it as it is, and calls the code of the recipe step or command of the same name. Images are
NumPy arrays in HU. `Neighbouring(net, 1)` makes such a network of one that sees the slices beside.

    >>> import compress
    >>> from compress.models.ddnet import DDnet
    >>> net = DDnet(residual=True, trunk=16, bottleneck=32, decoder=32)
    >>> pruned = compress.prune(net, amount=0.4)
    >>> compress.cost(pruned).macs < 0.6 * compress.cost(net).macs
    True
    >>> sparse = compress.sparsify(pruned)
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import nn

from compress import checkpoint
from compress.base import devices
from compress.base.errors import CompressError, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data import Data, DataOptions, Pairs
from compress.data import load as load_data
from compress.data.folder import NONE
from compress.data.pairs import from_arrays
from compress.engines import sidecar
from compress.engines.formats import FormatName
from compress.graph import fitness
from compress.graph.cost import Cost, cost
from compress.graph.slices import Neighbouring, neighbours
from compress.graph.trial import duplicate
from compress.imaging.arrays import enhance
from compress.quantization.quantisers import unmeasured
from compress.recipe.arguments import step
from compress.run.sides import refuse_slices
from compress.sparsity.masks import Holder, present
from compress.steps.evaluate import Evaluate
from compress.steps.export import Export
from compress.steps.prune import Prune
from compress.steps.quantize import Quantize
from compress.steps.sparsify import Sparsify

__all__ = [
    "Cost", "Engine", "Neighbouring", "Quality", "cost", "enhance", "evaluate", "export",
    "hold_sparsity", "load", "prune", "quantize", "sparsify",
]  # fmt: skip


class Engine(NamedTuple):
    """An engine that was built and compared with its network in a fresh process."""

    path: Path
    sidecar: Path
    bytes: int
    max_hu: float  # largest difference from the network inside the body
    mean_hu: float


class Quality(NamedTuple):
    """Image quality against the full dose, means over slices; see `compress.quality.metrics`."""

    input: Mapping[str, float | None]
    """Of the low-dose slices, by metric: psnr (dB), ssim, rmse_hu, psnr_lung, ..."""
    enhanced: Mapping[str, float | None]
    slices: int


def load(path: str | Path) -> nn.Module:
    """A checkpoint folder, or an engine named by its file or sidecar, ready to call.

    Args:
        path: what `compress run` or `export` wrote.

    Returns:
        The network in eval mode on the CPU, or the engine as a module that takes any side up to
        its own; (N, 1, H, W) float32 in [0, 1] -> the same.

    Raises:
        UsageError: neither of them, damaged, or an engine that was built for another machine.

    >>> import compress
    >>> compress.load("nowhere")
    Traceback (most recent call last):
        ...
    compress.base.errors.UsageError: nowhere: there is no such checkpoint folder, engine or sidecar
    """
    if (path := Path(path)).is_dir():
        return checkpoint.load(path).net
    return sidecar.any_size(*sidecar.load(sidecar.of(path)))


def prune(net: nn.Module, amount: float = 0.6, **options: Any) -> nn.Module:
    """A copy of `net` with whole channels removed; smaller, and still dense.

    Args:
        net: the network; behind a 2:4 mask nothing can be removed.
        amount: share of the multiply-accumulates to remove, in (0, 1).
        options: of the recipe step `prune`, such as `criterion="l1"`; none that need training data.

    Raises:
        UsageError: the amount cannot be reached, or the network not be pruned by such options.
        ValueError: an option has a value that it cannot have.

    >>> import compress
    >>> from compress.models.ddnet import DDnet
    >>> net = DDnet(residual=True, trunk=16, bottleneck=32, decoder=32)
    >>> pruned = compress.prune(net, amount=0.3, criterion="l1")
    >>> [c.out_channels for c in (net.stem.conv, pruned.stem.conv)]
    [16, 16]
    """
    for name in ("at", "rounds"):
        if name in options:
            raise UsageError(f"{name} divides a training, so it is for recipes only")
    chosen = step(Prune, {"amount": amount, **options})
    return _done(chosen, replace(_model(net), masks=present(net)))


def sparsify(net: nn.Module, **options: Any) -> nn.Module:
    """A copy of `net` whose eligible layers are 2:4 sparse along their input channels.

    Stride-1 transposed convolutions become the convolutions that they equal. `hold_sparsity` keeps
    the zeros while an optimizer of yours trains the copy.

    Args:
        net: the network.
        options: options of the recipe step `sparsify`, such as `backend="modelopt"`.

    Raises:
        UsageError: the network has no layer that could be sparse, or the back end is missing.

    >>> import compress
    >>> from compress.models.ddnet import DDnet
    >>> sparse = compress.sparsify(DDnet(trunk=16, bottleneck=32, decoder=32))
    >>> float((sparse.stem.conv.weight == 0).double().mean())  # one input channel: not eligible
    0.0
    """
    return _done(step(Sparsify, options), _model(net))


def hold_sparsity(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Keep the zeros of every 2:4 sparse layer of `net` after each step of `optimizer`.

    Returns:
        The names of the layers.

    >>> import torch
    >>> import compress
    >>> from compress.models.ddnet import DDnet
    >>> from compress.sparsity import pattern
    >>> sparse = compress.sparsify(DDnet(trunk=16, bottleneck=32, decoder=32)).train()
    >>> optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    >>> held = compress.hold_sparsity(sparse, optimizer)
    >>> sparse(torch.rand(1, 1, 32, 32)).square().mean().backward()
    >>> optimizer.step()
    >>> bool(pattern.is_2to4(sparse.get_submodule(held[0]).weight))
    True
    """
    fitness.check(net)
    holder = Holder(net, masks := present(net))
    optimizer.register_step_post_hook(lambda *_: holder())
    return list(masks)


def quantize(net: nn.Module, low: ArrayLike, **options: Any) -> nn.Module:
    """A copy of `net` that rounds inputs and weights of layers to INT8, where that costs few HU.

    Train it further as any network (quantisation-aware training); ranges stay. It computes in
    float32 with rounded values; `export` to ONNX or fused makes INT8 of it.

    Args:
        net: the network, after `prune` and `sparsify` if at all.
        low: (N, H, W) low-dose slices in HU, from crops of which ranges of inputs are measured; a
            volume in order where the network sees neighbours.
        options: of the recipe step `quantize`, such as `budget=0.5`, in HU.

    Raises:
        UsageError: it is quantised already, no layer can be INT8, or `low` is no (N, H, W) of
            finite values.
        QualityError: every layer alone costs more than the budget.

    >>> import numpy as np
    >>> import torch
    >>> import compress
    >>> from compress.models.ddnet import DDnet
    >>> net = DDnet(trunk=16, bottleneck=32, decoder=32).eval()
    >>> low = np.random.default_rng(0).normal(0, 100, (1, 32, 32))
    >>> int8 = compress.quantize(net, low, calibrate=4, budget=20)
    >>> x = torch.rand(1, 1, 32, 32)
    >>> torch.equal(int8(x), net(x))
    False
    """
    return _done(step(Quantize, options), _model(net), from_arrays(low, low, neighbours(net)))


def export(
    net: nn.Module,
    folder: str | Path,
    format: FormatName = "onnx",
    *,
    batch: int = 1,
    size: int = 512,
    device: str | None = None,
    **options: Any,
) -> Engine:
    """Compile `net` into an engine, and compare the engine with it in a fresh process.

    Args:
        net: the network.
        folder: where engine and sidecar go; made where missing.
        format: torch_tensorrt, aot_inductor, fused or onnx.
        batch: slices at once.
        size: side of a slice in pixels.
        device: cpu, cuda or cuda:N; the GPU where there is one.
        options: further options of the recipe step `export`, such as `precision="fp16"`.

    Raises:
        CompressError: the format cannot be built here; says what would help.
        QualityError: the engine differs too much from the network.

    >>> import compress
    >>> from compress.models.ddnet import DDnet
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     engine = compress.export(DDnet(trunk=16, bottleneck=32, decoder=32), folder, size=32)
    >>> engine.path.name, engine.max_hu < 0.1
    ('onnx-fp32-b1.onnx', True)
    """
    given = {"formats": [format], "batch": [batch], "image_size": size, **options}
    chosen, out = step(Export, given), Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    phantoms = DataOptions(
        source="phantom", image_size=size, views=90, test_slices=1, neighbours=neighbours(net)
    )
    work = Work(stage=out, device=devices.choose(device), data=load_data(phantoms, seed=0), seed=0)
    row = chosen.build(_model(net), work, None)[0]
    if row["status"] != "built":
        would = f"; {row['command']} would help" if row["command"] else ""
        raise CompressError(f"{format} was not built: {row['reason']}{would}")
    files, found = (out / row["file"], out / row["sidecar"]), row["parity"]
    return Engine(*files, row["bytes"], found["max_hu"], found["mean_hu"])


def evaluate(
    net: nn.Module, low: ArrayLike, full: ArrayLike, *, device: str | None = None
) -> Quality:
    """Measure what `net` makes of low-dose slices against the full dose.

    Args:
        net: the network.
        low: (N, H, W) in HU; a volume in order where the network sees neighbours.
        full: the same shape and unit.
        device: cpu, cuda or cuda:N; the GPU where there is one.

    Raises:
        UsageError: the arrays are no (N, H, W) of one shape, or hold values that are not finite.
        QualityError: the network gives NaN or infinity.

    >>> import numpy as np
    >>> import torch
    >>> import compress
    >>> full = np.full((1, 32, 32), 40)
    >>> quality = compress.evaluate(torch.nn.Identity(), full + 10, full)
    >>> round(quality.enhanced["rmse_hu"], 3), quality.slices
    (10.0, 1)
    """
    pairs = from_arrays(low, full, neighbours(net))
    model, work, chosen = _model(net), _work(devices.choose(device), pairs), Evaluate(pictures=0)
    refuse_slices([("evaluate", chosen)], net, work.data)
    chosen.measure(model, work)
    means = {
        name: {key: moments["mean"] for key, moments in found.items()}
        for name, found in work.facts["summary"].items()
    }
    return Quality(input=means["input"], enhanced=means["dense"], slices=work.facts["slices"])


def _done(chosen: Prune | Sparsify | Quantize, model: Model, train: Pairs = NONE) -> nn.Module:
    """What a step makes of a network, on the CPU and in eval mode."""
    return chosen.run(model, _work(torch.device("cpu"), NONE, train)).net


def _model(net: nn.Module) -> Model:
    """A network without a recipe; of masks and of the cost of INT8 layers nothing is known."""
    fitness.check(net, values=True)
    return Model(net=duplicate(net).eval(), origin=ModelOptions(), quantised=unmeasured(net))


def _work(device: torch.device, test: Pairs, train: Pairs = NONE) -> Work:
    """The context of a step that writes no files."""
    data = Data(train=train, test=test, source="folder", fingerprint="")
    return Work(stage=Path(), device=device, data=data, seed=0)
