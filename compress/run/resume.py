"""What an interrupted run left: which stages are done, and how one begins again.

A stage is done when its facts.json holds the hash of everything that decides its result, see
`keys`; `execution` asks for each stage. Facts are written last, so a killed stage is never taken
for a finished one. A training that was stopped in the middle goes on from its own state: what is
saved and how it goes on is in `training/session.py`, the file in `training/state.py`. A sweep goes
on by `sweep/work.py`.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from compress import checkpoint
from compress.base.errors import UsageError
from compress.base.files import PARTIAL, read_json, remove_partial, write_json
from compress.checkpoint import Model
from compress.engines.build import BUILDING
from compress.run.records import StageFacts
from compress.run.stages import Stage

log = logging.getLogger(__name__)

FACTS = "facts.json"


BEGUN = "begun.json"
"""Written when a stage starts, with its hash: what lies there is resumed under that hash only."""


REPORT = "report.html"
"""What `compress report` leaves in a folder of its own, where a recipe has no report."""


STAGE = re.compile(r"\d\d-[a-z][a-z0-9_]*")


def finished(
    stage: Stage, key: str, before: str | None, again: str | None = None
) -> StageFacts | None:
    """The facts of a stage that was finished under the same hash, else None.

    Args:
        stage: the stage.
        key: its hash now.
        before: hash of the weights in the last checkpoint before it; None without one. On a GPU a
            stage that runs again gives others, and what was made of the former ones is outdated.
        again: the first stage that was done in this run, for the log.
    """
    facts = _facts(stage)
    if facts is None:
        return None
    if facts.get("hash") != key:
        what = _changed(stage, facts) or again or "the model, data, seed or code"
        log.info("%s: %s changed, so it runs again", stage.name, what)
        return None
    if facts.get("before", before) != before:  # runs of version 0.1 do not say
        log.info("%s: the weights before it changed, so it runs again", stage.name)
        return None
    return cast("StageFacts", facts)


def _facts(stage: Stage) -> dict[str, Any] | None:
    """What lies in facts.json of a stage; None where it is missing or damaged."""
    try:
        found = read_json(stage.folder / FACTS)
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("facts"), dict)
    return found if whole else None


def _changed(stage: Stage, facts: Mapping[str, Any]) -> str:
    """The options of a finished stage that have other values now."""
    now = json.loads(json.dumps(asdict(stage.step)))  # type: ignore[call-overload]
    before = facts.get("options")
    known = before if isinstance(before, dict) else now
    names = [name for name, value in now.items() if name in known and known[name] != value]
    return ", ".join(names)


def done(stage: Stage, key: str) -> bool:
    """Whether a stage was finished under this hash; says nothing in the log."""
    facts = _facts(stage)
    return facts is not None and facts.get("hash") == key


def result(stage: Stage, model: Model) -> Model:
    """The model after a stage that is done: its checkpoint, or what came in where it has none.

    Raises:
        UsageError: the checkpoint is missing, damaged, or not the one that the stage wrote.
    """
    now, wrote = checkpoint.weights_hash(stage.folder), (_facts(stage) or {}).get("weights")
    if wrote and wrote != now:
        what = f"other weights, {now[:12]}" if now else "none"
        raise UsageError(f"{stage.folder} wrote the weights {wrote[:12]} and now holds {what}")
    there = (stage.folder / "model.json").exists()
    return checkpoint.load(stage.folder) if there else model


def begin(stage: Stage, key: str, before: str | None) -> None:
    """Make the stage's folder ready; what an interrupted run left stays under one hash only.

    Args:
        stage: the stage.
        key: its hash.
        before: as for `finished`.
    """
    begun = stage.folder / BEGUN
    try:
        found = read_json(begun)
    except (OSError, ValueError):
        found = None
    found = found if isinstance(found, dict) else {}
    if found.get("hash") != key or found.get("before", before) != before:
        _remove(stage.folder)
    stage.folder.mkdir(exist_ok=True)
    remove_partial(stage.folder)
    for half in stage.folder.glob(f"{BUILDING}*"):
        shutil.rmtree(half)
    (stage.folder / FACTS).unlink(missing_ok=True)
    write_json(begun, {"hash": key, "before": before})


def refuse_foreign(stages: Sequence[Stage]) -> None:
    """Refuse a run folder where files of the user lie in folders that are called like its stages.

    Raises:
        UsageError: names the first such folder.
    """
    for stage in stages:
        if stage.folder.is_dir() and not _ours(stage.folder):
            where = f"{stage.folder} is needed for a stage and holds other files"
            raise UsageError(f"{where}; move them away or give another --out")


def drop_stale(out: Path, names: set[str]) -> None:
    """Remove stages of an earlier form of the recipe, so that the folder tells one story."""
    for folder in out.iterdir():
        stage = folder.is_dir() and STAGE.fullmatch(folder.name) and folder.name not in names
        if stage and _ours(folder):
            log.info("%s: no longer in the recipe, removed", folder.name)
            _remove(folder)


def _ours(folder: Path) -> bool:
    """Whether a folder that is called like a stage is one: nothing else is ever removed."""
    marked = any((folder / name).exists() for name in (BEGUN, FACTS, REPORT))
    return marked or all(path.name.endswith(PARTIAL) for path in folder.iterdir())


def _remove(folder: Path) -> None:
    """Remove the folder of a stage; of a link nothing but the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        marks = (BEGUN, FACTS, REPORT)  # last: a killed run's rest must still be known as ours
        for path in (path for path in folder.iterdir() if path.name not in marks):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(folder)
