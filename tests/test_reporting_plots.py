"""Pictures: histograms of scores, curves of a sweep; what is drawn, not how it looks."""

import json
import logging
from pathlib import Path

import pytest
import run_folders
import torch
from click.testing import CliRunner
from pairs import data
from PIL import Image

from compress import reporting
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.context import Work
from compress.recipe import load
from compress.reporting import asked, charts, histograms, plots
from compress.run import pictures, preview
from compress.steps.prune import Prune

RECIPE = """schema: 1
name: r
model: {import: "networks:Plain", width: 16}
steps:
  - train: {epochs: 2}
  - prune: {amount: 0.4, round_to: 4, rounds: 2, criterion: CRITERION}
  - retrain: {epochs: 2}
"""
GROUP = {
    "name": "a.conv", "width": 4, "kept": 2, "mean": 2.5, "sigma": 1.118, "threshold": 2.5,
    "z": [-1.3, -0.4, 0.4, 1.3], "scores": [1.0, 2.0, 3.0, 4.0], "fixed": "",
}  # fmt: skip


@pytest.mark.parametrize("criterion", ["gaussian", "taylor"])
def test_check_says_and_draws_what_would_go(tmp_path: Path, criterion: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("CRITERION", criterion))
    found = preview.check(load(path))
    json.dumps(found, allow_nan=False)
    assert [p["where"] for p in found["pruning"]] == ["steps[1].prune", "steps[3].prune"]
    last = found["pruning"][1]
    assert last["after"]["macs"] == found["pruned"]["macs"]
    assert found["removed"]["macs"] >= 0.4
    # The second round asks for a share of the dense network, as the whole recipe does.
    assert last["reached"] == pytest.approx(found["removed"]["macs"])
    assert "of the MACs of the dense network asked" in asked.amount(last)
    assert "of the dense network" not in asked.amount(found["pruning"][0])
    for group in last["groups"]:
        assert len(group["scores"]) == group["width"]
        assert 0 < group["kept"] <= group["width"]
    files = pictures.draw(found, tmp_path / "scores.png")
    assert [file.name for file in files] == ["scores.png", "scores-2.png"]
    for file in files:
        with Image.open(file) as picture:
            assert picture.size[0] > 900
    preview.render(found)


def test_check_names_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("CRITERION", "gaussian"))
    words = ["check", str(tmp_path / "r.yaml"), "--json", "--plot", str(tmp_path / "s.png")]
    result = CliRunner().invoke(main.main, words)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-2:] == [f"{tmp_path}/s.png", f"{tmp_path}/s-2.png"]
    json.loads(result.stdout)


def test_a_plot_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--plot writes a PNG picture, got .*x\.svg"):
        pictures.draw({"pruning": []}, tmp_path / "x.svg")
    with pytest.raises(UsageError, match="the recipe has no step that removes channels"):
        pictures.draw({"pruning": []}, tmp_path / "x.png")


ASKED = {
    "criterion": "gaussian", "amount": 0.5, "of": "macs", "reached": 0.614, "align": 16,
    "threshold": -0.002, "removed": {"macs": 0.614}, "scope": "layer", "solver": "threshold",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "50.0 % of the MACs asked; 61.4 % is the nearest above it that one threshold gives in "
         "multiples of 16"),
        ({"solver": "knapsack", "align": 1}, "50.0 % of the MACs asked; in whole channels the "
         "solver comes to 61.4 %"),
        ({"amount": 0.6137}, "61.4 % of the MACs asked"),
        ({"of": "latency", "reached": 0.5}, "50.0 % of the latency asked"),
        ({"amount": None}, ""),
        ({"reached": None}, ""),
    ],
)  # fmt: skip
def test_what_was_asked_is_said_beside_what_came_of_it(changed: dict, said: str) -> None:
    assert asked.amount({**ASKED, **changed}).replace("\xa0", " ") == said


def test_the_log_of_a_run_says_what_was_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("compress"), "propagate", True)
    caplog.set_level("INFO", logger="compress")
    origin = ModelOptions(import_="networks:Plain", options={"width": 16})
    work = Work(stage=tmp_path, device=torch.device("cpu"), data=data(), seed=0)
    Prune(amount=0.1, round_to=8).run(Model(net=origin.build(), origin=origin), work)
    (told,) = {m for m in caplog.messages if m.startswith("removed ")}  # two handlers hear it
    share = 100 * work.facts["removed"]["macs"]
    assert share > 11
    assert told == (
        f"removed {share:.1f} % of MACs (10.0 % of the MACs asked; {share:.1f} % is the nearest "
        "above it that one threshold gives in multiples of 8)"
    )


@pytest.mark.parametrize(
    ("changed", "unit"),
    [
        ({}, "deviations from each layer's mean score"),
        ({"scope": "global"}, "deviations from the network's mean score"),
        ({"solver": "knapsack"}, "deviations from the network's mean of log(worth / cost)"),
        ({"criterion": "l1"}, "as a place among each layer's channels, 0 to 1"),
        ({"criterion": "l1", "scope": "global"}, "in the unit of the scores"),
    ],
)
def test_a_threshold_has_a_unit(changed: dict, unit: str) -> None:
    assert asked.threshold({**ASKED, **changed}) == f"threshold \N{MINUS SIGN}0.002 {unit}"


def test_the_picture_of_scores_says_what_was_asked() -> None:
    title = histograms._title(ASKED)
    assert asked.amount(ASKED) in title
    assert "which rises until enough goes" in title
    assert "rises" not in histograms._title({**ASKED, "solver": "knapsack"})  # each has its own
    assert "asked" not in histograms._title({**ASKED, "amount": None})


def test_the_report_says_what_was_asked_and_in_which_unit(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    facts = json.loads((run / "01-prune" / "facts.json").read_text())
    facts["facts"]["reached"] = 0.62
    run_folders.write(run / "01-prune" / "facts.json", facts)
    html = reporting.write(run, run / "07-report").read_text()
    for page in (html, (run / "07-report" / "report.md").read_text()):
        assert "60.0\xa0% of the MACs asked; 62.0\xa0% is the nearest above it" in page
        assert "threshold 0.700 deviations from each layer" in page


def test_a_plot_into_no_folder_is_refused_before_any_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(preview, "check", None)  # not called
    (tmp_path / "r.yaml").write_text(RECIPE.replace("CRITERION", "gaussian"))
    for name, said in (
        ("nofolder/x.png", f"there is no folder {tmp_path}/nofolder; make it first"),
        ("x.svg", "--plot writes a PNG picture"),
    ):
        words = ["check", str(tmp_path / "r.yaml"), "--plot", str(tmp_path / name)]
        result = CliRunner().invoke(main.main, words)
        assert (result.exit_code, said in result.stderr) == (2, True), result.output


def test_histogram_of_a_layer() -> None:
    assert histograms.kept_first(GROUP) == ([4.0, 3.0], [2.0, 1.0])
    edges = histograms.bins(GROUP["scores"])
    assert (edges[0], edges[-1]) == (1.0, 4.0)
    assert histograms.normal(2.5, GROUP, 1.0) == pytest.approx(4 / 1.118 / 2.5066, rel=1e-3)
    svg = charts.histogram(GROUP)
    assert svg.count('class="bar-kept"') == svg.count('class="bar-gone"') == len(edges) - 1
    assert 'class="threshold"' in svg


@pytest.mark.parametrize(("groups", "columns"), [(1, 1), (3, 3), (7, 4), (45, 7)])
def test_a_picture_of_scores_is_labelled_and_has_no_empty_part(groups: int, columns: int) -> None:
    beyond = {**GROUP, "threshold": 9.0}
    pruning = {
        "criterion": "taylor", "removed": {"macs": 0.4}, "align": 4,
        "groups": [GROUP] * (groups - 1) + [beyond],
    }  # fmt: skip
    figure = histograms.figure(pruning)
    figure.draw_without_rendering()
    assert figure.get_supxlabel() == "score of a channel (taylor)"
    assert figure.get_supylabel() == "channels"
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == groups
    assert shown[0].get_gridspec().ncols == columns
    for axes in shown:
        low, high = axes.get_xlim()
        assert 0.9 < low < 1.0
        assert 4.0 < high < 4.1
    title = figure._suptitle.get_window_extent()
    assert title.x0 > 0
    assert title.x1 < figure.bbox.width


def test_equal_scores_have_a_histogram_too() -> None:
    same = {**GROUP, "scores": [0.0] * 4, "mean": 0.0, "sigma": 0.0, "threshold": None}
    assert "nan" not in charts.histogram(same)
    edges = histograms.bins(same["scores"])
    assert edges[0] < 0 < edges[-1]


def test_the_report_has_histograms_and_says_zeros_are_no_speed(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    facts = json.loads((run / "01-prune" / "facts.json").read_text())
    html = reporting.write(run, run / "07-report").read_text()
    assert html.count('class="histogram"') == 44
    facts["facts"] |= {
        "criterion": "random_weights", "groups": [], "zeros": 0.5, "threshold": None, "align": None,
    }  # fmt: skip
    run_folders.write(run / "01-prune" / "facts.json", facts)
    html = reporting.write(run, run / "07-report").read_text()
    text = (run / "07-report" / "report.md").read_text()
    for page in (html, text):
        assert "50.0\xa0% of the convolution weights to zero by random_weights" in page
        assert "no kernel skips unstructured zeros" in page
        assert "50.0 % of the convolution weights zero" in page


def line(kind: str, x: float, psnr: float | None, **values: str) -> dict:
    moments = {"mean": psnr, "sd": 0.1}
    names = ("psnr", "ssim", "macs_removed", "seconds_dense", "seconds_extra", "macs")
    names += ("times_as_fast",)
    own = dict.fromkeys(names, moments) | {"macs_removed": {"mean": x, "sd": None}}
    name = "dense" if kind == "baseline" else "compressed"
    return {"kind": kind, "name": name, "values": values, **own}


def _drawn(draw, along: plots._Along, folder: Path) -> list:
    """The axes of a picture."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        figure = plots._figure
        patch.setattr(plots, "_figure", lambda *a: made.append(figure(*a)) or made[-1])
        draw(along, folder / "picture.png")
    return made[0][1]


def _legend(draw, along: plots._Along, folder: Path) -> list[str]:
    """What the legend of a picture says."""
    drawn = _drawn(draw, along, folder)
    return [text.get_text() for axes in drawn if (own := axes.get_legend()) for text in own.texts]


def test_bars_of_times_reach_to_the_rounds_at_the_ends() -> None:
    timed = line("point", 0.6, 1.5) | {"times_as_fast_range": [1.2, 1.9]}
    assert plots._bars([timed], "times_as_fast", 1.0) == [
        [pytest.approx(0.3)], [pytest.approx(0.4)],
    ]  # fmt: skip
    assert plots._bars([timed, line("point", 0.3, 1.2)], "times_as_fast", 1.0) == [[0.1, 0.1]] * 2


def test_axis_and_lines_of_a_sweep(tmp_path: Path) -> None:
    amount, criterion = "steps.prune.amount", "steps.prune.criterion"
    means = [
        line("baseline", 0.0, 44.0),
        *(
            line("point", x, 44 - x, **{amount: str(x), criterion: name})
            for x in (0.6, 0.3)
            for name in ("l1", "gaussian")
        ),
        line("point", 0.9, None, **{amount: "0.99", criterion: "l1"}),
    ]
    along = plots._Along([m for m in means if m["psnr"]["mean"] is not None])
    assert along.label == "MACs removed, %"
    assert {name: [along.of(m) for m in own] for name, own in along.lines.items()} == {
        "l1": [30.0, 60.0], "gaussian": [30.0, 60.0],
    }  # fmt: skip
    found = [path.name for path in plots.sweep(means, tmp_path)]
    assert found == ["quality.png", "seconds.png", "speed.png"]
    assert _drawn(plots._speed, along, tmp_path)[0].get_ylabel() == "GMAC of a 512x512 slice"
    epochs = [line("point", 0.6, 44.0, **{"steps.train.epochs": e}) for e in ("5", "10")]
    dense = [line("baseline", 0.0, 44.0, **{"steps.train.epochs": e}) for e in ("5", "10")]
    along = plots._Along(epochs + dense)
    assert (along.label, along.of(epochs[1])) == ("train epochs", 10.0)
    assert not along.flat(dense[0])
    assert len(plots.sweep(epochs + dense, tmp_path)) == 3
    assert _legend(plots._quality, along, tmp_path)[-1] == "dense, trained as long"
    flat = plots._Along([line("baseline", 0.0, 44.0), line("point", 0.6, 44.0)])
    assert "dense, trained as long" in _legend(plots._quality, flat, tmp_path)
    assert plots.sweep(dense, tmp_path) == []
