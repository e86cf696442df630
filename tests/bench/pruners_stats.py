"""Paired differences over seeds for `pruners.py`."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = ("psnr", "ssim", "one_shot_psnr")


def paired(rows: Sequence[Mapping[str, Any]], reference: str) -> dict[str, Any]:
    """Each group of arms beside `reference`, seed by seed: Student's paired t-test, two-sided.

    Args:
        rows: of `pruners.py`; the group is the name without the seed behind it.
        reference: the name of the group that is compared with.

    Returns:
        By group and metric: mean and sd (sample) of the group, seeds, and against the reference
        mean and sd of the differences, t and p; None where fewer than two seeds are common.
    """
    values: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["status"] == "done":
            values[row["name"].removesuffix(f"-{row['seed']}")][row["seed"]] = row
    return {
        group: {
            name: _compared(own, values[reference], name) for name in METRICS if _all(own, name)
        }
        for group, own in sorted(values.items())
    }


def _compared(
    own: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]], name: str
) -> dict[str, Any]:
    numbers = [row[name] for row in own.values()]
    common = sorted(seed for seed in own.keys() & other.keys() if name in other[seed])
    gained = [own[seed][name] - other[seed][name] for seed in common]
    found = {"seeds": len(numbers), "mean": statistics.fmean(numbers), "sd": _sd(numbers)}
    if len(gained) < 2 or not any(gained):
        return {**found, "gain": None, "gain_sd": None, "t": None, "p": None}
    from scipy import stats

    test = stats.ttest_1samp(gained, 0.0)
    return {
        **found, "gain": statistics.fmean(gained), "gain_sd": _sd(gained),
        "t": float(test.statistic), "p": float(test.pvalue),
    }  # fmt: skip


def _all(own: Mapping[int, Mapping[str, Any]], name: str) -> bool:
    return all(row.get(name) is not None for row in own.values())


def _sd(numbers: Sequence[float]) -> float | None:
    return statistics.stdev(numbers) if len(numbers) > 1 else None
