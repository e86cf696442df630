"""OpenMP's waiting threads sleep where others want the cores, unless the user decides."""

import os
import subprocess
import sys

import pytest

from compress.base import machine, openmp
from compress.base.openmp import SETTINGS

LOOK = """
import os, sys
from compress.cli.main import main
sys.argv = ["compress", *sys.argv[1:]]
try:
    main(prog_name="compress")
finally:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    found = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    print("torch" in sys.modules, *found, file=sys.stderr)
"""


def command(*words, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *words],
        env={**clean, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr.split()[-2:]


def test_it_is_set_before_torch_is_imported():
    assert command("--version") in (
        ["False", "OMP_WAIT_POLICY=passive"],
        ["False", "GOMP_SPINCOUNT=10000"],
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_user_set_is_kept(name):
    assert command("--version", **{name: "active"}) == ["False", f"{name}=active"]


@pytest.fixture
def unset(monkeypatch):
    """Nothing is set; what the test sets is undone."""
    monkeypatch.setattr(openmp, "_decided", {})
    for name in (*SETTINGS, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("running", "cores", "threads", "expected"),
    [
        (1, 4, "4", "GOMP_SPINCOUNT=10000"),  # nothing but this process runs
        (2, 4, "4", "OMP_WAIT_POLICY=passive"),
        (3, 8, "4", "GOMP_SPINCOUNT=10000"),
        (5, 8, "4,2", "GOMP_SPINCOUNT=10000"),
        (6, 8, "4,2", "OMP_WAIT_POLICY=passive"),
    ],
)
def test_threads_sleep_where_others_want_the_cores(
    unset, monkeypatch, tmp_path, running, cores, threads, expected
):
    load = tmp_path / "loadavg"
    load.write_text(f"0.50 0.40 0.30 {running}/345 6789\n")
    monkeypatch.setattr(openmp, "LOAD", load)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    openmp.decide()
    assert openmp.setting() == expected


@pytest.mark.parametrize("text", [None, "", "1 2 3", "1 2 3 many/5 6"])
def test_threads_sleep_where_nobody_knows(unset, monkeypatch, tmp_path, text):
    load = tmp_path / "loadavg"
    if text is not None:
        load.write_text(text)
    monkeypatch.setattr(openmp, "LOAD", load)
    openmp.decide()
    assert openmp.setting() == "OMP_WAIT_POLICY=passive"


def test_children_that_share_the_cores_sleep(unset, monkeypatch, tmp_path):
    load = tmp_path / "loadavg"
    load.write_text("0.50 0.40 0.30 1/345 6789\n")
    monkeypatch.setattr(openmp, "LOAD", load)
    openmp.decide()
    assert openmp.setting() == "GOMP_SPINCOUNT=10000"
    openmp.share()
    assert openmp.setting() == "OMP_WAIT_POLICY=passive"


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", ["5", openmp.SHORT])
def test_children_keep_what_the_user_set(unset, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    openmp.decide()
    openmp.share()
    assert openmp.setting() == f"{name}={value}"


@pytest.mark.slow
def test_the_runtime_of_torch_obeys():
    """GNU's runtime prints its settings where OMP_DISPLAY_ENV asks for it."""
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    code = "from compress.cli.main import main; main(['inspect', 'nothing'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True,
    )  # fmt: skip
    (line,) = {line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line}
    assert line.split("'")[1] in ("0", "10000")  # asleep or a short while; 300000 of itself


def test_doctor_says_what_is_set_and_how_to_overrule_it(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert "default of the runtime" in machine.waiting()["found"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    found = machine.waiting()["found"]
    assert found == "OMP_WAIT_POLICY=passive; set OMP_WAIT_POLICY to change it"
    assert machine.waiting()["works"]
