"""What `compress bench` times: checkpoints in a mode, and engines.

A checkpoint is run in one or more modes:

eager-fp32   contiguous float32 without TF32: how research code runs it
eager-tf32   the same with TF32 allowed (GPU)
eager-fp16   half precision inside, channels last (GPU)
eager-bf16   likewise
compiled     torch.compile, fp16 channels last in one CUDA graph on a GPU, fp32 on the CPU

An engine runs as it was built, on a GPU in one CUDA graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from compress import checkpoint
from compress.base.cuda_graph import capture
from compress.base.errors import UsageError
from compress.base.reasons import reason
from compress.base.tensors import channels_last
from compress.base.timing import Call
from compress.bench.records import Graph
from compress.engines import sidecar
from compress.engines.base import Runner
from compress.engines.formats import formats
from compress.engines.precision import Precision
from compress.engines.records import Sidecar
from compress.engines.subject import Subject
from compress.graph.slices import channels
from compress.sparsity.layers import layers
from compress.sparsity.records import LayerRow
from compress.training.precision import Precision as Switches

MODES = ("eager-fp32", "eager-tf32", "eager-fp16", "eager-bf16", "compiled")
NEED_GPU = ("eager-tf32", "eager-fp16", "eager-bf16")
COMPILED_SHAPES = 64
"""Networks and batches that torch.compile may meet in one run; its own limit is 8."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One thing to time: a checkpoint in a mode, or an engine."""

    name: str
    """As the user named it."""
    how: str
    """The mode, or format and precision."""
    device: torch.device
    most: int | None
    """The largest batch that it takes; None: any."""
    least: int
    size: int | None
    """The only side of a slice that it takes; None: any."""
    channels: int
    """Slices that it sees of each."""
    layers: Sequence[LayerRow]
    """See `sparsity.layers`."""
    graph: bool
    """Whether a CUDA graph is tried."""
    net: nn.Module | None
    """The checkpoint's network; None for an engine."""
    start: Callable[[], Runner]
    """Loads it."""

    def takes(self, batch: int) -> bool:
        """Whether it runs `batch` slices at once."""
        return self.most is None or self.least <= batch <= self.most

    def sparse(self) -> int:
        """Layers whose weights are 2:4."""
        return sum(bool(row["sparse24"]) for row in self.layers)

    def widths(self) -> dict[str, list[int]]:
        """The shape of every weight by layer."""
        return {row["name"]: row["shape"] for row in self.layers}

    def call(self, x: Tensor) -> tuple[Call, Graph]:
        """Load it for the input `x`: what is to be timed, and whether it is a CUDA graph."""
        return called(self.start(), x, graph=self.graph)


def artefacts(
    path: Path, modes: Sequence[str], device: torch.device, *, graph: bool
) -> list[Artefact]:
    """A checkpoint folder in each mode, or the engine of a file or sidecar.

    Args:
        path: what the user named.
        modes: of `MODES`, for a checkpoint.
        device: where a checkpoint runs; an engine knows its own.
        graph: whether CUDA graphs are tried.

    Raises:
        UsageError: it is neither, is not usable here, or a mode needs a GPU.
    """
    if not path.is_dir():
        return [_engine(path, graph)]
    for mode in modes:
        if mode in NEED_GPU and device.type != "cuda":
            raise UsageError(f"--mode {mode} needs a GPU; on the CPU take eager-fp32 or compiled")
    return [_checkpoint(path, mode, device, graph) for mode in modes]


def _checkpoint(path: Path, mode: str, device: torch.device, graph: bool) -> Artefact:
    model = checkpoint.load(path)
    if model.quantised:
        why = "in PyTorch INT8 is simulated, which is slower than float32"
        raise UsageError(f"{path} is quantised, and {why}; export it to onnx and time that file")
    net = model.net
    return Artefact(
        name=str(path),
        how=mode,
        device=device,
        most=None,
        least=1,
        size=None,
        channels=channels(net),
        layers=layers(net),
        graph=graph and mode == "compiled" and device.type == "cuda",
        net=net,
        start=partial(network, net, mode, device),
    )


def _engine(path: Path, graph: bool) -> Artefact:
    side = sidecar.of(path)
    facts, _ = sidecar.load(side)  # refuses now, not in the middle of a run
    device = torch.device(facts["place"]["device"])
    return Artefact(
        name=str(path),
        how=f"{facts['format']} {facts['precision']}{_library(facts)}",
        device=device,
        most=facts["batch"],
        least=1 if facts["dynamic_batch"] else facts["batch"],
        size=facts["size"],
        channels=2 * facts.get("neighbours", 0) + 1,
        layers=facts["built"].get("layers", []),
        graph=graph and device.type == "cuda",
        net=None,
        start=lambda: sidecar.load(side)[1],
    )


def _library(facts: Sidecar) -> str:
    """Which TensorRT runs an engine of it: TensorRT-RTX is not to be taken for TensorRT."""
    key = formats()[facts["format"]].library
    version = facts["place"].get(key) if key else None
    return f", {sidecar.WORDS.get(key, key)} {version}" if key and version else ""


def network(net: nn.Module, mode: str, device: torch.device) -> Runner:
    """A network in a mode; its global switches hold during its own calls only.

    Args:
        net: a network of slices, float32 in network range.
        mode: of `MODES`.
        device: where it runs.
    """
    gpu = device.type == "cuda"
    kinds: Mapping[str, Precision] = {"eager-fp16": "fp16", "eager-bf16": "bf16"}
    precision = kinds.get(mode, "fp16" if gpu and mode == "compiled" else "fp32")
    subject: nn.Module = Subject(net, precision).to(device)
    if precision != "fp32":
        channels_last(subject)
    if mode == "compiled":
        compiled = torch.compile(subject, dynamic=False)

        def first_compiles(x: Tensor) -> Tensor:
            with torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES):
                y: Tensor = compiled(x)
            return y

        return first_compiles
    switches = Switches(name="tf32" if mode == "eager-tf32" else "fp32", device=device, why=mode)

    def run(x: Tensor) -> Tensor:
        with switches.switches():
            y: Tensor = subject(x)
        return y

    return run


def called(runner: Runner, x: Tensor, *, graph: bool) -> tuple[Call, Graph]:
    """A call of `runner` on `x`, as one CUDA graph where asked for and possible, and which."""
    if not graph:
        return partial(runner, x), {"cuda_graph": False, "cuda_graph_why": ""}
    try:
        return _captured(runner, x), {"cuda_graph": True, "cuda_graph_why": ""}
    except RuntimeError as error:
        torch.cuda.synchronize()
        return partial(runner, x), {"cuda_graph": False, "cuda_graph_why": reason(error)}


def _captured(runner: Runner, x: Tensor) -> Call:
    """One CUDA graph of the runner on `x`; the runner has to be warm before it is captured.

    A graph reads weights and buffers where they were. The call therefore keeps the runner and `x`.
    """
    kept: list[Tensor] = []

    def call() -> None:
        kept[:] = [runner(x)]

    graph = capture(call, x.device, warm=3)

    def replay(*_alive: object) -> Tensor:
        graph.replay()
        return kept[0]

    return partial(replay, runner, x)
