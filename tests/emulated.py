"""CUDA kernels of compress on the CPU: compiled by g++ with the instructions of tests/emulator."""

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.cuda.compiler import Source

FOLDER = Path(__file__).parent / "emulator"
COMMAND = ["g++", "-std=c++17", "-w", "-shared", "-fPIC", f"-I{FOLDER}"]
JUMPS = "-U_FORTIFY_SOURCE"
"""Without checks, which some systems' g++ adds, that a jump stays on its stack."""


class Race(AssertionError):
    """Two warps accessed the same shared memory with no barrier between, one of them writing."""


@dataclass(frozen=True)
class Emulated:
    """In the place of compiler.Kernel."""

    library: ctypes.CDLL
    threads: int
    shared: int

    def call(self, blocks: int, arguments: ctypes.Structure, alive: object) -> Callable[[], None]:
        def run(keep: Any = alive) -> None:
            tensors = keep.values() if isinstance(keep, dict) else keep
            wholes = [tensor.untyped_storage() for tensor in tensors]
            ranges = [value for one in wholes for value in (one.data_ptr(), one.nbytes())]
            emulator().allow((ctypes.c_size_t * len(ranges))(*ranges), len(wholes))
            sizes = (ctypes.c_uint(one) for one in (blocks, self.threads, self.shared))
            self.library.emulate(*sizes, ctypes.byref(arguments))
            first = ctypes.c_uint()
            if count := emulator().races(ctypes.byref(first)):
                raise Race(f"{count} accesses of shared memory race, the first at {first.value}")

        return run


@functools.cache
def emulator() -> ctypes.CDLL:
    """The instructions, which kernels that are loaded later find."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "emulator.so"
        subprocess.run([*COMMAND, "-O2", JUMPS, "-o", file, FOLDER / "emulator.cpp"], check=True)
        return ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def loaded(kernel: Source, threads: int, shared: int, device: torch.device) -> Emulated:
    """In the place of compiler.loaded."""
    emulator()
    text, headers = kernel.texts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for header, content in {**headers, "wgmma.cuh": "", "kernel.cpp": text}.items():
            if header != "instructions.cuh":
                (folder / header).write_text(content)
        command = [*COMMAND, "-O1", f"-I{folder}", "-o", folder / "k.so", folder / "kernel.cpp"]
        subprocess.run(command, check=True)
        return Emulated(ctypes.CDLL(str(folder / "k.so")), threads, shared)


@contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> Iterator[None]:
    """Kernels that are made inside have `wrong` in the place of `right`, headers included."""

    class Broken(compiler.Source):
        def texts(self) -> tuple[str, dict[str, str]]:
            text, headers = super().texts()
            found = {name: one.replace(right, wrong) for name, one in headers.items()}
            assert (text.replace(right, wrong), found) != (text, headers)
            return text.replace(right, wrong), found

    whole = compiler.source
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "source", lambda *given: Broken(**vars(whole(*given))))
        yield
