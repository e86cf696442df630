"""What is recorded of engines: what `inspect` gives, rows of an export, sidecars."""

from typing import Literal, NotRequired, TypedDict

from compress.engines.formats import FormatName
from compress.engines.precision import Precision
from compress.quantization.records import Scale
from compress.sparsity.records import EngineColumns, LayerRow


class Totals(TypedDict):
    """What the layers of a network or an engine add up to."""

    layers: int
    """Convolutions and linear layers."""
    sparse24: int
    """Layers whose weights are 2:4."""
    eligible_backend: int
    """Layers that ModelOpt and Apex ASP would take."""
    eligible_trt: int
    """Layers that TensorRT could run with sparse kernels."""
    eligible_engine: int | str
    """Layers that the engine could run with sparse kernels, or unknown."""
    picked: int | str
    """Layers that the engine runs with sparse kernels, or unknown."""
    weights: int
    """Weights of all layers."""
    zeros: int
    """Weights that are zero."""
    macs: int
    """Multiply-accumulates for one 512x512 slice."""
    share_of_weights: float
    """Share of the weights that lie in 2:4 layers, in [0, 1]."""
    share_of_macs: float
    """Share of the multiply-accumulates in 2:4 layers, in [0, 1]."""


class Inspection(TypedDict):
    """What `compress inspect` finds in a checkpoint or an engine."""

    schema: int
    """Version of this record."""
    path: str
    """What was inspected, as the user named it."""
    kind: str
    """checkpoint or engine."""
    about: dict[str, object]
    """Facts on the whole."""
    nonfinite: dict[str, int] | None
    """Tensor -> values that are NaN or infinite; None for an engine whose weights are not read."""
    totals: Totals
    """Sums over the layers."""
    layers: list[LayerRow]
    """Every convolution and linear layer."""
    int8: NotRequired[dict[str, Scale]]
    """INT8 layers by name; absent where there are none."""


class SparseKernels(TypedDict):
    """What an engine tells of sparse kernels."""

    source: NotRequired[str | None]
    """Where TensorRT tells it: build log or layer information; None where it does not."""
    eligible: int | None
    """Layers that the engine could run with sparse kernels; None where it does not tell."""
    picked: int | None
    """Layers that it runs with sparse kernels; None where it does not tell."""


class Built(TypedDict, total=False):
    """Facts of a build; each format has its own, so all may be absent."""

    layers: list[LayerRow]
    """Every layer of the network that was built."""
    deconvolutions: str
    """How stride-1 deconvolutions were compiled: conv or keep."""
    deconvolutions_ms: dict[str, float]
    """Time of a call by each way, milliseconds; empty where one way was tried."""
    batchnorm_folded: int
    """BatchNorm layers folded into convolutions."""
    build_seconds: float
    """Time of the build, seconds."""
    tensors: list[str]
    """Names of the input and the output."""
    files: list[str]
    """Further files of the engine."""
    tensorrt: str | None
    """Version of TensorRT."""
    sparsity: SparseKernels
    """Numbers of layers for sparse kernels."""
    eligible: list[str]
    """Layers that the engine could run with sparse kernels."""
    picked: list[str]
    """Layers that it runs with sparse kernels."""
    opset: int
    """Version of ONNX's operators."""
    convolutions: int
    """Convolutions and linear layers in the file."""
    sparse24: int
    """Those whose weights in the file are 2:4."""
    plain: dict[str, str]
    """Layer that PyTorch computes -> why."""
    kernels: dict[str, EngineColumns]
    """Layer -> what computes it."""
    seconds: dict[str, float]
    """Layer -> time for a batch, seconds."""
    memory: int
    """Buffers of a session of the engine, bytes."""


class Place(TypedDict):
    """What an engine depends on besides its own bytes."""

    device: str
    """cuda or cpu."""
    gpu: str | None
    """Name of the GPU; None on a CPU."""
    sm: str | None
    """Compute capability of the GPU, such as 9.0; None on a CPU."""
    cpu: str | None
    """Architecture and vector instructions of the CPU; None on a GPU."""
    cuda: str | None
    """Version of CUDA that PyTorch was built with."""
    driver: str | None
    """Version of the NVIDIA driver; None on a CPU."""
    torch: str
    """Version of PyTorch."""
    tensorrt: NotRequired[str | None]
    """Version of TensorRT; None on a CPU."""


class Normalisation(TypedDict):
    """Window of Hounsfield units that is mapped to [0, 1]."""

    hu_min: float
    """Mapped to 0, HU."""
    hu_max: float
    """Mapped to 1, HU."""


class Sidecar(TypedDict):
    """What an engine was built from and for."""

    schema: int
    """Version of this record."""
    format: FormatName
    """Format of the engine."""
    file: str
    """Name of the engine's file."""
    sha256: str
    """Hash of that file."""
    bytes: int
    """Size of that file."""
    precision: Precision
    """Arithmetic inside the engine."""
    batch: int
    """Slices at once; the most of them where the batch is dynamic."""
    size: int
    """Side of a slice, pixels."""
    dynamic_batch: bool
    """Whether it takes fewer slices, too."""
    neighbours: NotRequired[int]
    """Slices on each side that the network sees, too; absent in older files, which see none."""
    normalisation: Normalisation
    """How HU become the network's input."""
    weights: str
    """Hash of the checkpoint."""
    code_sha256: str | None
    """Hash of the code of an imported network; None for others."""
    model: str | None
    """Folder of the checkpoint, relative to the engine's; None where there is none."""
    place: Place
    """What the engine depends on."""
    built: Built
    """Facts of the build."""


class Parity(TypedDict):
    """How far an engine is from its network in float32, on held-out slices."""

    max_hu: float
    """Largest difference inside the body, HU."""
    max_at: list[int]
    """Where that is: slice, row, column of what the engine was given, each from 0."""
    mean_hu: float
    """Mean difference inside the body, HU."""
    max_hu_everywhere: float
    """Largest difference, air around the patient included, HU."""
    psnr: float | None
    """Of the engine against the network, dB; None where both are equal."""
    slices: int
    """Slices that were compared."""
    limit_max_hu: float
    """Limit of `max_hu`, HU."""
    limit_mean_hu: float
    """Limit of `mean_hu`, HU."""
    ok: bool
    """Whether both limits hold."""


class Asked(TypedDict):
    """An engine that was asked for."""

    format: FormatName
    """Format of the engine."""
    precision: Precision
    """Arithmetic inside the engine."""
    batch: int
    """Slices at once; the most of them where the batch is dynamic."""
    dynamic_batch: bool
    """Whether it takes fewer slices, too."""
    reason: str
    """Why it was not built; empty where it was."""
    command: str
    """Command that would help; empty where none is known."""


class BuiltEngine(Asked):
    """One file of an engine that was built."""

    status: Literal["built"]
    """That it was."""
    file: str
    """Name of the file."""
    bytes: int
    """Size of the file."""
    sidecar: str
    """Name of the sidecar."""
    parity: Parity
    """Difference from the network."""
    sparsity: SparseKernels | None
    """What the engine tells of sparse kernels; None where it tells nothing."""


class MissingEngine(Asked):
    """An engine that was not built; it has the keys of one that was, all None."""

    status: Literal["not built"]
    """That it was not."""
    file: None
    """No file."""
    bytes: None
    """No size."""
    sidecar: None
    """No sidecar."""
    parity: None
    """No comparison."""
    sparsity: None
    """Nothing told."""


EngineRow = BuiltEngine | MissingEngine
"""What is recorded of one file of an engine, or of why there is none; `status` tells which."""


class Exported(TypedDict):
    """What `compress export` built."""

    schema: int
    """Version of this record."""
    engines: list[EngineRow]
    """Every engine that was asked for."""
