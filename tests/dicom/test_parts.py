"""`compress enhance --cluster`: parts as tasks, one lost in the middle, one manifest of all."""

import json
import sys
from pathlib import Path

import pytest
from children import ending
from click.testing import CliRunner
from cluster_runs import begun, lose, parent, wait_for
from dicom_files import write_series

from compress import checkpoint
from compress.base.errors import CompressError, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.cli import main as cli
from compress.cluster.task import Cluster
from compress.imaging import parts
from compress.imaging.command import Options

NARROW = ModelOptions(
    name="ddnet", options={"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
)
FILES = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(Model(net=NARROW.build().eval(), origin=NARROW), folder)
    return folder


def command(source: Path, model: Path, out: Path, *words: str) -> list[str]:
    own = [str(source), "-m", str(model), "-o", str(out), "--device", "cpu", "--series", "all"]
    return [sys.executable, "-m", "compress", "enhance", *own, *words]


def results(out: Path) -> dict[str, int]:
    """Name of each result and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}


def part(index: int, pid: int) -> int:
    """The process that enhances a part, below `pid`."""
    from children import descendants

    for one in descendants(pid):
        words = Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")
        if f"{index}/2".encode() in words:
            return one
    raise AssertionError(f"part {index} does not run")


@pytest.mark.slow
def test_a_lost_part_goes_on(model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_series(source / "a", FILES // 2, side=64, series="A")
    write_series(source / "b", FILES // 2, side=64, series="B")
    (source / "notes.txt").write_text("no DICOM file")
    process = begun(command(source, model, out, "--cluster", "local", "--jobs", "2"))
    with ending([process]):
        wait_for(lambda: len(results(out)) > FILES // 20, process)
        first = part(1, process.pid)
        before = results(out)
        lose([first, parent(first), parent(parent(first))])
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "part-1-of-2 was lost" in said
    after = results(out)
    assert len(before) < FILES
    assert {name: after[name] for name in before} == before  # none was written again
    written = json.loads((out / "manifest.json").read_text())
    status = written["counts"]["status"]
    assert (status["enhanced"] + status["existing"], status["skipped"]) == (FILES, 1)
    assert status["existing"] >= 1  # what the lost part had written
    assert len(written["files"]) == FILES + 1
    assert {row["output"] for row in written["files"] if "output" in row} == {*after}
    assert len(after) == FILES
    plain = tmp_path / "plain"
    whole = begun(command(source, model, plain))
    with ending([whole]):
        assert whole.wait(200) == 0
    assert {*results(plain)} == {*after}
    (one,) = plain.rglob(sorted(after)[0])
    assert one.stat().st_size == next(out.rglob(one.name)).stat().st_size


@pytest.mark.slow
def test_files_that_fail_are_named_once(model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_series(source, 6, side=16)
    (source / "broken.dcm").write_bytes(b"")
    words = command(source, model, out, "--cluster", "local")[3:]
    result = CliRunner().invoke(cli.main, [*words, "--jobs", "2"])
    assert result.exit_code == 1, result.output
    assert "1 of 7 files failed: 1 empty (the file is empty); manifest.json says which" in (
        result.output
    )
    assert len(results(out)) == 6
    again = CliRunner().invoke(cli.main, words)
    assert (again.exit_code, f"OUT {out} already holds results" in again.output) == (2, True)


def test_what_excludes_a_cluster(model: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1, side=16)
    options = Options(
        source=tmp_path / "in", model=model, out=tmp_path / "out", existing="overwrite"
    )
    with pytest.raises(UsageError, match="--overwrite and --cluster exclude each other"):
        parts.run(options, Cluster(address="local"))
    words = command(tmp_path / "in", model, tmp_path / "out")[3:]
    for more, sentence in (
        (("--shard", "1/2", "--cluster", "local"), "--shard and --cluster exclude each other"),
        (("--jobs", "2"), "--jobs is for --cluster"),
        (("--gpus-per-task", "1"), "--gpus-per-task and --cpus-per-task are for --cluster"),
    ):
        result = CliRunner().invoke(cli.main, [*words, *more])
        assert (result.exit_code, sentence in result.output) == (2, True), result.output


def test_a_part_that_is_lost_has_no_manifest_of_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise CompressError("1 of 2 tasks failed: part-2-of-2")

    (tmp_path / "in").mkdir()
    for index in (1, 2):
        (tmp_path / f"manifest-{index}-of-2.json").write_text('{"device": "cpu", "files": []}')
    monkeypatch.setattr(parts.spread, "opened", lambda *_: None)
    monkeypatch.setattr(parts.spread, "through", lost)
    options = Options(source=tmp_path / "in", model=model, out=tmp_path, existing="skip")
    with pytest.raises(CompressError, match="1 of 2 tasks failed: part-2-of-2"):
        parts.run(options, Cluster(address="local"), 2)
    assert not (tmp_path / "manifest.json").exists()


def test_the_manifest_of_all_parts_has_each_file_once() -> None:
    def row(number: int, status: str, reason: str | None = None, **more: object) -> dict:
        return {
            "file": number,
            "path_sha256": str(number),
            "status": status,
            "reason": reason,
        } | more

    one = {"device": "cpu", "files": [
        row(0, "enhanced", slices=2), row(1, "skipped", "other-shard"), row(2, "skipped", "not-ct"),
    ]}  # fmt: skip
    two = {"device": "cuda", "files": [
        row(0, "skipped", "other-shard"), row(1, "failed", "damaged"), row(2, "skipped", "not-ct"),
    ]}  # fmt: skip
    found = parts.joined([one, two], 2.0)
    assert [(r["file"], r["status"]) for r in found["files"]] == [
        (0, "enhanced"), (1, "failed"), (2, "skipped"),
    ]  # fmt: skip
    assert found["counts"]["status"] == {"enhanced": 1, "failed": 1, "skipped": 1}
    assert (found["counts"]["slices"], found["device"], found["shard"]) == (
        2,
        "cpu and cuda",
        [1, 1],
    )
