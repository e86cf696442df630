"""The comparisons of `pruners.py`: their arms, those that decide most first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pruners_settings import Arm

K3, K3_HIGH = (3, 3, 3, 3, 3), (3, 3, 5, 5, 5)
BUDGETS = (0.6, 0.75)
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
    """The arms, those that decide most first."""
    found = []
    for seed in seeds:
        end = "" if len(seeds) == 1 else f"-{seed}"
        found += [Arm(name=f"dense{end}", how="none", seed=seed)]
        for how, name in (("ours", "macs"), ("latency", "latency"), ("torch_pruning",) * 2):
            found += [
                Arm(name=f"{name}-{share(b)}{end}", how=how, removed=b, seed=seed) for b in BUDGETS
            ]
        found += [
            Arm(name=f"fastnas-{share(b)}{end}", how="fastnas", removed=b, seed=seed)
            for b in BUDGETS
        ]
        found += [
            Arm(name=f"k3-60{end}", how="none", kernels=K3, removed=0.6, seed=seed),
            Arm(name=f"k3-75{end}", kernels=K3, removed=0.75, seed=seed),
            Arm(name=f"k3high-60{end}", kernels=K3_HIGH, removed=0.6, seed=seed),
        ]
    return found


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


def noise(seeds: Sequence[int]) -> list[Arm]:
    """DDnet dense and pruned, with fixed and with fresh noise."""
    return [
        Arm(name=f"{name}-noise{count}-{seed}", how=how, removed=b, realisations=count, seed=seed)
        for seed in seeds
        for name, how, b in (("dense", "none", 0.0), ("macs-60", "ours", 0.6))
        for count in (1, FRESH)
    ]


def share(removed: float) -> str:
    """0.75 -> 75."""
    return f"{100 * removed:.0f}"


PARTS: Mapping[str, Part] = {
    "pareto": Part(pareto, "0", 24),
    "criteria": Part(criteria, "0,1,2,3,4", 10, ("random", "random-knapsack")),
    "others": Part(
        others, "0,1,2", 60,
        ("redcnn-dense", "redcnn-random", "basicunet-dense", "basicunet-random"),
    ),
    "noise": Part(noise, "0,1", 40, ("dense-noise1", "macs-60-noise1")),
}  # fmt: skip
