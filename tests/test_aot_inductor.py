"""AOTInductor packages, whatever the compiler makes of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.base import machine

ROOT = Path(__file__).parents[1]
LINKER = """#!/bin/sh
case " $* " in *" -shared "*) exec {} -static-libstdc++ "$@" ;; esac
exec {} "$@"
"""
BUILD = """
import sys, torch
from pathlib import Path
from compress.engines.base import Shape
from compress.engines.aot_inductor import AotInductor

net, cpu = torch.nn.Conv2d(1, 1, 3, padding=1), torch.device("cpu")
AotInductor().build(net, Shape(batch=1, size=32), Path(sys.argv[1]), cpu)
"""
LOAD = """
import sys, torch
from pathlib import Path
from compress.engines.aot_inductor import AotInductor

run = AotInductor().load(Path(sys.argv[1]), torch.device("cpu"))
print(tuple(run(torch.rand(1, 1, 32, 32)).shape))
"""


def python(code: str, *words: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(not machine.compiler()["works"], reason="needs a C++ compiler")
def test_a_package_with_a_standard_library_of_its_own_loads_in_a_fresh_process(tmp_path):
    compiler, package = tmp_path / "c++", tmp_path / "m.pt2"
    compiler.write_text(LINKER.format(*[os.environ.get("CXX", "g++")] * 2))
    compiler.chmod(0o755)
    python(BUILD, package, CXX=str(compiler), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert python(LOAD, package) == "(1, 1, 32, 32)"
