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
from compress.graph.rewrite import deconv_to_conv
from compress.pruning.families import wanted

SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
STEP = 8
"""Channels between measured layers."""


def table(settings: Settings, seconds: float) -> str:
    """Measure the layers that latency arms plan by; what the table says of itself.

    Where `latency_from` fails, PyTorch's layers are measured instead. Each try has a process of its
    own: a GPU that fails takes the process along.
    """
    path = settings.out / TABLE
    for how in dict.fromkeys((settings.latency_from, "eager")):
        if path.exists():
            break
        with ProcessPoolExecutor(1, mp_context=SPAWN) as own:
            try:
                own.submit(measure_layers, settings, how, seconds).result()
            except Exception as error:
                click.echo(f"latency_from {how}: {reason(error)}", err=True)
    if not path.exists():
        return "none"
    found = read_json(path)
    write_json(settings.report / TABLE, found)
    return f"{found['device']}, {found['engine']}; {found['note']}"


def measure_layers(settings: Settings, how: Any, seconds: float) -> None:
    """Write the table of DDnet's layers and of narrower ones."""
    net = deconv_to_conv(settings.origin(Arm(name="")).build().eval())
    most = layer_times.LIMITS[how].shapes
    shapes = wanted([net], (settings.latency_size,) * 2, STEP, most)
    found = layer_times.measured(shapes, how, torch.device(settings.device), seconds)
    write_json(settings.out / TABLE, found.to_json())
