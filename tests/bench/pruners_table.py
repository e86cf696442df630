"""The table of milliseconds that latency arms of `pruners.py` plan by."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import click
import torch
from pruners_settings import TABLE, Arm, Settings

from compress.base.files import read_json, write_json
from compress.base.reasons import reason
from compress.engines import layer_times
from compress.engines.kernels import single
from compress.graph import kernels
from compress.graph.rewrite import deconv_to_conv
from compress.pruning.families import wanted

SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
STEP, STEP_SMALLER = 8, 16
"""Channels between measured layers; with smaller kernels, which double their number."""
MOST_SMALLER = 160
"""Layers that are measured at most where there are smaller kernels among them."""


def table(settings: Settings, seconds: float, *, smaller: bool = False) -> str:
    """Measure the layers that latency arms plan by; what the table says of itself.

    Args:
        settings: of the comparison.
        seconds: when to stop.
        smaller: whether arms make kernels smaller.

    Where `latency_from` fails, PyTorch's layers are measured instead. Each try has a process of its
    own: a GPU that fails takes the process along.
    """
    path = settings.out / TABLE
    for how in dict.fromkeys((settings.latency_from, "eager")):
        if path.exists():
            break
        with ProcessPoolExecutor(1, mp_context=SPAWN) as own:
            try:
                own.submit(measure_layers, settings, how, seconds, smaller).result()
            except Exception as error:
                click.echo(f"latency_from {how}: {reason(error)}", err=True)
    if not path.exists():
        return "none"
    found = read_json(path)
    write_json(settings.report / TABLE, found)
    return f"{found['device']}, {found['engine']}; {found['note']}"


def measure_layers(settings: Settings, how: Any, seconds: float, smaller: bool) -> None:
    """Write the table of DDnet's layers, of narrower ones and of those with smaller kernels."""
    net = deconv_to_conv(settings.origin(Arm(name="")).build().eval())
    size, most = (settings.latency_size,) * 2, layer_times.LIMITS[how].shapes
    if smaller:
        most = max(most, MOST_SMALLER)
        own = wanted([net], size, STEP_SMALLER, most)
        shapes = wanted([net, *kernels.smaller(net, 3)], size, STEP_SMALLER, most)
        shapes = single.served(shapes, own) if how == "fused" else shapes
    else:
        shapes = wanted([net], size, STEP, most)
    found = layer_times.measured(shapes, how, torch.device(settings.device), seconds)
    write_json(settings.out / TABLE, found.to_json())
