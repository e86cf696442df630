"""What lies in a run folder that goes on: nothing is mixed silently, nothing foreign is removed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compress import checkpoint
from compress.base.errors import UsageError
from compress.engines.build import BUILDING
from compress.recipe import Recipe, load
from compress.run import pipeline
from compress.sweep import work

PAIRS = Path(__file__).parent / "fixtures" / "version_0_1" / "pairs"
RECIPE = f"""
schema: 1
name: small
model: {{name: redcnn, channels: 16}}
data: {{source: folder, path: "{PAIRS}"}}
steps:
  - train: {{epochs: 1, crop: 32, slices_per_epoch: 2, batch: 2}}
  - sparsify: {{rule: trt}}
  - evaluate: {{pictures: 0}}
"""
NAMES = ("00-train", "01-sparsify", "02-evaluate")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return load(path)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def run(recipe: Recipe, out: Path) -> Path:
    pipeline.run(recipe, out=out, device="cpu")
    return out


def begun(out: Path) -> dict[str, int]:
    """When the facts of each stage were written."""
    return {name: (out / name / "facts.json").stat().st_mtime_ns for name in NAMES}


def test_a_stage_without_its_checkpoint_is_no_stage_without_one(recipe: Recipe, out: Path) -> None:
    """The network from before went on in its place, into evaluation and engines."""
    (out / "01-sparsify" / "model.json").unlink()
    with pytest.raises(
        UsageError, match=r"01-sparsify wrote the weights \w{12} and now holds none"
    ):
        run(recipe, out)
    shutil.rmtree(out / "01-sparsify")  # as it says
    before = begun_but(out, "01-sparsify")
    run(recipe, out)
    assert begun_but(out, "01-sparsify") == before


def begun_but(out: Path, name: str) -> dict[str, int]:
    return {
        other: (out / other / "facts.json").stat().st_mtime_ns for other in NAMES if other != name
    }


def test_a_checkpoint_of_another_stage_is_refused(recipe: Recipe, out: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        shutil.copy(out / "00-train" / name, out / "01-sparsify" / name)
    with pytest.raises(
        UsageError, match=r"01-sparsify wrote .* other weights, .* remove .*01-sparsify"
    ):
        run(recipe, out)


def test_what_was_made_of_former_weights_is_made_again(recipe: Recipe, out: Path) -> None:
    """A GPU gives other bits each time: engines would be those of a network that is gone."""
    facts = json.loads((out / "01-sparsify" / "facts.json").read_text())
    again = checkpoint.load(out / "00-train")
    next(again.net.parameters()).data *= 1.5
    checkpoint.save(again, out / "00-train")
    trained = json.loads((out / "00-train" / "facts.json").read_text())
    assert facts["before"] == trained["weights"]
    trained["weights"] = checkpoint.fingerprint(again)
    (out / "00-train" / "facts.json").write_text(json.dumps(trained))
    before = begun(out)
    run(recipe, out)
    after = begun(out)
    assert [name for name in NAMES if after[name] != before[name]] == list(NAMES[1:])


def test_an_interrupted_stage_begins_anew_on_other_weights(recipe: Recipe, out: Path) -> None:
    stage = out / "01-sparsify"
    (stage / "facts.json").unlink()
    (stage / "left").touch()
    mark = stage / "begun.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "before": "0"}))
    run(recipe, out)
    assert not (stage / "left").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hash": 1}', "\0", '{"facts": {}}'])
def test_damaged_facts_are_none(text: str, recipe: Recipe, out: Path) -> None:
    for name in ("facts.json", "begun.json"):
        (out / "02-evaluate" / name).write_text(text)
    if text == '{"facts": {}}':
        (out / "02-evaluate" / "begun.json").unlink()
    run(recipe, out)
    assert json.loads((out / "02-evaluate" / "facts.json").read_text())["facts"]["summary"]


def test_what_a_killed_build_left_is_removed(recipe: Recipe, out: Path) -> None:
    (out / "02-evaluate" / "facts.json").unlink()
    (out / "02-evaluate" / f"{BUILDING}x" / "conv").mkdir(parents=True)
    run(recipe, out)
    assert not list(out.glob(f"*/{BUILDING}*"))


def test_folders_of_the_user_are_never_removed(recipe: Recipe, tmp_path: Path) -> None:
    """They may be called like stages."""
    scans = tmp_path / "09-train" / "patient"
    scans.mkdir(parents=True)
    (scans / "IM0001").touch()
    shutil.copytree(scans.parent, tmp_path / "00-train")
    with pytest.raises(UsageError, match=r"00-train is needed for a stage and holds other files"):
        run(recipe, tmp_path)
    assert (tmp_path / "00-train" / "patient" / "IM0001").exists()
    assert (scans / "IM0001").exists()


def test_of_a_link_only_the_link_is_removed(recipe: Recipe, out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(out / "01-sparsify", elsewhere)
    (out / "04-sparsify").symlink_to(elsewhere)
    run(recipe, out)
    assert not (out / "04-sparsify").exists()
    assert (elsewhere / "model.json").exists()


def test_a_report_in_a_folder_of_its_own_goes_with_another_form(recipe: Recipe, out: Path) -> None:
    (out / "05-report").mkdir()
    (out / "05-report" / "report.html").touch()
    (out / "06-retrain").mkdir()  # killed before anything was written
    run(recipe, out)
    assert sorted(path.name for path in out.glob("0*")) == list(NAMES)


@pytest.mark.parametrize("killed", [*range(1, 5)])
def test_a_sweep_never_sees_half_of_a_stage(
    killed: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    left: Callable[[], int] = iter(range(killed, -99, -1)).__next__

    def linked(source: str, target: str) -> str:
        if not left():
            raise Killed
        return shutil.copy2(source, target)

    monkeypatch.setattr(work, "_linked", linked)
    with pytest.raises(Killed):
        work._link_stage(whole / "00-train", tmp_path / "00-train")
    assert not (tmp_path / "00-train").exists()
    work._link_stage(whole / "00-train", tmp_path / "00-train")
    assert checkpoint.load(tmp_path / "00-train")
    assert [path.name for path in tmp_path.iterdir()] == ["00-train"]
