"""Why something failed, in one line out of what libraries and compilers say."""

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterator

WRONG = re.compile(r"\b(fatal error|error|fatal)\b\s*:", re.IGNORECASE)
"""How compilers and linkers mark the line that says what is wrong."""
HEADING = re.compile(r"Error\(s\) in loading|(\w+: )?\w+\+* compile error$")
"""First lines that say only what was tried."""
OUTPUT = "Output:"
"""Behind it PyTorch quotes a compiler."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What makes a terminal show colours."""
LOGGERS = ("torch._subclasses.fake_tensor", "torch.export._trace")
"""Where PyTorch logs a traceback besides raising the error."""
LONGEST = 300
"""Characters of a reason."""


def reason(error: BaseException) -> str:
    """The line of an error that says most, without a full stop; its kind where it has no words.

    Of a compiler that PyTorch calls it is the compiler's own first error.
    """
    text = COLOUR.sub("", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    quoted = lines[lines.index(OUTPUT) + 1 :] if OUTPUT in lines else []
    lines = lines[: lines.index(OUTPUT)] if OUTPUT in lines else lines
    telling = [line for line in lines if not HEADING.match(line)]
    found = compilers(quoted) or (telling or lines or [type(error).__name__])[0]
    return found[:LONGEST].rstrip(":.") + _blank(found)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let PyTorch log no tracebacks of errors that it raises as well."""
    before = {name: logging.getLogger(name).disabled for name in LOGGERS}
    for name in before:
        logging.getLogger(name).disabled = True
    try:
        yield
    finally:
        for name, disabled in before.items():
            logging.getLogger(name).disabled = disabled


def cause(error: BaseException) -> BaseException:
    """What an error came from at first; the error itself where it quotes a compiler."""
    while error.__cause__ is not None and OUTPUT not in str(error).split():
        error = error.__cause__
    return error


def compilers(lines: list[str]) -> str:
    """The first line in which a compiler says what is wrong, else the last; empty of nothing."""
    return next((line for line in lines if WRONG.search(line)), lines[-1] if lines else "")


def _blank(line: str) -> str:
    """A remark where a temporary folder with a blank in its name is in a compiler's line."""
    folder = tempfile.gettempdir()
    start = folder.split()[0]
    if start == folder or start not in line:
        return ""
    return f" (the temporary folder {folder!r} has a blank; set TMPDIR to one without)"
