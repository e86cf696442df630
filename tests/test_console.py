"""Tables on a terminal of 80 columns: no word is cut, and a command names its table at the end."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.cli import main as cli
from compress.run import export

NET = """
from torch import nn

class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.feature_extraction_backbone = nn.ModuleDict(
            {"first_residual_block_of_the_encoder": nn.Conv2d(1, 24, 3, padding=1)})
        self.last = nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x):
        block = self.feature_extraction_backbone["first_residual_block_of_the_encoder"]
        return self.last(block(x).relu())
"""
RECIPE = """schema: 1
name: r
model: {import: "long_names:Deep"}
data: {source: phantom}
steps:
  - train: {epochs: 1}
  - prune: {amount: 0.3}
  - sparsify
  - retrain: {epochs: 1}
"""
LONG = "feature_extraction_backbone.first_residual_block_of_the_encoder"


@pytest.fixture
def eighty(monkeypatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def test_check_cuts_no_word_at_80_columns(tmp_path: Path, eighty: None) -> None:
    (tmp_path / "long_names.py").write_text(NET)
    (tmp_path / "r.yaml").write_text(RECIPE)
    result = CliRunner().invoke(cli.main, ["check", str(tmp_path / "r.yaml")])
    assert result.exit_code == 0, result.output
    assert "…" not in result.stdout
    lines = result.stdout.splitlines()
    assert f"{LONG}: not for 2:4: 1 input channel is no multiple of 16" in lines
    assert any(line.endswith(": last stays whole: feeds the network's output") for line in lines)
    tables = [line for line in lines if line.startswith(" ")]
    assert all(len(line) <= 80 for line in tables)
    assert LONG in "".join(line[1:].split("  ")[0].strip() for line in tables)


def test_check_says_what_the_rule_of_the_recipe_refuses(tmp_path: Path) -> None:
    (tmp_path / "long_names.py").write_text(NET)
    asked = RECIPE.replace("- sparsify", "- sparsify: {eligibility: tensorrt}")
    (tmp_path / "r.yaml").write_text(asked)
    result = CliRunner().invoke(cli.main, ["check", str(tmp_path / "r.yaml")])
    assert f"{LONG}: not for 2:4: 1 input channel is no multiple of 4" in result.stdout
    assert "no multiple of 16" not in result.stdout


def test_check_says_what_was_asked_and_whose_figures_are_shown(tmp_path: Path) -> None:
    (tmp_path / "long_names.py").write_text(NET)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("amount: 0.3", "amount: 0.3, round_to: 8"))
    lines = CliRunner().invoke(cli.main, ["check", str(tmp_path / "r.yaml")]).stdout.splitlines()
    assert (
        "steps[1].prune: 30.0 % of the MACs asked; 33.3 % is the nearest above it that one "
        "threshold gives in multiples of 8"
    ) in lines
    assert lines[0].endswith(
        " deviations from each layer's mean score, kept counts in multiples of 8"
    )
    assert any("MACs left" in line for line in lines)
    assert any(line.startswith("MACs of a 512x512 slice: ") for line in lines)
    assert any(line.startswith("parameters: ") for line in lines)
    besides = "1 by TensorRT's, which takes last besides"
    assert f"2:4: 0 of 2 convolutions by the rule of ModelOpt and ASP, {besides}" in lines


def test_sweep_ends_with_the_path_of_its_table(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    out = tmp_path / "out"
    (out / "points").mkdir(parents=True)
    result = CliRunner().invoke(cli.main, ["sweep", str(tmp_path / "r.yaml"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out / 'sweep.md'}\n"
    assert (out / "sweep.md").is_file()


def test_export_cuts_no_file_name_at_80_columns(capsys, eighty: None) -> None:
    name = "torch_tensorrt-fp16-b1-16.engine"
    parity = {"max_hu": 12.3456, "mean_hu": 0.1234, "psnr": 71.2}
    row = {"status": "built", "file": name, "bytes": 1_234_567, "parity": parity}
    export.render({"engines": [row]})
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert name in "".join(line[1:].split("  ")[0].strip() for line in shown.splitlines())
    for figure in ("1.23 MB", "12.3456", "0.1234", "71.2"):
        assert figure in shown.replace("\N{NO-BREAK SPACE}", " ")
    heads = [line.split("  ")[-1].strip() for line in shown.splitlines()[:2]]
    assert " ".join(heads) == "PSNR to the network, dB"  # not of the image
