"""What a step is given to work with, and what a step is."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Literal, Protocol

import torch

from compress.base.world import World
from compress.checkpoint import Model
from compress.data import Data


@dataclass(frozen=True, kw_only=True)
class Work:
    """The surroundings of one stage: one executed step of a recipe with its folder."""

    stage: Path
    """Folder of this stage; it exists. Its parent is the run folder."""
    device: torch.device
    data: Data
    seed: int
    dense: Path | None = None
    """Folder of the last dense checkpoint: from before anything was pruned or sparsified, or that
    of a baseline step."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the stage wants remembered; the pipeline writes it to facts.json when the stage ends."""
    stop: Event = field(default_factory=Event)
    """Set when a signal asks for the end: finish the step, save, raise Stopped."""
    world: World = field(default_factory=World)
    """The processes that train together; all but training is done by the first one."""
    profile: bool = False
    """Whether training records where its time goes."""
    later: int = 0
    """Pixels that training stages after this one will draw, see `training/remaining.py`."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a step would use on a machine."""

    name: str
    """A back end, a number format, engine formats."""
    why: str = ""
    """Why this one; empty where there is no choice."""
    needs: tuple[str, ...] = ()
    """Parts that must work for it, see `doctor.all_parts`."""


Kind = Literal["training", "compressing", "measuring", "baseline"]
"""What a step does to the network: its weights learn, it becomes smaller or sparser, or nothing;
baseline: nothing, but the dense network's weights learn."""
BASELINE = "dense"
"""Folder in the stage of a baseline that holds the dense network."""


class Step(Protocol):
    """A shape, not a base class: any frozen dataclass of options with these is a step."""

    kind: ClassVar[Kind]

    def uses(self, device: torch.device) -> Use:
        """What the step would use here.

        Raises:
            UsageError: the recipe asks by name for what this machine cannot do.
        """
        ...

    def run(self, model: Model, work: Work) -> Model:
        """Do the step; `model` itself is not changed."""
        ...
