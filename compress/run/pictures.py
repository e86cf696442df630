"""The pictures of `compress check --plot`: the scores of every layer, and where they are cut."""

from pathlib import Path

from compress.base.errors import UsageError
from compress.run.records import Plan


def check(path: Path) -> None:
    """Refuse a picture that `draw` could not write, before anything is computed.

    Raises:
        UsageError: it is no PNG, or its folder is not there.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot writes a PNG picture, got {path}; let the name end in .png")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}; make it first")


def draw(plan: Plan, path: Path) -> list[Path]:
    """Write a picture of the scores for every prune step; returns the files.

    Args:
        plan: what `preview.check` returns.
        path: the PNG file for the first prune step; more get their number before the suffix.

    Raises:
        UsageError: the recipe removes no channels, or as `check`.
        OSError: it cannot be written.
    """
    from compress.reporting import histograms

    check(path)
    if not plan["pruning"]:
        raise UsageError("--plot: the recipe has no step that removes channels")
    more = (path.with_stem(f"{path.stem}-{i}") for i in range(2, len(plan["pruning"]) + 1))
    files = [path, *more]
    for file, pruning in zip(files, plan["pruning"], strict=True):
        histograms.draw(pruning, file)
    return files
