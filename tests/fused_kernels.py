"""The Triton kernels in Triton's interpreter; run by test_fused.py in a process of its own.

    TRITON_INTERPRET=1 python -m pytest tests/fused_kernels.py

The interpreter is chosen when the kernels are imported, for the whole process.
"""

import os
import time
from dataclasses import replace

import pytest
import torch
from fused_cases import (
    chain_case,
    conv_case,
    error,
    exact,
    limit,
    move_case,
    network,
    pool_chain_case,
)

from compress.engines.kernels import ahead, launch
from compress.engines.kernels.jobs import jobs
from compress.engines.kernels.plan import Chain, Pool, Upsample, compiled
from compress.engines.kernels.session import Choices, Session
from compress.engines.kernels.tiling import Tiling

assert os.environ["TRITON_INTERPRET"] == "1"

LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3}
ODD = [(1, 1, 1), (2, 3, 5), (1, 11, 19)]
"""Slices, rows, columns: smaller than a kernel, odd, over more than one tile."""
GROUPS = [(1, 1), (1, 4), (2, 2)]


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize(("gy", "gx"), GROUPS)
@pytest.mark.parametrize("table", [False, True])
def test_5x5_from_parts_of_any_width(shape, gy, gx, table):
    op, case = conv_case(5, (13, 5, 16), 9, shape, table=table)
    cut = Tiling(gy=gy, gx=gx, by=2, bx=8, bk=64)
    call = launch.conv(op, case.buffers, case.tensors, case.image, cut)
    assert error(op, case, call) < LIMITS[torch.float32]


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize(
    ("size", "gy", "gx"), [(7, 1, 8), (7, 2, 8), (7, 1, 16), (5, 1, 8), (5, 2, 4), (5, 1, 1)]
)
@pytest.mark.parametrize("table", [False, True])
def test_the_stem_reads_one_channel(shape, size, gy, gx, table):
    op, case = conv_case(size, (1,), 16, shape, table=table)
    cut = Tiling(gy=gy, gx=gx, by=4, bx=4, bk=64)
    call = launch.conv(op, case.buffers, case.tensors, case.image, cut)
    assert error(op, case, call) < LIMITS[torch.float32]


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize(("slots", "out"), [((16,), 64), ((16, 16, 16, 16, 16), 16), ((7, 3), 21)])
def test_1x1(shape, slots, out):
    op, case = conv_case(1, slots, out, shape)
    cut = Tiling(by=2, bx=16, bk=64)
    call = launch.conv(op, case.buffers, case.tensors, case.image, cut)
    assert error(op, case, call) < LIMITS[torch.float32]


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize(("out", "then"), [(32, 16), (24, 8), (11, 3)])
def test_5x5_with_a_1x1_behind_it(shape, out, then):
    op, case = conv_case(5, (16, 16), out, shape, then=then)
    cut = Tiling(gy=2, gx=2, by=2, bx=8, bk=32)
    call = launch.conv(op, case.buffers, case.tensors, case.image, cut)
    assert error(op, case, call) < LIMITS[torch.float32]


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize("gx", [2, 4])
def test_the_last_layer_adds_the_image_in_float32(shape, gx):
    op, case = conv_case(5, (16, 16), 32, shape, then=1, residual=True)
    cut = Tiling(gy=1, gx=gx, by=4, bx=4, bk=64)
    call = launch.conv(op, case.buffers, case.tensors, case.image, cut)
    assert error(op, case, call) < LIMITS[torch.float32]


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize(("gy", "gx", "table"), [(1, 1, False), (1, 4, False), (2, 2, True)])
@pytest.mark.parametrize(("slots", "new", "out"), [((16, 16), 16, 64), ((9, 4, 4), 13, 11)])
def test_a_5x5_and_the_1x1_that_reads_what_it_adds(shape, gy, gx, table, slots, new, out):
    op, case = chain_case(slots, new, out, shape, table=table)
    call = launch.chain(op, case.buffers, case.tensors, Tiling(gy=gy, gx=gx, by=2, bx=8, bk=32))
    part, before = op.first.target, op.second.source.channels - op.first.target.channels
    old = case.buffers["x"].nchw(0, before).clone()
    assert error(op, case, call) < LIMITS[torch.float32]
    added = case.buffers["x"].nchw(part.start, part.channels)
    assert (added - exact(op.first, case)).abs().max() < 1e-5 * added.abs().max()
    assert torch.equal(case.buffers["x"].nchw(0, before), old)


@pytest.mark.parametrize("shape", [*ODD, (2, 16, 32)])
@pytest.mark.parametrize(("channels", "out"), [(16, 64), (5, 11), (24, 16)])
def test_max_pool_and_the_1x1_behind_it(shape, channels, out):
    op, case = pool_chain_case(channels, out, shape)
    call = launch.chain(op, case.buffers, case.tensors, Tiling(by=4, bx=8))
    assert error(op, case, call) < LIMITS[torch.float32]
    pooled = case.buffers["p"].nchw(0, channels)
    assert torch.equal(pooled, exact(op.first, case)[:, :channels].float())


@pytest.mark.parametrize("shape", [*ODD, (2, 16, 32)])
@pytest.mark.parametrize("channels", [16, 5])
def test_max_pool(shape, channels):
    op, case = move_case(Pool, channels, shape)
    assert error(op, case, launch.pool(op, case.buffers)) == 0


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize("channels", [16, 5])
def test_upsampling(shape, channels):
    op, case = move_case(Upsample, channels, shape)
    assert error(op, case, launch.upsample(op, case.buffers)) < LIMITS[torch.float32]


def test_half_precision_and_batch_32():
    op, case = conv_case(5, (16, 16), 32, (32, 6, 7), then=16, dtype=torch.float16)
    cut = Tiling(gy=1, gx=2, by=4, bx=4, bk=64)
    call = launch.conv(op, case.buffers, case.tensors, case.image, cut)
    assert error(op, case, call) < LIMITS[torch.float16]
    chain, case = chain_case((16, 16), 16, 16, (32, 6, 7), torch.float16)
    call = launch.chain(chain, case.buffers, case.tensors, Tiling(gy=2, gx=2, by=4, bx=4))
    assert error(chain, case, call) < LIMITS[torch.float16]


NETWORKS = {
    "dense": {"residual": True},
    "flagship": {"bottleneck": 16, "decoder": 16, "residual": True},
    "published, narrow": {"bottleneck": 16, "decoder": 16},
    "irregular": {
        "bottleneck": 20,
        "decoder": 12,
        "widths": {"stem.conv": 13, "transitions.1.conv": 9, "decoders.2.narrow.conv": 1},
    },
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_the_whole_network(name, dtype):
    net = network(**NETWORKS[name])
    plan, tensors = compiled(net)
    shape = (2, 16, 16)
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    session = Session(plan, tensors, shape, dtype=dtype)
    keys = [session.key(op) for op in plan.operations if isinstance(op, Chain)]
    cuts = dict.fromkeys(keys[::2], Tiling(gy=1, gx=2, by=4, bx=4))  # half of them in one kernel
    choices = Choices(chain=cuts)
    session = Session(plan, tensors, shape, dtype=dtype, choices=choices, poison=True)
    with torch.no_grad():
        expected = net(x.double())
    off = float((session(x) - expected).abs().max() / expected.abs().max())
    most = limit(net, x, expected) if dtype == torch.float16 else LIMITS[dtype]
    assert off < most


def test_a_layer_without_a_border_takes_the_table():
    """Where BatchNorm multiplies by zero and adds something, no value becomes zero."""
    net = network(bottleneck=16, decoder=16, residual=True)
    with torch.no_grad():
        net.blocks[1][2].growth.norm.weight[3] = 0
        net.decoders[2].wide.norm.bias[5] = 1e5
    plan, tensors = compiled(net)
    assert [op.name for op in plan.convs() if op.table] == ["blocks.1.2.growth", "decoders.2.wide"]
    x = torch.rand(1, 1, 16, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(x.double())
    session = Session(plan, tensors, (1, 16, 32), dtype=torch.float32, poison=True)
    assert (session(x) - expected).abs().max() / expected.abs().max() < LIMITS[torch.float32]


def test_workers_make_the_same_calls():
    plan, tensors = compiled(network(trunk=13, bottleneck=20, decoder=27))
    session = Session(plan, tensors, (2, 16, 16), dtype=torch.float32)
    cuts = {key: [job.first] for key, job in jobs(session).items()}
    kernels = {job.kernel for job in jobs(session).values()}
    with ahead.compilers(session, workers=2) as compiled_:
        assert compiled_(cuts, time.monotonic() + 120) == len(kernels) < len(cuts)
        no_room = {key: [replace(cut, by=3)] for key, (cut,) in cuts.items() if key[0] == "5"}
        assert compiled_(no_room, time.monotonic() + 120) == 0
    with ahead.compilers(session) as compiled_:
        assert compiled_(cuts, time.monotonic()) == 0  # without a GPU nothing is started
