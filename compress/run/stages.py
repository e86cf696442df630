"""The stages of a recipe: each executed step with its folder, such as 01-prune."""

from dataclasses import dataclass
from pathlib import Path

from compress.base.errors import UsageError
from compress.context import Step
from compress.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """One step of the recipe and its place."""

    index: int
    word: str
    """The step's name in the recipe."""
    step: Step
    folder: Path

    @property
    def name(self) -> str:
        """Folder name, such as 01-prune."""
        return self.folder.name


def stages(recipe: Recipe, out: Path, until: str | None) -> list[Stage]:
    """The stages of a recipe in the run folder `out`, up to and with `until`.

    Raises:
        UsageError: `until` names no stage, or more than one.
    """
    found = [
        Stage(index, word, step, out / f"{index:02d}-{word}")
        for index, (word, step) in enumerate(recipe.steps)
    ]
    if until is None:
        return found
    ends = [stage.index for stage in found if until in (stage.word, stage.name)]
    if len(ends) != 1:
        names = ", ".join(stage.name for stage in found)
        what = "is no step of the recipe" if not ends else "occurs more than once in the recipe"
        raise UsageError(f"--until {until} {what}; its stages are {names}")
    return found[: ends[0] + 1]
