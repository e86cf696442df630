"""report: what the pages say, that they stand alone, and that any recipe gets one."""

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_folders
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from compress import reporting
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.context import Work
from compress.data import Data, Pairs
from compress.quality.metrics import Window
from compress.reporting import charts, compare, formatting, pictures
from compress.run.folder import locked
from compress.run.report import rebuild
from compress.steps.report import Report

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Checks that tags nest and gathers what the page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values[key] or "" for key in ("href", "src") if key in values]
        self.ids.add(values.get("id") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # inside an SVG

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def written(run: Path) -> tuple[dict[str, Any], str, str]:
    """The report of a run: report.json, report.html, report.md."""
    folder = max(run.glob("*-report"))
    assert reporting.write(run, folder) == folder / "report.html"
    report = json.loads((folder / "report.json").read_text())
    return report, (folder / "report.html").read_text(), (folder / "report.md").read_text()


def change(path: Path, **values: Any) -> None:
    """Overwrite entries of a JSON object in a file."""
    run_folders.write(path, {**json.loads(path.read_text()), **values})


def test_the_step_writes_three_files_and_passes_the_model_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = run_folders.make(tmp_path / "run") / "07-report"
    none = Pairs(low=(), full=(), names=(), patients=())
    data = Data(train=none, test=none, source="demo", fingerprint="0", notices=())
    work = Work(stage=stage, device=torch.device("cpu"), data=data, seed=0)
    model = Model(net=nn.Identity(), origin=ModelOptions())
    with caplog.at_level("INFO", logger="compress"):
        assert Report().run(model, work) is model
    assert {p.name for p in stage.iterdir()} == {"report.html", "report.md", "report.json"}
    assert str(stage / "report.html") in caplog.text


def test_report_json_holds_what_the_recipe_promised(tmp_path: Path) -> None:
    report, _, _ = written(run_folders.make(tmp_path / "run"))
    assert report["schema"] == 1
    assert report["removed"]["macs"] == pytest.approx(0.62, abs=1e-3)
    assert report["removed"]["params"] == pytest.approx(0.6927, abs=1e-3)
    assert report["quality"]["compressed"]["psnr"]["mean"] == pytest.approx(45.65)
    sparse = report["sparse24"]
    assert (sparse["done"], sparse["eligible_backend"], sparse["convolutions"]) == (43, 43, 45)
    assert [s["stage"] for s in report["stages"]][:2] == ["00-train", "01-prune"]
    assert len(report["training"]) == 3
    numbers = {n["key"]: (n["before"], n["after"]) for n in report["numbers"]}
    assert numbers["macs"] == (19_086_442_496, 7_252_606_976)
    assert list(numbers) == ["macs", "params", "bytes", "latency", "psnr"]
    assert numbers["bytes"] == (2_313_912, 742_300)
    assert numbers["latency"] == (None, None)
    assert numbers["psnr"] == pytest.approx((46.15, 45.65))


def test_what_the_masks_keep(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    for page in written(run)[1:]:
        assert "masks keep 72.7" in page
        assert "before their channels were permuted it would have been 71.9" in page
    facts = json.loads((run / "03-sparsify" / "facts.json").read_text())
    del facts["facts"]["permutation"]
    run_folders.write(run / "03-sparsify" / "facts.json", facts)
    assert "permuted" not in written(run)[2]
    del facts["facts"]["kept_magnitude"]
    run_folders.write(run / "03-sparsify" / "facts.json", facts)
    assert "magnitude" not in written(run)[2]


def test_engines_promise_nothing_of_sparse_kernels(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    path = run / "06-export" / "facts.json"
    facts = json.loads(path.read_text())
    facts["facts"]["engines"][1]["sparsity"] = {"source": "x", "eligible": 43, "picked": 0}
    path.write_text(json.dumps(facts))
    said = "model.onnx runs no layer of 43 that TensorRT could take with a sparse kernel"
    report, html, markdown = written(run)
    assert len(report["kernels"]) == 1
    assert said in html
    assert said in markdown


def test_a_size_is_that_of_the_file_in_every_table(tmp_path: Path) -> None:
    """Once the plain weights' 2.28 MB stood in one table and the file's 2.31 MB in another."""
    report, html, markdown = written(run_folders.make(tmp_path / "run"))
    stored = [row["bytes"] for row in report["storage"]]
    sizes = [stage["cost"]["bytes"] for stage in report["stages"]]
    assert sizes[0] == stored[0] == report["numbers"][2]["before"]
    assert sizes[-1] == stored[-1] == report["numbers"][2]["after"]
    assert set(sizes) == set(stored)
    for page in (html, markdown):
        assert len(set(re.findall(r"2\.[23]\d\WMB", page))) == 1


def test_file_sizes_dense_pruned_and_sparse(tmp_path: Path) -> None:
    report, html, markdown = written(run_folders.make(tmp_path / "run"))
    assert [(row["label"], row["bytes"]) for row in report["storage"]] == [
        ("dense", 2_313_912),
        ("pruned", 742_300),
        ("pruned, 2:4, zeros stored", 742_300),
    ]
    assert "| pruned, 2:4, zeros stored | 742\N{NO-BREAK SPACE}kB | 32.1" in markdown
    assert "pruned, 2:4, zeros stored" in html


def test_file_sizes_without_pruning_from_given_weights_and_when_files_are_gone(
    tmp_path: Path,
) -> None:
    run = run_folders.make(tmp_path / "run", ("sparsify", "retrain"))
    assert written(run)[0]["storage"] == []  # no dense file to compare with
    (run / "initial").mkdir()
    (run / "initial" / "model.safetensors").write_bytes(bytes(1000))
    rows = [(row["label"], row["bytes"]) for row in written(run)[0]["storage"]]
    assert rows == [
        ("dense", 1000),
        ("dense, 2:4, zeros stored", 2_313_912),
    ]
    dense = run_folders.make(tmp_path / "dense", ("train", "evaluate"))
    report, _, markdown = written(dense)
    assert report["storage"] == []
    assert "## Storage" not in markdown


def test_the_verdict_is_one_sentence_and_claims_no_speed(tmp_path: Path) -> None:
    report, html, markdown = written(run_folders.make(tmp_path / "run"))
    assert report["verdict"] == (
        "With 62.0 % fewer MACs, 69.3 % fewer parameters and 43 of 45 convolutions 2:4 sparse, "
        "the compressed network reaches 45.65 dB PSNR on 6 held-out slices, 9.00 dB above the "
        "low-dose input (no fair comparison with the dense network at 46.15 dB, which lacks 1,280 "
        "of the 1,600 optimizer steps); its speed was not measured."
    )
    for page in (html, markdown):
        assert report["verdict"] in page
        assert "not a medical device" in page
        assert not re.search("faster|accelerat", page)


def test_what_was_timed_and_what_the_engine_told_is_shown(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    run_folders.built(run)
    report, html, markdown = written(run)
    latency = next(n for n in report["numbers"] if n["key"] == "latency")
    assert (latency["before"], latency["after"]) == (5.31, 0.79)
    a100 = "NVIDIA A100-SXM4-80GB"
    ran = "torch_tensorrt fp16, CUDA graph"
    assert latency["note"] == f"eager-fp32 → {ran}, batch 1, {a100}"
    assert report["verdict"].endswith(
        f"torch_tensorrt-fp16-b1.ep ({ran}) takes 0.79 ms for a slice and 00-train (eager-fp32) "
        f"5.31 ms, on {a100}."
    )
    assert not any("No latency was measured" in limit for limit in report["limits"])
    assert "somewhere/" not in html + markdown  # folders of the machine that timed
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert len(layers) == 45
    wide = layers["decoders.3.wide.conv"]
    assert (wide["picked"], wide["kept"], wide["done"]) == ("yes", 16, True)
    assert wide["share_of_time"] == pytest.approx(42 / 990, abs=2e-3)
    assert report["hashes"]["torch_tensorrt-fp16-b1.ep"] == "5e" * 32
    assert {"recipe.yaml", "data", "04-retrain/model.safetensors"} <= report["hashes"].keys()
    assert ">Picked<" in html
    assert ">6.72<" in html


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": []}', '{"rows": [{"name": 3}]}'])
def test_a_file_that_is_no_benchmark_is_refused(tmp_path: Path, text: str) -> None:
    run = run_folders.make(tmp_path / "run", ("train",))
    (run / "bench.json").write_text(text)
    with pytest.raises(UsageError, match=r"bench\.json is not what `compress bench --json` prints"):
        rebuild(run)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("05-evaluate/pictures.npz", None, "it is gone"),
        ("05-evaluate/pictures.npz", b"PK", ""),
        ("05-evaluate/pictures.npz", b"\x93NUMPY", ""),
        ("05-evaluate/pictures.npz", b"", "No data left in file"),
        ("05-evaluate/pictures.npz", 0.5, "File is not a zip file"),
        ("04-retrain/facts.json", b"[]", r"it holds \[\]"),
        ("04-retrain/facts.json", 0.5, "Unterminated string|Expecting"),
        ("manifest.json", b"{", "Expecting property name"),
        ("manifest.json", b"\xff", "'utf-8' codec"),
    ],
)
def test_a_damaged_file_of_the_run_is_named(
    name: str, content: bytes | float | None, said: str, tmp_path: Path
) -> None:
    file = run_folders.make(tmp_path / "run") / name
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_bytes(file.read_bytes()[: int(content * file.stat().st_size)])
    with pytest.raises(UsageError, match=f"{name} cannot be shown: .*({said}).*; copy it again"):
        written(tmp_path / "run")


def test_a_benchmark_older_than_the_networks_is_left_out(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    run_folders.built(run)
    os.utime(run / "bench.json", (0, 0))
    report, _, _ = written(run)
    assert report["speed"] is None
    assert report["verdict"].endswith("its speed was not measured.")


def test_columns_that_nobody_can_fill_are_left_out(tmp_path: Path) -> None:
    _, html, _ = written(run_folders.make(tmp_path / "run"))
    assert ">Picked<" not in html
    assert "No engine tells for which layers it runs a sparse kernel" in html


def test_columns_without_a_value_are_left_out(tmp_path: Path) -> None:
    runs = [run_folders.make(tmp_path / name) for name in ("one", "two")]
    page = compare.write(runs, tmp_path / "c.html").read_text()
    assert ">MS-SSIM</th>" in page
    assert ">Latency</th>" not in page  # of a fast machine, which nobody has measured on
    for run in runs:
        stage = run / "05-evaluate" / "facts.json"
        found = json.loads(stage.read_text())
        for own in found["facts"]["summary"].values():
            own["ms_ssim"] = {"mean": None, "sd": None}
        run_folders.write(stage, found)
    page = compare.write(runs, tmp_path / "c.html").read_text()
    assert ">MS-SSIM</th>" not in page
    assert ">SSIM</th>" in page


def test_engines_have_columns_for_what_is_known_of_them(tmp_path: Path) -> None:
    def heads(run: Path) -> list[str]:
        html = reporting.write(run, run / "07-report").read_text()
        table = html[html.index('aria-label="Engines"') :]
        return re.findall(r"<th scope=\"col\"[^>]*>([^<]*)</th>", table[: table.index("</thead>")])

    run = run_folders.make(tmp_path / "run")
    first = ["Format", "Precision", "State", "File, or why not and what to do"]
    figures = ["Size", "Of dense", "At most, HU", "On average, HU"]
    assert heads(run) == [*first, *figures]
    run_folders.built(run)
    assert heads(run) == [*first[:2], "Batch", *first[2:], *figures, "Latency", "Times as fast"]
    stage = run / "06-export" / "facts.json"
    found = json.loads(stage.read_text())
    (run / "bench.json").unlink()
    for engine in found["facts"]["engines"]:
        engine |= {"bytes": None, "parity": None, "batch": None}
    run_folders.write(stage, found)
    assert heads(run) == first


def test_what_was_not_done_is_listed_once_with_its_reason(tmp_path: Path) -> None:
    report, html, markdown = written(run_folders.make(tmp_path / "run"))
    undone = {row["what"]: (row["why"], row["command"]) for row in report["undone"]}
    assert len(undone) == len(report["undone"])
    assert undone["Engine torch_tensorrt, fp16"] == (
        "torch_tensorrt is not installed and there is no GPU",
        "pip install 'torch-tensorrt==2.13.*'",
    )
    assert undone["2:4 in stem.conv"][0] == "1 input channel, not a multiple of 16"
    assert "compress bench" in undone["Latency"][1]
    for page in (html, markdown):
        assert "Not done, and why" in page
    report, _, _ = written(run_folders.make(tmp_path / "dense", ("train",)))
    assert [row["what"] for row in report["undone"]] == [
        "Channels removed", "2:4 sparsity", "Image quality", "Engines", "Latency",
    ]  # fmt: skip


def test_the_command_writes_one_report_anew_or_compares_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (run_folders.make(tmp_path / name) for name in ("one", "two"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main.main, ["report", str(one)])
    assert (done.exit_code, done.output) == (0, f"{one / '07-report' / 'report.html'}\n")
    done = CliRunner().invoke(main.main, ["report", str(one), str(two)])
    assert (done.exit_code, done.output) == (0, "compare.html\n")
    page = (tmp_path / "compare.html").read_text()
    assert Page(page).links == ["data:,"]
    assert page.count("reaches 45.65 dB PSNR") == 2
    for words, said in (
        ([one, one], "two or more different run folders"),
        ([one, "-o", "x.html"], "--out is for a comparison"),
        ([tmp_path], "holds no run"),
        ([one, tmp_path], "holds no run"),
    ):
        done = CliRunner().invoke(main.main, ["report", *map(str, words)])
        assert done.exit_code == 2
        assert said in done.output


def test_a_run_without_a_report_gets_one_after_its_last_stage(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run", ("train", "evaluate"))
    (run / "02-report").rmdir()
    assert rebuild(run) == run / "02-report" / "report.html"


def test_runs_that_cannot_be_compared_are_said_to_be_so(tmp_path: Path) -> None:
    one, two = run_folders.make(tmp_path / "one"), run_folders.make(tmp_path / "two", ("train",))
    data = {**run_folders.manifest()["data"], "source": "phantom", "fingerprint": "cd" * 32}
    change(two / "manifest.json", data=data)
    assert compare.compare([one, two])["notices"] == [
        "These runs did not use the same data: their image quality cannot be compared.",
        "two used phantoms, not CT of patients.",
        "two was not evaluated for image quality.",
    ]
    (tmp_path / "more").mkdir()
    other = run_folders.make(tmp_path / "more" / "one")
    rows = compare.compare([one, other])["rows"]
    assert [row["run"].split("/")[-2:] for row in rows][1] == ["more", "one"]


def test_dots_that_cover_each_other_share_a_label() -> None:
    svg = charts.scatter([("a", 7.2, 45.0), ("b", 7.2, 45.0), ("c", 19.1, 46.0)])
    assert "a, b" in svg
    assert svg.count("<circle") == 3
    assert charts.scatter([("a", 7.2, 45.0)]) == ""


def test_longer_training_of_the_compressed_network_is_said(tmp_path: Path) -> None:
    report, html, markdown = written(run_folders.make(tmp_path / "run"))
    assert any("1,600 optimizer steps in all, the dense one for 320" in x for x in report["limits"])
    assert "their difference is not the cost of compression alone" in html
    assert "their difference is not the cost of compression alone" in markdown
    alone, _, _ = written(run_folders.make(tmp_path / "other", ("train", "prune", "evaluate")))
    assert not any("optimizer steps" in limit for limit in alone["limits"])


def test_the_page_stands_alone(tmp_path: Path) -> None:
    _, html, _ = written(run_folders.make(tmp_path / "run"))
    page = Page(html)
    for link in page.links:
        assert link.startswith(("data:", "#"))
        assert link[0] != "#" or link[1:] in page.ids
    assert not re.search(r"@import|url\(|https?://", html)
    assert "default-src 'none'" in html
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    # Two slices, each: four images in three windows and three differences.
    assert html.count("data:image/png") == 2 * (4 * 3 + 3)
    assert html.count('<svg class="strip"') == 44
    assert html.count('<svg class="chart"') == 1


def test_both_pages_show_every_part(tmp_path: Path) -> None:
    _, html, markdown = written(run_folders.make(tmp_path / "run"))
    for page in (html, markdown):
        for expected in (
            "Image quality",
            "Training",
            "Stages",
            "Storage",
            "Engines",
            "Pruning",
            "2:4 sparsity",
            "Environment",
            "Limits",
            "residual: true",
            "decoders.3.wide.conv",
            "1 input channel, not a multiple of 16",
            "nvidia-modelopt 0.47.0",
            "train: {epochs: 10}",
            "0.0041",
            "by the gaussian criterion",
            "MACs of a 512x512 slice",
        ):
            assert expected in page
    assert "MACs of a slice" not in html + markdown
    assert "MACs per slice" not in html + markdown
    commit = "3f1c2d4e5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d"
    assert f"<dt>Commit of compress</dt><dd><code>{commit}</code></dd>" in html
    assert f"commit of compress `{commit}`" in markdown
    assert "pip install &#39;torch-tensorrt==2.13.*&#39;" in html
    assert "`pip install 'torch-tensorrt==2.13.*'`" in markdown
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) == 11
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


@settings(max_examples=15, deadline=None)
@given(there=st.lists(st.booleans(), min_size=7, max_size=7))
def test_any_subset_of_the_steps_gets_a_report(
    there: list[bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    steps = tuple(step for step, on in zip(run_folders.FLAGSHIP, there, strict=True) if on)
    report, html, _ = written(run_folders.make(tmp_path_factory.mktemp("runs") / "run", steps))
    page = Page(html)
    assert all(link[1:] in page.ids for link in page.links if link[0] == "#")
    assert report["verdict"].endswith(".")
    assert ("compressed network" in report["verdict"]) == bool({"prune", "sparsify"} & {*steps})
    assert (report["removed"]["macs"] or 0) == pytest.approx(0.62 * ("prune" in steps), abs=1e-3)
    assert (report["sparse24"] is None) == ("sparsify" not in steps)
    assert bool(report["quality"]) == ("evaluate" in steps)


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ((), "No stage of this run has ended."),
        (
            ("train",),
            "Nothing was compressed, the dense network was not evaluated for image quality; "
            "its speed was not measured.",
        ),
        (
            ("train", "evaluate"),
            "Nothing was compressed, the dense network reaches 46.15 dB PSNR on 6 held-out slices, "
            "9.50 dB above the low-dose input; its speed was not measured.",
        ),
        (
            ("train", "evaluate", "prune"),
            "With 62.0 % fewer MACs and 69.3 % fewer parameters, the compressed network was not "
            "evaluated for image quality; its speed was not measured.",
        ),
    ],
)
def test_verdicts_of_other_recipes(tmp_path: Path, steps: tuple[str, ...], verdict: str) -> None:
    assert written(run_folders.make(tmp_path / "run", steps))[0]["verdict"] == verdict


def test_notices_come_first_and_once(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run", ("train", "evaluate", "retrain", "export"))
    loud = "phantom <b>data</b>"
    data = {**run_folders.manifest()["data"], "source": "phantom", "notices": [loud]}
    change(run / "manifest.json", data=data, notices=[loud])
    report, html, markdown = written(run)
    assert report["notices"] == [
        loud,
        "Image quality was measured before 02-retrain changed the network.",
        "torch_tensorrt was not built: torch_tensorrt is not installed and there is no GPU",
    ]
    assert html.index("phantom &lt;b&gt;data") < html.index("<h2")
    assert loud not in html
    assert markdown.index(loud) < markdown.index("## ")


def test_a_network_worse_than_its_input_is_said_to_be(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    path = run / "05-evaluate" / "facts.json"
    facts = json.loads(path.read_text())["facts"]
    facts["summary"]["compressed"]["psnr"]["mean"] = 30.0
    change(path, facts=facts)
    report, _, _ = written(run)
    assert "6.65 dB below the low-dose input" in report["verdict"]
    assert any("no better than the untouched" in notice for notice in report["notices"])


def test_differences_are_those_of_the_figures_shown(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    stage = run / "05-evaluate" / "facts.json"
    found = json.loads(stage.read_text())
    for network, psnr in (("dense", 32.1249), ("compressed", 32.7584), ("input", 30.7551)):
        found["facts"]["summary"][network]["psnr"]["mean"] = psnr
    run_folders.write(stage, found)
    html = reporting.write(run, run / "07-report").read_text()
    report = json.loads((run / "07-report" / "report.json").read_text())
    assert "32.12" in html
    assert "+0.64\xa0dB" in html  # on top; 32.76 - 32.12
    assert '<td class="n">+0.64</td>' in html  # in the table
    assert "reaches 32.76 dB PSNR on 6 held-out slices, 2.00 dB above" in report["verdict"]


def test_phantom_slices_are_called_so(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    change(run / "manifest.json", data={**run_folders.manifest()["data"], "source": "phantom"})
    report, html, _ = written(run)
    assert "on 6 phantom slices" in report["verdict"]
    assert report["notices"][0].startswith("All slices are phantoms")
    assert html.index("All slices are phantoms") < html.index("<h2")


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    change(run / "manifest.json", name="<script>alert(1)</script>", gpu='"><img src=x>')
    _, html, _ = written(run)
    assert html.count("<script") == 1
    assert "alert(1)</script>" not in html
    assert "<img src=x" not in html


def test_later_stages_and_other_reports_do_not_come_in(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run", ("train",))
    for name, step in (("00-report", "report"), ("02-prune", "prune")):
        (run / name).mkdir()
        (run / name / "facts.json").write_text((run / "00-train" / "facts.json").read_text())
        change(run / name / "facts.json", stage=name, step=step)
    report, _, _ = written(run)
    assert [stage["stage"] for stage in report["stages"]] == ["00-train"]


def test_single_slices_and_infinite_psnr_are_dashes(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")
    path = run / "05-evaluate" / "facts.json"
    facts = json.loads(path.read_text())["facts"]
    for found in facts["summary"].values():
        found.update({key: {"mean": None, "sd": None} for key in ("psnr", "ms_ssim")})
    change(path, facts=facts)
    report, html, _ = written(run)
    Page(html)
    assert "None" not in html
    assert "was not evaluated" in report["verdict"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run: it has no manifest\.json$"):
        reporting.write(tmp_path, tmp_path)
    with pytest.raises(UsageError, match=r"none: there is no such run folder$"):
        rebuild(tmp_path / "none")


@pytest.mark.parametrize("where", ["", "points"])
def test_the_folder_of_a_sweep_or_of_runs_names_one_of_its_runs(tmp_path: Path, where: str) -> None:
    (tmp_path / "sweep" / where).mkdir(parents=True)
    one = run_folders.make(tmp_path / "sweep" / where / "amount=0.3", ("train", "evaluate"))
    with pytest.raises(UsageError, match=rf"sweep holds no run: .*; try {re.escape(str(one))}$"):
        rebuild(tmp_path / "sweep")


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_windows_map_hu_to_gray() -> None:
    hu = np.array([[-2000.0, -150.0, 50.0, 250.0, 3000.0]])
    image = decoded(pictures.windowed(hu, Window(-150, 250)))
    assert np.asarray(image).tolist() == [[0, 0, 128, 255, 255]]


def test_differences_are_dark_at_zero_and_coloured_by_sign() -> None:
    zero = np.zeros((1, 5))
    hu = np.array([[-90.0, -50.0, 0.0, 50.0, 90.0]])
    for end, scaled in ((50, hu), (200, 4 * hu)):
        image = decoded(pictures.difference(scaled, zero, end))
        colours = np.asarray(image.convert("RGB"))[0].tolist()
        assert [tuple(c) for c in colours] == [pictures.STOPS[i] for i in (0, 0, 2, 4, 4)]


@pytest.mark.parametrize(
    ("rms", "end"), [(0, 10), (10, 10), (11, 20), (48, 50), (51, 100), (141, 200), (600, 1000)]
)
def test_the_scale_of_differences_follows_the_data(rms: int, end: int) -> None:
    full = np.full((2, 4, 4), 40, np.float32)
    noise = np.where(np.indices(full.shape).sum(0) % 2, rms, -rms).astype(np.float32)
    assert pictures.span(full + noise, full) == end


def test_a_report_has_one_scale_of_differences_and_says_it(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run")  # its low dose is off by 45 HU
    html = reporting.write(run, run / "07-report").read_text()
    assert html.count("<span>\N{MINUS SIGN}50 HU</span><span>0</span><span>+50 HU</span>") == 2
    file = next(run.glob("*/pictures.npz"))
    with np.load(file) as found:
        arrays = {**found}
    arrays["low"] = arrays["full"] + 3 * (arrays["low"] - arrays["full"])
    np.savez_compressed(file, **arrays)
    html = reporting.write(run, run / "07-report").read_text()
    assert "image minus full dose, all from \N{MINUS SIGN}200 to +200 HU" in html
    assert html.count("Low dose \N{MINUS SIGN} full dose, ±200 HU") == 2
    assert html.count("<span>\N{MINUS SIGN}200 HU</span><span>0</span><span>+200 HU</span>") == 2
    assert "50 HU<" not in html


def test_channels_kept_are_the_highest_and_ties_go_to_the_lower_index() -> None:
    svg = charts.strip([0.0, 1.0, 0.0, -9.0], kept=2, threshold=0.5, scale="z")
    dots = re.findall(r'class="(kept|gone)" cx="([\d.]+)"', svg)
    assert dots == [("kept", "114.6"), ("kept", "90.0"), ("gone", "90.0"), ("gone", "4.0")]


@pytest.mark.parametrize("loss", [[1e-3], [0.0, 0.0], [3e-2, 1e-7], [0.5, 2.0]])
def test_any_loss_has_a_curve_inside_the_chart(loss: list[float]) -> None:
    svg = charts.training([{"stage": "00-train", "loss": loss}], {})
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert len(heights) == len(loss)
    assert all(charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM for y in heights)


SHOWN = (formatting.count, formatting.size, formatting.seconds, formatting.figure)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formatting.count(566_451), "566,451"),
        (formatting.count(1_848_865), "1.85 M"),
        (formatting.count(19_086_442_496), "19.09 G"),
        (formatting.count(312_000_000), "312.00 M"),
        (formatting.size(2_283_912), "2.28 MB"),
        (formatting.size(712_300), "712 kB"),
        (formatting.size(96), "96 B"),
        (formatting.size(999_700), "1 MB"),
        (formatting.milliseconds(1234.5), "1,234 ms"),
        (formatting.seconds(0.42), "0.4 s"),
        (formatting.seconds(59.7), "1 min 0 s"),
        (formatting.seconds(200), "3 min 20 s"),
        (formatting.seconds(7500), "2 h 5 min"),
        (formatting.signed(-0.5), "\N{MINUS SIGN}0.50"),
        (formatting.signed(0.5), "+0.50"),
        (formatting.minus(32.7584, 32.1249), "+0.64"),  # 32.76 - 32.12, as a reader finds it
        (formatting.minus(None, 1.0), "\u2013"),
        (formatting.change({"kind": "decibels", "before": 32.1249, "after": 32.7584}), "+0.64 dB"),
        (formatting.scientific(2.13e-4), "2.13e-4"),
        (formatting.scientific(0.0), "0"),
        (formatting.percent(0.62), "62.0 %"),
        *((show(None), "\u2013") for show in SHOWN),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown.replace(formatting.SPACE, " ") == expected


def test_a_report_has_the_number_of_the_recipe_s_own_step(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run", ("train", "evaluate"))
    (run / "02-report").rmdir()
    text = (
        "schema: 1\nmodel: {name: ddnet}\nsteps: [train: {epochs: 1}, evaluate, export, report]\n"
    )
    (run / "recipe.yaml").write_text(text)
    assert rebuild(run) == run / "03-report" / "report.html"


def test_no_report_is_written_while_a_recipe_runs(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path / "run", ("train",))
    with locked(run), pytest.raises(UsageError, match="another run is at work"):
        rebuild(run)


def test_int8_is_told_with_what_each_layer_costs(tmp_path: Path) -> None:
    steps = ("train", "prune", "sparsify", "quantize", "retrain", "evaluate", "export")
    report, html, markdown = written(run_folders.make(tmp_path / "run", steps))
    assert "44 of 45 layers in INT8" in report["verdict"]
    assert any("rounding simulated in float32" in limit for limit in report["limits"])
    assert report["storage"][-1]["label"] == "with ranges for INT8, weights in float32"
    page = Page(html)
    assert "int8" in page.ids
    for text in (html, markdown):
        assert "0.930 HU rms before any retraining, 1.000 HU were allowed" in text
        assert "the channels that 43 of these layers read were scaled to one range" in text
        assert "alone it costs 4.6 HU, too much for the budget" in text


def test_without_int8_nothing_is_told_of_it(tmp_path: Path) -> None:
    report, html, markdown = written(run_folders.make(tmp_path / "run"))
    assert report["int8"] is None
    assert not any("INT8" in text for text in (html, markdown))
