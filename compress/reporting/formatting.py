"""Numbers as a person reads them. None, what was not measured, is a dash everywhere."""

import math
from collections.abc import Callable, Mapping
from typing import Any

DASH = "–"  # noqa: RUF001 - an en dash is meant
SPACE = "\N{NO-BREAK SPACE}"


def count(value: float | None) -> str:
    """566451 -> 566,451; 8388608 -> 8.39 M; 19086442496 -> 19.09 G."""
    if value is None:
        return DASH
    for power, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= power:
            return f"{value / power:.2f}{SPACE}{sign}"
    return f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes: 2283930 -> 2.28 MB."""
    if value is None:
        return DASH
    for power, sign in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * power:
            return f"{three(value / power)}{SPACE}{sign}"
    return f"{value}{SPACE}B"


def seconds(value: float | None) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value is None:
        return DASH
    if round(value) < 60:
        return f"{value:.{1 if value < 10 else 0}f}{SPACE}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes_left = divmod(minutes, 60)
    parts = (hours, "h", minutes_left, "min") if hours else (minutes, "min", rest, "s")
    return SPACE.join(map(str, parts))


def decibels(value: float | None) -> str:
    """41.2 -> 41.20 dB."""
    return DASH if value is None else f"{value:.2f}{SPACE}dB"


def milliseconds(value: float | None) -> str:
    """5.314 -> 5.31 ms."""
    return DASH if value is None else f"{three(value)}{SPACE}ms"


def times(value: float | None) -> str:
    """2.413 -> 2.41 times as fast."""
    return DASH if value is None else f"{value:.2f} times as fast"


def three(value: float) -> str:
    """Three digits, or as many as stand before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """0.62 -> 62.0 %."""
    return DASH if value is None else f"{100 * value:.1f}{SPACE}%"


def figure(value: float | None, digits: int = 2) -> str:
    """A plain number with a true minus sign."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def scientific(value: float | None, digits: int = 2) -> str:
    """0.000213 -> 2.13e-4; zero is exact, and plain."""
    if not value:
        return DASH if value is None else "0"
    return f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")


def signed(value: float | None, digits: int = 2) -> str:
    """As `figure`, with the sign always."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def minus(value: float | None, other: float | None, digits: int = 2) -> str:
    """The difference of two figures as they are printed, so that a reader finds the same."""
    if value is None or other is None:
        return DASH
    return signed(round(value, digits) - round(other, digits), digits)


def yes(value: bool | None, true: str = "yes", false: str = "no", none: str = DASH) -> str:
    """A word for what is so, is not so, or is not known."""
    return none if value is None else true if value else false


KINDS: Mapping[str, Callable[[float | None], str]] = {
    "count": count,
    "bytes": size,
    "seconds": seconds,
    "decibels": decibels,
    "milliseconds": milliseconds,
    "times": times,
}


def change(number: Mapping[str, Any]) -> str:
    """How a number of the head changed: in percent, decibels in decibels."""
    before, after = number["before"], number["after"]
    if before is None or after is None:
        return ""
    if number["kind"] == "decibels":
        return f"{minus(after, before)}{SPACE}dB"
    if before == after:
        return "unchanged"
    return signed(100 * (after / before - 1), 1) + f"{SPACE}%"


FILTERS: Mapping[str, Callable[..., str]] = {
    **KINDS,
    "size": size,
    "percent": percent,
    "figure": figure,
    "signed": signed,
    "minus": minus,
    "scientific": scientific,
    "change": change,
    "yes": yes,
    "product": lambda sizes: str(math.prod(sizes)) if sizes else "",
    "smaller": lambda kernels: str(sum(one["after"] < one["before"] for one in kernels)),
    "kind": lambda value, kind: KINDS[kind](value),
    "cell": lambda value: " ".join(str(value).split()).replace("|", "\\|"),  # of a Markdown table
}
"""What the templates call these functions."""
