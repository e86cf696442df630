"""Lists in sentences."""

from collections.abc import Iterable


def listed(parts: Iterable[object]) -> str:
    """All parts in one phrase; empty where there are none.

    >>> listed(["onnx"]), listed([32, 64]), listed("abc"), listed([])
    ('onnx', '32 and 64', 'a, b and c', '')
    """
    *head, last = [*map(str, parts)] or [""]
    return f"{', '.join(head)} and {last}" if head else last
