"""What an earlier run of the same simulation has done, so that it is not done again."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import cast

from compress.base.errors import UsageError
from compress.base.files import read_json
from compress.imaging import manifest
from compress.imaging.records import FileRow, Simulated


def earlier(out: Path) -> Simulated | None:
    """The manifest of an earlier run in `out`; None where nothing lies there.

    Raises:
        UsageError: something else lies there.
    """
    if not out.exists() or not any(out.iterdir()):
        return None
    try:
        found = read_json(out / manifest.NAME)
    except (OSError, ValueError) as error:
        raise other(out) from error
    if not isinstance(found, dict) or not {*Simulated.__annotations__} <= {*found}:
        raise other(out)  # of `enhance`, or of an earlier version
    return cast("Simulated", found)


def other(out: Path) -> UsageError:
    """The refusal of a folder with other pairs or other files."""
    return UsageError(
        f"PAIRS {out} is not empty, and not of this very command and input; "
        "give a new folder, or empty it"
    )


def done(out: Path, before: Simulated, now: Simulated) -> dict[int, FileRow]:
    """The rows, by number, whose pairs lie in `out` already.

    Args:
        out: the folder of pairs.
        before: manifest of the earlier run.
        now: manifest of this one, with nothing done yet.

    Raises:
        UsageError: the earlier one had other options, other files or another version.
    """
    if _same(before) != _same(now):
        raise other(out)
    files = (path for kind in (".npy", ".dcm") for path in out.glob(f"*/*/*/*{kind}"))
    there = Counter(path.stem.split("-")[0] for path in files)  # frames add -0000 to the UID
    return {
        number: row
        for number, row in enumerate(before["files"])
        if "slices" in row and there[row["output"]] >= 2 * row["slices"] + 2 * (row["slices"] == 1)
    }


def _same(content: Simulated) -> list[object]:
    """What two runs of the same command and input have in common."""
    rows = content["files"]
    left = [row["reason"] if row["status"] == "skipped" else None for row in rows]
    names = [(row["path_sha256"], row["series"]) for row in rows]
    return [content["schema"], content["version"], content["simulation"], names, left]


def forget(out: Path) -> None:
    """Remove what a run without any pair leaves."""
    (out / manifest.NAME).unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        out.rmdir()
