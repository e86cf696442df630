"""Fused: DDnet on kernels of our own in Triton and CUDA C++, from compute capability 8.0 on.

An engine is one safetensors file: the folded tensors, 2:4 ones compressed, and in its header the
plan, which kernel was fastest for each layer on each kind of GPU, and a hash of all that. It loads
without the checkpoint and runs any batch and size; each shape gets its own buffers and its own CUDA
graph.

docs/fused.md says how it works and how fast it is.
"""

import functools
import hashlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compress.base import machine
from compress.base.errors import CompressError, UsageError
from compress.base.files import write_atomic
from compress.base.machine import Package
from compress.base.tensors import to_bytes
from compress.engines.base import Format, NotBuilt, Runner, Shape, broken
from compress.engines.kernels import remembered, report, two_of_four
from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.plan import Plan, compiled
from compress.engines.kernels.plan_json import from_json, to_json
from compress.engines.kernels.session import Choices, Session
from compress.engines.precision import Precision
from compress.engines.records import Built

log = logging.getLogger(__name__)
CUDA_PACKAGES = "pip install cuda-bindings nvidia-cuda-nvrtc"
SCHEMA = "7"
READ = ("3", "4", "5", "6", SCHEMA)
"""Schemas that are read: 3 is of version 0.1, before there were CUDA kernels; 4 knows no INT8, 5 no
wgmma.sp, 6 no shift of the image."""
SESSIONS = 4
"""Shapes that an engine keeps buffers for; the one that waited longest goes."""
LEVELS = 4
"""Sides must be multiples of 2 to this power."""
SECONDS = 120.0
"""Time for measuring kernels in a build. Those remembered from earlier builds take next to none;
which of them are one kernel is measured again."""
VALUES, INDEX = ".values24", ".index24"
"""Of a 2:4 weight in a file, see two_of_four.py."""
Tilings = Mapping[str, Choices]
"""GPU's name -> what was measured on it."""


class Engine:
    """A DDnet, ready to run.

    Args:
        plan: its operations.
        tensors: of the plan, on the device that it runs on.
        tilings: measured ones; defaults stand in on other GPUs.
        kernels: whether Triton kernels compute it; PyTorch does otherwise.
    """

    def __init__(
        self, plan: Plan, tensors: Mapping[str, Tensor], tilings: Tilings, *, kernels: bool
    ) -> None:
        self.plan, self.tensors, self.tilings, self.kernels = plan, tensors, tilings, kernels
        self.device = next(iter(tensors.values())).device
        self.sessions: dict[tuple[int, int, int], Session] = {}

    def session(self, batch: int, height: int, width: int) -> Session:
        """Buffers and calls for a shape; made when it is first asked for.

        Raises:
            UsageError: a side is no multiple of 16.
        """
        if height % 2**LEVELS or width % 2**LEVELS or not height or not width:
            raise UsageError(f"fused: sides must be multiples of 16, got {height} x {width}")
        shape = (batch, height, width)
        found = self.sessions.pop(shape, None)
        if found is None:
            if len(self.sessions) >= SESSIONS:
                del self.sessions[next(iter(self.sessions))]
            choices = self.tilings.get(gpu(self.device), Choices())
            made = functools.partial(Session, self.plan, self.tensors, shape)
            found = made(choices=choices, kernels=self.kernels)
        self.sessions[shape] = found
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) float32 in network range -> the same shape and type.

        Raises:
            UsageError: another number of channels, or a side that is no multiple of 16.
        """
        if x.ndim != 4 or x.shape[1] != 1:
            raise UsageError(f"fused: expected (N, 1, H, W), got {tuple(x.shape)}")
        return self.session(len(x), x.shape[2], x.shape[3])(x)

    @property
    def facts(self) -> Built:
        """What computes which layer, for the sidecar."""
        if not self.kernels:
            why = "no Triton kernels here: PyTorch computes every layer"
            return {"plain": {op.name: why for op in self.plan.convs()}}
        return {"plain": {op.name: op.plain for op in self.plan.convs() if op.plain}}


class Fused(Format):
    """The engine format."""

    suffix = ".safetensors"
    precisions: tuple[Precision, ...] = ("fp16",)
    casts = True
    quantised: tuple[Precision, ...] = ("fp16",)
    requires = ("triton", machine.GPU)
    needs_same = ("device",)  # any GPU: its kernels are compiled where it is loaded

    def packages(self) -> tuple[Package, ...]:
        """Triton, which torch's CUDA builds bring, and NVIDIA's packages for CUDA C++."""
        use, faster = "export fused, torch.compile on GPUs", "export fused, its fastest kernels"
        return (
            Package("triton", "triton", use, "pip install triton"),
            Package("cuda-bindings", "cuda.bindings.nvrtc", faster, CUDA_PACKAGES),
        )

    def missing(self, device: torch.device) -> NotBuilt | None:
        """Triton, and a GPU with asynchronous copies into shared memory."""
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            return NotBuilt("fused kernels need a GPU of compute capability 8.0 or newer")
        if importlib.util.find_spec("triton") is None:
            return NotBuilt("Triton is not installed", "pip install triton")
        return broken(self.packages()[:1])  # CUDA C++ is a choice, see `compiler.available`

    def build(self, subject: nn.Module, shape: Shape, path: Path, device: torch.device) -> Built:
        """Fold, plan, measure tilings for the shape, write.

        Raises:
            NotBuilt: no DDnet, the side is no multiple of 16, a layer has no tiling here, or is in
                INT8 and there is no kernel for that.
            CompressError: the GPU failed while tilings were measured.
        """
        from compress.engines.kernels import rounding  # phantoms, which enhance does without
        from compress.engines.kernels.timed import LOST
        from compress.engines.kernels.tune import tune

        try:
            plan, tensors = compiled(getattr(subject, "net", subject))
            if any(op.int8 for op in plan.convs()) and not compiler.available():
                raise NotBuilt("INT8 layers need NVIDIA's packages for CUDA C++", CUDA_PACKAGES)
            tensors = rounding.in_half(plan, tensors)
            engine = Engine(plan, _on(tensors, device), {}, kernels=True)
            session = engine.session(shape.batch, shape.size, shape.size)
        except UsageError as error:
            raise NotBuilt(str(error)) from error
        try:
            with remembered.tilings(gpu(device)) as known:
                found = tune(session, SECONDS, known)
        except LOST as error:
            said = "fused: the GPU failed while kernels were measured; run the command again"
            raise CompressError(said) from error
        save(plan, tensors, path, {gpu(device): found.choices})
        return {**engine.facts, **report.facts(session, found), "memory": session.memory}

    def load(self, path: Path, device: torch.device) -> Runner:
        """The engine; PyTorch computes it, slowly, where there are no kernels, which is said."""
        if lack := self.missing(device):
            log.warning("%s is computed by PyTorch, slowly: %s", path.name, lack.reason)
        return load(path, device, kernels=lack is None)


def gpu(device: torch.device) -> str:
    """The kind of GPU that tilings are measured for."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "none"


def save(
    plan: Plan, tensors: Mapping[str, Tensor], path: Path, tilings: Tilings | None = None
) -> None:
    """Write an engine's file, atomically."""
    kept = _compressed(plan, {name: one.float().cpu() for name, one in tensors.items()})
    header = {
        "format": "compress-fused",
        "schema": SCHEMA,
        "plan": json.dumps(to_json(plan)),
        "tilings": json.dumps({name: asdict(one) for name, one in (tilings or {}).items()}),
    }
    header["sha256"] = _hash(header, kept)
    write_atomic(path, to_bytes(kept, header))


def load(path: Path, device: torch.device | str, *, kernels: bool = True) -> Engine:
    """An engine from its file alone.

    Args:
        path: the file.
        device: where it shall run.
        kernels: whether Triton kernels compute it.

    Raises:
        UsageError: no such engine, of another schema, or altered.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} is no fused engine: {error}") from error
    if header.get("format") != "compress-fused" or header.get("schema") not in READ:
        raise UsageError(f"{path} is no fused engine of schema {' or '.join(READ)}")
    if header.pop("sha256", None) != _hash(header, tensors):
        raise UsageError(f"{path} was altered: its hash is not the one in its header")
    measured = json.loads(header["tilings"]) if header["schema"] != READ[0] else {}
    tilings = {name: _choices(one) for name, one in measured.items()}
    plan = from_json(json.loads(header["plan"]))
    return Engine(plan, _on(_restored(tensors), torch.device(device)), tilings, kernels=kernels)


def _choices(value: Mapping[str, Any]) -> Choices:
    cuts: Any = {kind: {k: remembered.cut(t) for k, t in value[kind].items()} for kind in value}
    return Choices(**cuts)


def _compressed(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """2:4 weights as values and places, those of INT8 layers as int8."""
    found = {name: one.contiguous() for name, one in tensors.items()}
    for op in plan.convs():
        if op.int8:
            found[f"{op.name}.weight"] = found[f"{op.name}.weight"].to(torch.int8)
        if op.sparse:
            pair = two_of_four.compressed(found.pop(f"{op.name}.weight"))
            found[op.name + VALUES], found[op.name + INDEX] = pair
    return found


def _restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    for name in [one.removesuffix(VALUES) for one in tensors if one.endswith(VALUES)]:
        pair = found.pop(name + VALUES), found.pop(name + INDEX)
        found[f"{name}.weight"] = two_of_four.restored(*pair)
    return found


def _on(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: one.to(device, torch.float32) for name, one in tensors.items()}


def _hash(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Of everything in an engine's file but the hash itself."""
    total = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        total.update(f"{name} {tuple(tensors[name].shape)}".encode())
        total.update(tensors[name].numpy().tobytes())
    return total.hexdigest()
