"""AOTInductor: a .pt2 package that PyTorch compiles ahead of time, for Python and for C++."""

import contextlib
import ctypes
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.base import machine
from compress.base.tensors import channels_last
from compress.engines.base import Format, NotBuilt, Runner, Shape, giving_up, placed
from compress.engines.records import Built

CONFIGS = {"cpp.dynamic_threads": True}
"""A package for a CPU then runs on as many threads as the process that loads it may use.

Otherwise it keeps those of the process that built it, where these were not all cores of the host:
in a share of a cluster's node it would keep cores busy that are others', or leave its own idle.
"""


class AotInductor(Format):
    """`.pt2` packages, for the CPU or the GPU that they are built on."""

    suffix = ".pt2"
    requires = (machine.COMPILER,)
    needs_same = ("gpu", "sm", "cpu", "torch")
    timed = True

    def missing(self, device: torch.device) -> NotBuilt | None:
        """A C++ compiler that turns one line into a library."""
        compiler = machine.compiler()
        return None if compiler["works"] else NotBuilt(compiler["note"], compiler["get"])

    def build(self, subject: nn.Module, shape: Shape, path: Path, device: torch.device) -> Built:
        """Trace, compile, pack."""
        subject = subject.to(device)
        if device.type == "cuda":
            channels_last(subject)
        with warnings.catch_warnings(), torch.inference_mode(), giving_up("AOTInductor"):
            warnings.simplefilter("ignore")  # the compiler's own deprecations
            program = torch.export.export(
                subject, (shape.example(device),), dynamic_shapes=shape.dynamic_shapes()
            )
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=dict(CONFIGS)
            )
        return {}

    def load(self, path: Path, device: torch.device) -> Runner:
        """The package, loaded into this process; runs on the device that it was built for.

        Its own locks and events would not let a CUDA graph capture it; a runner is called by one
        thread at a time. The loader is the one inside `aoti_load_package`, which imports PyTorch's
        whole compiler first: 2 s on a fast machine, more than 20 s seen beside a GPU.
        """
        _share_standard_library()
        gpu = device.type == "cuda"
        index = (device.index or 0) if gpu else -1
        loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", gpu, 1, index)

        def run(x: Tensor) -> Tensor:
            y: Tensor
            (y,) = loader.run([placed(x, device)])
            return y

        return run


def _share_standard_library() -> None:
    """Let a package use the C++ standard library of this process.

    A compiler that links it statically, as some containers' do, puts a second one into the package.
    The two mix where one of them is not visible to all: `std::bad_cast`, or the process crashes.
    """
    with contextlib.suppress(OSError):  # another system's name for it, and then no second one seen
        ctypes.CDLL("libstdc++.so.6", mode=ctypes.RTLD_GLOBAL)
