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

torch.set_num_threads(int(sys.argv[2]))
net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Softplus())
AotInductor().build(net, Shape(batch=1, size=256), Path(sys.argv[1]), torch.device("cpu"))
"""
LOAD = """
import os, sys, torch
from pathlib import Path
from compress.engines.aot_inductor import AotInductor

torch.set_num_threads(int(sys.argv[2]))
run = AotInductor().load(Path(sys.argv[1]), torch.device("cpu"))
before = len(os.listdir("/proc/self/task"))
print(*run(torch.rand(1, 1, 256, 256)).shape, len(os.listdir("/proc/self/task")) - before)
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
def test_a_package_with_a_standard_library_of_its_own_runs_on_the_threads_of_a_fresh_process(
    tmp_path,
):
    """Threads of the process that builds it are not all cores, so PyTorch alone would keep them."""
    compiler, package = tmp_path / "c++", tmp_path / "m.pt2"
    compiler.write_text(LINKER.format(*[os.environ.get("CXX", "g++")] * 2))
    compiler.chmod(0o755)
    threads = (os.cpu_count() or 1) + 2
    cache = str(tmp_path / "cache")
    python(BUILD, package, threads, CXX=str(compiler), TORCHINDUCTOR_CACHE_DIR=cache)
    assert python(LOAD, package, 1) == "1 4 256 256 0"
    assert python(LOAD, package, 3) == "1 4 256 256 2"
