"""Networks of neighbouring slices: what they see, what they are refused for, a whole run."""

import json
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from dicom_files import body, dataset, packed, uid, write_series
from hypothesis import given
from hypothesis import strategies as st
from pairs import pairs as blobs
from torch import nn

import compress
from compress import checkpoint
from compress.base.around import around, volumes
from compress.base.errors import UsageError
from compress.base.hu import to_network
from compress.checkpoint import Model, ModelOptions
from compress.cli.main import main
from compress.data import DataOptions, Pairs, folder
from compress.data import load as load_data
from compress.data.crops import draws, sides
from compress.data.loaders import Resident, Streamed
from compress.dicom import Reason
from compress.engines import triton_server
from compress.graph import trial
from compress.graph.slices import Neighbouring
from compress.imaging.command import Options, run
from compress.recipe import recipe

HERE = Path(__file__).parent


class Beside(nn.Module):
    """Slices in, the one in the middle out, changed a little; or the one at `place` as it is."""

    def __init__(self, seen: int = 3, place: int | None = None) -> None:
        super().__init__()
        self.one = nn.Conv2d(seen, 32, 3, padding=1)
        self.two = nn.Conv2d(32, 32, 3, padding=1)
        self.three = nn.Conv2d(32, 1, 3, padding=1)
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.place is not None:
            return x[:, self.place : self.place + 1]
        middle = x.shape[1] // 2
        change = self.three(self.two(self.one(x).relu()).relu())
        return x[:, middle : middle + 1] + 0.1 * change


def saved(where: Path, **options: object) -> Path:
    """A checkpoint of `Beside` that sees one neighbour on each side."""
    origin = ModelOptions(
        import_="test_neighbours:Beside", folder=str(HERE), options=options, neighbours=1
    )
    where.mkdir()
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), where)
    return where


def written(path: Path, more: str = "", model: str = "", data: str = "neighbours: 1") -> Path:
    path.write_text(
        "schema: 1\n"
        f"model: {{import: 'test_neighbours:Beside'{model}}}\n"
        f"data: {{source: phantom, image_size: 64, views: 90, train_slices: 4, test_slices: 2, "
        f"{data}}}\n"
        f"steps: [{more or 'evaluate'}]\n"
    )
    (path.parent / "test_neighbours.py").write_text(Path(__file__).read_text())
    return path


@given(st.integers(1, 40), st.integers(1, 5), st.data())
def test_the_neighbours_of_slice_i_are_those_from_i_minus_k_to_i_plus_k(count, k, data):
    place = data.draw(st.integers(0, count - 1))
    found = around(range(count), place, k)
    assert len(found) == 2 * k + 1
    assert found[k] == place
    for offset, index in zip(range(-k, k + 1), found, strict=True):
        assert index == sorted((0, place + offset, count - 1))[1]  # clamped: ends repeat


@given(st.lists(st.booleans(), min_size=6, max_size=60), st.floats(0.3, 10), st.randoms())
def test_slices_on_both_sides_of_a_gap_are_no_neighbours(there, step, random):
    numbers = [index for index, yes in enumerate(there) if yes]
    random.shuffle(numbers)
    parts = volumes([step * number for number in numbers], step)
    found = [[numbers[index] for index in part] for part in parts]
    assert sorted(chain(*found)) == sorted(numbers)
    assert all(b - a == 1 for part in found for a, b in pairwise(part))
    assert all(b[0] - a[-1] > 1 for a, b in pairwise(found))


def test_slices_at_one_place_have_no_order():
    with pytest.raises(ValueError, match="two slices are at the same place"):
        volumes([0.0, 1.0, 1.0, 2.0])


def windowed(count: int = 5, side: int = 24, k: int = 2) -> Pairs:
    made = blobs(count, side, 0, "P")
    windows = tuple(around(made.low, i, k) for i in range(count))
    return Pairs(made.low, made.full, made.names, made.patients, windows)


def test_loaders_give_the_neighbours_as_channels():
    made, cpu = windowed(), torch.device("cpu")
    drawn = list(draws(made, count=8, batch=3, crop=9, seed=(1,)))
    one, other = Streamed(made, cpu, 0), Resident(made, sides(made, 9), cpu)
    for a, b, crops in zip(one.batches(drawn), other.batches(drawn), drawn, strict=True):
        low, full = one.decode(a)
        assert low.shape == (3, 5, 9, 9)
        assert full.shape == (3, 1, 9, 9)
        assert all(map(torch.equal, (low, full), other.decode(b)))
        for place, crop in enumerate(crops):
            (top, down, _), (left, right, _) = crop.rows, crop.columns
            window = np.ix_(top + down * np.arange(9), left + right * np.arange(9))
            for channel, index in enumerate(around(range(5), crop.image, 2)):
                expected = to_network(torch.from_numpy(made.low[index][window]))
                assert torch.equal(low[place, channel], expected)


def test_phantoms_have_neighbours_and_are_the_old_ones_without():
    options = {"source": "phantom", "image_size": 32, "views": 60, "train_slices": 4}
    found = load_data(DataOptions(**options, test_slices=2, neighbours=1), seed=0)
    low = found.train.low
    for index, own in enumerate(found.train.around):
        assert all(a is b for a, b in zip(own, around(low, index, 1), strict=True))
    # One anatomy in the three slices that a network sees, noise of its own in each.
    apart = [np.abs(found.train.full[k].astype(float) - found.train.full[0]).mean() for k in (1, 3)]
    assert 0 < apart[0] < 15 < apart[1]
    assert load_data(DataOptions(**options, test_slices=2), seed=0).train.around == ()


def npy(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        for side, shift in (("low", 5), ("full", 0)):
            file = root / side / f"{name}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, body(24, number) + shift)
    return root


def test_files_are_ordered_by_number_and_gaps_are_said(tmp_path, caplog):
    root = npy(tmp_path, [f"A/IM{n}" for n in (2, 9, 10, 11, 13, 14)] + ["B/IM12"])
    pairs = folder.held_out(root, 1)
    place = dict(zip(pairs.names, pairs.low, strict=True))
    seen = dict(zip(pairs.names, pairs.around, strict=True))
    expected = {9: (9, 9, 10), 10: (9, 10, 11), 11: (10, 11, 11), 13: (13, 13, 14), 2: (2, 2, 2)}
    for middle, numbers in expected.items():
        wanted = [place[f"A/IM{n}.npy"] for n in numbers]
        assert all(a is b for a, b in zip(seen[f"A/IM{middle}.npy"], wanted, strict=True))
    assert all(one is place["B/IM12.npy"] for one in seen["B/IM12.npy"])
    train, test = folder.load(root, 1)
    assert [len(part.around) for part in (train, test)] == [6, 1]


def test_dicom_pairs_are_ordered_by_position(tmp_path):
    for side, shift in (("low", 5), ("full", 0)):
        (tmp_path / side).mkdir()
        for index in range(4):  # names run against positions
            ds = dataset(body(24, index) + shift, index=index)
            (tmp_path / side / f"IM{9 - index}").write_bytes(packed(ds))
    pairs = folder.held_out(tmp_path, 1)
    assert pairs.names == ("IM6", "IM7", "IM8", "IM9")  # indices 3, 2, 1, 0
    for at, numbers in ((0, (2, 3, 3)), (1, (1, 2, 3)), (3, (0, 0, 1))):
        for image, index in zip(pairs.around[at], numbers, strict=True):
            assert np.array_equal(image, body(24, index) + 5)
    for side in ("low", "full"):
        ds = dataset(body(24, 1), index=1, ImagePositionPatient=None)
        (tmp_path / side / "IM8").write_bytes(packed(ds))
    with pytest.raises(UsageError, match=r"IM8 does not say where it is in the patient"):
        folder.held_out(tmp_path, 1)


def test_a_wrong_number_of_slices_is_one_sentence_with_the_right_one():
    with pytest.raises(UsageError, match=r"takes no slice .*; it takes 3 slices: write data: "
                       r"\{neighbours: 1\}$"):  # fmt: skip
        trial.check_shape(Beside())
    with pytest.raises(UsageError, match=r"Beside takes no 3 neighbouring slices .*; it takes one "
                       r"slice: write data: \{neighbours: 0\}$"):  # fmt: skip
        trial.check_shape(Neighbouring(Beside(seen=1), 1))
    with pytest.raises(UsageError, match=r"gives \(1, 3, 512, 512\) for 3 neighbouring slices of "
                       r"shape \(1, 3, 512, 512\); it must give \(1, 1, 512, 512\)"):  # fmt: skip
        trial.check_shape(Neighbouring(nn.Identity(), 1))
    trial.check_shape(Neighbouring(Beside(), 1))


def test_recipes_refuse_networks_of_another_number(tmp_path):
    for data, said in (("neighbours: 0", "neighbours: 1"), ("neighbours: 2", "neighbours: 1")):
        path = written(tmp_path / "r.yaml", data=data)
        found = CliRunner().invoke(main, ["check", str(path)])
        assert found.exit_code == 2
        assert said in found.stderr
        assert "Traceback" not in found.stderr
    path.write_text("schema: 1\nmodel: {name: ddnet}\ndata: {neighbours: 1}\nsteps: [evaluate]\n")
    with pytest.raises(UsageError, match="ddnet takes one slice, got 1 on each side"):
        recipe.load(path)
    with pytest.raises(UsageError, match=r"neighbours must lie in \[0, 16\], got -1"):
        recipe.load(written(path, data="neighbours: -1"))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_enhance_shows_each_slice_those_beside_it(place, tmp_path):
    model = saved(tmp_path / "model", place=place)
    write_series(tmp_path / "in", 5, side=32)
    for index in range(5):  # names run against positions
        (tmp_path / "in" / f"IM{index:04d}").rename(tmp_path / "in" / f"A{9 - index}")
    content = run(Options(source=tmp_path / "in", model=model, out=tmp_path / "out", batch=2))
    assert content["counts"]["status"] == {"enhanced": 5}
    assert content["counts"]["neighbours_repeated"] == 2
    found = images(tmp_path / "out")
    for index in range(5):
        beside = min(max(index + place - 1, 0), 4)
        assert np.array_equal(found[index + 1], body(32, beside).astype(int) + 1024)


def images(out: Path) -> dict[int, np.ndarray]:
    import pydicom

    read = [pydicom.dcmread(path) for path in out.rglob("*.dcm")]
    return {int(ds.InstanceNumber): ds.pixel_array for ds in read}


@pytest.mark.parametrize("how", ["absent", "no pixels", "undecodable", "cut off"])
def test_a_slice_that_is_missing_or_refused_is_replaced_by_the_one_before_it(how, tmp_path):
    model = saved(tmp_path / "model", place=2)  # the slice above
    write_series(tmp_path / "in", 6, side=32)
    file = tmp_path / "in" / "IM0002"
    if how == "absent":
        file.unlink()
    elif how == "cut off":
        file.write_bytes(file.read_bytes()[:-900])
    else:
        changes = {"PixelData": None} if how == "no pixels" else {"PixelData": b"\0\0"}
        file.write_bytes(packed(dataset(body(32, 2), index=2, **changes)))
    options = Options(source=tmp_path / "in", model=model, out=tmp_path / "out")
    if how == "absent":
        run(options)
    else:
        with pytest.raises(Exception, match="1 of 6 files failed"):
            run(options)
    found = images(tmp_path / "out")
    assert sorted(found) == [1, 2, 4, 5, 6]
    assert np.array_equal(found[2], body(32, 1).astype(int) + 1024)  # itself again, not slice 3
    assert np.array_equal(found[4], body(32, 4).astype(int) + 1024)
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    repeated = [row.get("neighbours_repeated") for row in rows if row["status"] == "enhanced"]
    assert sum(repeated) == 4  # both ends, and both sides of the gap


@pytest.mark.parametrize(
    "changes", [{"ImagePositionPatient": None}, {"ImagePositionPatient": [-100.0, -100.0, 0.0]}]
)
def test_slices_whose_neighbours_nobody_knows_are_refused(changes, tmp_path):
    model = saved(tmp_path / "model", place=1)
    write_series(tmp_path / "in", 3, side=32)
    ds = dataset(body(32, 7), index=7, **changes)
    (tmp_path / "in" / "IM0007").write_bytes(packed(ds))
    with pytest.raises(Exception, match="neighbours cannot be told"):
        run(Options(source=tmp_path / "in", model=model, out=tmp_path / "out"))
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert rows[-1]["reason"] == Reason.NO_NEIGHBOURS


def test_a_shard_sees_the_slices_of_others(tmp_path):
    model = saved(tmp_path / "model", place=0)
    write_series(tmp_path / "in", 6, side=32)
    for index in (1, 2):
        run(Options(source=tmp_path / "in", model=model, out=tmp_path / "out", shard=(index, 2)))
    found = images(tmp_path / "out")
    for index in range(6):
        beside = body(32, max(index - 1, 0)).astype(int) + 1024
        assert np.array_equal(found[index + 1], beside)


def test_the_python_functions_take_a_volume(tmp_path):
    net = compress.Neighbouring(Beside(place=0), 1)
    volume = np.stack([body(32, k) for k in range(4)])
    assert np.allclose(compress.enhance(net, volume), volume[[0, 0, 1, 2]], atol=1e-3)
    quality = compress.evaluate(compress.Neighbouring(Beside(place=1), 1), volume, volume)
    assert quality.enhanced["rmse_hu"] < 0.01
    pruned = compress.prune(compress.Neighbouring(Beside(), 1), amount=0.3)
    assert pruned.net.one.weight.shape[1] == 3
    engine = compress.export(pruned, tmp_path, size=32, device="cpu")
    assert json.loads(engine.sidecar.read_text())["neighbours"] == 1
    assert engine.max_hu < 0.1
    served = triton_server.config("near", json.loads(engine.sidecar.read_text()))
    assert [served[key][0]["dims"] for key in ("input", "output")] == [
        [1, 3, 32, 32],
        [1, 1, 32, 32],
    ]
    again = compress.load(engine.path)
    assert np.allclose(compress.enhance(again, volume), compress.enhance(pruned, volume), atol=0.01)


def test_a_whole_recipe_to_a_dicom_series(tmp_path):
    steps = (
        "train: {epochs: 1, slices_per_epoch: 8, crop: 32}, prune: {amount: 0.3, round_to: 16}, "
        "retrain: {epochs: 1, slices_per_epoch: 8, crop: 32}, sparsify: {}, evaluate: {}, "
        "export: {formats: [onnx], image_size: 64}, report: {}"
    )
    listed = ", ".join(f"{{{one}}}" for one in steps.replace("}, ", "}|").split("|"))
    path, out = written(tmp_path / "near.yaml", listed), tmp_path / "run"
    invoke = CliRunner().invoke
    planned = invoke(main, ["check", str(path)])
    assert planned.exit_code == 0, planned.output
    done = invoke(main, ["run", str(path), "--out", str(out), "--device", "cpu"])
    assert done.exit_code == 0, done.stderr
    model = checkpoint.load(out / "03-sparsify")
    assert model.origin.neighbours == 1
    assert model.net(torch.rand(2, 3, 32, 32)).shape == (2, 1, 32, 32)
    engine = next((out / "05-export").glob("*.onnx"))
    write_series(tmp_path / "in", 4, side=60, StudyInstanceUID=uid("study"))
    for index, network in enumerate((out / "03-sparsify", engine)):
        where = tmp_path / f"out{index}"
        words = ["enhance", str(tmp_path / "in"), "--model", str(network), "--out", str(where)]
        enhanced = invoke(main, words)
        assert enhanced.exit_code == 0, enhanced.stderr
    one, other = images(tmp_path / "out0"), images(tmp_path / "out1")
    assert sorted(one) == sorted(other) == [1, 2, 3, 4]
    assert max(np.abs(one[k].astype(int) - other[k]).max() for k in one) <= 1
    narrow = ModelOptions(name="redcnn", options={"channels": 8})
    checkpoint.save(Model(net=narrow.build().eval(), origin=narrow), _made(tmp_path / "single"))
    timed = invoke(main, ["bench", str(tmp_path / "single"), str(engine), "--size", "64"])
    assert timed.exit_code == 2
    assert "sees 3 slices of each" in timed.stderr


def _made(path: Path) -> Path:
    path.mkdir()
    return path
