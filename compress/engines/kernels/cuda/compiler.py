"""Kernels compiled by NVRTC, kept on disk by source, architecture and version, and loaded.

NVIDIA's Python packages are needed, and no CUDA toolkit: `pip install 'compress-ct[cuda]'`.
"""

import ctypes
import functools
import hashlib
import logging
import os
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compress.base.errors import UsageError
from compress.base.files import cache_folder, write_atomic
from compress.base.machine import why_not
from compress.engines.kernels.cuda import wgmma
from compress.engines.kernels.cuda.products import Kind
from compress.engines.kernels.cuda.window import (
    SHARED,
    SHARED_LEAST,
    Task,
    Window,
    constants,
)
from compress.models.ddnet import SLOPE

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parent
ARCHITECTURE = "COMPRESS_FUSED_ARCH"
"""Environment variable: 80 keeps to what an A100 has, on any newer GPU."""
HOPPER = 90
OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--ptxas-options=--verbose")
"""For NVRTC; without the second one, 13.0 takes generic lambdas for host functions."""


class Failed(Exception):
    """NVRTC or the driver refused a kernel."""


def available() -> bool:
    """Whether NVIDIA's Python packages are installed and can be imported."""
    return not why_not("cuda.bindings.nvrtc")


def kinds(device: torch.device) -> frozenset[Kind]:
    """The instructions that kernels for a GPU may use.

    Raises:
        UsageError: `COMPRESS_FUSED_ARCH` is neither 80 nor 90.
    """
    wanted = os.environ.get(ARCHITECTURE, "90")
    if wanted not in ("80", "90"):
        raise UsageError(f"{ARCHITECTURE} is 80 or 90, not {wanted!r}")
    hopper = _capability(device) == HOPPER and wanted == "90"
    everywhere: frozenset[Kind] = frozenset({"mma", "mma.sp", "stem", "int8", "int8.sp"})
    return everywhere | {"wgmma", "wgmma.sp"} if hopper else everywhere


def only_a100() -> bool:
    """Whether `COMPRESS_FUSED_ARCH` keeps to the instructions of an A100."""
    return os.environ.get(ARCHITECTURE) == "80"


def room(device: torch.device) -> int:
    """Bytes of shared memory that a block may have."""
    return SHARED.get(_capability(device), SHARED_LEAST)


@dataclass(frozen=True)
class Source:
    """A kernel to be compiled."""

    main: str
    """Its file."""
    entry: str
    """Its name in that."""
    values: tuple[tuple[str, int], ...]
    """parameters.cuh: constants by name."""
    columns: tuple[int, ...] = ()
    """Numbers of columns that it uses wgmma for."""
    sparse: bool = False
    """Whether its wgmma multiplies 2:4 weights."""

    def texts(self) -> tuple[str, dict[str, str]]:
        """Its text, and the headers that it includes by name."""
        headers = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.cuh"))}
        lines = [f"constexpr int {name} = {value};" for name, value in self.values]
        switches = [f"#define {name} {value}" for name, value in self.values if name in SWITCHES]
        lines = [one for one in lines if one.split()[2] not in SWITCHES] + switches
        lines += [f"constexpr float SLOPE = {SLOPE}f;", f"constexpr u32 SLOPE_HALVES = {TWICE};"]
        headers["parameters.cuh"] = "\n".join(["#include <instructions.cuh>", *lines, ""])
        headers["wgmma.cuh"] = wgmma.header(list(self.columns), self.sparse)
        return (FOLDER / self.main).read_text(), headers


TWICE = int.from_bytes(struct.pack("<ee", SLOPE, SLOPE), "little")
"""LeakyReLU's slope as float16, twice in a word."""
SWITCHES = {"POOL", "UPSAMPLED", "INT8"}
"""Constants that choose between kernels of one file."""


def source(task: Task, cut: Window) -> Source:
    """The kernel of a convolution; strips of all heights are one kernel."""
    values = tuple(constants(task, cut).items())
    if cut.kind == "stem":
        return Source("stem.cu", "stem", values)
    if cut.kind == "wgmma":
        columns = (task.side * task.out, task.inside)
        return Source("window_wgmma.cu", "window_wgmma", values, columns)
    if cut.kind == "wgmma.sp":
        name = "window_wgmma_sparse"
        return Source(f"{name}.cu", name, values, (32 * cut.blocks,), sparse=True)
    name = "window_int8" if task.int8 else "window_mma"
    return Source(f"{name}.cu", name, values)


def compile_cubin(kernel: Source, architecture: str) -> tuple[bytes, str]:
    """Machine code and what the compiler says of registers and spills; needs no GPU.

    Args:
        kernel: what is compiled.
        architecture: "sm_80", "sm_90a", ...

    Raises:
        Failed: it does not compile.
    """
    from cuda.bindings import nvrtc

    text, headers = kernel.texts()
    names, texts = [n.encode() for n in headers], [t.encode() for t in headers.values()]
    program = _done(nvrtc.nvrtcCreateProgram(text.encode(), b"k.cu", len(names), texts, names))
    given = [one.encode() for one in (f"--gpu-architecture={architecture}", *OPTIONS)]
    result = nvrtc.nvrtcCompileProgram(program, len(given), given)
    said = _room(_done(nvrtc.nvrtcGetProgramLogSize(program)))
    _done(nvrtc.nvrtcGetProgramLog(program, said))
    said_text = said.decode(errors="replace").strip("\0 \n")
    try:
        if int(result[0]) != 0:
            raise Failed(said_text)
        code = _room(_done(nvrtc.nvrtcGetCUBINSize(program)))
        _done(nvrtc.nvrtcGetCUBIN(program, code))
        return code, said_text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _room(size: int) -> bytes:
    """At least `size` bytes for NVRTC to write into, an object of its own.

    An empty log has one byte. Python keeps one object for each value of a single byte, such as
    b" ", and whoever writes into that changes it for the whole process.
    """
    return bytes(max(size, 2))


def ahead(wanted: Iterable[Source], device: torch.device) -> None:
    """Compile several kernels side by side; one that does not compile fails where it is used."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for one in [pool.submit(_cubin, kernel, _architecture(device)) for kernel in set(wanted)]:
            if error := one.exception():
                log.debug("a kernel does not compile: %s", error)


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel."""

    function: Any
    threads: int
    shared: int
    device: torch.device

    def call(self, blocks: int, arguments: ctypes.Structure, alive: object) -> Callable[[], None]:
        """A launch on the current stream; `alive` is what it reads and writes."""
        place = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        return functools.partial(self._launch, blocks, place, (arguments, alive))

    def _launch(self, blocks: int, place: Any, alive: object) -> None:
        from cuda.bindings import driver

        stream = torch.cuda.current_stream(self.device).cuda_stream
        _done(
            driver.cuLaunchKernel(
                self.function, blocks, 1, 1, self.threads, 1, 1, self.shared, stream,
                ctypes.addressof(place), 0,
            )
        )  # fmt: skip


@functools.cache
def loaded(kernel: Source, threads: int, shared: int, device: torch.device) -> Kernel:
    """A kernel on a GPU, compiled if it never was.

    Args:
        kernel: what it is.
        threads: of a block.
        shared: bytes of shared memory that a block takes.
        device: the GPU.

    Raises:
        Failed: it does not compile, or the GPU has no room for it.
    """
    from cuda.bindings import driver

    with torch.cuda.device(device):
        torch.cuda.current_stream(device).synchronize()  # makes the device's context current
        module = _done(driver.cuModuleLoadData(_cubin(kernel, _architecture(device))))
        function = _done(driver.cuModuleGetFunction(module, kernel.entry.encode()))
        which = driver.CUfunction_attribute
        size = which.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        carve = which.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        _done(driver.cuFuncSetAttribute(function, size, shared))
        if shared:
            _done(driver.cuFuncSetAttribute(function, carve, 100))
    return Kernel(function, threads, shared, device)


def _cubin(kernel: Source, architecture: str) -> bytes:
    """Machine code, from the cache on disk if it is there."""
    path = _path(kernel, architecture)
    if path is not None and path.exists():
        return path.read_bytes()
    code, _ = compile_cubin(kernel, architecture)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, code)
    except OSError as error:  # a cache that cannot be written costs time, not the engine
        log.debug("a kernel is not kept: %s", error)
    return code


def _path(kernel: Source, architecture: str) -> Path | None:
    from cuda.bindings import nvrtc

    version = _done(nvrtc.nvrtcVersion())
    total = hashlib.sha256(repr((kernel.texts(), kernel.entry, architecture, version)).encode())
    try:
        return cache_folder() / "kernels" / f"{total.hexdigest()[:24]}.cubin"
    except RuntimeError:
        return None


def _architecture(device: torch.device) -> str:
    capability = _capability(device)
    return f"sm_{capability}{'a' if capability == HOPPER else ''}"


def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _done(answer: tuple[Any, ...]) -> Any:
    """What a call of cuda-bindings returns behind its error code.

    Raises:
        Failed: the code is not success.
    """
    code, *rest = answer
    if int(code) != 0:
        raise Failed(str(code))
    return None if not rest else rest[0] if len(rest) == 1 else tuple(rest)
