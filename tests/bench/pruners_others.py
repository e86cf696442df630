"""What other programs remove from a network at a budget of MACs, for `pruners.py`.

Each is run as its documentation says, with the coarsest multiple of channels that reaches the
budget, as `round_to: null` of our own pruning does.

    python tests/bench/pruners_others.py     # how far each can go with DDnet, untrained: 2 minutes
"""

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.checkpoint.model import channels
from compress.data import DataOptions, Pairs, load
from compress.graph import cost
from compress.graph.resize import resize
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.training.samples import samples

ALIGNMENTS = (16, 8, 4)
RATIOS = tuple(k / 24 for k in range(3, 18))
"""Of channels, tried with Torch-Pruning. All of them, because MACs do not fall with the ratio: a
group that would lose all its channels stays whole."""
SIDE = 64
"""Of the slice that networks are traced with, in pixels."""
SCORED, CALIBRATED = 2, 2
"""Batches of four training crops that FastNAS scores with, and that it measures BatchNorm with."""


def torch_pruning(
    net: nn.Module, budget: int, _train: Pairs, _device: torch.device
) -> tuple[nn.Module, int]:
    """Torch-Pruning's MagnitudePruner over the whole network: group norms (Fang et al., CVPR 2023).

    Args:
        net: trained, on the CPU.
        budget: MACs for one 512x512 slice that may be left.

    Returns:
        The network with most MACs within the budget that the ratios tried gave, and its multiple.

    Raises:
        UsageError: no ratio reaches the budget.
    """
    for align in ALIGNMENTS:
        tried = [_magnitude(net, ratio, align) for ratio in RATIOS]
        within = [small for small in tried if cost.cost(small).macs <= budget]
        if within:
            return max(within, key=lambda small: cost.cost(small).macs), align
    raise UsageError(f"Torch-Pruning reaches no {budget:,} MACs")


def _magnitude(net: nn.Module, ratio: float, align: int) -> nn.Module:
    import torch_pruning as tp

    small = copy.deepcopy(net)
    pruner = tp.pruner.MagnitudePruner(
        small,
        torch.rand(1, 1, SIDE, SIDE),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        round_to=align,
        ignored_layers=[_last(small)],
    )
    pruner.step()
    return small


def _last(net: nn.Module) -> nn.Module:
    """The layer that makes the image."""
    name = [*channels(net)][-1]
    assert channels(net)[name][1] == 1, name
    return net.get_submodule(name)


def fastnas(
    net: nn.Module, budget: int, train: Pairs, device: torch.device
) -> tuple[nn.Module, int]:
    """ModelOpt's FastNAS, which searches by PSNR on training crops, without training in between.

    Args:
        net: trained, on the CPU.
        budget: MACs for one 512x512 slice that may be left.
        train: slices to score with.
        device: where it searches.

    Returns:
        The network found, on the CPU, and the multiple of its channels.

    Raises:
        ImportError: torchprofile 0.0.4, with which ModelOpt counts, is missing.
        UsageError: no multiple of channels reaches the budget; says what FastNAS says.
    """
    said = []
    for align in ALIGNMENTS:
        try:
            found = _searched(net, budget, train, device, align)
        except (AssertionError, ValueError, RuntimeError) as error:
            said.append(f"multiples of {align}: {_last_line(error)}")
            continue
        if cost.cost(found).macs <= budget * 1.005:
            return found, align
        said.append(f"multiples of {align}: {cost.cost(found).macs:,} MACs")
    raise UsageError(f"FastNAS reaches no {budget:,} MACs; {'; '.join(said)}")


def _can_count() -> None:
    try:
        from torchprofile import profile
    except ImportError as error:
        raise ImportError(COUNTS) from error
    if not hasattr(profile, "handlers"):  # gone in 0.1.0, see findings/fastnas_torchprofile.sh
        raise ImportError(COUNTS)


COUNTS = "FastNAS counts with torchprofile: pip install torchprofile==0.0.4"


def _searched(
    net: nn.Module, budget: int, train: Pairs, device: torch.device, align: int
) -> nn.Module:
    import modelopt.torch.prune as mtp

    _can_count()
    scored = [*samples(train, SCORED, 1, device)]
    calibrated = [low for low, _ in samples(train, CALIBRATED, 2, device)]
    silent = io.StringIO()  # it prints its progress, and warns while it looks for what can go
    with warnings.catch_warnings(), redirect_stdout(silent), redirect_stderr(silent):
        warnings.simplefilter("ignore")
        found, _ = mtp.prune(
            copy.deepcopy(net).to(device),
            mode=[("fastnas", _space(align))],
            constraints={"flops": f"{100 * budget / cost.cost(net).macs}%"},
            dummy_input=torch.rand(1, 1, SIDE, SIDE, device=device),
            config={
                "score_func": lambda one: _psnr(one, scored),
                "data_loader": calibrated,
                "collect_func": lambda low: (low,),
                "checkpoint": None,
                "verbose": False,
            },
        )
    return _plain(net, found)


def _space(align: int) -> dict[str, Any]:
    """What may be removed: every multiple of channels; kernels stay."""
    ratios = tuple(_ratios())
    return {
        "nn.Conv2d": {"*": {"channels_ratio": ratios, "kernel_size": (), "channel_divisor": align}},
        "nn.BatchNorm2d": {"*": {"features_ratio": ratios, "feature_divisor": align}},
    }


def _ratios() -> Iterator[float]:
    return (k / 16 for k in range(1, 17))


@torch.no_grad()
def _psnr(net: nn.Module, scored: list[tuple[Tensor, Tensor]]) -> float:
    """PSNR in dB of network range."""
    errors = [float((net(low) - full).square().mean()) for low, full in scored]
    return float(-10 * torch.log10(torch.tensor(errors).mean()))


def _plain(net: nn.Module, found: nn.Module) -> nn.Module:
    """The network found with modules of PyTorch alone: shapes and tensors in a copy of `net`."""
    small, state = copy.deepcopy(net), {k: v.cpu() for k, v in found.state_dict().items()}
    resize(small, state)
    small.load_state_dict(state)
    return small.eval()


def _last_line(error: Exception) -> str:
    """What FastNAS says, without the tables that it puts in front."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def reach() -> None:
    """Print the largest share of DDnet's MACs that each removes, by multiple of channels."""
    torch.manual_seed(0)
    net = deconv_to_conv(DDnet(residual=True)).eval()
    whole = cost.cost(net).macs
    options = DataOptions(source="phantom", image_size=64, views=90, train_slices=4, test_slices=1)
    train = load(options, seed=0).train
    for align in ALIGNMENTS:
        removed = [1 - cost.cost(_magnitude(net, ratio, align)).macs / whole for ratio in RATIOS]
        most = max(removed)
        at = RATIOS[removed.index(most)]
        print(f"Torch-Pruning, {align}: {most:.1%} at {at:.0%} of channels, "
              f"{removed[-1]:.1%} at {RATIOS[-1]:.0%}")  # fmt: skip
        for share in range(10, 100, 5):
            try:
                found = _searched(net, whole * share // 100, train, torch.device("cpu"), align)
            except ValueError:
                continue
            print(f"FastNAS, {align}: {1 - cost.cost(found).macs / whole:.1%}")
            break


if __name__ == "__main__":
    reach()
