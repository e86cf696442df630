"""Tasks of Slurm, or processes of this machine, through submitit."""

import logging
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.base import openmp
from compress.base.errors import UsageError
from compress.base.exit_codes import FAILED
from compress.base.reasons import reason
from compress.cluster.node import Command
from compress.cluster.task import Cluster, Outcome, Running, Task

log = logging.getLogger(__name__)

NOTICE = 120
"""Seconds before the limit in which Slurm tells a task, so that it saves."""
SAVING = 90.0
"""Seconds of these that a command gets to save."""
HOURS = 12
"""Limit of a task where SBATCH_TIMELIMIT says nothing; then it is queued again, and goes on."""
REQUEUES = 100
"""How often a task may reach its limit."""
SACCT = 30
"""Seconds in which Slurm must say whether it keeps accounts."""
FOREVER = 60 * 24 * 365
"""Minutes of a task on this machine, where nothing limits it."""


class Resumable(Command):
    """A command that submitit queues again when Slurm ends it; it then goes on."""

    def checkpoint(self) -> Any:
        """What submitit calls before the limit, and when the task gives way to another."""
        from submitit.helpers import DelayedSubmission

        self.end(SAVING)
        return DelayedSubmission(Resumable(self.task))


class _Job:
    """A task that submitit was given."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def outcome(self) -> Outcome | None:
        """See `Running`."""
        if not self.job.done():
            return None
        if self._lost():
            return Outcome(status=None, note=f"job {self.job.job_id} left no result")
        if error := self.job.exception():  # the task could not be imported there
            return Outcome(status=FAILED, note=str(error).strip().splitlines()[-1])
        found: Outcome = self.job.result()
        return found

    def _lost(self) -> bool:
        """Whether the job ended without a result, which may come late on a shared folder."""
        from submitit.core.utils import UncompletedJobError

        there = self.job.paths.result_pickle.exists()
        return not there and isinstance(self.job.exception(), UncompletedJobError)

    def cancel(self) -> None:
        """See `Running`."""
        self.job.cancel(check=False)


class _LocalJob(_Job):
    """The same as a process of this machine."""

    def _lost(self) -> bool:
        """Here a result is there at once."""
        return not self.job.paths.result_pickle.exists()

    def cancel(self) -> None:
        """See `Running`; not by submitit's own, which kills what takes longer than a second."""
        if not self.job.done():
            os.kill(int(self.job.job_id), signal.SIGTERM)


class Slurm:
    """Jobs of the Slurm cluster that this machine submits to.

    Args:
        cluster: what a task gets.
        logs: a folder that all machines share.
        cpu: whether tasks run on a CPU.

    Raises:
        ImportError: submitit is not installed.
        UsageError: there is no Slurm here.
    """

    name, share = "slurm", 1

    def __init__(self, cluster: Cluster, logs: Path, *, cpu: bool) -> None:
        import submitit

        gpus = int(not cpu) if cluster.gpus is None else cluster.gpus
        self.at_once = cluster.at_once
        try:
            executor = submitit.SlurmExecutor(logs / "submitit", max_num_timeout=REQUEUES)
        except RuntimeError as error:
            raise UsageError(
                "--cluster slurm: there is no Slurm here (no srun); run on a machine that submits "
                "jobs, or try --cluster local"
            ) from error
        executor.update_parameters(
            job_name="compress",
            time=60 * HOURS,
            cpus_per_task=cluster.cpus,
            gpus_per_node=gpus or None,  # each job has one node
            signal_delay_s=NOTICE,
        )
        self.executor = executor
        if why := _no_accounts():
            log.warning("Slurm keeps no accounts here (sacct: %s); a lost job is waited for", why)

    def submit(self, task: Task) -> Running:
        """Queue a task."""
        import submitit

        try:
            return _Job(self.executor.submit(Resumable(task)))
        except submitit.core.utils.FailedJobError as error:
            raise UsageError(f"--cluster slurm: sbatch refuses a task: {reason(error)}") from error

    def close(self) -> None:
        """Nothing to let go of."""


def _no_accounts() -> str:
    """Why sacct, which alone tells of a lost job, does not answer; empty where it does."""
    try:
        asked = ["sacct", "--noheader", "--allocations", "--jobs=1"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SACCT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return reason(error)
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return said[-1] if done.returncode else ""


class Local:
    """Processes of this machine, as many at the same time as `--jobs` says.

    Args:
        cluster: what a task gets.
        logs: a folder for logs.
        cpu: whether tasks run on a CPU.

    Raises:
        ImportError: submitit is not installed.
        UsageError: a task shall have more GPUs than there are.
    """

    name = "local"

    def __init__(self, cluster: Cluster, logs: Path, *, cpu: bool) -> None:
        import submitit

        there = [] if cpu and not cluster.gpus else visible_gpus()
        self.gpus = int(bool(there)) if cluster.gpus is None else cluster.gpus
        if self.gpus > len(there):
            raise UsageError(
                f"--gpus-per-task {self.gpus}: this machine has {len(there)} GPUs; "
                "--gpus-per-task 0 runs tasks without"
            )
        room = len(there) // self.gpus if self.gpus else None
        self.at_once = min(cluster.at_once or room or 1, room or cluster.at_once or 1)
        self.share = 1 if self.gpus else self.at_once
        if self.share > 1:
            openmp.share()
        self.there, self.jobs = there, dict[int, _LocalJob]()
        self.executor = submitit.LocalExecutor(logs / "submitit")

    def submit(self, task: Task) -> Running:
        """Start a task on GPUs that no other has."""
        slot = next(k for k in range(self.at_once) if self._free(k))
        own = ",".join(self.there[slot * self.gpus : (slot + 1) * self.gpus])
        task = replace(task, settings=(*task.settings, ("CUDA_VISIBLE_DEVICES", own)))
        self.executor.update_parameters(timeout_min=FOREVER)
        former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command alone
        try:
            self.jobs[slot] = job = _LocalJob(self.executor.submit(Resumable(task)))
        finally:
            signal.signal(signal.SIGINT, former)
        return job

    def _free(self, slot: int) -> bool:
        return slot not in self.jobs or self.jobs[slot].job.done()

    def close(self) -> None:
        """Nothing to let go of."""


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process may use: numbers or UUIDs."""
    import torch

    said = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = [word for word in map(str.strip, said.split(",")) if word]
    count = torch.cuda.device_count()
    return named[:count] if len(named) >= count else [str(k) for k in range(count)]
