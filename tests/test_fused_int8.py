"""INT8 in the fused engine without a GPU: emulated kernels, plan, file, and what is refused."""

import random
import re
import shutil
from dataclasses import replace

import emulated
import pytest
import torch
from emulated import broken
from fused_cases import (
    FIVES,
    Case,
    conv_case,
    error,
    exact,
    exact_layer,
    halved,
    layer_case,
    mixed_case,
    network,
    ranged,
    two_of_four,
    untouched,
    unwritten,
    whole_numbers,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from compress.base.errors import UsageError
from compress.engines import fused
from compress.engines.base import NotBuilt, Shape
from compress.engines.kernels import choose, plain, report
from compress.engines.kernels import jobs as jobs_of
from compress.engines.kernels.cuda import compiler, fragments, launch
from compress.engines.kernels.cuda.products import Kind, products
from compress.engines.kernels.cuda.window import Task, Window, candidates, shared
from compress.engines.kernels.plan import Chain, Conv, compiled
from compress.engines.kernels.plan_json import from_json, to_json
from compress.engines.kernels.route import merges
from compress.engines.kernels.session import Choices, Session
from compress.graph.rewrite import deconv_to_conv
from compress.quantization import quantisers

pytestmark = pytest.mark.filterwarnings("ignore")  # ModelOpt's own, on import
KINDS: list[Kind] = ["int8", "int8.sp"]
ROOM = 163 * 1024
LIMIT = 2e-3
"""A value on a rounding edge moves an output by less: one step of 127 times one of 400 weights."""
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
needs_nvrtc = pytest.mark.skipif(not compiler.available(), reason="needs NVIDIA's NVRTC")


def cuts(op: Conv, before, case: Case, kind: Kind) -> list[Window]:
    """All cuts of a convolution, in strips of eight rows."""
    task = launch.task(op, before, lambda name: case.buffers[name].strides[2])
    assert task is not None
    assert task.int8
    return [replace(one, strip=8) for one in candidates(task, 64, 512, frozenset({kind}), ROOM)]


def of(case: Case):
    return case.buffers, case.tensors, case.image


# What is read, output channels, those of the 1x1 behind, and whether the image is added.
CONVS = [
    ((16,), 16, 0, False), ((64,), 16, 0, False), ((16, 16), 32, 16, False),
    ((16, 16), 16, 1, True), ((16, 16), 32, 1, True),
]  # fmt: skip


def numbered(cases):
    return [(index, *case) for index, case in enumerate(cases)]


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("which", "slots", "out", "then", "residual"), numbered(CONVS[:4]))
def test_cuts_compute_what_the_rounded_network_does(
    emulator, kind, which, slots, out, then, residual
):
    """A third of the cuts of each convolution; on a GPU all run."""
    more = {"then": then, "residual": residual, "sparse": kind == "int8.sp", "int8": True}
    op, case = conv_case(5, slots, out, (1, 9, 70), dtype=torch.float16, **more)
    for one in cuts(op, None, case, kind)[which % 3 :: 3]:
        assert error(op, case, launch.call(op, None, *of(case), one)) < LIMIT, one


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("slots", "out", "then", "residual"), [*CONVS, ((13, 9), 27, 11, False)])
@pytest.mark.parametrize("size", [5, 3])
def test_small_images_and_odd_widths(emulator, kind, size, slots, out, then, residual):
    if kind == "int8.sp" and sum(slots) % 16:
        return
    more = {"then": then, "residual": residual, "sparse": kind == "int8.sp", "int8": True}
    for shape in [(1, 1, 1), (2, 5, 3), (1, 18, 67)]:
        op, case = conv_case(size, slots, out, shape, dtype=torch.float16, **more)
        one = random.Random(size + out).choice(cuts(op, None, case, kind))
        limit = LIMIT * (4 if min(shape) < 3 else 1)
        assert error(op, case, launch.call(op, None, *of(case), one)) < limit, (shape, one)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [16, 32, 64])
def test_sums_of_whole_numbers_are_exact(emulator, kind, channels):
    """Values go to the nearest, 127 and -128 at most; all as float16 holds them."""
    op, case = whole_numbers(channels, (1, 12, 40), sparse=kind == "int8.sp")
    expected = exact(op, case)
    assert expected.abs().max() < 2048
    for one in cuts(op, None, case, kind)[::6]:
        launch.call(op, None, *of(case), one)()
        got = case.buffers["y"].nchw(op.target.start, 16).double()
        positive = expected >= 0
        assert positive.double().mean() > 0.3
        assert torch.equal(got[positive], expected[positive])
        assert (got - expected).abs().max() < 2e-3 * expected.abs().max()


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("slots", "middle", "size"), [((16, 16, 16), 64, 5), ((16, 16), 16, 5), ((16, 16), 32, 3)]
)
def test_a_bottleneck_inside_is_rounded_and_never_stored(emulator, kind, slots, middle, size):
    for shape in [(1, 9, 70), (2, 3, 2)]:
        more = {"sparse": kind == "int8.sp", "size": size, "int8": True}
        before, op, case = layer_case(slots, middle, 16, shape, **more)
        expected = exact_layer(before, op, case)
        for one in cuts(op, before, case, kind)[:: 6 if shape[0] == 1 else 9]:
            case.buffers["y"].inside[..., 8:-8] = float("nan")
            case.buffers["middle"].inside.fill_(float("nan"))
            launch.call(op, before, *of(case), one)()
            assert case.buffers["middle"].inside.isnan().all()
            assert untouched(case.buffers["y"])
            got = case.buffers["y"].nchw(op.target.start, op.target.channels).double()
            assert (got - expected).abs().max() < LIMIT * expected.abs().max(), one


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("slots", "out", "then", "residual", "size"),
    [((16, 16), 32, 16, False, 5), ((16, 16), 16, 1, True, 5), ((8, 24), 16, 0, False, 3),
     ((32, 32), 16, 0, False, 5)],
)  # fmt: skip
def test_an_upsampling_inside_has_the_bits_of_two_kernels(
    emulator, kind, slots, out, then, residual, size
):
    for shape in [(1, 1, 1), (1, 7, 37)]:
        more = {"then": then, "residual": residual, "sparse": kind == "int8.sp", "size": size}
        up, op, case = mixed_case(slots, out, shape, int8=True, **more)
        result = case.buffers[op.target.buffer].nchw(op.target.start, op.target.channels)
        for one in cuts(op, up, case, kind)[1::7]:
            plain.upsample(up, case.buffers)
            limit = LIMIT * (4 if min(shape) < 3 else 1)
            assert error(op, case, launch.call(op, None, *of(case), one)) < limit
            two = result.clone()
            part = unwritten(up, case)
            result.fill_(float("nan"))
            launch.call(op, up, *of(case), one)()
            assert part.isnan().all()
            # moves.cu rounds as the kernel does, PyTorch need not: a step, now and then
            assert (result - two).abs().max() < LIMIT * two.abs().max(), one


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [("int8", "copy_wait<STAGES - 2>()", "copy_wait<STAGES - 1>()"),
     ("int8.sp", "__syncthreads();", ""),
     ("int8.sp", "(r.arrived & 1) * MIDDLE", "0"), ("int8.sp", "(step & 1) * MIDDLE", "0"),
     ("int8", "r.slot == 0 ? STAGES - 1 : r.slot - 1", "r.slot")],
)  # fmt: skip
def test_the_emulator_sees_a_wait_or_a_barrier_that_is_missing(
    emulator, monkeypatch, kind, right, wrong
):
    sparse = kind == "int8.sp"
    op, case = conv_case(5, (32,), 16, (1, 16, 70), sparse=sparse, dtype=torch.float16, int8=True)
    one = cuts(op, None, case, kind)[1]
    with broken(monkeypatch, right, wrong), pytest.raises(emulated.Race):
        launch.call(op, None, *of(case), one)()


@needs_compiler
@pytest.mark.parametrize(
    ("channels", "right", "wrong"),
    [(16, "inside ? low_bytes", "known ? low_bytes"), (16, "s.x0 - PAD + pixel", "s.x0 + pixel"),
     (16, "w.before[block][tap - 1][piece] = value", "w.before[block][tap - 1][piece] = 0"),
     (16, "across * TAPS, k", "across, k"), (64, "+ k * K)", ")"),
     (16, "down = DOWN - 1", "down = DOWN - 2")],
)  # fmt: skip
def test_the_tests_see_a_wrong_pixel_or_channel(emulator, monkeypatch, channels, right, wrong):
    op, case = conv_case(5, (channels,), 16, (1, 9, 70), dtype=torch.float16, int8=True)
    one = cuts(op, None, case, "int8")[1]
    with broken(monkeypatch, right, wrong):
        assert not error(op, case, launch.call(op, None, *of(case), one)) < LIMIT


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([3, 5]), st.sampled_from([16, 32, 64]),
    st.sampled_from(KINDS),
)  # fmt: skip
def test_fragments_hold_every_weight_once(seed, side, inside, kind):
    """Read back as the PTX manual says, then tap by tap as window_int8.cu counts them."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (32, inside, side, side), generator=draw).to(torch.int8)
    if kind == "int8.sp":
        weight = two_of_four(weight)
    values, *words = fragments.window_int8(weight, kind)
    about = products(side, inside, kind)
    assert values.shape == (2 * about.count, 32, 4, 4)
    got = torch.zeros(32, inside, side, side, dtype=torch.int64)
    matrices = [read_back(*one) for one in zip(values, *words, strict=True)]
    for at, (matrix, (taps, step, m)) in enumerate(zip(matrices, places(about), strict=True)):
        for tap, (dy, dx) in enumerate(taps):
            width = min(inside, about.k)
            part = matrix[:, tap * width : (tap + 1) * width]
            if dy not in range(side) or dx not in range(side):
                assert not part.any(), at
                continue
            channels = [m * 16 + (2 * row if row < 8 else 2 * row - 15) for row in range(16)]
            got[channels, step * width : (step + 1) * width, dy, dx] += part
    assert torch.equal(got, weight.long())


def read_back(values: torch.Tensor, words: torch.Tensor | None = None) -> torch.Tensor:
    """The matrix (16, K) of a fragment (32, 4, 4), and of the metadata of its lanes."""
    matrix = torch.zeros(16, 32 if words is None else 64, dtype=torch.int64)
    for lane in range(32):
        for word in range(4):
            row = lane // 4 + 8 * (word % 2)
            for i in range(4):
                column = stored = 4 * (lane % 4) + 16 * (word // 2) + i
                if words is not None:
                    group = stored // 2
                    bits = int(words[lane // 4 * 4 + 2 * (group // 8) + word % 2]) & 0xFFFFFFFF
                    column = 4 * group + (bits >> 4 * (group % 8) + 2 * (stored % 2) & 3)
                matrix[row, column] += int(values[lane, word, i])
    return matrix


def places(about):
    """The taps of each product, its step of channels and its 16 output channels, in order."""
    for across in range(about.across):
        row = range(across * about.taps, (across + 1) * about.taps)
        for step in range(about.steps):
            for dy in range(about.side):
                for m in (0, 1):
                    yield [(dy, dx) for dx in row], step, m
    for down in range(about.down):
        last = min((down + 1) * about.taps - 1, about.side - 1)
        column = range(last - about.taps + 1, last + 1)
        for m in (0, 1):
            known = [(dy if dy >= down * about.taps else -1, about.side - 1) for dy in column]
            yield known, 0, m


TASKS = {
    "16-16": Task(inside=16, out=16, x=16, y=80, int8=True),
    "64-16": Task(inside=64, out=16, x=64, y=80, int8=True),
    "48-64-16": Task(inside=64, out=16, bottleneck=48, x=80, y=80, int8=True),
    "48-16-16": Task(inside=16, out=16, bottleneck=48, x=80, y=80, int8=True),
    "16 + 32-32-1": Task(
        inside=32, out=32, then=1, then_activate=False, residual=True, x=32, y=1, upsampled=16,
        low=16, int8=True,
    ),
    "16 + 32-16-16": Task(
        inside=32, out=16, then=16, upsampled=16, low=16, x=32, y=16, int8=True
    ),
    "3x3 64-16": Task(side=3, inside=64, out=16, x=64, y=80, int8=True),
}  # fmt: skip
SPILLED = 32
"""Bytes of registers that may go to local memory."""


@needs_nvrtc
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_kernels_compile_and_keep_their_registers(name, kind, target):
    task = TASKS[name]
    made = {(one.warps, one.blocks, one.rows, one.resident, one.registers): one
            for one in candidates(task, 512, 512, frozenset({kind}), ROOM)}  # fmt: skip
    for one in list(made.values())[:3]:
        code, said = compiler.compile_cubin(compiler.source(task, one), target)
        assert code[:4] == b"\x7fELF"
        registers = int(re.search(r"Used (\d+) registers", said)[1])
        assert registers * one.threads * one.resident <= 65536
        assert int(re.search(r"(\d+) bytes spill stores", said)[1]) <= SPILLED, one


def test_cuts_fit_their_gpu():
    for task in TASKS.values():
        found = candidates(task, 256, 256, frozenset(KINDS), ROOM)
        assert {one.kind for one in found} == set(KINDS)
        assert all(shared(task, one) <= ROOM for one in found)
        assert not candidates(replace(task, int8=False), 256, 256, frozenset(KINDS), ROOM)


def quantised(net: nn.Module, *ends: str, sparse: bool = True) -> nn.Module:
    """A network with 2:4 weights and ModelOpt's quantisers in the layers with these ends."""
    net = (halved(net) if sparse else deconv_to_conv(net)).float().eval()
    names = {name for name, one in net.named_modules() if isinstance(one, nn.Conv2d)}
    chosen = {name for name in names if name.endswith(ends or FIVES)}
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    return quantisers.calibrated(net, chosen, [x], "max")[0]


def image(height: int = 32, width: int = 16) -> torch.Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(1))


def relative(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("options", [{}, {"bottleneck": 16, "decoder": 16}])
def test_the_plan_computes_what_the_checkpoint_says(options):
    net = quantised(network(residual=True, **options))
    plan, tensors = compiled(net)
    assert [op.name for op in plan.convs() if op.int8] == [
        f"{name}".removesuffix(".conv") for name in quantisers.quantised(net)
    ]
    assert all(op.sparse for op in plan.convs() if op.int8)
    x = image()
    session = Session(plan, tensors, (1, 32, 16), dtype=torch.float64, kernels=False)
    with torch.no_grad():
        expected, rounded_less = net(x), quantisers.plain(net)(x)
    assert relative(session(x), expected) < 1e-4
    assert relative(rounded_less, expected) > 1e-3  # or the test would see nothing
    half = Session(plan, tensors, (1, 32, 16), kernels=False)
    assert relative(half(x), expected) < relative(rounded_less, expected)


def test_the_tests_on_a_gpu_have_the_quantisers_that_modelopt_makes():
    net, x = halved(network(bottleneck=16, decoder=16)).float(), image()
    names = {name for name, _ in net.named_modules() if name.endswith(FIVES)}
    plan, tensors = compiled(quantisers.calibrated(net, names, [x], "max")[0])
    alike, others = compiled(ranged(net, x))
    assert alike == plan
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_a_layer_without_an_int8_kernel_is_refused_and_the_way_out_is_said():
    net = network(bottleneck=16, decoder=16)
    with pytest.raises(UsageError) as caught:
        compiled(quantised(net, "stem.conv", "bottleneck.conv", *FIVES))
    said = str(caught.value)
    assert said.startswith("fused: stem.conv, blocks.0.0.bottleneck.conv, ")
    assert " and 14 more cannot be INT8" in said
    assert said.endswith('quantize: {only: ["*.growth.conv", "*.wide.conv"]}')
    with pytest.raises(UsageError, match=r"^fused: decoders\.0\.narrow\.conv, .* cannot be INT8"):
        compiled(quantised(net, "narrow.conv"))
    widths = {"blocks.1.2.bottleneck.conv": 24}
    with pytest.raises(UsageError, match=r"^fused: blocks\.1\.2\.growth\.conv cannot be INT8"):
        compiled(quantised(network(widths=widths, bottleneck=16, decoder=16), *FIVES))


def test_without_nvidias_packages_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "available", lambda: False)
    net = quantised(network(bottleneck=16, decoder=16))
    with pytest.raises(NotBuilt, match="INT8 layers need NVIDIA's packages") as caught:
        fused.Fused().build(net, Shape(batch=1, size=32), tmp_path / "e", torch.device("cpu"))
    assert caught.value.command == "pip install cuda-bindings nvidia-cuda-nvrtc"


def test_a_file_holds_int8_and_gives_the_same(tmp_path):
    plan, tensors = compiled(quantised(network(bottleneck=16, decoder=16)))
    fused.save(plan, tensors, tmp_path / "e.safetensors")
    held = load_file(tmp_path / "e.safetensors")
    assert held["blocks.0.0.growth.values24"].dtype == torch.int8
    assert held["blocks.0.0.growth.values24"].numel() == 16 * 16 * 25 // 2
    here = fused.load(tmp_path / "e.safetensors", "cpu", kernels=False)
    assert here.plan == plan == from_json(to_json(plan))
    there = fused.Engine(plan, {k: v.float() for k, v in tensors.items()}, {}, kernels=False)
    assert torch.equal(here(image()), there(image()))


def test_nothing_but_int8_kernels_is_measured_for_an_int8_layer(as_on_hopper):
    net = quantised(network(bottleneck=16, decoder=16), sparse=False)
    plan, tensors = compiled(net)
    session = Session(plan, tensors, (1, 32, 16))
    found = {key: job for key, job in jobs_of.jobs(session).items() if "int8" in key}
    assert len(found) == len({session.key(one) for one in found_units(plan)}) > 10
    assert all(not job.first for job in found.values())
    assert {cut.kind for job in found.values() for cut in job.cuda} == {"int8"}
    triton = [pair for pair in merges(plan).values() if isinstance(pair, Chain)]
    assert not any(isinstance(pair.first, Conv) and pair.first.int8 for pair in triton)


def found_units(plan):
    """Convolutions in INT8, and the layers that they are a part of."""
    alone = [op for op in plan.convs() if op.int8]
    return [*alone, *(one for one in merges(plan).values() if not isinstance(one, Chain)
                      and one.conv.int8)]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("options", [{}, {"kernels": [3, 3, 5, 3, 3]}])
def test_a_whole_2to4_network_of_these_kernels(as_on_hopper, options):
    net = quantised(network(bottleneck=16, decoder=16, residual=True, **options))
    plan, tensors = compiled(net)
    shape, draw = (1, 32, 16), random.Random(0)
    found = jobs_of.jobs(Session(plan, tensors, shape))
    sparse = {key: list(job.cuda) for key, job in found.items() if job.cuda}
    kinds = {one.kind for key, some in sparse.items() if "int8" in key for one in some}
    assert kinds == {"int8.sp"}
    assert sum("int8" in key for key in sparse) > 20
    merged = {key for key in sparse if found[key].merged and draw.random() < 0.4}
    choices = Choices(
        layer={key: draw.choice(sparse[key]) for key in sorted(merged)},
        conv={k: cut[0] for k, cut in sparse.items() if found[k].size > 1 and not found[k].merged},
        move={k: cut[0] for k, cut in sparse.items() if not found[k].size},
    )
    session = Session(plan, tensors, shape, choices=choices, poison=True)
    x = image()
    with torch.no_grad():
        expected, less = net(x), quantisers.plain(net)(x)
    half = Session(plan, tensors, shape, kernels=False)(x)
    off, rounding = relative(session(x), expected), relative(half, expected)
    assert off < max(1e-3, 2 * rounding), (off, rounding)
    assert off < relative(less, expected) / 2
    units = [(unit, _cut(session, unit), 0.004) for unit in session.units]
    facts = report.facts(session, choose.Found(choices=choices, units=units))
    assert facts["sparsity"] == {"eligible": 20, "picked": 20}
    assert facts["kernels"]["blocks.0.1.growth.conv"]["sparse"]
    words = {row["kernel"] for row in facts["kernels"].values()}
    assert {"CUDA, mma.sp (INT8, 2:4)", "CUDA, bilinear x2 + mma.sp (INT8, 2:4)"} & words


def _cut(session, unit):
    chosen = session.choices.conv | session.choices.layer | session.choices.move
    return chosen.get(session.key(unit))
