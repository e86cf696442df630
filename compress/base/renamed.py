"""Recipe options that were renamed or added since version 0.1: runs keep their hashes."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any, NamedTuple


class Renamed(NamedTuple):
    """What an old option is called today."""

    name: str
    values: Mapping[str, str] = MappingProxyType({})
    """Old value -> today's, where values changed, too."""


def renamed(build: object) -> Mapping[str, Renamed]:
    """Old option -> today's of a class of options, which names them in `RENAMED`."""
    found: Mapping[str, Renamed] = getattr(build, "RENAMED", {})
    return found


def old_names(options: Any) -> dict[str, Any]:
    """The values of a dataclass under the names of version 0.1.

    Hashes of stages are made of them, so that runs of that version are gone on with. Options that
    a class names in `ADDED` came later; at their defaults they are left out.
    """
    values: dict[str, Any] = asdict(options)
    added: tuple[str, ...] = getattr(options, "ADDED", ())
    for field in fields(options):
        if field.name in added and getattr(options, field.name) == field.default:
            del values[field.name]
    for old, new in renamed(options).items():
        today = values.pop(new.name)
        former = {value: key for key, value in new.values.items()}
        values[old] = former.get(today, today)
    return values
