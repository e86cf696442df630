"""What an update consists of: the objective, the network to be trained and its optimizer."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.base.errors import UsageError
from compress.base.tensors import channels_last
from compress.base.world import World
from compress.training import losses
from compress.training.options import TrainOptions


class Objective(nn.Module):
    """Network and loss as one module: what is differentiated, and what torch.compile compiles."""

    def __init__(self, net: nn.Module, loss: losses.Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, low: Tensor, full: Tensor) -> Tensor:
        """Low and full dose, each (N, 1, h, w) in network range -> the loss, a float32 scalar."""
        enhanced = self.net(low)
        with torch.autocast(low.device.type, enabled=False):
            return self.loss(enhanced.float(), full)


def compiled(module: nn.Module) -> nn.Module:
    """`module`, which torch.compile compiles when it is first called, for one shape."""
    # torch.compile gives a module for a module.
    return torch.compile(module, dynamic=False)  # type: ignore[return-value]


def trainable(
    net: nn.Module, options: TrainOptions, device: torch.device, world: World
) -> nn.Module:
    """A copy of `net` on the device, in the memory layout that tensor cores like, to be trained."""
    copied = channels_last(copy.deepcopy(net).to(device))
    if options.sync_norm and world.size > 1:
        if device.type != "cuda":
            raise UsageError("sync_norm needs GPUs; on the CPU take freeze_norm or neither")
        copied = nn.SyncBatchNorm.convert_sync_batchnorm(copied)  # type: ignore[no-untyped-call]
    return copied.train()


def freeze_norms(net: nn.Module) -> None:
    """Let every BatchNorm keep its statistics and use them; scale and shift learn."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def adam(net: nn.Module, rate: float, weight_decay: float) -> torch.optim.Adam:
    """Adam in one kernel, where no parameter is complex, its state in place from the start.

    The rate is a tensor, because a captured step reads it from where it lies.
    """
    parameters = list(net.parameters())
    device = parameters[0].device
    optimizer = torch.optim.Adam(
        parameters,
        torch.tensor(rate, device=device),
        weight_decay=weight_decay,
        fused=all(parameter.is_floating_point() for parameter in parameters),  # or complex
        capturable=device.type == "cuda",
    )
    # It warns of steps outside a capture, which warming up consists of.
    optimizer._warned_capturable_if_run_uncaptured = True
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
