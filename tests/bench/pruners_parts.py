"""The comparisons of `pruners.py`: their arms, those that decide most first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pruners_settings import Arm

K3, K3_HIGH = (3, 3, 3, 3, 3), (3, 3, 5, 5, 5)
FRESH = 6
"""Low-dose versions of a slice where noise is fresh."""
CRITERIA = {
    "variance": {},
    "taylor": {"criterion": "taylor", "solver": "knapsack"},
    "gaussian": {"criterion": "gaussian"},
    "l1": {"criterion": "l1"},
    "random": {"criterion": "random"},
    "random-knapsack": {"criterion": "random", "solver": "knapsack"},
}
"""By name, the options of `prune` that differ from those of the recipe."""


class Part(NamedTuple):
    """A comparison."""

    arms: Callable[[Sequence[int]], list[Arm]]
    """Of the seeds."""
    seeds: str
    epochs: int
    references: tuple[str, ...] = ()
    """Groups of arms that the others are compared with, seed by seed."""


def pareto(seeds: Sequence[int]) -> list[Arm]:
    """Our plans, other programs' and smaller kernels, at two budgets.

    latency-free: by milliseconds, which kernels get smaller is weighed; latency-3x3: all do.
    """
    kinds: Sequence[tuple[str, float, dict[str, Any]]] = (
        ("dense", 0.0, {"how": "none"}),
        ("macs", 0.6, {}),
        ("latency", 0.6, {"how": "latency"}),
        ("k3", 0.75, {"kernels": K3}),
        ("torch_pruning", 0.6, {"how": "torch_pruning"}),
        ("fastnas", 0.6, {"how": "fastnas"}),
        ("macs", 0.75, {}),
        ("latency", 0.75, {"how": "latency"}),
        ("latency-free", 0.6, {"how": "latency", "smaller": "weigh"}),
        ("latency-free", 0.75, {"how": "latency", "smaller": "weigh"}),
        ("latency-3x3", 0.6, {"how": "latency", "smaller": "cut"}),
        ("latency-3x3", 0.75, {"how": "latency", "smaller": "cut"}),
        ("k3", 0.6, {"how": "none", "kernels": K3}),
        ("torch_pruning", 0.75, {"how": "torch_pruning"}),
        ("fastnas", 0.75, {"how": "fastnas"}),
        ("k3high", 0.6, {"kernels": K3_HIGH}),
    )
    return [
        Arm(
            name="-".join([kind, *([f"{100 * removed:.0f}"] if removed else []), *end]),
            removed=removed, seed=seed, **options,
        )
        for seed in seeds
        for end in [[str(seed)] if len(seeds) > 1 else []]
        for kind, removed, options in kinds
    ]  # fmt: skip


def criteria(seeds: Sequence[int]) -> list[Arm]:
    """Every criterion, seed by seed."""
    return [
        Arm(name=f"{name}-{seed}", removed=0.6, seed=seed, **options)  # type: ignore[arg-type]
        for seed in seeds
        for name, options in CRITERIA.items()
    ]


def others(seeds: Sequence[int]) -> list[Arm]:
    """Other networks at half of their MACs."""
    found = []
    for seed in seeds:
        for network in ("redcnn", "basicunet"):
            one: dict[str, Any] = {"network": network, "seed": seed}
            half = {**one, "removed": 0.5}
            found += [
                Arm(name=f"{network}-dense-{seed}", how="none", **one),
                Arm(name=f"{network}-variance-{seed}", **half),
                Arm(name=f"{network}-gaussian-{seed}", criterion="gaussian", **half),
                Arm(name=f"{network}-random-{seed}", criterion="random", **half),
                Arm(name=f"{network}-torch_pruning-{seed}", how="torch_pruning", **half),
            ]
    return found


def training(seeds: Sequence[int]) -> list[Arm]:
    """DDnet dense and pruned, trained in several ways."""
    ways: Mapping[str, dict[str, Any]] = {
        "plain": {},
        "noise": {"realisations": FRESH},
        "transposes": {"train": (("transposes", True),)},
        "held": {"train": (("freeze_norm_last", 0.2),)},
        "lr2": {"train": (("lr", 2e-3),)},
    }
    return [
        Arm(name=f"{name}-{way}-{seed}", how=how, removed=removed, seed=seed, **options)
        for seed in seeds
        for way, options in ways.items()
        for name, how, removed in (("dense", "none", 0.0), ("macs60", "ours", 0.6))
    ]


def widths(seeds: Sequence[int]) -> list[Arm]:
    """Three budgets of MACs, by channels alone and with 3x3 kernels; 2:4 at the first of them."""
    kinds: Sequence[tuple[str, float, dict[str, Any]]] = (
        ("dense", 0.0, {"how": "none"}),
        *((f"{name}-{100 * removed:.0f}", removed, {"smaller": smaller})
          for removed in (0.75, 0.6, 0.9) for name, smaller in (("3x3", "cut"), ("5x5", "keep"))),
        ("3x3-60-2to4", 0.6, {"smaller": "cut", "sparse": True}),
        ("5x5-60-2to4", 0.6, {"sparse": True}),
    )  # fmt: skip
    return [
        Arm(name=f"{name}-{seed}", removed=removed, seed=seed, **options)
        for seed in seeds
        for name, removed, options in kinds
    ]


def int8(seeds: Sequence[int]) -> list[Arm]:
    """60 % of the MACs, 2:4, then INT8: layers that the fused engine computes so, and all."""
    return [
        Arm(name=f"{which}-{seed}", removed=0.6, sparse=True, int8=which, seed=seed)
        for seed in seeds
        for which in ("fused", "all")
    ]


PARTS: Mapping[str, Part] = {
    "pareto": Part(pareto, "0", 24),
    "criteria": Part(criteria, "0,1,2,3,4", 10, ("random", "random-knapsack", "gaussian", "l1")),
    "others": Part(
        others, "0,1,2", 60,
        ("redcnn-dense", "redcnn-random", "basicunet-dense", "basicunet-random"),
    ),
    "widths": Part(widths, "0,1,2", 30, ("dense",)),
    "int8": Part(int8, "0,1,2", 20),
    "training": Part(training, "0,1", 30, ("dense-plain", "macs60-plain")),
}  # fmt: skip
