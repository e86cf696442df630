"""The pipeline's own affairs; what it produces is tested where the steps are."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from compress.base.errors import UsageError
from compress.recipe import load
from compress.run import folder, pipeline
from compress.run.resume import drop_stale
from compress.steps import STEPS

RECIPE = "schema: 1\nname: p\nmodel: {name: redcnn, channels: 2}\nsteps: [evaluate]\n"


def test_a_run_folder_without_locks_is_not_taken_for_a_busy_one(tmp_path: Path, monkeypatch):
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(UsageError, match="the file system has no locks"), folder.locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("{realisations: 3}", "data: realisations needs simulated low dose; source folder has its"),
        ("{train_patients: [A]}", "data: train_patients is for source demo, got it with folder"),
    ],
)
def test_a_folder_instead_of_data_whose_options_need_another_source(option, said, tmp_path: Path):
    (tmp_path / "r.yaml").write_text(f"{RECIPE}data: {option}\n")
    with pytest.raises(UsageError, match=f"^{said}"):
        pipeline.run(load(tmp_path / "r.yaml"), out=tmp_path / "out", data=tmp_path, device="cpu")


def test_a_busy_folder_is_refused_before_anything_that_takes_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pipeline, "_refuse_early", lambda *_: pytest.fail("it was looked at"))
    (tmp_path / "r.yaml").write_text(RECIPE)
    with folder.locked(tmp_path), pytest.raises(UsageError, match="another run is at work"):
        pipeline.run(load(tmp_path / "r.yaml"), out=tmp_path, device="cpu")


@pytest.mark.parametrize("step", ["sparsify", "quantize"])
def test_a_package_that_cannot_be_imported_is_refused_before_training(
    step, tmp_path, break_package
):
    break_package("modelopt")
    (tmp_path / "r.yaml").write_text(
        RECIPE.replace("[evaluate]", f"[{{train: {{epochs: 1}}}}, {step}]")
    )
    said = rf"steps\[1\]\.{step}: modelopt\.torch\.\w+ cannot be imported: libcuda.* would help"
    with pytest.raises(UsageError, match=said):
        pipeline.run(load(tmp_path / "r.yaml"), out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_every_steps_folder_is_known_as_a_stage(tmp_path: Path) -> None:
    """Else a stage that left the recipe would stay, and the folder would tell two stories."""
    for name in (*STEPS, "fine_tune", "int8"):
        (tmp_path / f"01-{name}").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "01 mine").mkdir()
    drop_stale(tmp_path, {"01-train"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01 mine", "01-train", "report"]
