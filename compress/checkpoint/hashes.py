"""What a checkpoint computes, as hashes: of its weights, of its code, and of all that it holds.

Everything is told from model.json; no network is built.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compress.base.files import digest, read_json
from compress.checkpoint.files import OWN, TABLE, TRAINED_ON
from compress.checkpoint.imported import code_hash

log = logging.getLogger(__name__)

CODE: Final = "code_sha256"
"""The entry of model.json, and of an engine's sidecar, that holds the hash of imported code."""


def identity(folder: Path) -> str:
    """The SHA-256 of what a checkpoint computes: its description, which holds the tensors' hash.

    The code of an imported network counts as it is now, not as it was when it was saved. What it
    was trained on is no part of it.
    """
    table = read_json(folder / TABLE)
    for key in (TRAINED_ON, OWN):  # the latter says the same again
        table.pop(key, None)
    return digest({**table, "network": {**table["network"], **code_now(table)}})


def weights_hash(folder: Path) -> str | None:
    """The `checkpoint.fingerprint` of the checkpoint in `folder`; None without one."""
    try:
        return str(read_json(folder / TABLE)["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def trained_on(folder: Path) -> frozenset[str]:
    """`Model.trained_on` of the checkpoint in `folder`; empty where it is not known."""
    try:
        return frozenset(read_json(folder / TABLE).get(TRAINED_ON, ()))
    except (OSError, ValueError, TypeError, AttributeError):
        return frozenset()


def code_of(folder: Path) -> str | None:
    """The hash of the code that the imported network in `folder` has now; None for all others."""
    try:
        return code_now(read_json(folder / TABLE)).get(CODE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def code_now(table: Mapping[str, Any]) -> dict[str, str]:
    """CODE of the network that a model.json describes; empty where it is not imported."""
    network = table["network"]
    return of_import(network["import"], network["folder"])


def of_import(path: str | None, folder: str | None) -> dict[str, str]:
    """CODE of `package.module:Class`, looked for in `folder` first; empty where there is none."""
    found = path and code_hash(path, folder)
    return {CODE: found} if found else {}


def warn_of_other_code(folder: Path, table: Mapping[str, Any]) -> None:
    """Warn where the code of a checkpoint's network was edited after the checkpoint was saved."""
    network = table["network"]
    saved, now = network.get(CODE), code_now(table).get(CODE, "missing")
    if saved and saved != now:
        log.warning(
            "%s was saved with other code of %s (%s, now %s): "
            "the network may compute something else than what was trained and measured",
            folder,
            network["import"],
            saved[:12],
            now[:12],
        )
