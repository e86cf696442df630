"""The kernels in CUDA C++ on a GPU: every cut against float64, and whole networks made of them."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fused_cases import (
    conv_case,
    error,
    exact,
    exact_layer,
    halved,
    layer_case,
    mixed_case,
    move_case,
    network,
    ranged,
    stem_case,
    stem_error,
    unwritten,
    whole_numbers,
)

from compress.engines import fused
from compress.engines.base import Shape
from compress.engines.kernels import plain, rounding, tune
from compress.engines.kernels.cuda import compiler, launch, moves
from compress.engines.kernels.cuda.products import DENSE_INT8, SPARSE
from compress.engines.kernels.cuda.window import Task, Window, candidates
from compress.engines.kernels.jobs import jobs
from compress.engines.kernels.plan import Chain, Pool, Upsample, compiled
from compress.engines.kernels.session import Choices, Session

pytest.importorskip("cuda.bindings", reason="needs NVIDIA's Python packages")
CUDA = torch.device("cuda")
ROOT = Path(__file__).parents[2]
LIMIT = 2e-3
SHAPES = [(1, 1, 1), (5, 4, 130), (2, 37, 70), (1, 150, 40)]
CONVS = [
    ((64,), 32, 0, False),
    ((16,), 16, 0, False),
    ((64,), 16, 0, False),
    ((16, 16), 16, 16, False),
    ((16, 16), 32, 16, False),
    ((16, 16), 32, 1, True),
    ((16, 16), 16, 1, True),
    ((13, 9), 27, 11, False),
]
"""Parts read, output channels, those of the 1x1 behind, and whether the image is added."""


MIXED = [*CONVS[4:], ((16, 16), 16, 16, False), ((8, 24), 16, 0, False), ((32, 32), 16, 0, False)]
"""The same, where the first part is upsampled."""


INT8 = [((16,), 16, 0, False), ((64,), 16, 0, False), *CONVS[3:], ((32,), 32, 16, False)]
"""As CONVS."""


def cuts(
    task: Task | None, shape: tuple[int, int, int], sparse: bool, step: int = 1
) -> list[Window]:
    """Every `step`-th cut, compiled, in strips of a drawn height."""
    assert task is not None
    kinds = compiler.kinds(CUDA) - (DENSE_INT8 if sparse else SPARSE)
    found = candidates(task, *shape[1:], kinds, compiler.room(CUDA))[::step]
    compiler.ahead([compiler.source(task, cut) for cut in found], CUDA)
    return [replace(cut, strip=draw) for cut, draw in zip(found, _strips(len(found)), strict=True)]


def _strips(count: int) -> list[int]:
    draw = random.Random(count)
    return [draw.choice([4, 8, 20, 64]) for _ in range(count)]


def tight(shape: tuple[int, int, int]) -> float:
    """More where an image is smaller than the window, see test_fused_gpu.py; an image of one pixel
    may be a single value, in which sums cancel."""
    if min(shape[1:]) >= 5:
        return LIMIT
    return LIMIT * (8 if shape[1:] == (1, 1) else 4)


@pytest.mark.parametrize(("slots", "out", "then", "residual"), CONVS)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [5, 3])
def test_a_convolution_in_every_cut(size, slots, out, then, residual, sparse):
    for shape in SHAPES:
        if sparse and sum(slots) % 16:
            continue
        more = {"then": then, "residual": residual, "sparse": sparse, "dtype": torch.float16}
        op, case = conv_case(size, slots, out, shape, **more)
        case = case.to("cuda")
        task = launch.task(op, None, lambda name, case=case: case.buffers[name].strides[2])
        for cut in cuts(task, shape, sparse):
            call = launch.call(op, None, case.buffers, case.tensors, case.image, cut)
            assert error(op, case, call) < tight(shape), (shape, cut)


@pytest.mark.parametrize(("slots", "out", "then", "residual"), INT8)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [5, 3])
def test_a_convolution_in_int8_in_its_cuts(size, slots, out, then, residual, sparse):
    for shape in SHAPES:
        if sparse and sum(slots) % 16:
            continue
        more = {"then": then, "residual": residual, "sparse": sparse, "dtype": torch.float16}
        op, case = conv_case(size, slots, out, shape, int8=True, **more)
        case = case.to("cuda")
        task = launch.task(op, None, lambda name, case=case: case.buffers[name].strides[2])
        for cut in cuts(task, shape, sparse, 1 if size == 5 else 3):
            call = launch.call(op, None, case.buffers, case.tensors, case.image, cut)
            assert error(op, case, call) < tight(shape), (shape, cut)


@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("sparse", [False, True])
def test_int8_sums_of_whole_numbers_are_exact(channels, sparse):
    """Also what fragments and metadata are proven by: each weight meets its own input."""
    op, case = whole_numbers(channels, (2, 37, 150), sparse=sparse)
    case = case.to("cuda")
    expected = exact(op, case)
    assert expected.abs().max() < 2048
    task = launch.task(op, None, lambda name: case.buffers[name].strides[2])
    for cut in cuts(task, (2, 37, 150), sparse):
        case.buffers["y"].inside[..., 8:-8] = float("nan")
        launch.call(op, None, case.buffers, case.tensors, case.image, cut)()
        got = case.buffers["y"].nchw(op.target.start, 16).double()
        assert torch.equal(got[expected >= 0], expected[expected >= 0]), cut
        assert (got - expected).abs().max() < 2e-3 * expected.abs().max(), cut


def test_the_stem_in_every_cut():
    for shape in [*SHAPES, (3, 200, 333)]:
        op, case = conv_case(7, (1,), 16, shape, dtype=torch.float16)
        case = case.to("cuda")
        task = launch.task(op, None, lambda name, case=case: case.buffers[name].strides[2])
        for cut in cuts(task, shape, False):
            call = launch.call(op, None, case.buffers, case.tensors, case.image, cut)
            assert error(op, case, call) < tight(shape), (shape, cut)


@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_the_stem_and_its_max_pool_in_every_cut(shift):
    for shape in [*SHAPES, (3, 200, 333), (2, 512, 512)]:
        layer, case = stem_case(shape, shift)
        case = case.to("cuda")
        channels = lambda name, case=case: case.buffers[name].strides[2]  # noqa: E731
        task = launch.task(layer.conv, None, channels, layer.pool)
        for cut in cuts(task, shape, False):
            given = case.buffers, case.tensors, case.image, cut
            call = launch.call(layer.conv, None, *given, pool=layer.pool)
            assert stem_error(layer, case, call) < tight(shape), (shape, cut)


@pytest.mark.parametrize(("slots", "middle"), [((16,), 64), ((16,) * 4, 64), ((16,) * 3, 16)])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [5, 3])
def test_a_bottleneck_inside_a_convolution(size, slots, middle, sparse):
    for shape in SHAPES:
        before, op, case = layer_case(slots, middle, 16, shape, sparse=sparse, size=size)
        case = case.to("cuda")
        plain.conv(before, case.buffers, case.tensors, case.image)
        task = launch.task(op, before, lambda name, case=case: case.buffers[name].strides[2])
        for cut in cuts(task, shape, sparse):
            call = launch.call(op, before, case.buffers, case.tensors, case.image, cut)
            assert error(op, case, call) < tight(shape), (shape, cut)


@pytest.mark.parametrize(("slots", "middle"), [((16,), 64), ((16,) * 3, 32), ((16,) * 3, 16)])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [5, 3])
def test_a_bottleneck_inside_a_convolution_in_int8(size, slots, middle, sparse):
    for shape in SHAPES:
        more = {"sparse": sparse, "size": size, "int8": True}
        before, op, case = layer_case(slots, middle, 16, shape, **more)
        case = case.to("cuda")
        expected = exact_layer(before, op, case)
        task = launch.task(op, before, lambda name, case=case: case.buffers[name].strides[2])
        for cut in cuts(task, shape, sparse, 1 if size == 5 else 3):
            case.buffers["y"].inside[..., 8:-8] = float("nan")
            launch.call(op, before, case.buffers, case.tensors, case.image, cut)()
            got = case.buffers["y"].nchw(op.target.start, op.target.channels).double()
            off = float((got - expected).abs().max() / expected.abs().max())
            # The weights of the 1x1 in float16 alone move values over edges of the rounding.
            assert off < 2 * tight(shape), (shape, cut)


@pytest.mark.parametrize(("slots", "out", "then", "residual"), MIXED)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [5, 3])
@pytest.mark.parametrize("int8", [False, True], ids=["fp16", "int8"])
def test_an_upsampling_inside_a_convolution_has_the_bits_of_two_kernels(
    int8, size, slots, out, then, residual, sparse
):
    for shape in [(1, 1, 1), (5, 2, 65), (2, 19, 35), (1, 75, 20)]:
        if sparse and sum(slots) % 16:
            continue
        more = {"then": then, "residual": residual, "sparse": sparse, "size": size}
        up, op, case = mixed_case(slots, out, shape, int8=int8, **more)
        compare_mixed(up, op, case.to("cuda"), sparse, step=3 if int8 else 1)


def compare_mixed(up, op, case, sparse, step=1):
    """One kernel and two, cut by cut; the one stores nothing of the upsampled part."""
    moves.call(up, case.buffers, moves.Move(strip=4))()
    x, mixed = case.buffers["x"], case.buffers["x"].whole.clone()
    task = launch.task(op, up, lambda name: case.buffers[name].strides[2])
    shape = len(x.whole), x.height, x.width
    result = case.buffers[op.target.buffer].nchw(op.target.start, op.target.channels)
    for cut in cuts(task, shape, sparse, step):
        given = case.buffers, case.tensors, case.image, cut
        x.whole.copy_(mixed)
        launch.call(op, None, *given)()
        two = result.clone()

        def run(given=given):
            part = unwritten(up, case)
            result.fill_(float("nan"))
            launch.call(op, up, *given)()
            assert part.isnan().all()

        assert error(op, case, run) < tight(shape), (shape, cut)
        assert torch.equal(result, two), (shape, cut)


@pytest.mark.parametrize("size", [5, 3])
@pytest.mark.parametrize(("sparse", "out"), [(False, 16), (True, 16), (True, 32)])
@pytest.mark.parametrize("int8", [False, True], ids=["fp16", "int8"])
def test_a_few_blocks_of_an_upsampling_inside_to_be_sanitized(int8, sparse, out, size):
    """Small enough for `compute-sanitizer --tool racecheck`; wgmma.sp is for 32 outputs."""
    more = {"sparse": sparse, "size": size, "int8": int8}
    up, op, case = mixed_case((16, 16), out, (1, 6, 35), then=16, **more)
    compare_mixed(up, op, case.to("cuda"), sparse, step=3)


@pytest.mark.parametrize("size", [5, 3])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("int8", [False, True], ids=["fp16", "int8"])
def test_a_few_blocks_of_every_kind_to_be_sanitized(int8, sparse, size):
    """Small enough for `compute-sanitizer --tool racecheck`."""
    more = {"sparse": sparse, "size": size, "int8": int8}
    before, op, case = layer_case((16, 16), 64, 16, (1, 12, 70), **more)
    case = case.to("cuda")
    plain.conv(before, case.buffers, case.tensors, case.image)
    for first in (before, None):
        task = launch.task(op, first, lambda name: case.buffers[name].strides[2])
        for cut in cuts(task, (1, 12, 70), sparse, 3):
            call = launch.call(op, first, case.buffers, case.tensors, case.image, cut)
            assert error(op, case, call) < (3 if int8 else 1) * LIMIT


def test_a_few_blocks_of_the_stem_to_be_sanitized():
    shape = (1, 12, 70)
    layer, case = stem_case(shape)
    case = case.to("cuda")
    for pool in (layer.pool, None):
        task = launch.task(layer.conv, None, lambda name: case.buffers[name].strides[2], pool)
        for cut in cuts(task, shape, False, 3):
            given = case.buffers, case.tensors, case.image, cut
            call = launch.call(layer.conv, None, *given, pool=pool)
            off = stem_error(layer, case, call) if pool else error(layer.conv, case, call)
            assert off < tight(shape), cut


def test_a_few_blocks_of_moves_to_be_sanitized():
    for kind in (Pool, Upsample):
        op, case = move_case(kind, 16, (1, 12, 70), torch.float16)
        case = case.to("cuda")
        for strip in moves.STRIPS:
            assert error(op, case, moves.call(op, case.buffers, moves.Move(strip=strip))) < LIMIT


@pytest.mark.parametrize("channels", [16, 5, 40])
@pytest.mark.parametrize("strip", moves.STRIPS)
def test_moves(channels, strip):
    for shape in SHAPES:
        for kind in (Pool, Upsample):
            op, case = move_case(kind, channels, shape, torch.float16)
            case = case.to("cuda")
            off = error(op, case, moves.call(op, case.buffers, moves.Move(strip=strip)))
            assert off < (LIMIT if kind is Upsample else 1e-9)


def relative(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y - expected).abs().max() / expected.abs().max())


def drawn(session: Session, draw: random.Random) -> Choices:
    """One of the kernels in CUDA C++ for whatever has some; now and then for a whole layer."""
    found = jobs(session)
    compiler.ahead([s for j in found.values() for c in j.cuda if (s := j.source(c))], CUDA)
    cut = {key: draw.choice(job.cuda) for key, job in found.items() if job.cuda}
    layers = {k: c for k, c in cut.items() if found[k].merged and draw.random() < 0.6}
    return Choices(
        conv={k: c for k, c in cut.items() if not found[k].merged and found[k].size},
        layer=layers,
        move={k: c for k, c in cut.items() if not found[k].size},
    )


def in_half(net):
    """The plan of a network, and its weights as an engine has them."""
    plan, tensors = compiled(net)
    return plan, rounding.in_half(plan, tensors)


@pytest.mark.parametrize(
    "options", [{}, {"bottleneck": 16, "decoder": 16}, {"kernels": [3, 3, 5, 3, 3]}]
)
@pytest.mark.parametrize("sparse", [False, True])
def test_whole_networks_of_these_kernels(options, sparse):
    net = network(residual=True, **options)
    net = (halved(net) if sparse else net).cuda()
    plan, tensors = in_half(net)
    for shape in [(1, 512, 512), (2, 176, 368), (16, 64, 64), (32, 32, 16)]:
        draw = random.Random(shape[0])
        choices = drawn(Session(plan, tensors, shape), draw)
        session = Session(plan, tensors, shape, choices=choices, poison=True)
        x = torch.rand(shape[0], 1, *shape[1:]).cuda()
        with torch.no_grad():
            expected = torch.cat([net(one[None].double()) for one in x])
        # Rounding to float16 between layers alone costs up to 4e-4 of these random networks.
        # Kernels round at the same places what they summed in another order.
        rounded = relative(Session(plan, tensors, shape, kernels=False)(x), expected)
        off = relative(session(x), expected)
        assert off < max(2e-4, 2 * rounded), (off, rounded, shape, choices)


@pytest.mark.parametrize(
    "options", [{}, {"bottleneck": 16, "decoder": 16}, {"kernels": [3, 3, 5, 3, 3]}]
)
@pytest.mark.parametrize("sparse", [False, True])
def test_whole_networks_in_int8_of_these_kernels(options, sparse):
    """Beside the plan in float64, which test_fused_int8.py compares with ModelOpt's network."""
    net = network(residual=True, **options)
    net = (halved(net) if sparse else net).cuda()
    net = ranged(net, torch.rand(2, 1, 64, 64).double().cuda())
    plan, tensors = in_half(net)
    for shape in [(1, 512, 512), (2, 176, 368), (16, 64, 64), (32, 32, 16)]:
        choices = drawn(Session(plan, tensors, shape), random.Random(shape[0]))
        assert sum("int8" in key for key in choices.conv) >= 8  # 4 blocks, 4 decoders
        session = Session(plan, tensors, shape, choices=choices, poison=True)
        x = torch.rand(shape[0], 1, *shape[1:]).cuda()
        exactly = {"dtype": torch.float64, "kernels": False}
        expected = Session(plan, tensors, shape, **exactly)(x)
        # Rounding to float16 between layers moves values over edges of the rounding to INT8.
        rounded = relative(Session(plan, tensors, shape, kernels=False)(x), expected)
        off = relative(session(x), expected)
        assert off < max(1e-3, 2 * rounded), (off, rounded, shape, choices)


def test_an_int8_engine_is_built_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "SECONDS", 15.0)
    net = halved(network(bottleneck=16, decoder=16, residual=True)).float().cuda()
    net, path = ranged(net, torch.rand(2, 1, 64, 64).cuda()), tmp_path / "e.safetensors"
    built = fused.Fused().build(net, Shape(batch=4, size=256), path, CUDA)
    assert built["sparsity"]["eligible"] == 20
    kernels = {name.removesuffix(".conv"): row["kernel"] for name, row in built["kernels"].items()}
    for name, said in kernels.items():
        if name.endswith(("growth", "wide")):
            assert "INT8" in kernels.get(said.removeprefix("in that of "), said), name
    engine, plan = fused.load(path, CUDA), compiled(net)
    x = torch.rand(4, 1, 256, 256).cuda()
    expected = Session(*plan, (4, 256, 256), dtype=torch.float64, kernels=False)(x)
    half = relative(Session(*plan, (4, 256, 256), kernels=False)(x), expected)
    assert relative(engine(x), expected) < max(1e-3, 2 * half)
    other = engine(torch.rand(1, 1, 64, 32).cuda())  # a shape that nobody measured
    assert other.isfinite().all()


def test_an_engine_says_which_kernels_it_has_and_runs_in_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "SECONDS", 15.0)
    net = halved(network(bottleneck=16, decoder=16, residual=True)).float().cuda()
    path = tmp_path / "e.safetensors"
    built = fused.Fused().build(net, Shape(batch=4, size=256), path, CUDA)
    assert built["sparsity"]["eligible"] == 20
    assert all(row["kernel"] for row in built["kernels"].values())
    engine, x = fused.load(path, CUDA), torch.rand(4, 1, 256, 256)
    y = engine(x.cuda()).cpu()
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import numpy as np, sys, torch; from compress.engines import fused;"
        "e = fused.load(sys.argv[1], 'cuda'); x = torch.from_numpy(np.load(sys.argv[2])).cuda();"
        "np.save(sys.argv[3], e(x).cpu().numpy())"
    )
    files = [str(tmp_path / name) for name in ("e.safetensors", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, cwd=ROOT)
    assert np.array_equal(np.load(tmp_path / "y.npy"), y.numpy())


def test_an_a100s_instructions_alone(monkeypatch):
    monkeypatch.setenv(compiler.ARCHITECTURE, "80")
    plan, tensors = compiled(halved(network(bottleneck=16, decoder=16)).cuda())
    session = Session(plan, tensors, (2, 128, 128))
    found = tune.tune(session, 20.0).choices
    fives = [cut for key, cut in found.conv.items() if key.startswith("5x5")]
    assert {cut.kind for cut in fives if isinstance(cut, Window)} <= {"mma", "mma.sp"}
    assert all(isinstance(cut, Window) for cut in fives)
    assert not [op for op in session.plan.operations if isinstance(op, Chain) and op.plain]
