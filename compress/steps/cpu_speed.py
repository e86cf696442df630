"""The dense and the compressed network timed side by side on a CPU, for the report of a run.

A CPU that others use, too, gives no time that can be promised; what can be told is how many times
as fast one network is as the other, in rounds in which each has its turn.
"""

import logging
from functools import partial

import torch
from torch import nn

from compress.base import timing
from compress.base.reasons import reason
from compress.base.timing import Budget, Case, TimedRow
from compress.engines.base import Shape
from compress.graph.slices import channels
from compress.steps.facts import Speed, SpeedPlace

log = logging.getLogger(__name__)

SIDE = 256
"""Pixels in a row and a column: a quarter of a slice, so that a report takes seconds."""
BUDGET = Budget(rounds=6, seconds=2.0)
MODE = "eager-fp32"


def measure(dense: nn.Module, net: nn.Module) -> Speed | None:
    """Time both in float32, one slice at once.

    Args:
        dense: the network before anything was removed.
        net: the compressed one.

    Returns:
        As `bench.command.run`, with the rows `dense` and `compressed`; None where one of them does
        not run so, which is no reason to have no report.
    """
    cpu, shape = torch.device("cpu"), Shape(batch=1, size=SIDE, channels=channels(net))
    x = shape.example(cpu)
    try:
        with torch.inference_mode():
            calls = [partial(one.eval(), x) for one in (dense, net)]
            cases = [Case(call=call, batch=1, clock=timing.wall) for call in calls]
            first, own = timing.rounds(cases, BUDGET)
    except RuntimeError as error:
        log.warning("speed was not measured: %s", reason(error))
        return None
    rows: list[TimedRow] = [
        {
            "name": name,
            "how": MODE,
            "runs": "eager float32",
            "batch": 1,
            **timing.summary(rounds, first),
        }
        for name, rounds in (("dense", first), ("compressed", own))
    ]
    place: SpeedPlace = {
        "gpu": None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return {"schema": 1, "place": place, "size": SIDE, "rounds": BUDGET.rounds, "rows": rows}
