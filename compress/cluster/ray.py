"""Tasks of Ray: of a cluster, or of a Ray that is started on this machine."""

import logging
import os
import warnings
from typing import Any

from compress.base.errors import UsageError
from compress.base.exit_codes import FAILED, STOPPED
from compress.base.reasons import reason
from compress.cluster import node
from compress.cluster.task import Cluster, Outcome, Running, Task

log = logging.getLogger(__name__)

AUTH = "RAY_AUTH_MODE"
"""Environment variable by which Ray shows its token; without it, it only waits in vain."""


class Ray:
    """A connection to Ray.

    `ray` is the cluster that RAY_ADDRESS names, as in a job of Ray, else a Ray of this machine.

    Args:
        cluster: where it is, and what a task gets.
        cpu: whether tasks run on a CPU.

    Raises:
        ImportError: Ray, or its client for ray://, is not installed.
        UsageError: Ray does not start or does not answer.
    """

    share = 1

    def __init__(self, cluster: Cluster, *, cpu: bool) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        import ray as library

        ray: Any = library  # partly without types
        self.ray, self.name, self.at_once = ray, cluster.address, cluster.at_once
        _connect(ray, cluster.address)
        try:
            there = ray.cluster_resources()
            gpus = int(there.get("GPU", 0) >= 1 and not cpu)
            gpus = gpus if cluster.gpus is None else cluster.gpus
            wanted = {"CPU": cluster.cpus or 1, "GPU": gpus}
            _say_missing(ray.nodes(), wanted)
            self.function = ray.remote(
                num_cpus=wanted["CPU"], num_gpus=wanted["GPU"], max_retries=0
            )(node.run)
        except BaseException:
            ray.shutdown()
            raise

    def submit(self, task: Task) -> Running:
        """Queue a task; Ray itself begins nothing again, because `spread` does and says so."""
        return _Ref(self.ray, self.function.remote(task))

    def close(self) -> None:
        """Disconnect; a Ray that was started here ends."""
        self.ray.shutdown()


class _Ref:
    """A task that Ray was given."""

    def __init__(self, ray: Any, ref: Any) -> None:
        self.ray, self.ref = ray, ref

    def outcome(self) -> Outcome | None:
        """See `Running`."""
        done, _ = self.ray.wait([self.ref], timeout=0)
        if not done:
            return None
        errors = self.ray.exceptions
        try:
            found: Outcome = self.ray.get(self.ref)
        except errors.TaskCancelledError:
            return Outcome(status=STOPPED, note="this machine")
        except errors.RayTaskError as error:  # of our own function, or it could not be imported
            return Outcome(status=FAILED, note=f"a machine of the cluster: {_said(error)}")
        except errors.RayError as error:
            return Outcome(status=None, note=type(error).__name__)
        return found

    def cancel(self) -> None:
        """See `Running`: where it runs, `node.run` hears of it as of Ctrl-C."""
        self.ray.cancel(self.ref)


def _said(error: BaseException) -> str:
    """The last line of what Ray quotes of an error on another machine."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _connect(ray: Any, address: str) -> None:
    """Connect to Ray, quietly.

    Raises:
        ImportError: the client is not installed.
        UsageError: Ray does not start or does not answer.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    where = address
    if address != "ray":
        import grpc  # noqa: F401  # of ray[client]

        options = {}  # the client passes them on, and says so
    elif where := os.environ.get("RAY_ADDRESS", ""):
        address = "auto"
    else:
        address, options["include_dashboard"] = "local", False
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            ray.init(address, **options)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        said = f"--cluster {where or 'ray'}: Ray does not answer: {reason(error)}"
        token = "" if AUTH in os.environ else f"; if the cluster asks for a token, set {AUTH}=token"
        raise UsageError(said + token * bool(where)) from error


def _say_missing(nodes: list[dict[str, Any]], wanted: dict[str, int]) -> None:
    """Warn where no machine is large enough: Ray waits for one, which an autoscaler may bring."""
    alive = [one["Resources"] for one in nodes if one["Alive"]]
    if not any(all(one.get(key, 0) >= count for key, count in wanted.items()) for one in alive):
        words = f"{wanted['CPU']} CPU cores and {wanted['GPU']} GPUs for a task"
        log.warning("no machine of the Ray cluster has %s; waiting for one", words)
