"""What a training stage remembers in its facts.json."""

from typing import TypedDict


class History(TypedDict):
    """What is recorded once an epoch, in order."""

    loss: list[float]
    """Mean loss over the steps of the epoch; its unit is that of the loss function."""
    lr: list[float]
    """Learning rate of the last step of the epoch."""


class UpdateFacts(TypedDict):
    """How the steps were executed, and why so."""

    cuda_graph: bool
    """Whether a step was replayed as one CUDA graph."""
    cuda_graph_why: str
    """Reason for `cuda_graph`."""
    compiled: bool
    """Whether torch.compile compiled the network and its loss."""
    compiled_why: str
    """Reason for `compiled`."""
    micro_batch: int
    """Crops that went through the network at once, in each process."""
    micro_batch_why: str
    """Reason for `micro_batch`."""


class TrainingFacts(History, UpdateFacts):
    """All that a training stage remembers."""

    epochs: int
    """Epochs asked for."""
    steps: int
    """Optimizer steps done."""
    batch: int
    """Crops a step, over all processes."""
    crop: int | None
    """Side of a crop, pixels; None for whole slices."""
    precision: str
    """Number format of the arithmetic, such as bf16."""
    precision_why: str
    """Reason for `precision`."""
    scope: str
    """Which layers compute in that format."""
    processes: int
    """Processes that trained together."""
    device: str
    """torch's name of the device, such as cuda:0."""
    loader: str
    """Name of the loader that the batches came from."""
    loader_why: str
    """Reason for `loader`."""
    train_seconds: float
    """Time spent in epochs, in seconds, interrupted runs included."""
