"""`compress new`: what it writes is accepted, whatever the network; what is there is kept."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from compress.cli import main
from compress.recipe import load
from compress.steps import STEPS
from compress.steps.export import Export
from compress.steps.prune import Prune
from compress.steps.train import Train

NETS = """
from torch import nn

def MyNet(width=32):
    body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), body, nn.Conv2d(width, 1, 3, padding=1))

def Narrow():
    return MyNet(6)

class Nothing(nn.Module):
    def forward(self, x):
        return x
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("new_nets.py").write_text(NETS)
    for side in ("low", "full"):
        Path("my pairs", side).mkdir(parents=True)
        np.save(Path("my pairs", side, "a.npy"), np.full((40, 56), -1000, np.int16))
    return tmp_path


def call(*words):
    return CliRunner().invoke(main.main, words)


def steps(name):
    return {type(step): step for _, step in load(Path(f"{name}.yaml")).steps}


def test_a_network_of_ones_own_gets_a_recipe_with_comments(place):
    done = call("new", "mine", "--network", "new_nets:MyNet", "--data", "my pairs")
    assert (done.exit_code, done.output) == (0, "mine.yaml\n")
    assert call("check", "mine.yaml").exit_code == 0
    recipe = load(Path("mine.yaml"))
    assert recipe.data.path == str(place / "my pairs")
    assert recipe.model.import_ == "new_nets:MyNet"
    found = steps("mine")
    assert (found[Train].crop, found[Export].image_size) == (32, 48)  # slices of 40 x 56
    assert (found[Prune].amount, found[Prune].round_to) == (0.5, 16)
    comments = [line for line in recipe.text.splitlines() if line.lstrip().startswith("#")]
    assert len(comments) > 10
    words = {word for word, _ in recipe.steps}
    assert {"train", "prune", "retrain", "sparsify", "evaluate", "export", "report"} == words
    assert words < STEPS.keys()
    assert "  # - baseline\n" in recipe.text


@pytest.mark.parametrize("network", ["ddnet", "redcnn"])
def test_without_data_the_demo_set_is_taken(place, network):
    assert call("new", "7", "--network", network).exit_code == 0
    recipe = load(Path("7.yaml"))
    assert (recipe.name, recipe.data.source, recipe.model.name) == ("7", "demo", network)
    assert steps("7")[Train].crop == 64
    assert call("check", "7.yaml").exit_code == 0


def test_a_narrow_network_is_asked_for_less(place):
    assert call("new", "narrow", "--network", "new_nets:Narrow").exit_code == 0
    assert steps("narrow")[Prune].round_to is None
    assert call("check", "narrow.yaml").exit_code == 0


def test_the_end_of_the_file_name_may_be_written(place):
    assert call("new", "mine.yaml").exit_code == 0
    assert sorted(path.name for path in place.glob("mine*")) == ["mine.yaml"]


def test_a_pair_without_partner_is_seen_at_once(place):
    for side, names in (("low", ("a", "b")), ("full", ("a",))):
        (place / "pairs" / side).mkdir(parents=True)
        for name in names:
            np.save(place / "pairs" / side / f"{name}.npy", np.zeros((64, 64), np.int16))
    done = call("new", "x", "--data", "pairs")
    assert done.exit_code == 2
    assert "b" in done.output
    assert done.output.count("\n") == 1
    assert not (place / "x.yaml").exists()


def test_a_file_that_exists_is_left_as_it_is(place):
    Path("mine.yaml").write_text("mine")
    done = call("new", "mine")
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "mine.yaml exists and is left as it is" in done.output
    assert Path("mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["../up"], "letters, digits"),
        (["x", "--network", "unet"], "--network unet: there is no such network; write ddnet or "),
        (["x", "--network", "a/nets.py"], "or nets:CLASS for a network of your own"),
        (["x", "--network", "no_nets:MyNet"], "no_nets"),
        (["x", "--network", "new_nets:Other"], "Other"),
        (["x", "--network", "new_nets:Nothing"], "no convolution or linear layer"),
        (["x", "--data", "none"], "there is no data folder none"),
        (["x", "--data", "."], "neither folders low and full"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_no_file(place, words, why):
    before = sorted(place.rglob("*.yaml"))
    done = call("new", *words)
    assert done.exit_code == 2
    assert why in done.output
    assert done.output.count("\n") == 1
    assert sorted(place.rglob("*.yaml")) == before
