"""What a prune step was asked for and what it came to: its amount, and what its threshold means."""

from collections.abc import Mapping
from typing import Any, Literal

from compress.reporting.formatting import figure, percent

Facts = Mapping[str, Any]
Scale = Literal["z", "score", "place"]
SHARES = {"macs": "MACs", "params": "parameters", "channels": "channels", "latency": "latency"}


def packed(pruning: Facts) -> bool:
    """Whether channels were ranked by worth for cost, and the rest of the budget was filled up."""
    return bool(pruning.get("solver") == "knapsack")


def scale(pruning: Facts) -> Scale:
    """What channels were compared by: standard deviations, the score itself, the place by layer."""
    if pruning["criterion"] == "gaussian" or packed(pruning):
        return "z"
    return "score" if pruning.get("scope") == "global" else "place"


def threshold(pruning: Facts) -> str:
    """The common threshold with its unit."""
    return f"threshold {figure(pruning['threshold'], 3)}{_unit(pruning)}"


def _unit(pruning: Facts) -> str:
    own = scale(pruning)
    if own == "score":
        return " in the unit of the scores"
    if own == "place":
        return " as a place among each layer's channels, 0 to 1"
    if packed(pruning):
        return " deviations from the network's mean of log(worth / cost)"
    where = "the network's" if pruning.get("scope") == "global" else "each layer's"
    return f" deviations from {where} mean score"


def amount(pruning: Facts) -> str:
    """What was asked for beside what came of it; empty where a threshold was given.

    Thresholds rise until enough is removed after kept counts were rounded up, so widths that may
    only be multiples of a number come to that much or more, never to less.
    """
    asked, reached = pruning.get("amount"), pruning.get("reached")
    if asked is None or reached is None:  # the latter in records of older versions
        return ""
    share = f"{percent(asked)} of the {SHARES[pruning['of']]}{_dense(pruning)} asked"
    if percent(reached) == percent(asked):
        return share
    return f"{share}; {_above(pruning, reached)}"


def _above(pruning: Facts, reached: float) -> str:
    widths = "whole channels" if pruning["align"] == 1 else f"multiples of {pruning['align']}"
    if packed(pruning):
        return f"in {widths} the solver comes to {percent(reached)}"
    return f"{percent(reached)} is the nearest above it that one threshold gives in {widths}"


def _dense(pruning: Facts) -> str:
    """Says so where the amount is a share of what there was before an earlier pruning."""
    now = pruning["removed"].get(pruning["of"])
    return " of the dense network" if now is not None and now < pruning["reached"] - 1e-6 else ""
