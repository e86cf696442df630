"""The engine that `--cluster` names, and what its package's absence is called."""

from pathlib import Path

from compress.base.errors import UsageError
from compress.cluster.task import Cluster, Engine

ADDRESSES = "ray, ray://HOST:PORT, slurm or local"


def engine(cluster: Cluster, logs: Path, device: str | None) -> Engine:
    """Connect to, or start, an engine.

    Args:
        cluster: what was asked for.
        logs: a folder that all machines share.
        device: of `--device`; on a CPU, tasks get no GPU.

    Raises:
        UsageError: there is no such engine, it cannot be reached, or a package is not installed.
    """
    address, cpu = cluster.address, device == "cpu"
    try:
        if address == "ray" or address.startswith("ray://"):
            from compress.cluster.ray import Ray

            return Ray(cluster, cpu=cpu)
        if address in ("slurm", "local"):
            from compress.cluster.submitit import Local, Slurm

            return (Slurm if address == "slurm" else Local)(cluster, logs, cpu=cpu)
    except ImportError as error:
        extra = "ray" if address.startswith("ray") else "slurm"
        raise UsageError(
            f"--cluster {address} needs the package {error.name}, which is not installed; "
            f"run pip install 'compress-ct[{extra}]'"
        ) from error
    raise UsageError(f"--cluster {address}: expected {ADDRESSES}")
