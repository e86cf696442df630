"""The pipeline's own affairs; what it produces is tested where the steps are."""

from pathlib import Path

import torch
from pairs import data

from compress.recipe import load
from compress.run import pipeline
from compress.run.resume import drop_stale
from compress.steps import STEPS

RECIPE = "schema: 1\nname: p\nmodel: {name: redcnn, channels: 2}\nsteps: [evaluate]\n"


def test_simulating_the_data_does_not_change_the_number_of_threads(tmp_path: Path, monkeypatch):
    def simulate(*_args: object, **_kwargs: object) -> object:
        torch.set_num_threads(3)  # as numba does behind torch's back
        return data()

    monkeypatch.setattr(pipeline, "load", simulate)
    (tmp_path / "r.yaml").write_text(RECIPE)
    before = torch.get_num_threads()
    out = tmp_path / "out"
    assert pipeline.run(load(tmp_path / "r.yaml"), out=out, device="cpu") == out
    assert torch.get_num_threads() == before != 3
    assert (out / "00-evaluate" / "facts.json").exists()


def test_every_steps_folder_is_known_as_a_stage(tmp_path: Path) -> None:
    """Else a stage that left the recipe would stay, and the folder would tell two stories."""
    for name in (*STEPS, "fine_tune", "int8"):
        (tmp_path / f"01-{name}").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "01 mine").mkdir()
    drop_stale(tmp_path, {"01-train"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01 mine", "01-train", "report"]
