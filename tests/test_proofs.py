"""Proofs side by side: each on GPUs of its own, stopped in time, and said how it ended."""

import re
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

GPU = Path(__file__).parent / "gpu"
sys.path.insert(0, str(GPU))
try:
    import proofs
    from proofs import Proof
finally:
    sys.path.pop(0)


def run(out: Path, gpus: list[str], seconds: float, **chosen: Proof) -> tuple[bool, str]:
    given = {"out": str(out), "other": "", "rig": "a rig"}
    good = proofs.run(chosen, given, gpus, time.monotonic() + seconds)
    return good, (out / "proofs.md").read_text()


def test_each_proof_has_gpus_of_its_own_and_the_longest_begins_first(tmp_path: Path) -> None:
    show = "echo $CUDA_VISIBLE_DEVICES >> {out}/order && echo {rig}"
    good, table = run(
        tmp_path, ["4", "7"], 60, short=Proof(show, 1), both=Proof(show, 3, gpus=2),
        many=Proof(show, 9, gpus=3), old=Proof("cd {other}", 1),
    )  # fmt: skip
    assert good
    assert (tmp_path / "order").read_text().split() == ["4,7", "4"]
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert {row[0].strip("| "): row[1] for row in rows} == {
        "both": "done", "short": "done", "many": "skipped", "old": "skipped",
    }  # fmt: skip
    assert "needs 3 GPUs" in table
    assert "needs --other" in table
    assert "a rig |" in table


def test_what_is_timed_runs_beside_nothing_else(tmp_path: Path) -> None:
    """Cores that compile beside a tuner make its kernels slower."""
    show = "echo NAME >> {out}/order; sleep 0.5; echo NAME >> {out}/order"
    made = {
        name: Proof(show.replace("NAME", name), seconds, stage=stage)
        for name, seconds, stage in (("a", 9, 2), ("b", 1, 1), ("c", 1, 0), ("d", 5, 1))
    }
    good, _ = run(tmp_path, ["0", "1"], 60, **made)
    order = (tmp_path / "order").read_text().split()
    assert good
    assert (order[:2], sorted(order[2:6]), order[6:]) == (["c", "c"], [*"bbdd"], ["a", "a"])


MEET = "touch {out}/OWN; for i in $(seq 90); do [ -e {out}/OTHER ] && exit; sleep 0.1; done; exit 3"
"""Ends well if the other proof runs meanwhile."""


@pytest.mark.parametrize(("stage", "jobs"), [(2, 2), (2, 1), (0, 2)])
def test_proofs_that_are_not_timed_may_share_a_gpu(tmp_path: Path, stage: int, jobs: int) -> None:
    command = MEET.replace("90", "20") if stage == 0 or jobs == 1 else MEET
    made = {
        name: Proof(command.replace("OWN", name).replace("OTHER", other), 1, stage=stage)
        for name, other in (("a", "b"), ("b", "a"))
    }
    given = {"out": str(tmp_path), "other": "", "rig": ""}
    good = proofs.run(made, given, ["0"], time.monotonic() + 60, jobs)
    assert good == (stage == 2 and jobs == 2)


def test_python_is_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "py thon3"
    program.write_text('#!/bin/sh\necho mine "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    command = "X=1 true && env python -m a && cd / && python b.py"
    (tmp_path / "out").mkdir()
    _, table = run(tmp_path / "out", ["0"], 60, one=Proof(command, 1))
    assert (tmp_path / "out" / "one.log").read_text() == "mine -m a\nmine b.py\n"
    assert "| one | done |" in table


def test_what_fails_or_takes_too_long_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    begun = time.monotonic()
    good, table = run(
        tmp_path, ["0"], 2, bad=Proof("echo it broke; false | cat", 1),
        late=Proof("sleep 60 & sleep 60", 0), long=Proof("true", 90),
    )  # fmt: skip
    assert time.monotonic() - begun < 20
    assert not good
    assert "| bad | status 1 |" in table
    assert "it broke |" in table
    assert "| late | stopped |" in table
    assert "| long | no time | 0 | takes 90 s |" in table


def test_commands_name_files_and_tests_that_exist(tmp_path: Path) -> None:
    tests = "".join(path.read_text() for path in GPU.glob("test_*.py"))
    for name, proof in proofs.PROOFS.items():
        words = proof.command.format(out=tmp_path, other="", rig="").split()
        for word in words:
            if word.endswith((".py", ".yaml")):
                assert (proofs.ROOT / word).is_file(), (name, word)
    for chosen in (*proofs.FP16.values(), *proofs.INT8.values()):
        assert chosen.split(" and ")[0] in tests
    with pytest.raises(SystemExit, match="0"):
        proofs.main(["--list", "racecheck"])


def words_of(line: str) -> list[str]:
    """The names of proofs in a command's words: no option, and no value of one."""
    words = line.split()
    return [word for before, word in pairwise(["", *words]) if "--" not in before + word]


def test_proofs_that_the_documents_name_exist_and_every_test_and_bench_has_one() -> None:
    root = GPU.parents[1]
    texts = [path.read_text() for path in root.glob("docs/*.md")]
    commands = [line for text in texts for line in re.findall(r"proofs\.py ([^`]+)`", text)]
    named = {word for line in commands for word in words_of(line)} - {"NAME"}
    assert {"enhance", "reference", "turns-dense-1"} <= named <= set(proofs.PROOFS)
    run = " ".join(proof.command for proof in proofs.PROOFS.values())
    timed = [
        root / "tests" / "bench" / f"{name}.py" for name in ("turns", "int8", "enhance", "scaling")
    ]
    unseen = [path.name for path in (*GPU.glob("test_*.py"), *timed) if path.name not in run]
    assert not unseen
