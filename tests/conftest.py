"""What every test needs: few threads, seeds, quiet vendors, no clock where examples are drawn."""

import os
import random
import sys
import zlib
from functools import partial

# Before torch: in processes that tests start, too, two threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# One example that waits for other work on the machine says nothing about the code.
# The same examples every time; `pytest --hypothesis-profile search` draws new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("calm", settings.get_profile("search"), derandomize=True)
settings.load_profile("calm")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed what a test and its fixtures draw, whichever tests ran before it."""
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture
def emulator(monkeypatch):
    """Kernels in CUDA C++ run in the emulator."""
    import emulated

    from compress.engines.kernels.cuda import compiler

    monkeypatch.setattr(compiler, "loaded", emulated.loaded)


@pytest.fixture
def as_on_hopper(emulator, monkeypatch):
    """All kernels in CUDA C++ emulated, PyTorch in the place of Triton's."""
    from compress.engines.kernels import jobs, plain, session
    from compress.engines.kernels.cuda import compiler

    kinds = frozenset({"mma", "mma.sp", "wgmma", "wgmma.sp", "stem", "int8", "int8.sp"})
    monkeypatch.setattr(jobs, "_cuda", lambda one: one.kernels)
    monkeypatch.setattr(compiler, "kinds", lambda _: kinds)
    monkeypatch.setattr(compiler, "room", lambda _: compiler.SHARED[90])
    as_conv = lambda *given: partial(plain.conv, *given[:-1])  # noqa: E731
    monkeypatch.setattr(session.launch, "conv", as_conv)
    for move in ("pool", "upsample"):
        monkeypatch.setattr(session.launch, move, partial(partial, getattr(plain, move)))


@pytest.fixture
def break_package(tmp_path_factory, monkeypatch):
    """Call with a package's name: it is installed, and its import fails, as without its driver."""

    def broken(name: str) -> None:
        folder = tmp_path_factory.mktemp("site")
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('libcuda.so.1: not found')")
        monkeypatch.syspath_prepend(str(folder))
        for module in [key for key in sys.modules if key.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)

    return broken
