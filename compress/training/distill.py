"""The dense network as teacher: a share of the target is what it makes of the same input.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531, for images
in place of classes. With the mean squared error, training towards the mixture of both targets has
exactly the gradient of the weighted sum of both losses:

    (1 - w) |y - full|^2 + w |y - teacher|^2 = |y - ((1 - w) full + w teacher)|^2 + a constant
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.context import Work

Target = Callable[[Tensor, Tensor], Tensor]
"""(low, full), each (N, 1, H, W) in network range -> what to train towards, of the same shape."""


def target(weight: float, work: Work) -> Target:
    """What to train towards: the full dose, or its mixture with the dense network's output.

    Args:
        weight: share of the teacher in the mixture, in [0, 1]; 0 gives the full dose itself.
        work: where the last checkpoint before pruning lies, and the device.

    Raises:
        UsageError: there is no dense network to learn from.
    """
    if not weight:
        return full_dose
    if work.dense is None:
        stage = work.stage.name
        raise UsageError(
            f"{stage}: distill needs a dense network trained before it; put train first"
        )
    return _Mixture(weight, checkpoint.load(work.dense).net.to(work.device))


def full_dose(low: Tensor, full: Tensor) -> Tensor:
    """The target without a teacher: (low, full), each (N, 1, H, W) -> full."""
    return full


class _Mixture:
    """The teacher in eval mode, in float32, without gradients."""

    def __init__(self, weight: float, teacher: nn.Module) -> None:
        self._weight = weight
        self._teacher = teacher.eval().requires_grad_(False)

    def __call__(self, low: Tensor, full: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.lerp(full, self._teacher(low).float(), self._weight)
