"""CUDA kernels of compress on the CPU: compiled by g++ with the instructions of tests/emulator."""

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.cuda.window import Task, Window

FOLDER = Path(__file__).parent / "emulator"


@dataclass(frozen=True)
class Emulated:
    """In the place of compiler.Kernel."""

    library: ctypes.CDLL

    def call(self, blocks: int, arguments: ctypes.Structure, alive: object) -> Callable[[], None]:
        def run(keep: Any = alive) -> None:
            self.library.emulate(ctypes.c_uint(blocks), ctypes.byref(arguments))

        return run


def loaded(task: Task, cut: Window, device: torch.device) -> Emulated:
    """In the place of compiler.loaded."""
    return _built(task, compiler.cut_without_strip(cut))


@functools.cache
def _built(task: Task, cut: Window) -> Emulated:
    text, headers = compiler.sources(task, cut)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for header, content in headers.items():
            if header not in ("instructions.cuh", "wgmma.cuh"):
                (folder / header).write_text(content)
        (folder / "wgmma.cuh").write_text("")
        (folder / "kernel.cpp").write_text(text)
        command = [
            "g++",
            "-std=c++17",
            "-O1",
            "-w",
            "-shared",
            "-fPIC",
            f"-I{FOLDER}",
            f"-I{folder}",
        ]
        subprocess.run([*command, "-o", folder / "k.so", folder / "kernel.cpp"], check=True)
        return Emulated(ctypes.CDLL(str(folder / "k.so")))
