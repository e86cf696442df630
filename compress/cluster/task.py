"""What a task is, what became of it, and what an engine can do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compress.base.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the tasks of a command run, and what each of them gets."""

    address: str
    """ray, ray://HOST[:PORT], slurm or local."""
    gpus: int | None = None
    """GPUs of a task; None leaves it to the engine: 1 where there are some, else 0."""
    cpus: int | None = None
    """CPU cores of a task; None: 1, or what Slurm is configured to give."""
    at_once: int | None = None
    """Most tasks that run at the same time; None: as many as there is room for."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        if self.at_once is not None and self.at_once < 1:
            raise UsageError(f"--jobs must be at least 1, got {self.at_once}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A command of this program."""

    name: str
    """For messages, and of its log."""
    words: tuple[str, ...]
    """What follows `compress`."""
    folder: Path
    """Where it runs: paths in `words` are relative to it."""
    logs: Path
    """Folder of the logs, absolute; it is there."""
    settings: tuple[tuple[str, str], ...] = ()
    """Environment variables that the command gets besides those of its machine."""

    @property
    def log(self) -> Path:
        """What the command says; attempts follow one another."""
        return self.logs / f"{self.name}.log"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task."""

    status: int | None
    """Exit status of its command, negative for a signal; None where nobody knows."""
    note: str = ""
    """Where it ran, or what happened to it."""


class Running(Protocol):
    """A task that an engine was given."""

    def outcome(self) -> Outcome | None:
        """What became of it; None while it waits or runs. Returns at once."""

    def cancel(self) -> None:
        """Do not begin it; if it runs, let its command save and end."""


class Engine(Protocol):
    """Something that runs tasks."""

    @property
    def name(self) -> str:
        """In messages."""

    @property
    def at_once(self) -> int | None:
        """Most tasks that it should be given at the same time; None: it has a queue of its own."""

    @property
    def share(self) -> int:
        """Tasks that share the devices of one machine; 1 where each has its own."""

    def submit(self, task: Task) -> Running:
        """Queue a task."""

    def close(self) -> None:
        """Let go of the engine; no task runs any more."""
