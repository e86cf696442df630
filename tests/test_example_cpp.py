"""The C++ example builds as its README says and computes what Python does."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Plain

from compress.engines.aot_inductor import AotInductor
from compress.engines.base import Shape
from compress.engines.subject import Subject

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
HEADER = "include/torch/csrc/inductor/aoti_package/model_package_loader.h"


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    if lacking := [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    if not (Path(torch.__file__).parent / HEADER).is_file():
        pytest.skip("this torch comes without its C++ headers")
    build = tmp_path_factory.mktemp("build")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for command in (
        ("cmake", "-S", ROOT / "docs/cpp", "-B", build, prefix),
        ("cmake", "--build", build),
    ):
        done = run(*command)
        if torch.version.cuda and "CUDA cannot be found" in done.stderr:
            pytest.skip("this torch is for CUDA, whose libraries are not here")
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "run_package"


@pytest.mark.slow
def test_it_computes_what_python_does(program: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    package, shape = tmp_path / "model.pt2", Shape(batch=2, size=32)
    AotInductor().build(Subject(Plain(4).eval(), "fp32"), shape, package, CPU)
    x = shape.example(CPU)
    low, enhanced = tmp_path / "low.f32", tmp_path / "enhanced.f32"
    x.numpy().tofile(low)
    assert run(program, package, low, enhanced, 2, 32).returncode == 0
    got = np.fromfile(enhanced, np.float32).reshape(x.shape)
    expected = AotInductor().load(package, CPU)(x)
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-6)
    short = run(program, package, low, enhanced, 1, 32)
    assert (short.returncode, short.stderr) == (1, f"{low} does not hold 4096 bytes\n")
    assert run(program).returncode == 2


def test_its_readme_names_commands_that_the_test_runs() -> None:
    text = (ROOT / "docs/cpp/README.md").read_text("utf-8")
    (block,) = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    assert block.startswith("cmake -S docs/cpp -B build -DCMAKE_PREFIX_PATH=")
    assert "cmake --build build" in block
    assert block.splitlines()[-1].startswith("build/run_package ")
