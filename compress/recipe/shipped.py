"""The recipes that come with this package, found by name."""

from importlib import resources
from pathlib import Path

from compress.base.errors import UsageError
from compress.recipe.schema import suggestion

ENDINGS = (".yaml", ".yml")
"""Of files that are recipes."""


def paths() -> list[Path]:
    """Every shipped recipe, sorted by name."""
    return sorted(Path(str(resources.files("compress"))).joinpath("recipes").glob("*.yaml"))


def find(recipe: Path) -> Path:
    """The file of a recipe: `recipe` itself, or the shipped one of that name.

    Raises:
        UsageError: `recipe` is a bare name, neither a file nor a shipped recipe; names the file
            here that has it and an ending, if there is one.
    """
    bare = recipe.name == str(recipe) and recipe.suffix == ""
    if recipe.exists() or not bare:
        return recipe
    known = {path.stem: path for path in paths()}
    if recipe.name not in known:
        beside = [f"{recipe}{ending}" for ending in ENDINGS if Path(f"{recipe}{ending}").is_file()]
        hint = f"did you mean {beside[0]}?" if beside else suggestion(recipe.name, known)
        raise UsageError(
            f"{recipe}: there is no such file, and no recipe of that name comes with the package; "
            f"{hint}"
        )
    return known[recipe.name]
