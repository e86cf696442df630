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
from dataclasses import asdict
from pathlib import Path
from typing import cast

from compress import checkpoint
from compress.base.files import read_json, remove_partial, write_json
from compress.checkpoint import Model
from compress.run.records import StageFacts
from compress.run.stages import Stage

log = logging.getLogger(__name__)

FACTS = "facts.json"


BEGUN = "begun.json"
"""Written when a stage starts, with its hash: what lies there is resumed under that hash only."""


STAGE = re.compile(r"\d\d-[a-z][a-z0-9_]*")


def finished(stage: Stage, key: str) -> StageFacts | None:
    """The facts of a stage that was finished under the same hash, else None."""
    try:
        facts = read_json(stage.folder / FACTS)
    except (OSError, ValueError):
        return None
    if facts.get("hash") == key:
        return cast("StageFacts", dict(facts))
    changed = _changed(stage, facts.get("options"))
    log.info("%s: %s changed, so it runs again", stage.name, changed)
    return None


def _changed(stage: Stage, before: object) -> str:
    """What the result of a finished stage was decided by and is no more, as far as options tell."""
    now = json.loads(json.dumps(asdict(stage.step)))  # type: ignore[call-overload]
    known = before if isinstance(before, dict) else now
    names = [name for name, value in now.items() if name in known and known[name] != value]
    return ", ".join(names) or "an earlier step, the model, data, seed or code"


def done(stage: Stage, key: str) -> bool:
    """Whether a stage was finished under this hash; says nothing in the log."""
    try:
        return bool(read_json(stage.folder / FACTS).get("hash") == key)
    except (OSError, ValueError):
        return False


def result(stage: Stage, model: Model) -> Model:
    """The model after a stage that is done: its checkpoint, or what came in where it has none."""
    there = (stage.folder / "model.json").exists()
    return checkpoint.load(stage.folder) if there else model


def begin(stage: Stage, key: str) -> None:
    """Make the stage's folder ready; what an interrupted run left stays under one hash only."""
    begun = stage.folder / BEGUN
    try:
        same = read_json(begun)["hash"] == key
    except (OSError, ValueError, KeyError):
        same = False
    if not same and stage.folder.exists():
        shutil.rmtree(stage.folder)
    stage.folder.mkdir(exist_ok=True)
    remove_partial(stage.folder)
    (stage.folder / FACTS).unlink(missing_ok=True)
    write_json(begun, {"hash": key})


def drop_stale(out: Path, names: set[str]) -> None:
    """Remove stages of an earlier form of the recipe, so that the folder tells one story."""
    for folder in out.iterdir():
        if folder.is_dir() and STAGE.fullmatch(folder.name) and folder.name not in names:
            log.info("%s: no longer in the recipe, removed", folder.name)
            shutil.rmtree(folder)
