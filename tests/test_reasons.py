"""One line out of what libraries and compilers say."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from compress.base import machine
from compress.base.reasons import compilers, reason

COMPILER = """CppCompileError: C++ compile error

Command:
g++ /tmp/a b/x.cpp -Werror -o /tmp/a b/x.so

Output:
In file included from x.cpp:1:
x.cpp:2:5: error: expected ';' before '}' token
x.cpp:3:1: error: another
compilation terminated.
"""
BLANK = """
import sys, tempfile, torch
from pathlib import Path
from compress.engines.aot_inductor import AotInductor
from compress.engines.base import NotBuilt, Shape

net, cpu = torch.nn.Conv2d(1, 1, 3, padding=1), torch.device("cpu")
try:
    AotInductor().build(net, Shape(batch=1, size=16), Path(sys.argv[1]), cpu)
except NotBuilt as error:
    print(error.reason)
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (COMPILER, "x.cpp:2:5: error: expected ';' before '}' token"),
        ("C++ compile error\n\nOutput:\n", "C++ compile error"),
        ("C++ compile error\nOutput:\nsomething odd\nthe last", "the last"),
        ("\n  first.\nsecond", "first"),
        ("Error(s) in loading state_dict for DDnet:\n\tMissing key(s): a.", "Missing key(s): a"),
        ("Error(s) in loading state_dict for DDnet:", "Error(s) in loading state_dict for DDnet"),
        ("", "RuntimeError"),
        ("x" * 5000, "x" * 300),
    ],
)
def test_the_line_that_says_most(text: str, line: str) -> None:
    assert reason(RuntimeError(text)) == line


def test_lines_of_compilers() -> None:
    assert compilers(["ptxas info: ok", "ptxas fatal : no such arch", "end"]).startswith("ptxas f")
    assert compilers(["Traceback", "ModuleNotFoundError: No module"]).startswith("ModuleNot")
    assert compilers([]) == ""


def test_a_blank_in_the_temporary_folder_is_named(monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/a b")
    said = "C++ compile error\nOutput:\ng++: fatal error: input file '/tmp/a' is the same as output"
    assert reason(RuntimeError(said)).endswith(
        "same as output (the temporary folder '/tmp/a b' has a blank; set TMPDIR to one without)"
    )
    assert "TMPDIR" not in reason(RuntimeError(COMPILER.replace("/tmp/a b", "/home")))


@pytest.mark.slow
@pytest.mark.skipif(not machine.compiler()["works"], reason="needs a C++ compiler")
def test_aot_inductor_gives_the_compilers_own_line(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BLANK, str(tmp_path / "m.pt2")],
        env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    if (tmp_path / "m.pt2").exists():  # a PyTorch that quotes paths
        return
    assert "fatal error: " in done.stdout or "No such file" in done.stdout
    assert "has a blank; set TMPDIR to one without" in done.stdout
