"""`compress report`: the report of a run folder, written again from what its stages left."""

from pathlib import Path

from compress import reporting
from compress.base.errors import UsageError
from compress.base.files import read_json
from compress.recipe import load
from compress.run.folder import locked


def rebuild(run: Path) -> Path:
    """Write the report of a run folder again; return the path of report.html.

    Raises:
        UsageError: `run` holds no run, or a recipe is running in it.
        OSError: the disk is full or `run` is not writable.
    """
    reporting.refuse_no_run(run)
    with locked(run):
        folder = run / _stage(run)
        folder.mkdir(exist_ok=True)
        return reporting.write(run, folder)


def _stage(run: Path) -> str:
    """The folder's name: that of the recipe's report, or a number that no step of it can take."""
    there = max((path.name for path in run.glob("[0-9][0-9]-report")), default=None)
    if there is not None:
        return there
    words = _steps(run)
    index = words.index("report") if "report" in words else len(words)
    return f"{index:02d}-report"


def _steps(run: Path) -> list[str]:
    """The steps of the run's recipe; where it cannot be read any more, those that have folders."""
    try:
        overrides = read_json(run / "manifest.json").get("overrides", [])
        return [word for word, _ in load(run / "recipe.yaml", overrides).steps]
    except UsageError:
        return [path.name.partition("-")[2] for path in sorted(run.glob("[0-9][0-9]-*"))]
