"""Types of options and arguments that click does not have."""

from typing import Any

import click


class Names(click.ParamType[tuple[str, ...]]):
    """A comma list of known names as a tuple.

    Args:
        known: the names.
    """

    name = "names"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """The names in `value`; fails on one that is not known."""
        words = value if isinstance(value, tuple) else tuple(w.strip() for w in value.split(","))
        for word in words:
            if word not in self.known:
                self.fail(f"{word!r} is none of {', '.join(self.known)}", param, ctx)
        return words


class Numbers(click.ParamType[tuple[int, ...]]):
    """A comma list of whole numbers from 1 on as a tuple."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """The numbers in `value`."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",")]
        if not all(word.isdecimal() and int(word) for word in words):
            self.fail(f"{value!r} is no list of whole numbers from 1 on, such as 1,16", param, ctx)
        return tuple(map(int, words))


class Shard(click.ParamType[tuple[int, int]]):
    """i/n as two whole numbers."""

    name = "i/n"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """The numbers in `value`."""
        if isinstance(value, tuple):
            return value
        index, _, count = str(value).partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            self.fail(f"{value!r} is no i/n with i from 1 to n, such as 1/4", param, ctx)
        return int(index), int(count)
