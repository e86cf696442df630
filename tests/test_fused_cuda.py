"""The fused engine's CUDA kernels without a GPU: emulated, compiled, and what is around them.

The emulator follows the PTX manual's fragment layouts; g++ compiles the kernels with it. NVRTC
compiles them for real, for an A100 and a Hopper GPU, and says how many registers they take.
"""

import contextlib
import itertools
import math
import random
import re
import shutil
from dataclasses import replace

import emulated
import pytest
import torch
from emulated import broken
from fused_cases import (
    BEFORE,
    conv_case,
    error,
    halved,
    layer_case,
    mixed_case,
    move_case,
    network,
    pooled_exactly,
    stem_case,
    stem_error,
    two_of_four,
    unwritten,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.base.errors import UsageError
from compress.engines import fused
from compress.engines.kernels import choose, plain, remembered, report, rounding, search, tune
from compress.engines.kernels import jobs as jobs_of
from compress.engines.kernels import two_of_four as stored
from compress.engines.kernels.cuda import compiler, fragments, launch, moves, window
from compress.engines.kernels.cuda.products import SPARSE, Kind
from compress.engines.kernels.cuda.window import Task, candidates, shared, strips
from compress.engines.kernels.plan import Pool, Upsample, compiled
from compress.engines.kernels.route import Layer, cheapest, merges, route, singles
from compress.engines.kernels.session import Choices, Session

ROOM = 227 * 1024
KINDS: list[Kind] = ["mma", "mma.sp", "wgmma"]
"""wgmma.sp computes 32 output channels only, and no bottleneck."""
LIMIT = 2e-3
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
needs_nvrtc = pytest.mark.skipif(not compiler.available(), reason="needs NVIDIA's NVRTC")


def cut(task: Task | None, kind: Kind, at: int):
    """One of the cuts, in strips of eight rows."""
    assert task is not None
    found = candidates(task, 64, 512, frozenset({kind}), ROOM)
    return replace(found[at % len(found)], strip=8)


CASES = [
    ((16,), 16, 0, False, 0), ((64,), 16, 0, False, 4), ((16, 16), 32, 16, False, 1),
    ((16, 16), 32, 1, True, 0), ((16, 16), 16, 1, True, 6),
]  # fmt: skip
"""Input channels, output channels, those of the 1x1 behind, whether the image is added, the cut."""


@needs_compiler
@pytest.mark.parametrize("size", [5, 3])
@pytest.mark.parametrize(
    ("kind", "slots", "out", "then", "residual", "at"),
    [*((kind, *one) for kind in KINDS for one in CASES), ("wgmma.sp", *CASES[2]),
     ("wgmma.sp", *CASES[3]), ("wgmma.sp", (64,), 32, 0, False, 0)],
)  # fmt: skip
def test_a_convolution_is_exact_at_borders_and_leaves_the_rest_alone(
    emulator, kind, size, slots, out, then, residual, at
):
    sparse = kind in SPARSE
    for shape in [(1, 9, 70), (2, 5, 3)]:
        more = {"then": then, "residual": residual, "sparse": sparse, "dtype": torch.float16}
        op, case = conv_case(size, slots, out, shape, **more)
        task = launch.task(op, None, lambda name, case=case: case.buffers[name].strides[2])
        given = case.buffers, case.tensors, case.image, cut(task, kind, at)
        assert error(op, case, launch.call(op, None, *given)) < LIMIT, shape


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 9, 70), (2, 20, 33)])
def test_the_stem(emulator, shape):
    op, case = conv_case(7, (1,), 16, shape, dtype=torch.float16)
    task = launch.task(op, None, lambda name: case.buffers[name].strides[2])
    for at in (0, 3, 7):
        given = case.buffers, case.tensors, case.image, cut(task, "stem", at)
        assert error(op, case, launch.call(op, None, *given)) < LIMIT


def stem_cuts(layer, case):
    """Its narrowest cut for each kind of warp, in strips of eight rows."""
    channels = lambda name: case.buffers[name].strides[2]  # noqa: E731
    task = launch.task(layer.conv, None, channels, layer.pool)
    assert task is not None
    made = candidates(task, 64, 512, frozenset({"stem"}), ROOM)
    found = {(one.blocks, one.wide): one for one in reversed(made)}
    return [replace(one, strip=8) for one in found.values()]


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 9, 70), (2, 20, 33), (1, 16, 126)])
def test_the_max_pool_of_the_stem_is_that_of_what_it_stores(emulator, shape):
    layer, case = stem_case(shape)
    for one in stem_cuts(layer, case):
        call = launch.call(layer.conv, None, *of(case), one, pool=layer.pool)
        assert stem_error(layer, case, call) < LIMIT, one


@needs_compiler
def test_what_lies_outside_of_an_image_is_never_the_largest(emulator):
    layer, case = stem_case((1, 9, 31), shift=-10.0)
    call = launch.call(layer.conv, None, *of(case), stem_cuts(layer, case)[0], pool=layer.pool)
    assert stem_error(layer, case, call) < LIMIT
    assert case.buffers["p"].inside[..., BEFORE:-BEFORE].max() < 0


@needs_compiler
def test_a_nan_is_the_largest(emulator):
    layer, case = stem_case((1, 24, 70))
    case.buffers["image"].inside[0, 9, 40] = float("nan")
    one = stem_cuts(layer, case)[0]
    launch.call(layer.conv, None, *of(case), one, pool=layer.pool)()
    assert pooled_exactly(layer.pool, case)
    assert case.buffers["p"].inside[0, 3:7, 19:22, BEFORE:-BEFORE].isnan().all()
    assert not case.buffers["p"].inside[0, :3].isnan().any()


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("lane - 4", "lane"), ("g == 7 ? before.v[half] : largest", "largest"),
     ("if (s.y0 == 0)", "if (true)"), ("block > 0 || g > 0 || left == 0", "true"),
     ("if (both) largest[j]", "largest[j]"), ("odd ? c[0]", "odd ? c[1]"),
     ("if (x + 1 < a.width) result", "result")],
)  # fmt: skip
def test_the_emulator_sees_a_column_or_a_row_too_few_or_too_many(
    emulator, monkeypatch, right, wrong
):
    layer, case = stem_case((1, 17, 63))
    cuts = stem_cuts(layer, case)[::3]
    with broken(monkeypatch, right, wrong):
        calls = [launch.call(layer.conv, None, *of(case), one, pool=layer.pool) for one in cuts]
    assert not all(stem_error(layer, case, call) < LIMIT for call in calls)


def of(case):
    return case.buffers, case.tensors, case.image


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("slots", "middle", "size"), [((16, 16, 16), 64, 5), ((16, 16), 16, 5), ((16, 16), 32, 3)]
)
def test_a_bottleneck_inside_a_convolution_is_never_stored(emulator, kind, slots, middle, size):
    shape = (1, 9, 70)
    before, op, case = layer_case(slots, middle, 16, shape, sparse=kind == "mma.sp", size=size)
    plain.conv(before, case.buffers, case.tensors, case.image)
    task = launch.task(op, before, lambda name: case.buffers[name].strides[2])
    given = case.buffers, case.tensors, case.image, cut(task, kind, 1)

    def run():
        case.buffers["middle"].inside.fill_(float("nan"))
        launch.call(op, before, *given)()

    assert error(op, case, run) < LIMIT


def two_strips(kind):
    """A convolution that a kind of kernel computes in two strips, and how it is cut."""
    sparse, out = kind in SPARSE, 32 if kind == "wgmma.sp" else 16
    op, case = conv_case(5, (32,), out, (1, 16, 70), sparse=sparse, dtype=torch.float16)
    task = launch.task(op, None, lambda name: case.buffers[name].strides[2])
    return op, case, cut(task, kind, 2 if out == 32 else 1)


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [("mma", "copy_wait<STAGES - 2>()", "copy_wait<STAGES - 1>()"),
     ("wgmma", "copy_wait<STAGES - 2>()", "copy_wait<STAGES - 1>()"),
     ("mma", "__syncthreads();", ""),
     ("mma.sp", "r.slot == 0 ? STAGES - 1 : r.slot - 1", "r.slot"),
     ("wgmma.sp", "copy_wait<STAGES - 2 - AHEAD>()", "copy_wait<STAGES - 1 - AHEAD>()"),
     ("wgmma.sp", "worker_wait(worker);  // the results", "// the results"),
     ("wgmma.sp", "step_at(base, slot, STAGES - 1)", "step_at(base, slot, STAGES - 2)"),
     ("wgmma.sp", "    fence_async();\n    worker_wait", "    worker_wait"),
     ("wgmma", "    fence_async();\n", ""),
     ("wgmma.sp", "block + worker * WORKER", "block + worker * (WORKER - 2048)")],
)  # fmt: skip
def test_the_emulator_sees_a_wait_or_a_barrier_that_is_missing(
    emulator, monkeypatch, kind, right, wrong
):
    op, case, one = two_strips(kind)
    with broken(monkeypatch, right, wrong), pytest.raises(emulated.Race):
        launch.call(op, None, *of(case), one)()


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [("wgmma", "    wgmma_wait<0>();\n#pragma", "#pragma"), ("wgmma", "    wgmma_commit();\n", ""),
     ("wgmma.sp", "    wgmma_wait<0>();\n", ""), ("wgmma.sp", "    wgmma_commit();\n", "")],
)  # fmt: skip
def test_the_emulator_sees_products_that_nobody_waits_for(
    emulator, monkeypatch, kind, right, wrong
):
    op, case, one = two_strips(kind)
    with broken(monkeypatch, right, wrong):
        call = launch.call(op, None, *of(case), one)
    with contextlib.suppress(emulated.Race):
        assert error(op, case, call) > LIMIT


@needs_compiler
@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 11, 19)])
def test_moves(emulator, channels, shape):
    for kind, most in ((Pool, 1e-9), (Upsample, LIMIT)):
        op, case = move_case(kind, channels, shape, torch.float16)
        assert error(op, case, moves.call(op, case.buffers, moves.Move(strip=2))) < most


MIXED = [
    ("wgmma", (16, 16), 32, 16, False, 0), ("wgmma", (16, 16), 16, 1, True, 3),
    ("wgmma", (13, 9), 27, 11, False, 4), ("mma", (16, 16), 32, 1, True, 2),
    ("mma", (16, 16), 16, 16, False, 7), ("mma", (8, 24), 16, 0, False, 4),
    ("mma.sp", (16, 16), 16, 1, True, 8), ("mma.sp", (32, 32), 16, 0, False, 0),
    ("wgmma.sp", (16, 16), 32, 16, False, 1), ("wgmma.sp", (16, 16), 32, 1, True, 2),
]  # fmt: skip
"""Upsampled and other channels, outputs, those of the 1x1 behind, whether the image is added."""


@needs_compiler
@pytest.mark.parametrize(
    ("size", "kind", "slots", "out", "then", "residual", "at"),
    [*((5, *one) for one in MIXED), *((3, *one) for one in MIXED[1::2])],
)
def test_an_upsampling_inside_a_convolution_is_never_stored(
    emulator, size, kind, slots, out, then, residual, at
):
    for shape in [(1, 1, 1), (2, 3, 5), (1, 7, 37)]:
        more = {"then": then, "residual": residual, "sparse": kind in SPARSE, "size": size}
        up, op, case = mixed_case(slots, out, shape, **more)
        plain.upsample(up, case.buffers)
        call = mixed_call(up, op, case, kind, at)

        def run(up=up, case=case, call=call):
            part = unwritten(up, case)
            call()
            assert part.isnan().all()

        assert error(op, case, run) < LIMIT * (4 if min(shape) < 3 else 1), shape


def mixed_call(up, op, case, kind, at, before=True):
    """The upsampling and the 5x5 in one kernel; without `before` the 5x5 alone, cut the same."""
    task = launch.task(op, up, lambda name: case.buffers[name].strides[2])
    given = case.buffers, case.tensors, case.image, cut(task, kind, at)
    return launch.call(op, up if before else None, *given)


@needs_compiler
@pytest.mark.parametrize(("kind", "at"), [("wgmma", 1), ("mma", 1), ("mma.sp", 6), ("wgmma.sp", 2)])
def test_an_upsampling_inside_a_5x5_has_the_bits_of_two_kernels(emulator, kind, at):
    out = 32 if kind == "wgmma.sp" else 16
    up, op, case = mixed_case((16, 16), out, (2, 7, 37), then=16, sparse=kind in SPARSE)
    moves.call(up, case.buffers, moves.Move(strip=4))()
    mixed_call(up, op, case, kind, at, before=False)()
    result = case.buffers["y"].inside.clone()
    assert result.isfinite().all()
    case.buffers["y"].inside[..., 8:-8] = float("nan")
    unwritten(up, case)
    mixed_call(up, op, case, kind, at)()
    assert torch.equal(case.buffers["y"].inside, result)


FIRST = "  upsample(a, s, base, mixed, 0, 0);"


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [("wgmma", "  __syncthreads();\n  rows_of_next", "  rows_of_next"),
     ("mma", f"  __syncthreads();\n{FIRST}", FIRST),
     ("wgmma", "s.y0 - PAD + 1 + arrived", "s.y0 - PAD + 3 + arrived"),
     ("mma.sp", "mixed, r.arrived + 1, r.slot", "mixed, r.arrived, r.slot"),
     ("wgmma.sp", "upsample(step + AHEAD + 1, step_at(base, slot, AHEAD + 1))",
      "upsample(step + AHEAD + 1, step_at(base, slot, AHEAD))")],
)  # fmt: skip
def test_the_emulator_sees_a_row_that_is_mixed_too_early(emulator, monkeypatch, kind, right, wrong):
    out = 32 if kind == "wgmma.sp" else 16
    up, op, case = mixed_case((16, 16), out, (1, 8, 35), sparse=kind in SPARSE)
    plain.upsample(up, case.buffers)
    with broken(monkeypatch, right, wrong), pytest.raises(emulated.Race):
        mixed_call(up, op, case, kind, 1)()


@needs_compiler
@pytest.mark.parametrize(
    ("kernels", "decoder", "sides"),
    [([5, 5, 5, 5, 5], 16, (32, 16)), ([3, 3, 5, 3, 3], 16, (32, 16)),
     ([5, 5, 5, 3, 5], 32, (16, 128))],
)  # fmt: skip
def test_a_whole_2to4_network_of_these_kernels(as_on_hopper, kernels, decoder, sides):
    net = halved(network(bottleneck=16, decoder=decoder, residual=True, kernels=kernels))
    plan, tensors = compiled(net)
    tensors = rounding.in_half(plan, tensors)
    shape, draw, image = (1, *sides), random.Random(0), "{}x{}".format(*sides)
    found = jobs_of.jobs(Session(plan, tensors, shape))
    pairs = {key: job for key, job in found.items() if job.merged and job.cuda}
    assert len(pairs) == 21
    stem = f"7x7 1-16 + pool 16 {image} b1"
    layers = {stem: pairs.pop(stem).cuda[0]}
    sparse = {key: [c for c in job.cuda if c.kind == "mma.sp"] for key, job in pairs.items()}
    layers |= {key: draw.choice(some) for key, some in sparse.items() if draw.random() < 0.3}
    mixed = f"upsample 16 + {kernels[0]}x{kernels[0]} 32-{decoder}-1 2:4 {image} b1"
    wanted = "wgmma" if decoder == 16 else "wgmma.sp"
    layers[mixed] = next(cut for cut in pairs[mixed].cuda if cut.kind == wanted)
    convs = {k: j.cuda[0] for k, j in found.items() if j.size > 1 and not j.merged}
    chosen = {k: j.cuda[0] for k, j in found.items() if not j.size}
    choices = Choices(layer=layers, conv=convs, move=chosen)
    session = Session(plan, tensors, shape, choices=choices, poison=True)
    assert sum(isinstance(unit, Layer) for unit in session.units) == len(layers) > 2
    x = torch.rand(shape[0], 1, *shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(x.double())

    def off(one):
        return float((one(x) - expected).abs().max() / expected.abs().max())

    rounded = off(Session(plan, tensors, shape, kernels=False))  # to float16 between layers
    assert off(session) < max(2e-4, 2 * rounded)


@needs_compiler
def test_an_older_file_keeps_the_upsampling_by_itself(as_on_hopper):
    cut = {"strip": 32, "warps": 4, "blocks": 8, "rows": 1, "stages": 3, "resident": 1}
    layer = {"1x1 32-16 + 5x5 16-16 16x8 b1": {"kind": "mma", **cut, "registers": False}}
    choices = fused._choices({"conv": {}, "chain": {}, "layer": layer, "move": {}})
    plan, tensors = compiled(network(bottleneck=16, decoder=16))
    units = Session(plan, tensors, (1, 32, 16), choices=choices).units
    assert sum(isinstance(unit, Upsample) for unit in units) == 4
    assert sum(isinstance(unit, Layer) for unit in units) == 1


@needs_compiler
@pytest.mark.parametrize("together", [3.0, 5.0])
def test_the_stem_pools_where_one_kernel_measures_faster_than_two(
    as_on_hopper, monkeypatch, together
):
    shape, whole, took = (1, 32, 16), search._measured, {"ms": math.inf}
    keys = {f"{name} 32x16 b1" for name in ("7x7 1-16", "pool 16", "7x7 1-16 + pool 16")}

    def measured(job, *given):
        took["ms"] = together if job.merged else 2.0
        return whole(job, *given)

    def milliseconds(make, _device):
        make()()
        return took["ms"]

    monkeypatch.setattr(window, "_STEM", window._STEM[:1])
    monkeypatch.setattr(compiler, "ahead", lambda *_: None)
    monkeypatch.setattr(
        tune, "jobs", lambda one: {k: j for k, j in jobs_of.jobs(one).items() if k in keys}
    )
    monkeypatch.setattr(search, "_measured", measured)
    monkeypatch.setattr(search, "milliseconds", milliseconds)
    plan, tensors = compiled(network(bottleneck=16, decoder=16))
    found = tune.tune(Session(plan, tensors, shape), 60.0)
    assert isinstance(found.units[0][0], Layer) == (together < 4)
    session = Session(plan, tensors, shape, choices=found.choices)
    assert session.units[:2] == [unit for unit, _, _ in found.units[:2]]


@pytest.mark.parametrize("index", [0, 1])
def test_2to4_kernels_that_are_faster_alone_go_where_the_whole_network_is_slower(
    as_on_hopper, monkeypatch, index
):
    """And what is remembered for the next build are the kernels that the engine has."""
    monkeypatch.setattr(compiler, "ahead", lambda *_: None)
    monkeypatch.setattr(
        search,
        "_measured",
        lambda _, cut, *__: 1.0 if getattr(cut, "kind", "") == "mma.sp" else 2.0,
    )

    class Race:
        """Of all ways, those without any 2:4 kernel win, or none does."""

        raced = 0

        def __init__(self, _session, first):
            firsts.append(_kinds(first))

        def won_by(self, other):
            return "mma.sp" not in _kinds(other) and bool(index)

    firsts = list[set[str]]()
    monkeypatch.setattr(choose, "Race", Race)
    plan, tensors = compiled(halved(network(bottleneck=16, decoder=16)))
    known: dict = {}
    found = tune.tune(Session(plan, tensors, (1, 32, 16)), 60.0, known)
    kinds = _kinds(found.choices)
    assert ["mma.sp" in one for one in firsts][:2] == [True, False]
    assert ("mma.sp" in kinds) == (index == 0)
    assert {getattr(cut, "kind", "") for cut in known.values()} >= kinds - {""}
    assert ("mma.sp" in {getattr(cut, "kind", "") for cut in known.values()}) == (index == 0)


def _kinds(choices: Choices) -> set[str]:
    return {getattr(cut, "kind", "") for cut in (*choices.conv.values(), *choices.layer.values())}


TASKS = {
    "16-16": Task(inside=16, out=16, x=16, y=80),
    "64-16": Task(inside=64, out=16, x=64, y=80),
    "48-64-16": Task(inside=64, out=16, bottleneck=48, x=80, y=80),
    "32-32-1": Task(
        inside=32, out=32, then=1, then_activate=False, residual=True, x=32, y=1
    ),
    "3x3 16-16": Task(side=3, inside=16, out=16, x=16, y=80),
    "3x3 64-16": Task(side=3, inside=64, out=16, x=64, y=80),
    "3x3 48-64-16": Task(side=3, inside=64, out=16, bottleneck=48, x=80, y=80),
    "3x3 16 + 32-32-16": Task(side=3, inside=32, out=32, then=16, upsampled=16, low=16, x=32, y=16),
    "64-32": Task(inside=64, out=32, x=64, y=32),
    "16 + 32-32-16": Task(inside=32, out=32, then=16, upsampled=16, low=16, x=32, y=16),
    "16 + 32-16-16": Task(inside=32, out=16, then=16, upsampled=16, low=16, x=32, y=16),
}  # fmt: skip
SPILLED = 80
"""Bytes of registers that may go to local memory: a few outside of the main loop."""


@needs_nvrtc
def test_an_empty_log_of_the_compiler_changes_no_byte_of_python(monkeypatch):
    """It has one byte, and Python shares an object for each value of a single byte."""
    monkeypatch.setattr(compiler, "OPTIONS", compiler.OPTIONS[:2])  # nothing is said
    values = (("POOL", 1), ("CHANNELS", 16), ("X", 16), ("Y", 16))
    code, said = compiler.compile_cubin(compiler.Source("moves.cu", "move", values), "sm_80")
    assert code[:4] == b"\x7fELF"
    assert said == ""
    assert bytes([32])[0] == 32


@needs_nvrtc
@pytest.mark.parametrize(
    ("kind", "name"),
    [*itertools.product(KINDS, TASKS), ("wgmma.sp", "32-32-1"), ("wgmma.sp", "64-32"),
     ("wgmma.sp", "16 + 32-32-16"), ("wgmma.sp", "3x3 16 + 32-32-16")],
)  # fmt: skip
def test_kernels_compile_for_an_a100_and_for_hopper_and_keep_their_registers(kind, name):
    task = TASKS[name]
    made = candidates(task, 512, 512, frozenset({kind}), ROOM)[0]
    for target in ["sm_90a"] if kind in ("wgmma", "wgmma.sp") else ["sm_80", "sm_90a"]:
        code, said = compiler.compile_cubin(compiler.source(task, made), target)
        assert code[:4] == b"\x7fELF"
        registers = int(re.search(r"Used (\d+) registers", said)[1])
        assert registers * made.threads * made.resident <= 65536
        assert int(re.search(r"(\d+) bytes spill stores", said)[1]) <= SPILLED
        assert not re.search("C75(10|11|17)", said), "wgmma waits where it should not"


@needs_nvrtc
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("pool", [0, 80])
def test_the_stem_compiles_and_spills_nothing_on_hopper(target, pool):
    from cuda.bindings import nvrtc

    older = nvrtc.nvrtcVersion()[1:] < (13, 5)  # 13.2 spills two registers in one of the cuts
    spared = 4 if target == "sm_80" else 8 if older else 0
    task = Task(inside=1, out=16, x=1, y=32, pool=pool)
    for one in candidates(task, 512, 512, frozenset({"stem"}), ROOM):
        _, said = compiler.compile_cubin(compiler.source(task, one), target)
        spilled = int(re.search(r"(\d+) bytes spill stores", said)[1])
        assert spilled <= spared, one
        assert spared or "0 bytes stack frame" in said
        registers = int(re.search(r"Used (\d+) registers", said)[1])
        assert registers * one.threads * one.resident <= 65536


@needs_compiler
def test_the_stem_runs_in_a_cut_that_an_older_engine_file_holds(emulator):
    found = remembered.cut(
        {"kind": "stem", "strip": 16, "warps": 4, "blocks": 1, "rows": 4, "stages": 1,
         "resident": 8, "registers": False}
    )  # fmt: skip
    op, case = conv_case(7, (1,), 16, (1, 20, 70), dtype=torch.float16)
    assert error(op, case, launch.call(op, None, *of(case), found)) < LIMIT


@needs_nvrtc
@pytest.mark.parametrize("pool", [0, 1])
def test_moves_compile(pool):
    values = (("POOL", pool), ("CHANNELS", 16), ("X", 32), ("Y", 80))
    _, said = compiler.compile_cubin(compiler.Source("moves.cu", "move", values), "sm_80")
    assert "0 bytes spill stores" in said


@needs_nvrtc
def test_what_does_not_compile_says_why():
    values = (("POOL", 1), ("CHANNELS", 16), ("X", 32))
    with pytest.raises(compiler.Failed, match='"Y" is undefined'):
        compiler.compile_cubin(compiler.Source("moves.cu", "move", values), "sm_80")


def test_cuts_fit_their_gpu():
    for task in TASKS.values():
        a100 = candidates(task, 256, 256, frozenset({"mma", "mma.sp"}), 163 * 1024)
        assert {one.kind for one in a100} == {"mma", "mma.sp"}
        assert all(shared(task, one) <= 163 * 1024 for one in a100)
    assert strips(512)[-1] == 512
    assert strips(1) == [4]
    assert all(rows % 4 == 0 for side in (6, 32, 100, 512) for rows in strips(side))


def test_an_a100s_instructions_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    device = torch.device("cuda")
    assert compiler.kinds(device) == {
        "mma", "mma.sp", "int8", "int8.sp", "stem", "wgmma", "wgmma.sp",
    }  # fmt: skip
    monkeypatch.setenv("COMPRESS_FUSED_ARCH", "80")
    assert compiler.kinds(device) == {"mma", "mma.sp", "int8", "int8.sp", "stem"}
    assert compiler.only_a100()
    monkeypatch.setenv("COMPRESS_FUSED_ARCH", "ampere")
    with pytest.raises(UsageError, match="COMPRESS_FUSED_ARCH is 80 or 90, not 'ampere'"):
        compiler.kinds(device)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.9]))
def test_fragments_of_2to4_weights_hold_every_weight(seed, dropped):
    """Read back as the PTX manual says: values by lane, places by the bits of two lanes a row."""
    draw = torch.Generator().manual_seed(seed)
    weight = two_of_four(torch.randn(16, 32, 5, 5, generator=draw))
    weight *= torch.rand(weight.shape, generator=draw) >= dropped  # fewer than two are 2:4, too
    values, words = fragments.window_mma_sparse(weight)
    words = words.view(5, 3, 32).to(torch.int64) & 0xFFFFFFFF
    for dx, dy in ((0, 0), (3, 4)):
        lanes, word, half = values[dx, 0, dy, 0], words[dx, dy // 2], dy % 2
        for row in range(16):
            got = torch.zeros(32)
            for group in range(8):
                lane = row % 8 * 4
                pair = lanes[lane + group % 4, (row >= 8) + 2 * (group >= 4)]
                bits = int(word[lane + 2 * half + group // 4]) >> (16 * (row >= 8) + group % 4 * 4)
                got[4 * group + (bits & 3)] = pair[0]
                got[4 * group + (bits >> 2 & 3)] = pair[1]
            channel = 2 * row if row < 8 else 2 * row - 15
            assert torch.equal(got, weight[channel, :, dy, dx])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 5]), st.sampled_from([32, 64]))
def test_operands_of_sparse_wgmma_hold_every_weight_and_zeros_around(seed, side, inside):
    """The 64 rows of an input row's product: output row 1, then output row 0."""
    draw = torch.Generator().manual_seed(seed)
    weight = two_of_four(torch.randn(32, inside, side, side, generator=draw))
    values, words = fragments.window_wgmma_sparse(weight)
    words = words.to(torch.int64) & 0xFFFFFFFF  # (pairs of products, warp, lane)
    steps = inside // 32
    for at, dx, k in ((0, 0, 0), (1, side - 1, steps - 1), (side, 1, 0)):
        product = (at * side + dx) * steps + k
        for row in (0, 7, 21, 33, 63):
            stored = values[dx, k, :, at + row // 32, row % 32].flatten()
            got = torch.zeros(32)
            for group in range(8):
                lane = row % 8 * 4 + 2 * (product % 2) + group // 4
                word = int(words[product // 2, row // 16, lane])
                bits = word >> (16 * (row // 8 % 2) + group % 4 * 4)
                got[4 * group + (bits & 3)] = stored[2 * group]
                got[4 * group + (bits >> 2 & 3)] = stored[2 * group + 1]
            channel = row % 32 // 16 * 16 + row % 8 * 2 + row // 8 % 2
            dy = at - 1 + row // 32
            within = weight[channel, 32 * k : 32 * k + 32, dy, dx] if 0 <= dy < side else 0 * got
            assert torch.equal(got, within)


def test_what_is_not_2to4_is_no_sparse_fragment():
    for made in (fragments.window_mma_sparse, fragments.window_wgmma_sparse):
        with pytest.raises(ValueError, match="not 2:4"):
            made(torch.ones(32, 32, 5, 5))


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_2to4_weight_survives_its_compression(out, fours, seed):
    draw = torch.Generator().manual_seed(seed)
    weight = two_of_four(torch.randn(out, 4 * fours, 3, 3, generator=draw))
    values, index = stored.compressed(weight)
    assert values.numel() * 2 == weight.numel()
    assert len(index) == -(-weight.numel() // 8)
    assert torch.equal(stored.restored(values, index), weight)
    assert stored.is_two_of_four(weight)
    assert not stored.is_two_of_four(torch.ones_like(weight))


PLAN, _ = compiled(network(bottleneck=16, decoder=16))


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_the_cheapest_way_through_a_plan_is_the_cheapest(draw):
    ops, pairs = singles(PLAN), merges(PLAN)
    times = {str(one): draw.random() for one in [*ops, *pairs.values()]}
    best = cheapest(PLAN, lambda unit: times[str(unit)])
    assert [op for unit in best for op in report.parts(unit)] == ops
    least = [0.0, math.inf]  # from the end: each operation by itself, or with the next
    for at in reversed(range(len(ops))):
        together = times[str(pairs[at])] + least[1] if at in pairs else math.inf
        least.insert(0, min(times[str(ops[at])] + least[0], together))
    assert sum(times[str(unit)] for unit in best) == pytest.approx(least[0])
    chosen = {str(unit) for unit in best}
    assert route(PLAN, lambda pair: str(pair) in chosen) == best


def test_a_max_pool_joins_the_stem_or_the_first_bottleneck():
    stem, chain = merges(PLAN)[0], merges(PLAN)[1]
    assert stem.second == chain.first
    for fast in (stem, chain):
        best = cheapest(PLAN, lambda unit, fast=fast: 1.0 if unit == fast else 2.0)
        assert fast in best[:2]
        assert route(PLAN, lambda pair, best=best: pair in best) == best


def test_a_sidecar_tells_kernel_time_and_floor_of_every_layer():
    plan, tensors = compiled(halved(network(bottleneck=16, decoder=16)))
    session = Session(plan, tensors, (2, 32, 32), kernels=False)
    cut = candidates(TASKS["16-16"], 32, 32, frozenset({"mma.sp"}), ROOM)[0]
    units = cheapest(plan, lambda unit: 0.5 if isinstance(unit, Layer) else 1.0)
    cuts = [cut if isinstance(unit, Layer) else None for unit in units]
    cuts[0] = candidates(Task(inside=1, out=16, x=1, y=32), 32, 32, frozenset({"stem"}), ROOM)[0]
    found = choose.Found(
        choices=Choices(), units=[(*one, 0.004) for one in zip(units, cuts, strict=True)]
    )
    facts = report.facts(session, found)
    assert facts["sparsity"] == {"eligible": 20, "picked": 20}
    names = {op.name for op in plan.convs()} | {op.then for op in plan.convs() if op.then}
    assert set(facts["kernels"]) == {f"{name}.conv" for name in names}
    first, second = (facts["kernels"][f"blocks.0.1.{n}.conv"] for n in ("bottleneck", "growth"))
    assert first["kernel"] == "CUDA, mma.sp (2:4)"
    assert facts["kernels"]["decoders.3.wide.conv"]["kernel"] == "CUDA, bilinear x2 + mma.sp (2:4)"
    stem = facts["kernels"]["stem.conv"]
    assert stem["kernel"] == "CUDA, mma + max-pool"
    assert stem["floor_us"] > report.floor_us(session, units[0].conv)
    assert first["us"] == pytest.approx(2.0)
    assert second == {
        "kernel": "in that of blocks.0.1.bottleneck", "sparse": True, "us": None, "floor_us": None,
    }  # fmt: skip
    assert "blocks.0.1.growth.conv" in facts["picked"]
    assert "blocks.0.1.bottleneck.conv" not in facts["eligible"]
