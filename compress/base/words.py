"""Lists in sentences, and names by patterns."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from compress.base.errors import UsageError


def listed(parts: Iterable[object]) -> str:
    """All parts in one phrase; empty where there are none.

    >>> listed(["onnx"]), listed([32, 64]), listed("abc"), listed([])
    ('onnx', '32 and 64', 'a, b and c', '')
    """
    *head, last = [*map(str, parts)] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def matched(names: Sequence[str], patterns: Iterable[str], nothing: str) -> dict[str, str]:
    """The names that a pattern stands for, with the last such pattern.

    Args:
        names: to choose from.
        patterns: names; `*` stands for any text.
        nothing: beginning of the sentence about a pattern without a name: "ignore: no convolution".

    Raises:
        UsageError: a pattern stands for no name.

    >>> matched(["stem", "a.conv", "b.conv"], ["*.conv", "b.*"], "ignore: no convolution")
    {'a.conv': '*.conv', 'b.conv': 'b.*'}
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            near = get_close_matches(pattern, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{nothing} is named {pattern!r}{hint}")
        found |= dict.fromkeys(matches, pattern)
    return found
