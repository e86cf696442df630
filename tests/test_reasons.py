"""One line out of what libraries and compilers say."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from compress.base import machine
from compress.base.errors import UsageError
from compress.base.reasons import compilers, place, reason
from compress.engines.base import NotBuilt, Shape
from compress.engines.onnx import Onnx
from compress.graph import trial

CPU = torch.device("cpu")

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


class Mistaken(torch.nn.Module):
    """Asks for a layer that it does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class ByValues(torch.nn.Conv2d):
    """Decides by the pixels what it does, which no file of an engine can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if x.mean() > 0 else y.relu()


def test_a_mistake_in_a_network_is_named_with_its_file_and_line() -> None:
    line = Mistaken.forward.__code__.co_firstlineno + 1
    with pytest.raises(UsageError, match=rf"no attribute 'conv' \(test_reasons\.py:{line}\)$"):
        trial.check_shape(Mistaken(), (16, 16))
    assert place(ValueError("never raised")) == ""


def test_a_network_that_decides_by_values_is_one_sentence(tmp_path: Path, capfd) -> None:
    """PyTorch writes its graphs and a warning to standard error besides."""
    line = ByValues.forward.__code__.co_firstlineno + 2
    said = rf"values of a slice decide what the network does \(test_reasons\.py:{line}\)$"
    with pytest.raises(NotBuilt, match=said):
        Onnx().build(
            ByValues(1, 1, 3, padding=1), Shape(batch=1, size=16), tmp_path / "n.onnx", CPU
        )
    assert "GraphModule" not in capfd.readouterr().err


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
