"""Milliseconds of single convolutions on the kernels of the engine `fused`, each tuned.

Every convolution gets buffers as a plan of a network has them, and the search of `search.py`. Where
an engine computes two layers in one kernel, it takes less time than both have here.
"""

import contextlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.engines.kernels import remembered
from compress.engines.kernels.packing import border, folded
from compress.engines.kernels.plan import IMAGE, OUTPUT, Buffer, Conv, Plan, Slice
from compress.engines.kernels.served import LEAST_3X3, SIZES
from compress.engines.kernels.session import Session
from compress.pruning.families import Family, Knots, Point

DEEPEST = 8
"""Levels of resolution below the largest image."""


def refuse(family: Family) -> None:
    """Pass where the kernels compute a family.

    Raises:
        UsageError: they do not.
    """
    size = family.kernel[0] if family.kernel else 0
    same = (size // 2, size // 2)
    plain = family.kind == "Conv2d" and family.kernel == (size, size) and size in SIZES
    steps = family.stride == (1, 1) and family.dilation == (1, 1) and not any(family.each)
    if not (plain and steps and family.padding in (same, "same")):
        raise UsageError(
            f"latency_from fused: its kernels compute convolutions of {SIZES} with stride 1 and "
            f"padding of half their side, not {family.name}; take latency_from eager"
        )


def served(shapes: Mapping[Family, Knots], own: Mapping[Family, Knots]) -> dict[Family, Knots]:
    """Those shapes of layers with smaller kernels that the kernels here compute.

    Args:
        shapes: what is wanted of a network, and of the network with smaller kernels.
        own: what is wanted of the network; all that stays, so that it is refused where it must be.

    Returns:
        Without other families, and of smaller kernels without counts below `LEAST_3X3`.
    """
    found = {}
    for family, knots in shapes.items():
        given = own.get(family, Knots(ins=(), outs=()))
        ins = tuple(n for n in knots.ins if n >= LEAST_3X3 or n in given.ins)
        outs = tuple(n for n in knots.outs if n >= LEAST_3X3 or n in given.outs)
        if family in own:
            found[family] = Knots(ins=ins, outs=outs)
        elif ins and outs:
            with contextlib.suppress(UsageError):
                refuse(family)
                found[family] = Knots(ins=ins, outs=outs)
    return found


def session(points: Sequence[Point], device: torch.device, *, kernels: bool = True) -> Session:
    """A plan of single convolutions, named by their place in `points`, with random weights.

    Args:
        points: with grids that are halves, quarters and so on of the largest.
        device: where it runs.
        kernels: as for `Session`.

    Raises:
        UsageError: a family that the kernels do not compute, or another grid.
    """
    sides = max(point.family.grid for point in points)
    buffers = {IMAGE: Buffer(level=0, channels=1), OUTPUT: Buffer(level=0, channels=1)}
    operations, tensors = list[Conv](), dict[str, Tensor]()
    for at, point in enumerate(points):
        refuse(point.family)
        level = _level(point.family, sides)
        tensors |= _tensors(str(at), point)
        operations.append(
            Conv(
                name=str(at),
                size=point.family.kernel[0],
                source=_slice("in", point.ins, level, buffers),
                target=_slice("out", point.outs, level, buffers),
                out=point.outs,
            )
        )
    plan = Plan(buffers=buffers, operations=tuple(operations))
    there = {name: one.to(device, torch.float32) for name, one in tensors.items()}
    return Session(plan, there, (1, *sides), kernels=kernels)


def milliseconds(
    points: Sequence[Point], device: torch.device, seconds: float
) -> dict[Point, float]:
    """The time of each on this GPU; those are missing for which there was no time.

    Args:
        points: see `session`.
        device: a GPU that the kernels run on.
        seconds: when to stop measuring.

    Raises:
        UsageError: as for `session`.
        NotBuilt: nothing runs.
    """
    from compress.engines.kernels.timed import NEVER
    from compress.engines.kernels.tune import tune

    made = session(points, device)
    with remembered.tilings(f"{torch.cuda.get_device_name(device)} single") as known:
        found = tune(made, seconds, known, network=False)
    named = {unit.name: ms for unit, _, ms in found.units if isinstance(unit, Conv)}
    times = {point: named.get(str(at), NEVER) for at, point in enumerate(points)}
    return {point: ms for point, ms in times.items() if ms < NEVER}


def _level(family: Family, sides: tuple[int, int]) -> int:
    height, width = sides
    for level in range(DEEPEST + 1):
        if family.grid == (height >> level, width >> level):
            return level
    raise UsageError(
        f"latency_from fused: {family.name} has no resolution of a DDnet of {height} x {width}; "
        "take latency_from eager"
    )


def _slice(side: str, channels: int, level: int, buffers: dict[str, Buffer]) -> Slice:
    """A buffer of its own for so many channels, shared by all that read or write as many."""
    if side == "in" and channels == 1 and level == 0:
        return Slice(buffer=IMAGE, slots=(1,))
    name = f"{side} {channels} {level}"
    found = Slice(buffer=name, slots=(channels,))
    buffers[name] = Buffer(level=level, channels=found.channels)
    return found


def _tensors(name: str, point: Point) -> dict[str, Tensor]:
    conv = point.family.layer(point.ins, point.outs)
    assert isinstance(conv, nn.Conv2d)
    weight, bias = folded(nn.Identity(), conv)
    found = {f"{name}.weight": weight, f"{name}.bias": bias}
    around = border(nn.Identity(), conv)
    assert around is not None
    return {**found, f"{name}.border": around} if conv.kernel_size != (1, 1) else found
