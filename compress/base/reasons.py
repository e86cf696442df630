"""Why something failed, in one line out of what libraries and compilers say."""

import contextlib
import io
import logging
import re
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

WRONG = re.compile(r"\b(fatal error|error|fatal)\b\s*:", re.IGNORECASE)
"""How compilers and linkers mark the line that says what is wrong."""
HEADING = re.compile(r"Error\(s\) in loading|(\w+: )?\w+\+* compile error$")
"""First lines that say only what was tried."""
OUTPUT = "Output:"
"""Behind it PyTorch quotes a compiler."""
OURS, STANDARD = Path(__file__).parents[1], Path(sysconfig.get_path("stdlib"))
"""Folders of this package and of Python's library."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What makes a terminal show colours."""
LOGGERS = (
    "torch._subclasses.fake_tensor",
    "torch.export._trace",
    "torch.fx.experimental.symbolic_shapes",
    "torch.utils.cpp_extension",
)
"""Where PyTorch logs a traceback besides raising the error, or that nvcc is here and no GPU."""
BY_VALUES = "data-dependent"
"""How it says that values decide what a network does."""
LIBRARIES = ("site-packages", "dist-packages")
"""Folders of installed packages."""
LONGEST = 300
"""Characters of a reason."""


def reason(error: BaseException) -> str:
    """The line of an error that says most, without a full stop; its kind where it has no words.

    Of a compiler that PyTorch calls it is the compiler's own first error.
    """
    text = COLOUR.sub("", str(error))
    if BY_VALUES in text:
        return "the values of a slice decide what the network does" + place(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    quoted = lines[lines.index(OUTPUT) + 1 :] if OUTPUT in lines else []
    lines = lines[: lines.index(OUTPUT)] if OUTPUT in lines else lines
    telling = [line for line in lines if not HEADING.match(line)]
    found = compilers(quoted) or (telling or lines or [type(error).__name__])[0]
    return found[:LONGEST].rstrip(":.") + _blank(found)


def place(error: BaseException) -> str:
    """Where in the user's own code an error arose, as " (FILE:LINE)"; '' where in none of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f" ({Path(f.filename).name}:{f.lineno})" for f in frames if _users(Path(f.filename))]
    return own[-1] if own else place(error.__cause__) if error.__cause__ else ""


def _users(path: Path) -> bool:
    """Whether a file is neither ours nor of Python or an installed package."""
    of_library = bool(set(path.parts) & set(LIBRARIES))
    ours = any(path.is_relative_to(folder) for folder in (OURS, STANDARD))
    return path.is_file() and not (of_library or ours)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let PyTorch log no tracebacks of errors that it raises as well, and no graphs."""
    before = {name: logging.getLogger(name).disabled for name in LOGGERS}
    for name in before:
        logging.getLogger(name).disabled = True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
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
