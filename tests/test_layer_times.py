"""Times of layers, measured here: kept in the cache, cut short by the time, in a recipe's run."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from networks import Plain, randomise
from test_run_keys import DATA
from torch.nn.functional import conv2d, leaky_relu

from compress.base.errors import UsageError
from compress.base.files import write_json
from compress.cli.main import main
from compress.engines import layer_times
from compress.engines.kernels import single
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.pruning import latency
from compress.pruning.families import Family, Point, wanted
from compress.recipe import load
from compress.run import pipeline, preview
from compress.run.keys import keys

CPU = torch.device("cpu")
RECIPE = """schema: 1
model: {import: "networks:strided_unet"}
data: {source: phantom, image_size: 32, train_slices: 2, test_slices: 1, views: 30}
steps:
  - train: {epochs: 1, crop: 16, slices_per_epoch: 4}
  - prune: {amount: 0.02, target: latency, latency_size: 64, round_to: 8}
  - evaluate
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latency"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the tests that run the recipe."""
    return tmp_path_factory.mktemp("cache")


def test_a_shape_is_measured_once(cache: Path) -> None:
    shapes = wanted([randomise(Plain(16), 0)], (16, 16), 8)
    state = torch.random.get_rng_state()
    table = layer_times.measured(shapes, "eager", CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert table.shapes == sum(len(k.ins) * len(k.outs) for k in shapes.values())
    assert all(us > 0 for one in table.families.values() for row in one.us for us in row)
    assert (table.engine, table.torch) == ("eager", torch.__version__)
    assert "thread" in table.device
    assert table.note == "measured on the CPU: a GPU takes other times"
    again = layer_times.measured(shapes, "eager", CPU, seconds=0.0)  # no time to measure anything
    assert again.sha256 == table.sha256
    (file,) = cache.iterdir()
    file.write_text("{")
    with pytest.raises(UsageError, match="the time for measuring layers ended before Conv2d"):
        layer_times.measured(shapes, "eager", CPU, seconds=0.0)


def test_a_family_without_time_has_its_ends_only(cache: Path) -> None:
    shapes = wanted([randomise(Plain(16), 0)], (16, 16), 4)
    whole = layer_times.measured(shapes, "eager", CPU)
    (file,) = cache.iterdir()
    known = {k: v for k, v in json.loads(file.read_text()).items() if ": 8 to 12 channels" not in k}
    write_json(file, known)
    table = layer_times.measured(shapes, "eager", CPU, seconds=0.0)
    assert "the time for measuring ended: 1 families of layers are interpolated" in table.note
    short = [n for n, one in table.families.items() if one != whole.families[n]]
    assert len(short) == 1
    assert table.families[short[0]].knots.ins[0] == whole.families[short[0]].knots.ins[0]
    assert len(table.families[short[0]].us[0]) == 2


def test_fused_is_refused_where_it_does_not_run() -> None:
    shapes = wanted([deconv_to_conv(DDnet())], (64, 64), 16)
    with pytest.raises(UsageError, match="latency_from fused: fused kernels need a GPU"):
        layer_times.measured(shapes, "fused", CPU)
    step = {"stride": (1, 1), "dilation": (1, 1), "grid": (64, 64)}
    single.refuse(Family(kind="Conv2d", kernel=(3, 3), padding=(1, 1), **step))
    other = Family(kind="Conv2d", kernel=(9, 9), padding=(4, 4), **step)
    with pytest.raises(UsageError, match=r"not Conv2d kernel 9x9 .*; take latency_from eager"):
        single.refuse(other)


def test_single_layers_of_fused_are_the_convolutions_of_their_families() -> None:
    shapes = wanted([deconv_to_conv(DDnet())], (64, 64), 16)
    points = [
        Point(family=family, ins=ins, outs=knots.outs[0])
        for family, knots in shapes.items()
        for ins in knots.ins[:2]
    ]
    session = single.session(points, CPU, kernels=False)
    session.image.uniform_()
    for buffer in session.buffers.values():
        buffer.inside.uniform_()
    session.run()
    assert len(session.calls) == len(points)
    for op, point, call in zip(session.plan.convs(), points, session.calls, strict=True):
        source = session.buffers[op.source.buffer].nchw(0, point.ins).float()
        assert source.shape == (1, point.ins, *point.family.grid)
        weight, bias = (session.tensors[f"{op.name}.{one}"] for one in ("weight", "bias"))
        call()
        found = session.buffers[op.target.buffer].nchw(0, point.outs).float()
        expected = conv2d(source, weight, bias[0, 0], padding=op.size // 2)
        assert torch.allclose(found, leaky_relu(expected, 0.01), atol=2e-3)


def test_a_recipe_runs_and_its_table_gives_the_plan_again(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(shared))
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    pipeline.run(load(path), out=tmp_path / "run", device="cpu")
    facts = json.loads((tmp_path / "run/01-prune/facts.json").read_text())["facts"]
    found = facts["latency"]
    assert facts["removed"]["latency"] >= 0.02
    assert found["after_ms"] <= found["budget_ms"] == pytest.approx(0.98 * found["before_ms"])
    assert (found["engine"], found["size"], found["torch"]) == ("eager", 64, torch.__version__)
    table = latency.read(Path(found["table"]))
    assert (table.sha256, table.shapes) == (found["sha256"], found["shapes"])
    (tmp_path / "t.json").write_bytes(Path(found["table"]).read_bytes())
    given = f"steps.prune.latency_table={tmp_path / 't.json'}"
    pipeline.run(load(path, [given]), out=tmp_path / "again", device="cpu")
    again = json.loads((tmp_path / "again/01-prune/facts.json").read_text())["facts"]
    assert again["groups"] == facts["groups"]
    assert again["latency"]["after_ms"] == found["after_ms"]


def test_check_predicts_milliseconds(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(shared))
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    plan = preview.check(load(path))
    found = plan["pruning"][0]["latency"]
    assert found["after_ms"] <= found["budget_ms"]
    shown = CliRunner().invoke(main, ["check", str(path)])
    assert shown.exit_code == 0
    assert f"predicted {found['before_ms']:.4g} -> {found['after_ms']:.4g} ms" in shown.output
    assert "measured on the CPU: a GPU takes other times" in shown.output


def test_the_key_of_a_stage_has_the_content_of_its_table(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("round_to: 8", "round_to: 8, latency_table: t.json"))
    (tmp_path / "t.json").write_text("{}")
    first = load(path)
    assert first.steps[1][1].latency_table == str(tmp_path / "t.json")  # from the recipe's folder
    before = keys(first, DATA)
    (tmp_path / "t.json").rename(tmp_path / "u.json")
    moved = load(path, [f"steps.prune.latency_table={tmp_path / 'u.json'}"])
    assert keys(moved, DATA) == before
    (tmp_path / "u.json").write_text("{ }")
    after = keys(moved, DATA)
    assert (after[0], after[1] != before[1]) == (before[0], True)
