"""BatchNorm statistics measured anew for a network whose layers before them have changed.

After channels were removed, running means and variances are those of the former network. The
statistics here are plain averages over batches, as in `torch.optim.swa_utils.update_bn`
(Izmailov et al., UAI 2018); weights are not touched.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.context import Work
from compress.training.samples import samples


def recalibrated(net: nn.Module, count: int, work: Work) -> nn.Module:
    """`net` with BatchNorm statistics of `count` batches of training crops, on the CPU.

    Args:
        net: on any device; not changed.
        count: number of batches; 0 gives `net` itself.
        work: device, data and seed.
    """
    if not count:
        return net
    net = copy.deepcopy(net).to(work.device)
    measure(net, (low for low, _ in samples(work.data.train, count, work.seed, work.device)))
    return net.cpu()


def measure(net: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Set the running statistics of every BatchNorm layer of `net`, in place, to those of `inputs`.

    Args:
        net: a network in eval mode; only its BatchNorm layers see batch statistics.
        inputs: (N, 1, H, W) each, at least one.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    with torch.no_grad():
        for x in inputs:
            net(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
