"""Options of the commands that a cluster can run: words in, calls out, like `cli`."""

from collections.abc import Callable
from typing import Any

import click

OPTIONS = (
    click.option(
        "--cluster",
        "address",
        metavar="ray|ray://HOST:PORT|slurm|local",
        help="Run as tasks of Ray, of Slurm, or as processes of this machine; lost tasks are "
        "begun again and go on.",
    ),
    click.option(
        "--gpus-per-task",
        "gpus",
        type=click.IntRange(0),
        metavar="N",
        help="GPUs of a task of --cluster; 1 where there are GPUs, else 0.",
    ),
    click.option(
        "--cpus-per-task",
        "cpus",
        type=click.IntRange(1),
        metavar="N",
        help="CPU cores of a task of --cluster; 1 by default, with slurm what the site gives.",
    ),
)


def on_a_cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of tasks to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def cluster(
    address: str | None, gpus: int | None, cpus: int | None, at_once: int | None = None
) -> Any:
    """What the options say, a `cluster.task.Cluster`; None without `--cluster`.

    Raises:
        click.UsageError: they are of no use without it.
    """
    if address is None:
        if gpus is not None or cpus is not None:
            raise click.UsageError("--gpus-per-task and --cpus-per-task are for --cluster")
        return None
    from compress.cluster.task import Cluster

    return Cluster(address=address, gpus=gpus, cpus=cpus, at_once=at_once)
