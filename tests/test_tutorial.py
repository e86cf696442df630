"""docs/tutorial.md does what it says: its blocks run one after the other in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
import tutorial

TEXT = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a minute of two cores, longer where others use them
def test_the_tutorial_from_its_first_block_to_its_last(tmp_path, monkeypatch):
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", beside)  # where pip has put `compress`
    folder = tmp_path / "work"
    folder.mkdir()
    said = "".join(tutorial.run(folder, TEXT))
    assert "runs/try\n" in said
    assert "runs/grid-sweep/sweep.md\n" in said
    assert re.search(r"^engines/onnx-fp32-b8.onnx .*\([\d.]+-[\d.]+\)$", said, re.M)  # timed, too
    report = json.loads((folder / "runs/try/07-report/report.json").read_text())
    assert report["removed"]["macs"] >= 0.5
    psnr = {who: one["psnr"]["mean"] for who, one in report["quality"].items()}
    assert psnr["compressed"] > psnr["input"] + 1  # it has learned something
    files = sorted((folder / "enhanced").rglob("*.dcm"))
    assert len(files) == 16
    assert "DERIVED" in pydicom.dcmread(files[0]).ImageType
    tutorial.draw(folder, tmp_path / "pictures")
    shown = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert shown == {path.name for path in Path(tutorial.ROOT, "docs/tutorial").iterdir()}
    assert all(f"](tutorial/{name})" in TEXT for name in shown)


def test_blocks_are_all_but_those_that_say_so():
    text = "```sh\na\n```\n<!-- not run -->\n```sh\nb\n```\n```python\nc\n```\n```sh\nd\n```\n"
    assert tutorial.blocks(text) == ["a\n", "d\n"]
    assert len(tutorial.blocks(TEXT)) == 8
    assert "pip install" not in "".join(tutorial.blocks(TEXT))


def test_a_block_that_fails_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"ls nothing\n\nended with 2"):
        tutorial.run(tmp_path, "```sh\nls nothing\n```\n")


def test_pictures_are_small():
    files = list(Path(tutorial.ROOT, "docs/tutorial").glob("*.png"))
    assert len(files) == 5
    assert sum(file.stat().st_size for file in files) < 400_000


def test_the_scans_are_the_same_in_every_run(tmp_path):
    """Their UIDs name the files of pairs, which decide the noise: new ones gave other pictures."""
    (source,) = re.findall(r"^cat > make_scans\.py <<'END'\n(.*?)^END$", TEXT, re.M | re.S)
    made = []
    for _ in range(2):  # a second time into the folder of the first, as a user may
        subprocess.run([sys.executable, "-c", source], cwd=tmp_path, check=True)
        made.append({path: path.read_bytes() for path in (tmp_path / "scans").rglob("*.dcm")})
    assert len(made[0]) == 16
    assert made[0] == made[1]
    datasets = map(pydicom.dcmread, made[0])
    assert len({ds.SOPInstanceUID for ds in datasets}) == 16
