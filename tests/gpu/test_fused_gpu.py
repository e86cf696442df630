"""The fused engine on a GPU: every kernel and the whole network against float64."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fused_cases import chain_case, conv_case, error, limit, move_case, network, pool_chain_case

from compress.engines import fused
from compress.engines.kernels import launch
from compress.engines.kernels.plan import Chain, Pool, Upsample, compiled
from compress.engines.kernels.session import Choices, Session
from compress.engines.kernels.tiling import Tiling, default, variations

pytest.importorskip("triton", reason="needs Triton")
ROOT = Path(__file__).parents[2]
LIMIT = 2e-3
"""Relative error of float16 that the engine may have."""
NETWORKS = {
    "dense": {"residual": True},
    "published": {},
    "flagship": {"bottleneck": 16, "decoder": 16, "residual": True},
    "irregular": {"trunk": 13, "bottleneck": 20, "decoder": 27, "residual": True},
}


def shapes(seed: int, largest: int) -> list[tuple[int, int, int]]:
    """Fresh odd sizes."""
    draw = random.Random(seed)
    sides = [(draw.randint(1, largest), draw.randint(1, largest)) for _ in range(4)]
    return [(draw.choice([1, 2, 5]), *side) for side in [(1, 1), (4, 300), *sides]]


def tight(shape: tuple[int, int, int], size: int) -> float:
    """More where an image is smaller than the window: nearly all products are of the border then,
    and the rounding of values that add up to nothing is beside what few pixels give."""
    return LIMIT if min(shape[1:]) >= size else 4 * LIMIT


@pytest.mark.parametrize(
    ("size", "slots", "out", "then"),
    [
        (5, (64,), 16, 0),
        (5, (16, 16), 32, 16),
        (5, (9, 4), 11, 3),
        (5, (24,), 24, 8),
        (1, (16, 16, 16, 16, 16), 16, 0),
        (1, (16,), 64, 0),
        (7, (1,), 16, 0),
    ],
)
def test_convolutions_with_every_tiling(size, slots, out, then):
    for shape in shapes(size + out, 150):
        first = default(size, 1 if size == 7 else sum(slots), out, shape[1])
        cuts = [first, *(one for step in range(3) for one in variations(step, first, size, out))]
        for cut in cuts[:: 1 if shape[1] < 100 else 5]:
            more = {"then": then, "table": size > 1 and shape[1] % 2 == 0}
            op, case = conv_case(size, slots, out, shape, dtype=torch.float16, **more)
            case = case.to("cuda")
            call = launch.conv(op, case.buffers, case.tensors, case.image, cut)
            try:
                off = error(op, case, call)
            except Exception as problem:  # a tiling that this GPU has no room for is left out
                assert "out of resource" in str(problem)
                continue
            assert off < tight(shape, size), (shape, cut)


@pytest.mark.parametrize(("slots", "out"), [((16,), 64), ((16,) * 4, 16), ((9, 4), 13)])
def test_chains_in_one_kernel(slots, out):
    for shape in shapes(out, 150):
        for gy, gx in [(1, 1), (1, 2), (2, 2), (1, 4)]:
            table = gy * gx == 2
            op, case = chain_case(slots, 16, out, shape, torch.float16, table)
            case = case.to("cuda")
            cut = Tiling(gy=gy, gx=gx, by=4, bx=16)
            call = launch.chain(op, case.buffers, case.tensors, cut)
            assert error(op, case, call) < tight(shape, 5), (shape, cut)


@pytest.mark.parametrize(("channels", "out"), [(16, 64), (16, 16), (5, 11), (40, 24)])
def test_max_pool_and_the_1x1_behind_it(channels, out):
    for shape in shapes(channels, 200):
        for cut in [Tiling(by=4, bx=16), Tiling(by=16, bx=16, warps=8)]:
            op, case = pool_chain_case(channels, out, shape, torch.float16)
            case = case.to("cuda")
            assert error(op, case, launch.chain(op, case.buffers, case.tensors, cut)) < LIMIT


@pytest.mark.parametrize("channels", [16, 5, 40])
def test_moves(channels):
    for shape in shapes(channels, 200):
        op, case = move_case(Pool, channels, shape, torch.float16)
        case = case.to("cuda")
        assert error(op, case, launch.pool(op, case.buffers)) == 0
        op, case = move_case(Upsample, channels, shape, torch.float16)
        case = case.to("cuda")
        assert error(op, case, launch.upsample(op, case.buffers)) < LIMIT


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 512, 512), (2, 176, 368), (16, 64, 64), (32, 32, 16)])
@pytest.mark.parametrize("chained", [False, True])
def test_the_whole_network_in_a_graph(name, shape, chained):
    net = network(**NETWORKS[name]).cuda()
    plan, tensors = compiled(net)
    keys = Session(plan, tensors, shape)
    chains = {keys.key(op) for op in plan.operations if isinstance(op, Chain)}
    cuts = dict.fromkeys(chains, Tiling(gy=1, gx=2, by=4, bx=16)) if chained else {}
    choices = Choices(chain=cuts)
    session = Session(plan, tensors, shape, choices=choices, poison=True)
    for seed in range(2):  # the second run replays the graph on other slices
        draw = torch.Generator().manual_seed(seed)
        x = torch.rand(shape[0], 1, *shape[1:], generator=draw).cuda()
        with torch.no_grad():
            expected = torch.cat([net(one[None].double()) for one in x])
        off = float((session(x) - expected).abs().max() / expected.abs().max())
        assert off < limit(net, x, expected)
    assert session.graph is not None


def test_a_layer_that_no_kernel_serves_runs_in_pytorch_inside_the_graph():
    net = network(bottleneck=16, decoder=16)
    net.blocks[1][0].growth.norm.running_var[3] = 1e-12
    net.blocks[1][0].growth.norm.eps = 0.0
    net = net.cuda()
    plan, tensors = compiled(net)
    engine = fused.Engine(plan, tensors, {}, kernels=True)
    assert list(engine.facts["plain"]) == ["blocks.1.0.growth"]
    assert engine(torch.rand(1, 1, 64, 64).cuda()).shape == (1, 1, 64, 64)


def test_kernels_compiled_ahead_are_found(tmp_path):
    """In a process of its own, where Triton's cache is another one.

    Max-pool and upsampling are left out: how much a program of theirs computes depends on the
    batch, and workers compile for one slice.
    """
    code = """
import pathlib, time, torch
from fused_cases import network
from compress.engines.kernels import ahead, tune
from compress.engines.kernels.jobs import jobs
from compress.engines.kernels.plan import compiled
from compress.engines.kernels.session import Session

if __name__ == "__main__":
    session = Session(*compiled(network(bottleneck=16, decoder=16).cuda()), (2, 256, 256))
    found = {key: job for key, job in jobs(session).items() if job.first and job.size}
    cuts = {key: [job.first] for key, job in found.items()}
    with ahead.compilers(session, workers=4) as compiled_:
        assert compiled_(cuts, time.monotonic() + 300) > 5
    files = lambda: sorted(pathlib.Path(CACHE).rglob("*.cubin"))
    before = files()
    for job in found.values():
        job.make(job.first)()
    torch.cuda.synchronize()
    assert before and files() == before
    assert tune.tune(session, 60.0).choices.conv
"""
    file = tmp_path / "ahead_of_time.py"
    file.write_text(code.replace("CACHE", repr(str(tmp_path / "cache"))))
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    more = {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, file], env=os.environ | more, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_build_save_load_in_a_fresh_process(tmp_path, monkeypatch):
    from compress.engines.base import Shape

    monkeypatch.setattr(fused, "SECONDS", 20.0)
    net = network(**NETWORKS["flagship"]).float()
    path, cuda = tmp_path / "e.safetensors", torch.device("cuda")
    built = fused.Fused().build(net.cuda(), Shape(batch=2, size=64), path, cuda)
    assert not built["plain"]
    engine = fused.load(path, cuda)
    assert engine.tilings[fused.gpu(cuda)].conv
    x = torch.rand(2, 1, 64, 64)
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
