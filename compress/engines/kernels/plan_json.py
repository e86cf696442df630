"""A plan from its JSON, as `Plan.to_json` gives it and an engine's file holds it."""

from collections.abc import Mapping
from typing import Any

from compress.engines.kernels.plan import KINDS, Buffer, Conv, Plan, Pool, Slice


def from_json(value: Mapping[str, Any]) -> Plan:
    """A plan from what `Plan.to_json` gave.

    Raises:
        KeyError, TypeError: it is something else.
    """
    operations = []
    for one in value["operations"]:
        kind = KINDS[one["kind"]]
        operations.append(kind(**{key: _value(key, v) for key, v in one.items() if key != "kind"}))
    buffers = {name: Buffer(**one) for name, one in value["buffers"].items()}
    return Plan(slope=value["slope"], buffers=buffers, operations=tuple(operations))


def _value(key: str, value: Any) -> Any:
    if key in ("source", "target"):
        return Slice(**{**value, "slots": tuple(value["slots"])})
    if key in ("first", "second"):
        kind = Conv if "name" in value else Pool
        return kind(**{k: _value(k, v) for k, v in value.items()})
    return value
