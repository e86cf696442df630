"""The fused engine without a GPU: its plan is exact, its file is safe, its kernels are interpreted.

What needs Triton runs in a process of its own: the interpreter is chosen when kernels are imported.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fused_cases
import numpy as np
import pytest
import torch
from fused_cases import chain_case, conv_case, error, unit
from hypothesis import given
from hypothesis import strategies as st
from pairs import data
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from compress.base.errors import UsageError
from compress.base.hu import DATA_RANGE, HU_MIN
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import fused
from compress.engines.base import NotBuilt
from compress.engines.kernels import choose, launch, plain, remembered, rounding, search, tune
from compress.engines.kernels import plan as plans
from compress.engines.kernels.cuda.moves import Move
from compress.engines.kernels.cuda.window import Window
from compress.engines.kernels.packing import (
    SHIFT,
    border,
    folded,
    grouped,
    padded,
    positions,
    row_length,
    spread,
)
from compress.engines.kernels.plan import Chain, Pool, Upsample, compiled
from compress.engines.kernels.plan_json import from_json, to_json
from compress.engines.kernels.session import Choices, Session
from compress.engines.kernels.tiling import Tiling, default, variations
from compress.graph import kernels
from compress.graph.rewrite import deconv_to_conv
from compress.models.redcnn import RedCNN
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from compress.sparsity import masks
from compress.steps.export import Export

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton"
)
NETWORKS = {
    "dense": {"residual": True},
    "published": {},
    "flagship": {"bottleneck": 16, "decoder": 16, "residual": True},
    "small kernels": {"bottleneck": 16, "decoder": 16, "kernels": (3, 3, 5, 5, 7)},
    "irregular": {
        "widths": {
            "stem.conv": 13,
            "blocks.0.1.bottleneck.conv": 21,
            "blocks.2.0.growth.conv": 5,
            "transitions.1.conv": 9,
            "decoders.1.wide.conv": 27,
            "decoders.2.narrow.conv": 1,
        }
    },
}


def network(name: str) -> torch.nn.Module:
    return fused_cases.network(**NETWORKS[name])


def slices(batch: int, height: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(batch, 1, height, width, generator=draw, dtype=torch.float64)


def relative(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 32, 48), (3, 48, 16)])
def test_a_plan_computes_what_the_network_does(name, shape):
    net, x = network(name), slices(*shape)
    plan, tensors = compiled(net)
    assert from_json(json.loads(json.dumps(to_json(plan)))) == plan
    options = {"kernels": False, "poison": True}
    with torch.no_grad():
        expected = net(x)
    exact = Session(plan, tensors, shape, dtype=torch.float64, **options)(x)
    assert relative(exact, expected) < 1e-12
    half = Session(plan, tensors, shape, **options)(x.float())
    assert relative(half, expected) < 2e-3


def test_a_pruned_and_2to4_network_has_a_plan():
    dense = deconv_to_conv(fused_cases.network(residual=True, bottleneck=32).float())
    net = pruning.plan(dense, PruneOptions(amount=0.3, round_to=8)).apply(dense)
    held = masks.compute(net, "modelopt")
    masks.apply(net, held)
    net = net.double().eval()
    plan, tensors = compiled(net)
    for name in held:
        mask = held[name].to(torch.bool)
        folded_weight = tensors[f"{name.removesuffix('.weight').removesuffix('.conv')}.weight"]
        assert not folded_weight[~mask].any()
    x = slices(1, 32, 32)
    with torch.no_grad():
        expected = net(x)
    session = Session(plan, tensors, (1, 32, 32), kernels=False, dtype=torch.float64)
    assert relative(session(x), expected) < 1e-12


def test_kernels_of_any_layer_may_be_smaller():
    """As pruning leaves them: 5x5 and 3x3 side by side, a stem of 5x5 and one of 3x3."""
    net = fused_cases.network(residual=True, bottleneck=16, decoder=16)
    net = deconv_to_conv(net).eval()
    every = kernels.cuttable(net, 3)[0]
    for gone in (every, dict.fromkeys([*every][::2], 1)):
        small = kernels.cut(net, gone)
        plan, tensors = compiled(small)
        sizes = {conv.name: conv.size for conv in plan.convs()}
        assert sizes["blocks.0.0.growth"] == 5 - 2 * gone.get("blocks.0.0.growth.conv", 0)
        x = slices(1, 32, 48)
        with torch.no_grad():
            expected = small(x)
        session = Session(plan, tensors, (1, 32, 48), kernels=False, dtype=torch.float64)
        assert relative(session(x), expected) < 1e-12


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 3), (5, 4), (9, 12)])
@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_batchnorm_is_folded_exactly_at_every_border(size, shape, offset):
    norm, conv = unit(3, 4, size, 0)
    weight, table = folded(norm, conv, offset)
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        expected = torch.nn.functional.leaky_relu(conv(norm(x)), 0.01)
    got = plain.unit(x - offset, {"c.weight": weight, "c.bias": table}, "c", 0.01)
    assert relative(got, expected) < 1e-13


@pytest.mark.parametrize("size", [5, 7])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (9, 12)])
@pytest.mark.parametrize("offset", [0.0, 0.7])
@pytest.mark.parametrize("normalised", [True, False])
def test_with_its_border_around_it_an_image_needs_one_bias(size, shape, offset, normalised):
    norm, conv = unit(3, 4, size, 0)
    norm = norm if normalised else torch.nn.Identity()
    weight, table = folded(norm, conv, offset)
    around = border(norm, conv, offset)
    assert around is not None
    pad = size // 2
    height, width = shape
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)).double()
    wide = around[:, None, None].repeat(2, 1, height + 2 * pad, width + 2 * pad)
    wide = wide.view(2, 3, height + 2 * pad, width + 2 * pad)
    wide[..., pad : pad + height, pad : pad + width] = x - offset
    with torch.no_grad():
        expected = conv(norm(x))
    assert relative(torch.nn.functional.conv2d(wide, weight, table[0, 0]), expected) < 1e-13


@given(st.floats(-932, 529))
def test_an_image_is_rounded_by_a_fifth_of_an_hu_at_most(hu):
    x = (torch.tensor(hu, dtype=torch.float64) - HU_MIN) / DATA_RANGE
    off = (x.float() - SHIFT).half().double() + SHIFT - x
    assert abs(float(off)) * DATA_RANGE < 0.18


def test_an_older_file_has_an_image_that_is_not_shifted(tmp_path, monkeypatch):
    net, x = network("flagship"), slices(1, 32, 48)
    with monkeypatch.context() as older:
        older.setattr(plans, "SHIFT", 0.0)
        older.setattr(fused, "SCHEMA", "6")
        older.setattr(fused, "to_json", lambda plan: without_shift(to_json(plan)))
        fused.save(*compiled(net), tmp_path / "old.safetensors")
    fused.save(*compiled(net), tmp_path / "new.safetensors")
    old, new = (
        fused.load(tmp_path / f"{n}.safetensors", "cpu", kernels=False) for n in ("old", "new")
    )
    assert (old.plan.shift, new.plan.shift) == (0.0, SHIFT)
    with torch.no_grad():
        expected = net(x)
    assert max(relative(one(x.float()), expected) for one in (old, new)) < 2e-3


def without_shift(plan: dict) -> dict:
    assert plan["shift"] == 0
    return {key: value for key, value in plan.items() if key != "shift"}


def test_a_border_is_a_value_that_float16_holds_as_well_as_the_layers_own():
    norm, conv = unit(3, 4, 5, 0)
    assert border(torch.nn.Identity(), conv).tolist() == [0, 0, 0]
    with torch.no_grad():
        norm.bias[0], norm.weight[0] = 7.9, 1
        near = border(norm, conv)
        assert near[0] == pytest.approx(float(norm.running_mean[0]) - 7.9 * near_std(norm))
        norm.weight[1] = norm.bias[1] = 0  # nothing of this channel is left
        assert border(norm, conv) is not None
        norm.bias[1] = 0.1  # nothing but its bias: no value becomes zero
        assert border(norm, conv) is None
        norm.bias[1], norm.bias[0] = 0, 8.1
        assert border(norm, conv) is None
        norm.bias[0], norm.running_mean[0] = 0, 7e4
        assert border(norm, conv) is None


def near_std(norm: torch.nn.BatchNorm2d) -> float:
    return float((norm.running_var[0] + norm.eps).sqrt())


@pytest.mark.parametrize("name", NETWORKS)
def test_one_padded_convolution_reads_a_frame(name):
    """Two would want two borders in it."""
    plan, tensors = compiled(network(name))
    padded_ones = [op for op in plan.convs() if op.size > 1]
    assert len({op.source.buffer for op in padded_ones}) == len(padded_ones) == 21
    assert all(op.table != (f"{op.name}.border" in tensors) for op in padded_ones)


@pytest.mark.parametrize(("gy", "gx"), [(1, 1), (1, 4), (2, 2), (2, 4)])
@pytest.mark.parametrize("slots", [(16,), (5, 9)])
def test_the_matrix_of_a_group_is_the_convolution(gy, gx, slots):
    """Windows cut out in PyTorch, times the matrix, are the convolution's outputs."""
    inside, out = sum(padded(one) for one in slots), 8
    weight = torch.randn(6, sum(slots), 5, 5, generator=torch.Generator().manual_seed(0))
    wide = spread(weight, positions(slots), inside, out)
    x = torch.randn(1, inside, 2 * gy, 3 * gx, generator=torch.Generator().manual_seed(1))
    around = torch.nn.functional.pad(x, (2, 2, 2, 2))
    cut = around.unfold(2, gy + 4, gy).unfold(3, gx + 4, gx)  # (1, C, 2, 3, rows, columns)
    rows = cut.permute(0, 2, 3, 4, 5, 1).reshape(6, gy + 4, (gx + 4) * inside)
    assert rows.shape[2] == row_length(inside, 5, gx)
    matrix = grouped(wide, gy, gx, 64)
    flat = torch.nn.functional.pad(rows.flatten(1), (0, len(matrix) - rows[0].numel()))
    got = (flat @ matrix)[:, : gy * gx * out].reshape(2, 3, gy, gx, out)
    expected = torch.nn.functional.conv2d(x, wide, padding=2)[0]
    got = got.permute(4, 0, 2, 1, 3).reshape(expected.shape)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_cases_see_what_was_not_written():
    op, case = conv_case(5, (16,), 16, (1, 4, 4))
    assert np.isnan(error(op, case, lambda: None))
    chain, case = chain_case((16,), 16, 16, (1, 4, 4))
    assert np.isnan(error(chain, case, lambda: None))


def test_a_file_holds_all_and_loads_in_a_fresh_process(tmp_path):
    net, x = network("irregular"), slices(1, 32, 32).float()
    plan, tensors = compiled(net)
    cut = Tiling(gy=2, gx=2)
    tilings = {"some GPU": Choices(conv={"a": cut}, chain={"b": cut})}
    path = tmp_path / "engine.safetensors"
    fused.save(plan, tensors, path, tilings)
    here = fused.load(path, "cpu", kernels=False)
    assert here.tilings == tilings
    assert here.plan == plan
    with torch.no_grad():
        assert relative(here(x), net(x.double())) < 2e-3
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import numpy as np, sys, torch; from compress.engines import fused;"
        "e = fused.load(sys.argv[1], 'cpu', kernels=False);"
        "np.save(sys.argv[3], e(torch.from_numpy(np.load(sys.argv[2]))).numpy());"
        "assert 'pickle' not in fused.__dict__ and not {'triton', 'numba'} & set(sys.modules)"
    )
    files = [str(tmp_path / name) for name in ("engine.safetensors", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, cwd=ROOT)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), here(x).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", ["plan", "tensor", "schema", "text"])
def test_an_altered_file_is_refused(part, tmp_path):
    path = tmp_path / "engine.safetensors"
    fused.save(*compiled(network("flagship")), path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    if part == "plan":
        header["plan"] = header["plan"].replace('"slope": 0.01', '"slope": 0.02')
    elif part == "tensor":
        tensors["stem.weight"][0, 0, 0, 0] += 1e-3
    elif part == "schema":
        header["schema"] = "0"
    save_file(tensors, path, metadata=header)
    if part == "text":
        path.write_text("no engine")
    with pytest.raises(UsageError, match="altered" if part in ("plan", "tensor") else "no fused"):
        fused.load(path, "cpu", kernels=False)


def test_an_engine_runs_any_shape_and_keeps_few(tmp_path):
    plan, tensors = compiled(network("flagship"))
    engine = fused.Engine(plan, tensors, {}, kernels=False)
    for side in (16, 32, 48, 64, 80, 32):
        assert engine(torch.rand(1, 1, side, 16)).shape == (1, 1, side, 16)
    assert list(engine.sessions) == [(1, s, 16) for s in (48, 64, 80, 32)]
    with pytest.raises(UsageError, match="multiples of 16, got 24 x 16"):
        engine(torch.rand(1, 1, 24, 16))
    with pytest.raises(UsageError, match=r"expected \(N, 1, H, W\)"):
        engine(torch.rand(1, 2, 16, 16))
    assert set(engine.facts["plain"]) >= {"stem", "blocks.0.0.growth", "decoders.3.wide"}


def test_a_weight_beyond_half_precision_falls_back_to_pytorch():
    net = network("flagship")
    net.blocks[1][0].growth.norm.running_var[3] = 1e-30
    net.blocks[1][0].growth.norm.eps = 0.0
    plan, tensors = compiled(net)
    engine = fused.Engine(plan, tensors, {}, kernels=True)
    (name,) = engine.facts["plain"]
    assert name == "blocks.1.0.growth"
    assert "beyond float16" in engine.facts["plain"][name]


def test_a_3x3_of_few_channels_falls_back_to_pytorch():
    net = fused_cases.network(kernels=[3, 3, 3, 3, 3], bottleneck=24, decoder=8)
    plan, _ = compiled(net)
    plain = {op.name for op in plan.convs() if op.plain}
    assert plain == {f"decoders.{number}.wide" for number in range(4)}
    assert not any(op.plain for op in compiled(fused_cases.network(decoder=8))[0].convs())


def test_a_3x3_before_a_1x1_of_few_channels_is_a_kernel_of_its_own():
    widths = {"blocks.0.1.bottleneck.conv": 8, "decoders.1.narrow.conv": 8}
    plan, _ = compiled(fused_cases.network(kernels=[3, 3, 3, 3, 3], widths=widths))
    plain = {op.name for op in plan.convs() if op.plain}
    assert plain == {"blocks.0.1.growth", "decoders.1.wide"}
    chains = [one for one in plan.operations if isinstance(one, Chain)]
    alone = [one.second.name for one in chains if one.plain and not one.second.plain]
    assert "blocks.0.1.bottleneck" in alone


def test_other_networks_are_refused():
    with pytest.raises(UsageError, match="only DDnet has a plan, not RedCNN"):
        compiled(RedCNN(channels=32))


def exported(folder: Path, net: torch.nn.Module, **options: object) -> dict:
    model = Model(net=net.float(), origin=ModelOptions(name="ddnet"))
    work = Work(stage=folder, device=torch.device("cpu"), data=data(), seed=0)
    folder.mkdir()
    Export(**{"formats": ("fused",), "image_size": 32, "precision": "fp16", **options}).run(
        model, work
    )
    return work.facts["engines"][0]


def test_where_there_is_no_gpu_it_is_not_built_and_the_reason_is_said(tmp_path):
    row = exported(tmp_path / "e", network("flagship"))
    assert row["status"] == "not built"
    assert row["reason"] == "fused kernels need a GPU of compute capability 8.0 or newer"


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """PyTorch in the place of the kernels, and no tiling measured."""

    class Plain(fused.Engine):
        def __init__(self, *arguments, **_):
            super().__init__(*arguments, kernels=False)

    monkeypatch.setattr(fused.Fused, "missing", lambda *_: None)
    monkeypatch.setattr(tune, "tune", lambda *_: choose.Found(choices=Choices(), units=[]))
    monkeypatch.setattr(fused, "Engine", Plain)


def test_what_the_kernels_cannot_do_is_said_and_nothing_is_left(tmp_path, as_on_a_gpu):
    row = exported(tmp_path / "a", network("flagship"), precision="bf16")
    assert row["reason"] == "it computes in fp16 only, not in bf16"
    assert row["command"] == "--precision fp16"
    row = exported(tmp_path / "b", RedCNN(channels=4))
    assert row["reason"].startswith("fused: only DDnet has a plan, not RedCNN: ")
    assert "without padding or adds layers" in row["reason"]
    assert not [path for one in "ab" for path in (tmp_path / one).iterdir()]
    with pytest.raises(UsageError, match=r"DDnet takes no slice of shape \(1, 1, 40, 40\)"):
        exported(tmp_path / "c", network("flagship"), image_size=40)
    assert not [*(tmp_path / "c").iterdir()]


def test_an_export_is_reloaded_compared_and_described(tmp_path, as_on_a_gpu):
    row = exported(tmp_path / "e", network("flagship"), batch=(2,))
    assert row["file"] == "fused-fp16-b2.safetensors"
    assert row["parity"]["ok"]
    side = json.loads((tmp_path / "e" / row["sidecar"]).read_text())
    assert side["built"]["deconvolutions"] == "conv"
    with safe_open(tmp_path / "e" / row["file"], framework="pt") as file:
        stored = file.get_tensor("decoders.3.wide.weight")
    plan, tensors = compiled(deconv_to_conv(network("flagship").float()))
    expected = rounding.in_half(plan, tensors)["decoders.3.wide.weight"]
    assert torch.equal(stored.double(), expected)  # rounded once, by the engine


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 80, 16), (5, 64, 16), (5, 32, 1), (7, 1, 16)])
def test_tilings_are_what_kernels_can_be(shape):
    size, inside, out = shape
    for side in (32, 64, 512):
        first = default(size, inside, out, side)
        tried = [first, *(one for step in range(3) for one in variations(step, first, size, out))]
        for cut in tried:
            powers = (cut.by, cut.bx, cut.bk, cut.warps)
            assert all(one & (one - 1) == 0 for one in powers)
            assert cut.by * cut.bx >= 16
            assert inside != 1 or cut.gx % 8 == 0  # windows of the image begin on 16 bytes


def tuned(monkeypatch, ms, seconds: float = 60.0, known=None) -> Choices:
    """Choices for the flagship in 32 x 32, every call taking `ms` of its kind and tiling."""
    plan, tensors = compiled(network("flagship"))
    session = Session(plan, tensors, (1, 32, 32), kernels=False)
    monkeypatch.setattr(launch, "conv", lambda *a: ("conv", *a))
    monkeypatch.setattr(launch, "chain", lambda *a: ("chain", *a))
    monkeypatch.setattr(launch, "pool", lambda *a: ("pool", *a, Tiling()))
    monkeypatch.setattr(launch, "upsample", lambda *a: ("upsample", *a, Tiling()))

    def milliseconds(make, _device: torch.device) -> float:
        kind, op, buffers, *_, cut = make()
        for one in (op.first, op.second) if kind == "chain" else (op,):
            at = one.target
            buffers[at.buffer].inside[..., at.start : at.start + at.channels].zero_()
            if isinstance(one, Pool):
                plain.pool(one, buffers)
            elif isinstance(one, Upsample):
                plain.upsample(one, buffers)
            else:
                plain.conv(one, session.buffers, session.tensors, session.image)
            if cut.gx == 4:
                buffers[at.buffer].inside[..., at.start : at.start + at.channels].mul_(1.1)
        return ms(f"{op.size}x{op.size}" if kind == "conv" else kind, cut)

    monkeypatch.setattr(search, "milliseconds", milliseconds)
    return tune.tune(session, seconds, known).choices


def test_the_tuner_takes_the_fastest_and_leaves_out_what_computes_something_else(monkeypatch):
    found = tuned(monkeypatch, lambda kind, cut: 5 - cut.gx + (cut.stages != 4) + (kind == "chain"))
    plan, _ = compiled(network("flagship"))
    sizes = {op.size for op in plan.convs()}
    assert sizes == {1, 5, 7}
    fives = {key: cut for key, cut in found.conv.items() if key.startswith("5x5")}
    assert fives
    assert {cut.gx for cut in fives.values()} == {2}  # those with 4 are faster, but wrong
    assert {cut.stages for cut in fives.values()} == {4}


def test_a_chain_is_one_kernel_where_that_is_faster_than_two(monkeypatch):
    faster = tuned(monkeypatch, lambda kind, _: 1.9 if kind == "chain" else 1.0)
    assert len(faster.chain) == 20
    assert not tuned(monkeypatch, lambda kind, _: 2.1 if kind == "chain" else 1.0).chain
    apart = tuned(monkeypatch, lambda kind, _: float("inf") if kind == "chain" else 1.0)
    assert apart.conv  # where one kernel has no room on a GPU, two do
    assert not apart.chain
    assert not tuned(monkeypatch, lambda *_: 1.0, seconds=-1.0).conv


class Added:
    """Instead of `timed.Race`: a network takes as long as its kernels in all, as `cost` has it."""

    cost = staticmethod(lambda kind, cut: 0.0)

    def __init__(self, _session, first):
        self.best, self.raced = first, 0

    def won_by(self, other):
        self.raced += 1
        won = self.total(other) < self.total(self.best)
        self.best = other if won else self.best
        return won

    def total(self, choices):
        """Of the cuts that are chosen; what one chain computes takes no kernel of its own."""
        taken = sum(self.cost("chain", cut) for cut in choices.chain.values())
        cuts = choices.conv.items()
        return taken + sum(self.cost(key[:3], cut) for key, cut in cuts) - 2 * len(choices.chain)


def test_a_cut_that_is_fastest_alone_goes_where_the_network_is_slower_by_it(monkeypatch):
    fast = list[Tiling]()

    def alone(kind, cut):
        if kind == "5x5" and cut.gx == 2 and not fast:
            fast.append(cut)
        return 9.0 if kind == "chain" else 1.0 if cut in fast else 1.1

    before = tuned(monkeypatch, alone)
    assert fast[0] in before.conv.values()
    monkeypatch.setattr(choose, "Race", Added)
    extra = 0.0

    def cost(kind, cut):
        return 9.0 if kind == "chain" else 1.0 + extra * (cut in fast)

    monkeypatch.setattr(Added, "cost", staticmethod(cost))
    assert tuned(monkeypatch, alone) == before  # a network that gains nothing stays as it is
    extra = 1.0
    known: dict = {}
    after = tuned(monkeypatch, alone, known=known)
    assert fast[0] not in after.conv.values()
    assert {key: known[key] for key in after.conv} == after.conv  # for the next build
    assert tuned(monkeypatch, alone, known=known).conv == after.conv


@pytest.mark.parametrize(("alone", "together"), [(1.9, 3.0), (2.1, 0.5)])
def test_one_kernel_or_two_is_what_the_network_is_faster_with(monkeypatch, alone, together):
    monkeypatch.setattr(choose, "Race", Added)

    def ms(kind, _cut):
        return alone if kind == "chain" else 1.0

    def cost(kind, _cut):
        return together if kind == "chain" else 1.0

    monkeypatch.setattr(Added, "cost", staticmethod(cost))
    assert bool(tuned(monkeypatch, ms).chain) == (together < 2)


def test_where_the_first_tiling_does_not_run_another_is_taken(monkeypatch):
    first = default(5, 16, 16, 32, 1)
    fails = ("5x5", first.gx)
    found = tuned(monkeypatch, lambda kind, cut: float("inf") if (kind, cut.gx) == fails else 1.0)
    fives = [cut for key, cut in found.conv.items() if key.startswith("5x5 16-16 ")]
    assert fives
    assert first.gx not in {cut.gx for cut in fives}
    with pytest.raises(NotBuilt, match=r"no tiling of a .* convolution runs on this GPU"):
        tuned(monkeypatch, lambda *_: float("inf"))


def test_what_was_found_is_taken_again_and_only_checked(monkeypatch):
    tried, known = [], {}

    def ms(_kind, cut):
        tried.append(cut)
        return 5 - cut.gx + (cut.stages != 4)

    first = tuned(monkeypatch, ms, known=known)
    times = len(tried)
    assert known == {**first.conv, **known}  # chains, too
    tried.clear()
    assert tuned(monkeypatch, ms, known=known) == first
    assert len(tried) == len(known) < times / 10
    # One that computes something else here, gx = 4 as above, is searched for anew.
    wrong = {key: replace(cut, gx=4) for key, cut in known.items() if key.startswith("5x5")}
    assert tuned(monkeypatch, ms, known={**known, **wrong}) == first


def test_a_layer_that_gives_nothing_but_zeros_is_no_wrong_tiling():
    zeros, nan = torch.zeros(3), torch.full((3,), float("nan"))
    assert search._off(zeros, zeros) == 0
    assert search._off(nan, zeros) == search._off(zeros + 1, zeros) == float("inf")
    assert search._off(torch.tensor([1.0, 2.1]), torch.tensor([1.0, 2.0])) == pytest.approx(0.05)


def test_a_search_that_was_cut_short_is_not_remembered(monkeypatch):
    known, clock = {}, itertools.count()  # a second from one look at it to the next
    for module in (tune, search):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert tuned(monkeypatch, lambda *_: 1.0, seconds=5, known=known).conv
    assert not known


def test_tilings_are_remembered_for_a_gpu_and_a_version_of_the_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered.importlib.metadata, "version", lambda _: "3.6.0")
    cut, other = Tiling(gx=2, warps=8), Tiling(gy=2)
    with remembered.tilings("NVIDIA H100 80GB HBM3") as known:
        assert not known
        known["a"] = cut
        with remembered.tilings("NVIDIA H100 80GB HBM3") as beside:
            beside["b"] = other
    with remembered.tilings("NVIDIA H100 80GB HBM3") as known:
        assert known == {"a": cut, "b": other}
    with remembered.tilings("NVIDIA A100") as known:
        assert not known
    (file,) = (tmp_path / "cache" / "tilings").iterdir()
    for broken in ("{", "[1]", '{"a": {"gz": 1}}'):
        file.write_text(broken)
        with remembered.tilings("NVIDIA H100 80GB HBM3") as known:
            assert not known
    monkeypatch.setattr(remembered.importlib.metadata, "version", lambda _: "3.7.0")
    with remembered.tilings("NVIDIA H100 80GB HBM3") as known:
        known["c"] = cut
    assert len(list((tmp_path / "cache" / "tilings").iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_no_engine(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(remembered.importlib.metadata, "version", lambda _: "3.6.0")
    with remembered.tilings("any") as known:
        known["a"] = Tiling()


def test_without_nvidias_packages_triton_computes_what_was_measured_for_cuda():
    tiling, window = Tiling(gx=2), Window(kind="mma.sp", strip=32)
    chosen = Choices(
        conv={"a": tiling, "b": window}, chain={"c": tiling}, layer={"d": window},
        move={"e": Move(strip=4)},
    )  # fmt: skip
    assert chosen.of_triton() == Choices(conv={"a": tiling}, chain={"c": tiling})


@pytest.mark.parametrize("two_to_four", [False, True])
def test_a_file_holds_2to4_weights_compressed_and_every_kind_of_cut(tmp_path, two_to_four):
    net = deconv_to_conv(network("flagship"))
    if two_to_four:
        masks.apply(net, masks.compute(net.float(), "modelopt"))
    plan, tensors = compiled(net.double().eval())
    window = Window(kind="mma.sp", strip=32, registers=True)
    choices = Choices(conv={"a": window}, layer={"b": window}, move={"c": Move(strip=4)})
    path = tmp_path / "engine.safetensors"
    fused.save(plan, tensors, path, {"some GPU": choices})
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    sparse = {op.name for op in plan.convs() if op.sparse}
    assert bool(sparse) == two_to_four
    assert {name for name in names if name.endswith(".values24")} == {
        f"{name}.values24" for name in sparse
    }
    assert not {f"{name}.weight" for name in sparse} & names
    loaded = fused.load(path, "cpu", kernels=False)
    assert loaded.tilings == {"some GPU": choices}
    for name in sparse:
        assert torch.equal(loaded.tensors[f"{name}.weight"], tensors[f"{name}.weight"].float())


def test_an_engine_without_its_kernels_says_that_it_is_slow(tmp_path, caplog):
    path = tmp_path / "e.safetensors"
    fused.save(*compiled(network("flagship")), path)
    fused.Fused().load(path, torch.device("cpu"))
    assert caplog.messages == [
        "e.safetensors is computed by PyTorch, slowly: "
        "fused kernels need a GPU of compute capability 8.0 or newer"
    ]


@pytest.mark.parametrize(("batch", "least"), [(16, 128), (1, 64)])
def test_defaults_leave_no_gpu_idle(batch, least):
    for side in (128, 256, 512):
        for inside, out in ((64, 16), (32, 32), (16, 16)):
            cut = default(5, inside, out, side, batch)
            tiles = batch * -(-side // (cut.gy * cut.by)) * -(-side // (cut.gx * cut.bx))
            assert tiles >= least
            assert cut.by * cut.bx * cut.gy * cut.gx * out <= 128 * 128


def run(arguments: list[str], **more: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **more},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_kernel_in_the_interpreter():
    files = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/fused_kernels.py"]
    run([*files, "-W", "ignore::UserWarning"], TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_kernel_compiles_for(capability, tmp_path):
    run(["tests/fused_compile.py", capability], TRITON_CACHE_DIR=str(tmp_path))
