"""What steps remember: facts of prune, sparsify and quantize, and speed.json of report."""

from typing import Literal, NotRequired, TypedDict

from compress.base.timing import TimedRow
from compress.pruning.ledger import Share
from compress.quantization.records import QuantisedLayer


class Size(TypedDict):
    """The size of a network."""

    params: int
    """Parameters."""
    macs: int
    """Multiply-accumulates for one 512x512 slice."""


class PruneGroup(TypedDict):
    """Channels that are removed together, and the fit of their scores."""

    name: str
    """Name of the group."""
    width: int
    """Channels before."""
    kept: int
    """Channels that stay."""
    mean: float
    """Mean of the scores, in their unit."""
    sigma: float
    """Population standard deviation of the scores, in their unit."""
    threshold: float | None
    """Score below which channels go, in the scores' unit; None where all stay."""
    z: list[float]
    """Rank of each channel: standard deviations from the mean for the criterion gaussian."""
    scores: list[float]
    """Score of each channel, as the criterion defines it."""
    fixed: str
    """Why all must stay; empty where they may go."""


class PruneKernel(TypedDict):
    """A convolution whose kernel was larger than the smallest that was asked for."""

    name: str
    """Name of the module."""
    before: int
    """Side of its kernel before, pixels; the longer one."""
    after: int
    """Side after, pixels."""
    worth: float | None
    """Of the rings that it could lose, in the unit of `scores`; None where not weighed."""
    kept: str
    """Why it could lose none; empty where it could."""


class Proof(TypedDict):
    """How the pruned network was compared with the masked one."""

    difference: float
    """Largest difference, as a share of the largest output."""
    arithmetic: str
    """torch's name of the dtype that both ran in."""
    failing: dict[str, str]
    """Group that stays because the network would have changed -> how."""


class PruneHead(TypedDict):
    """What every prune remembers: what was asked for, and what went."""

    criterion: str
    """How channels or weights were scored."""
    amount: float | None
    """Share asked for, in [0, 1]; None where a threshold was given."""
    of: Share
    """What `amount` is a share of."""
    scope: str
    """Whether scores were compared in a layer or over the network."""
    solver: NotRequired[str]
    """knapsack: ranks are those of worth for cost; absent in records of older versions."""
    removed: dict[Share, float]
    """Share removed of MACs, parameters and channels, in [0, 1]."""
    zeros: float
    """Share of the convolution weights that are masked to zero, in [0, 1]."""
    before: Size
    """The network that came in."""
    after: Size
    """The pruned network."""


class LatencyFacts(TypedDict):
    """The times that a plan was made by, and what it predicts for one slice."""

    device: str
    """Name of the GPU, or of the CPU with its threads."""
    engine: str
    """What ran the layers that were timed: eager, compile or fused."""
    torch: str
    """Version of PyTorch."""
    arithmetic: str
    """Number format and layout in memory."""
    note: str
    """What a reader of the times should know; empty where nothing."""
    size: int
    """Side of the slice, pixels."""
    shapes: int
    """How many shapes of layers were measured."""
    sha256: str
    """Of the table's values."""
    table: str | None
    """Its file; None where it could not be kept."""
    before_ms: float
    """Predicted for the network that came in, milliseconds."""
    after_ms: float
    """Predicted for the pruned network, milliseconds."""
    budget_ms: float | None
    """Milliseconds that `amount` leaves; None where a threshold was given."""


class PruneFacts(PruneHead):
    """All that prune remembers of a plan."""

    align: int | None
    """Channels that stay are multiples of it; None where single weights were masked."""
    threshold: float | None
    """Common threshold of the ranks; None where single weights were masked."""
    reached: NotRequired[float]
    """Share removed of what `amount` is a share of; absent where single weights were masked."""
    groups: list[PruneGroup]
    """Groups of channels, in the network's order; empty where single weights were masked."""
    protected: list[str]
    """Groups that had to stay whole."""
    proof: NotRequired[Proof]
    """How the plan was tried; absent where single weights were masked."""
    latency: NotRequired[LatencyFacts]
    """For target latency."""
    kernels: NotRequired[list[PruneKernel]]
    """Larger kernels, in the network's order; absent where kernels were to be kept."""


class SparseLayer(TypedDict):
    """A convolution or a linear layer after sparsify."""

    name: str
    """Name of the module."""
    shape: list[int]
    """Shape of the weight, as stored."""
    done: bool
    """Whether the layer has a 2:4 mask."""
    reason: str
    """Why not, or why the back end's rule alone would have left it; else empty."""


class SparseCounts(TypedDict):
    """How far a network is 2:4."""

    convolutions: int
    """Convolutions and linear layers."""
    done: int
    """Layers with a 2:4 mask."""
    eligible_backend: int
    """Layers that ModelOpt and Apex ASP would take."""
    eligible_trt: int
    """Layers that TensorRT could run with sparse kernels."""
    layers: list[SparseLayer]
    """Every layer."""
    share_of_weights: float
    """Share of the weights that lie in 2:4 layers, in [0, 1]."""
    zeros_in_sparse_layers: float
    """Share of the weights in 2:4 layers that are zero, in [0, 1]."""


class Permutation(TypedDict):
    """What an exchange of channels before masking gained."""

    exchanges: int
    """Exchanges of channels that were made."""
    kept_before: float
    """Share of the magnitude that masks keep without them, in [0, 1]."""
    kept: float
    """Share that masks keep with them, in [0, 1]."""


class MaskFacts(SparseCounts):
    """What sparsify remembers of its masks."""

    pattern: str
    """The pattern, 2:4."""
    rule: Literal["backend", "trt"]
    """Whose rule chose the layers."""
    backend: str
    """Who computed the masks."""
    why: str
    """Reason for `backend`."""
    kept_magnitude: float
    """Share of the magnitude of the masked layers that stays, in [0, 1]."""
    masks_from_before: list[str]
    """Layers that keep the mask of an earlier sparsify."""


class Reconstruction(TypedDict):
    """What weights that make up for others gained."""

    slices: int
    """Calibration crops."""
    loss: float
    """Squared error of a layer's output as a share of its square, mean over the layers."""
    loss_magnitude: float
    """The same, had the largest weights stayed as they are."""


class SparsifyFacts(MaskFacts):
    """All that sparsify remembers."""

    permutation: NotRequired[Permutation]
    """What permuting gained; absent where it was not asked for."""
    reconstruction: NotRequired[Reconstruction]
    """What reconstruction gained; absent where it was not asked for."""


class QuantizeFacts(TypedDict):
    """What quantize remembers."""

    format: str
    """The number format, int8."""
    method: str
    """How the ranges of inputs were chosen."""
    crops: int
    """Training crops that ranges were taken from."""
    budget_hu: float | None
    """Root mean square in HU that was allowed; None where the recipe names what is kept."""
    error_all_hu: float
    """Root mean square in HU that the output changes by where every layer that can be is INT8."""
    error_hu: float
    """The same for the layers that are."""
    equalised: int
    """Of those, how many read channels that were scaled to one range."""
    layers: list[QuantisedLayer]
    """Every layer."""


class SpeedPlace(TypedDict):
    """The CPU that a report timed both networks on."""

    gpu: None
    """That it was no GPU."""
    threads: int
    """CPU threads of torch."""
    torch: str
    """Version of PyTorch."""


class Speed(TypedDict):
    """speed.json of the step report: the part of `compress bench` that it needs."""

    schema: int
    """Version of this record."""
    place: SpeedPlace
    """Where it was measured."""
    size: int
    """Side of a slice, pixels."""
    rounds: int
    """Times that both networks had their turn."""
    rows: list[TimedRow]
    """The dense and the compressed network."""
