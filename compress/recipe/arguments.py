"""Options of a step as Python code gives them, checked as those of a recipe are."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from compress.base.errors import UsageError
from compress.recipe.schema import convert, parameters, suggestion

Step = TypeVar("Step")


def step(kind: Callable[..., Step], options: Mapping[str, Any]) -> Step:
    """A step with these options.

    Args:
        kind: its class.
        options: by name; tuples and numbers of NumPy and PyTorch will do.

    Raises:
        UsageError: there is no such option, or it is of another type.
        ValueError: an option has a value that it cannot have.
    """
    name, known = kind.__name__.lower(), parameters(kind)
    values = {}
    for option, value in options.items():
        if option not in known:
            raise UsageError(f"{name} has no option {option!r}; {suggestion(option, [*known])}")
        values[option] = convert(known[option].annotation, _plain(value), f"{name}: {option}")
    return kind(**values)


def _plain(value: Any) -> Any:
    """What a recipe would hold."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value
