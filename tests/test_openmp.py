"""OpenMP's threads sleep while they wait, unless the user wants something else."""

import os
import subprocess
import sys

import pytest

from compress.base import machine
from compress.base.openmp import SETTINGS

LOOK = """
import os, sys
from compress.cli.main import main
sys.argv = ["compress", *sys.argv[1:]]
try:
    main(prog_name="compress")
finally:
    print("torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY"), file=sys.stderr)
"""


def command(*words, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *words],
        env={**clean, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr.split()[-2:]


def test_it_is_set_before_torch_is_imported():
    assert command("--version") == ["False", "passive"]


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_user_set_is_kept(name):
    kept = "active" if name == "OMP_WAIT_POLICY" else "None"
    assert command("--version", **{name: "active"}) == ["False", kept]


@pytest.mark.slow
def test_the_runtime_of_torch_obeys():
    """GNU's runtime, and LLVM's, print their settings where OMP_DISPLAY_ENV asks for it."""
    clean = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    code = "from compress.cli.main import main; main(['inspect', 'nothing'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "OMP_DISPLAY_ENV": "true"}, capture_output=True, text=True,
    )  # fmt: skip
    (line,) = {line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line}
    assert "PASSIVE" in line


def test_doctor_says_what_is_set_and_how_to_overrule_it(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert "default of the runtime" in machine.waiting()["found"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    found = machine.waiting()["found"]
    assert found == "OMP_WAIT_POLICY=passive; set OMP_WAIT_POLICY to change it"
    assert machine.waiting()["works"]
