"""Slices whose sides a network does not take as they are: padded, or refused before training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import data
from torch import Tensor, nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.cli import main as cli
from compress.context import Work
from compress.data import Pairs
from compress.graph.padding import AnySize, mirrored, multiple
from compress.imaging import inference
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.recipe import load
from compress.run import export, pipeline, preview, sides
from compress.steps.evaluate import Evaluate

NARROW = {"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
RECIPE = """schema: 1
name: r
model: {name: ddnet, residual: true, trunk: 4, bottleneck: 4, decoder: 4}
data: {source: phantom, image_size: 100, train_slices: 1, test_slices: 1, views: 8}
seed: 0
steps:
  - train: {epochs: 1, batch: 2, crop: 32, slices_per_epoch: 2}
  - evaluate
"""
CPU = torch.device("cpu")


class Levels(nn.Module):
    """A network that halves its grid so many times: sides are multiples of 2**levels."""

    def __init__(self, levels: int = 5) -> None:
        super().__init__()
        self.levels = levels
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> the same."""
        y = nn.functional.avg_pool2d(self.a(x), 2**self.levels)
        y = nn.functional.interpolate(y, scale_factor=2**self.levels)
        return self.b(torch.cat((x, y), 1))


class Same(nn.Module):
    """A network that gives back its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> the same."""
        return x


class Frozen(nn.Conv2d):
    """A network without a weight that learns."""

    def __init__(self) -> None:
        super().__init__(1, 1, 3, padding=1)
        self.requires_grad_(False)


class Scale(nn.Module):
    """A network with a weight and without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> the same."""
        return self.factor * x


def recipe(folder: Path, *overrides: str):
    file = folder / "r.yaml"
    file.write_text(RECIPE)
    return load(file, overrides)


def saved(folder: Path, origin: ModelOptions) -> Path:
    folder.mkdir(exist_ok=True)
    checkpoint.save(Model(net=origin.build().eval(), origin=origin), folder)
    return folder


@pytest.mark.parametrize("levels", [0, 3, 4, 5, 6, 7])
def test_the_multiple_is_what_the_network_takes(levels: int) -> None:
    assert multiple(Levels(levels)) == max(16, 2**levels)


@pytest.mark.parametrize(("net", "number"), [(DDnet(**NARROW), 16), (RedCNN(channels=2), 16)])
def test_the_multiple_of_our_networks(net: nn.Module, number: int) -> None:
    assert multiple(net) == number


@settings(max_examples=40)
@given(height=st.integers(17, 90), width=st.integers(17, 90), levels=st.integers(4, 5))
def test_any_slice_goes_through_as_its_mirrored_continuation(height, width, levels) -> None:
    torch.manual_seed(0)
    net = Levels(levels)
    x = torch.rand(1, 1, height, width)
    number = multiple(net)
    sides = [-(-side // number) * number for side in (height, width)]
    with torch.no_grad():
        got = AnySize(net, multiple=number)(x)
        continued = x[:, :, mirrored(height, sides[0])][..., mirrored(width, sides[1])]
        assert torch.equal(got, net(continued)[:, :, :height, :width])


def test_the_step_measures_what_the_command_writes(tmp_path: Path) -> None:
    """100 x 100: the same numbers as from images that `compress enhance` would write."""
    torch.manual_seed(0)
    model = saved(tmp_path / "model", ModelOptions(name="ddnet", options=NARROW))
    pairs = data(side=100).test
    found = Work(stage=tmp_path, device=CPU, data=data(side=100), seed=0)
    Evaluate(pictures=1).measure(checkpoint.load(model), found)
    network = inference.load(model, device="cpu", batch=None)
    images = [network.launch([low.astype(np.float32)]).land()[0][0] for low in pairs.low]
    errors = [
        float(np.sqrt(((image - full.clip(-1024, 1900)) ** 2).mean()))
        for image, full in zip(images, pairs.full, strict=True)
    ]
    rows = [row["rmse_hu"] for row in found.facts["rows"] if row["network"] == "dense"]
    assert rows == pytest.approx(errors, rel=1e-4)


def test_a_recipe_on_slices_of_100_pixels_ends(tmp_path: Path) -> None:
    out = pipeline.run(recipe(tmp_path), out=tmp_path / "run", device="cpu")
    assert out is not None
    assert (out / "01-evaluate" / "facts.json").is_file()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps.train.crop=50", r"steps\[0\].train.crop: DDnet takes no slice of shape "
         r"\(1, 1, 50, 50\).*; 48 and 64 would work"),
        ("steps.train.crop=null", r"steps\[0\].train.crop: DDnet takes no slice.*; 96 would work"),
        ("steps.train.crop=112", r"crop: 112 is more than the slices of 100 x 100 have"),
        ("steps.train.loss=mse+0.1*(1-ms_ssim)", r"crop: loss .* needs sides of at least 176"),
        ("steps=[train: {epochs: 1}, export: {image_size: 100}]", r"image_size: DDnet takes"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_check_and_before_training(override, said, tmp_path) -> None:
    text = RECIPE
    if override.startswith("steps=["):
        text = RECIPE.replace("  - evaluate", "  - export: {image_size: 100}")
        override = "seed=0"
    (tmp_path / "r.yaml").write_text(text)
    chosen = load(tmp_path / "r.yaml", (override,))
    with pytest.raises(UsageError, match=said):
        preview.check(chosen)
    with pytest.raises(UsageError, match=said):
        pipeline.run(chosen, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sides", "override", "said"),
    [
        ([(48, 48)], "steps.train.crop=64", "a crop of 64 x 64 pixels does not fit into slice"),
        ([(40, 40)], "steps.train.crop=null", r"DDnet takes no slice.*; 32 would work"),
        ([(48, 48), (32, 32)], "steps.train.crop=null", "give a crop, whole slices fit into one"),
    ],
)
def test_slices_of_a_folder_are_refused_before_training(sides, override, said, tmp_path) -> None:
    chosen = recipe(tmp_path, override)
    slices = [np.full(side, -1000, np.int16) for side in sides]
    for image in slices:
        image[4:, 4:] = 40
    held_out = ("B/0.npy", slices[0])
    for name, image in [*((f"A/{k}.npy", one) for k, one in enumerate(slices)), held_out]:
        for dose in ("low", "full"):
            path = tmp_path / "pairs" / dose / name
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, image)
    (tmp_path / "run" / "05-report").mkdir(parents=True)
    with pytest.raises(UsageError, match=rf"steps\[0\].train.*: .*{said}"):
        pipeline.run(chosen, out=tmp_path / "run", data=tmp_path / "pairs", device="cpu")
    assert (tmp_path / "run" / "05-report").is_dir(), "a refused recipe removed an older stage"


def test_slices_that_cannot_be_transposed_are_refused_before_the_first_training(tmp_path) -> None:
    text = RECIPE + "  - retrain: {epochs: 1, batch: 2, crop: null, transposes: true}\n"
    (tmp_path / "r.yaml").write_text(text)
    found = data(side=64)
    wide = tuple(image[:32] for image in found.train.full)
    train = Pairs(low=wide, full=wide, names=found.train.names, patients=found.train.patients)
    loaded = type(found)(train=train, test=found.test, source="test", fingerprint="0")
    said = r"^steps\[2\].retrain.crop: transposes needs square crops, got 32 x 64$"
    with pytest.raises(UsageError, match=said):
        pipeline.run(load(tmp_path / "r.yaml"), out=tmp_path / "run", device="cpu", loaded=loaded)
    assert not (tmp_path / "run" / "00-train").exists()


def test_held_out_slices_that_cannot_be_measured_are_refused_before_training(tmp_path) -> None:
    chosen = recipe(tmp_path)
    found = data(side=32)
    tiny = tuple(image[:10] for image in found.test.full)
    test = Pairs(low=tiny, full=tiny, names=found.test.names, patients=found.test.patients)
    loaded = type(found)(train=found.train, test=test, source="test", fingerprint="0")
    with pytest.raises(UsageError, match=r"steps\[1\].evaluate: slice .* has 10 x 32 pixels; SSIM"):
        pipeline.run(chosen, out=tmp_path / "run", device="cpu", loaded=loaded)


@pytest.mark.parametrize("name", ["Same", "Frozen", "Scale"])
def test_networks_without_anything_to_compress_are_refused(name: str, tmp_path: Path) -> None:
    text = RECIPE.replace("name: ddnet, residual: true, trunk: 4, bottleneck: 4, decoder: 4",
                          f'import: "test_sides:{name}"')  # fmt: skip
    (tmp_path / "r.yaml").write_text(text)
    said = "all are frozen" if name == "Frozen" else "nothing can be compressed"
    for command in (["check"], ["run", "--out", str(tmp_path / "run"), "--device", "cpu"]):
        result = CliRunner().invoke(cli.main, [*command, str(tmp_path / "r.yaml")])
        assert result.exit_code == 2
        assert said in result.stderr


@pytest.mark.parametrize("words", ["export --size 100 -o {out}", "bench --size 100"])
def test_commands_refuse_a_side_in_one_sentence(words: str, tmp_path: Path, monkeypatch) -> None:
    def fetched(*_args: object, **_options: object) -> None:
        raise AssertionError("slices were fetched before the size was looked at")

    monkeypatch.setattr(export, "load", fetched)
    model = saved(tmp_path / "model", ModelOptions(name="ddnet", options=NARROW))
    name, *rest = words.format(out=tmp_path / "out").split()
    result = CliRunner().invoke(cli.main, [name, str(model), *rest])
    assert result.exit_code == 2, result.output
    assert "--size 100: DDnet takes no slice of shape" in result.stderr
    assert result.stderr.endswith("96 and 112 would work\n")


@pytest.mark.parametrize("size", ["0", "-3", "8"])
def test_sides_that_no_slice_has(size: str, tmp_path: Path) -> None:
    for words in (["export", "-o", str(tmp_path)], ["bench"]):
        result = CliRunner().invoke(cli.main, [words[0], str(tmp_path), "--size", size, *words[1:]])
        assert result.exit_code == 2, result.output


def test_a_run_asks_the_network_once_for_each_shape(tmp_path: Path, monkeypatch) -> None:
    """Not once more for each step that has the same one, nor again where pruning is planned."""
    asked, real = [], sides.refuse_sides

    def seen(net: nn.Module, shape: tuple[int, int], *rest: object) -> None:
        asked.append(shape)
        real(net, shape, *rest)

    monkeypatch.setattr(sides, "refuse_sides", seen)
    file = tmp_path / "r.yaml"
    steps = "".join(f"  - retrain: {{epochs: 1, batch: 2, crop: {n}}}\n" for n in (32, 48))
    pruned = "  - prune: {amount: 0.1, round_to: 1}\n" + steps
    file.write_text(RECIPE.replace("  - evaluate\n", pruned))
    pipeline.run(load(file), out=tmp_path / "run", device="cpu", until="01-prune")
    assert asked == [(32, 32), (48, 48), (32, 32)]  # early, all steps; of the slices, the first


def test_only_a_shape_that_passed_is_not_asked_for_again() -> None:
    asked = sides.Asked(Levels(6))
    for _ in range(2):
        with pytest.raises(UsageError, match=r"step: .* 64 would work"):
            asked.refuse((32, 32), "step")


@pytest.mark.parametrize("words", [["check"], ["run", "--device", "cpu", "--out", "run"]])
def test_a_batch_that_no_norm_can_be_trained_on_is_refused(words, tmp_path, monkeypatch) -> None:
    """One crop of 16 pixels is one pixel where DDnet is narrowest: BatchNorm has no variance."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    sets = [f"steps.0.train.{option}" for option in ("batch=1", "crop=16")]
    given = [word for one in sets for word in ("--set", one)]
    result = CliRunner().invoke(cli.main, [*words, "r.yaml", *given])
    assert result.exit_code == 2
    assert "steps[0].train.crop: batch 1 of 16 x 16 pixels is too little to train" in result.stderr
    assert "enlarge crop or batch" in result.stderr


@pytest.mark.parametrize(
    ("crop", "scale", "said"),
    [
        (32, 1, ""),
        (64, 1, "steps[0].train.crop: 64 is more than the slices of 40 x 40 have"),
        (32, 1 / 2924, "scaled to 0..1; scale them back"),
    ],
)
def test_check_looks_at_a_folders_first_slice(
    crop: int, scale: float, said: str, tmp_path: Path
) -> None:
    pairs, folder = data(side=40, train=2, test=1).train, tmp_path / "pairs"
    for side, images in (("low", pairs.low), ("full", pairs.full)):
        (folder / side).mkdir(parents=True)
        for name, image in zip(pairs.names, images, strict=True):
            np.save(folder / side / f"{name}.npy", image * np.float32(scale))
    section = "{source: phantom, image_size: 100, train_slices: 1, test_slices: 1, views: 8}"
    recipe = RECIPE.replace(section, f"{{source: folder, path: {folder}}}")
    (tmp_path / "r.yaml").write_text(recipe.replace("crop: 32", f"crop: {crop}"))
    result = CliRunner().invoke(cli.main, ["check", str(tmp_path / "r.yaml")])
    assert (result.exit_code == 2) == bool(said), result.output
    assert said in result.stderr


def test_a_data_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    section = "{source: phantom, image_size: 100, train_slices: 1, test_slices: 1, views: 8}"
    (tmp_path / "r.yaml").write_text(RECIPE.replace(section, "{source: folder, path: npyy}"))
    (tmp_path / "other.yaml").write_text(RECIPE)
    out, gone = tmp_path / "out", str(tmp_path / "npyy")
    for name, words in (
        ("r.yaml", ["run", "--out", str(out)]),
        ("other.yaml", ["run", "--out", str(out), "--data", gone]),
    ):
        result = CliRunner().invoke(cli.main, [*words, str(tmp_path / name)])
        assert result.exit_code == 2, result.output
        assert f"there is no data folder {gone}" in result.stderr
        assert not result.stdout
    assert not out.exists()


def test_check_warns_of_a_data_folder_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    section = "{source: phantom, image_size: 100, train_slices: 1, test_slices: 1, views: 8}"
    (tmp_path / "r.yaml").write_text(RECIPE.replace(section, "{source: folder, path: npyy}"))
    preview.check_folder(load(tmp_path / "r.yaml"))
    gone = tmp_path / "npyy"
    assert f"there is no data folder {gone} here, and no run without it" in caplog.text
