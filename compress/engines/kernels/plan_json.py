"""A plan as the JSON that an engine's file holds, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compress.engines.kernels.plan import Buffer, Chain, Conv, Plan, Pool, Slice, Upsample

KINDS: Mapping[str, type[Any]] = {"conv": Conv, "chain": Chain, "pool": Pool, "upsample": Upsample}


def to_json(plan: Plan) -> dict[str, Any]:
    """Plain values of a plan."""
    names = {kind: name for name, kind in KINDS.items()}
    return {
        "slope": plan.slope,
        "shift": plan.shift,
        "buffers": {name: asdict(one) for name, one in plan.buffers.items()},
        "operations": [{"kind": names[type(one)], **asdict(one)} for one in plan.operations],
    }


def from_json(value: Mapping[str, Any]) -> Plan:
    """A plan from what `to_json` gave; those of older files have no shift.

    Raises:
        KeyError, TypeError: it is something else.
    """
    operations = []
    for one in value["operations"]:
        kind = KINDS[one["kind"]]
        operations.append(kind(**{key: _value(key, v) for key, v in one.items() if key != "kind"}))
    buffers = {name: Buffer(**one) for name, one in value["buffers"].items()}
    numbers = {"slope": value["slope"], "shift": value.get("shift", 0.0)}
    return Plan(**numbers, buffers=buffers, operations=tuple(operations))


def _value(key: str, value: Any) -> Any:
    if key in ("source", "target"):
        return Slice(**{**value, "slots": tuple(value["slots"])})
    if key in ("first", "second"):
        kind = Conv if "name" in value else Pool
        return kind(**{k: _value(k, v) for k, v in value.items()})
    return value
