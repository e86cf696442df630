"""What is known of a network before it is decided what goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.graph import cost, kernels
from compress.graph.groups import Group, groups
from compress.graph.kernels import Rings
from compress.graph.trial import slice_size
from compress.pruning import latency, ranking
from compress.pruning.ledger import Ledger
from compress.pruning.options import PruneOptions
from compress.pruning.proof import Proof
from compress.pruning.worth import Worth


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is known of a network before channels are chosen."""

    found: tuple[Group, ...]
    values: Mapping[str, Tensor]
    """Scores of channels by producer."""
    ranks: Mapping[str, Tensor]
    held: Mapping[str, str]
    """Groups that the recipe keeps whole."""
    rings: Rings
    """That kernels can lose."""
    worths: Mapping[str, Tensor]
    """Of those rings, where kernels are weighed."""
    sides: Mapping[str, int]
    """Of kernels larger than the smallest, in the order of the network."""
    kept_kernels: Mapping[str, str]
    """Why larger kernels lose none, by module name."""
    ledger: Ledger
    proof: Proof
    base: float
    """As in `plan`."""


def known(
    net: nn.Module,
    options: PruneOptions,
    base: float,
    seed: int,
    importance: Mapping[str, Tensor] | Worth | None,
    size: tuple[int, int] | None,
    times: latency.Table | None,
    end: float,
) -> Network:
    """What a plan is made from; arguments as `plan.plan` and `Proof` have them.

    Raises:
        UsageError: as `plan.plan`.
    """
    size = size or slice_size(net)
    found = groups(net, size)
    protected = ranking.protected(net, options.ignore)
    rings, kept = _kernels(net, options, protected)
    predictor = _predictor(net, options, times, rings)
    if predictor is not None:
        rings = _timed(predictor, rings)
        kept |= {name: why for name, why in predictor.lacking.items() if name not in rings}
    weighed = rings if options.kernels == "weigh" else {}
    worth = _worth(importance) or ranking.values(net, found, options, seed, size, weighed)
    if weighed.keys() - worth.rings.keys():
        raise UsageError("kernels weigh needs what rings are worth, too: prune by a recipe")
    if not worth.channels:
        has = "has no convolution or linear layer to prune"
        if cost.layers(net):
            has = "changes the weights of all its layers before it uses them, so none can be pruned"
        raise UsageError(f"{type(net).__name__} {has}")
    return Network(
        found=found,
        values=worth.channels,
        ranks=ranking.ranks(found, worth.channels, options),
        held=ranking.ignored(found, protected),
        rings=rings,
        worths={name: worth.rings[name] for name in weighed},
        sides=_sides(net, (*rings, *kept)),
        kept_kernels=kept,
        ledger=Ledger(net, found, predictor),
        proof=Proof(net, found, size, end),
        base=base,
    )


def _worth(given: Mapping[str, Tensor] | Worth | None) -> Worth | None:
    """Scores that were given; None where there are none."""
    if given is None or isinstance(given, Worth):
        return given
    return Worth(channels=dict(given)) if given else None


def _kernels(
    net: nn.Module, options: PruneOptions, protected: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, str]]:
    """The rings that kernels may lose, and why larger ones may lose none, by module name.

    Raises:
        UsageError: none may, and `options` asks for it.
    """
    if options.kernels == "keep":
        return {}, {}
    rings, kept = kernels.cuttable(net, options.min_kernel)
    kept |= {name: protected[name] for name in rings if name in protected}
    rings = {name: count for name, count in rings.items() if name not in protected}
    if not rings:
        why = f"; {min(kept)}: {kept[min(kept)]}" if kept else ""
        side = options.min_kernel
        raise UsageError(
            f"kernels {options.kernels}: {type(net).__name__} has no kernel that could get "
            f"smaller and stay at least {side}x{side}{why}"
        )
    return rings, kept


def _timed(predictor: latency.Predictor, rings: Rings) -> dict[str, int]:
    """Those rings whose smaller kernels have times.

    Raises:
        UsageError: none has.
    """
    if rings and not predictor.rings:
        name, why = min(predictor.lacking.items())
        raise UsageError(
            f"kernels: {why}, which {name} could become, nor of any other smaller kernel; measure "
            "a table with kernels weigh"
        )
    return dict(predictor.rings)


def _sides(net: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The longer side of the kernels of some convolutions, in the order of the network."""
    found = cost.convolutions(net)
    return {name: max(one.kernel_size) for name, one in found.items() if name in names}


def _predictor(
    net: nn.Module, options: PruneOptions, times: latency.Table | None, rings: Rings
) -> latency.Predictor | None:
    """What tells the time of a network; None where nobody asks."""
    if options.target != "latency":
        return None
    if times is None and options.latency_table is None:
        raise UsageError(
            "target latency needs measured times: give latency_table, or prune by a recipe, which "
            "measures them"
        )
    table = times or latency.read(Path(str(options.latency_table)))
    return latency.Predictor(net, table, (options.latency_size, options.latency_size), rings)
