"""The command line: its options, its exit codes, its errors; nothing heavy is imported for help."""

import json
import logging
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from compress.base.errors import CompressError, QualityError, Stopped, UsageError
from compress.bench import targets
from compress.cli import engines, images, main
from compress.engines.formats import FormatName
from compress.run import pipeline, preview
from compress.sweep import run as sweeps
from compress.sweep.grid import COMPRESSING

RECIPE = "schema: 1\nname: tiny\nmodel: {name: ddnet}\nsteps: [evaluate]\n"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("compress")
    before = (logger.level, logger.propagate, list(logger.handlers))
    Path("r.yaml").write_text(RECIPE)
    yield "r.yaml"
    logger.level, logger.propagate, logger.handlers[:] = before


def call(*words):
    return CliRunner().invoke(main.main, words)


def options(command):
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)}


def test_the_options_are_frozen():
    """Knobs belong into the recipe: think twice before a name is added here."""
    assert {name: options(command) for name, command in main.main.commands.items()} == {
        "run": {
            "recipe", "--out", "--data", "--set", "--until", "--device", "--no-fallback",
            "--profile", "--verbose", "-v",
        },
        "new": {"name", "--network", "--data"},
        "check": {"recipe", "--set", "--json", "--plot"},
        "sweep": {
            "recipe", "--vary", "--set", "--out", "--data", "--device", "--jobs", "--without",
            "--no-baseline", "--no-fallback", "--cluster", "--gpus-per-task", "--cpus-per-task",
            "--point",
        },
        "doctor": {"recipe", "--json"},
        "inspect": {"path", "--json"},
        "export": {
            "model", "--format", "--precision", "--batch", "--dynamic-batch", "--size",
            "--deconvolutions", "--out", "-o", "--data", "--triton", "--triton-name", "--device",
            "--no-fallback", "--json",
        },
        "bench": {
            "paths", "--mode", "--batch", "--size", "--device", "--rounds", "--seconds",
            "--no-graph", "--json",
        },
        "report": {"runs", "-o", "--out"},
        "enhance": {
            "source", "-m", "--model", "-o", "--out", "--series", "--batch", "--device",
            "--skip-existing", "--overwrite", "--shard", "--assume-hu", "--strip-private",
            "--include-results", "--cluster", "--gpus-per-task", "--cpus-per-task", "--jobs",
        },
        "simulate": {
            "source", "-o", "--out", "--photons", "--electronic", "--views", "--geometry",
            "--series", "--device", "--seed", "--include-results",
        },
        "evaluate": {
            "model", "--data", "--windows", "-o", "--out", "--physics", "--device",
        },
    }  # fmt: skip


def test_every_option_has_help():
    for command in main.main.commands.values():
        assert command.help
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


def test_run_hands_words_to_the_pipeline(recipe, monkeypatch, tmp_path):
    calls = []

    def run(loaded, **kwargs):
        calls.append((loaded, kwargs))
        return kwargs["out"]

    monkeypatch.setattr(pipeline, "run", run)
    result = call("run", recipe)
    assert (result.exit_code, result.stdout) == (0, "runs/tiny\n")
    words = ("--out", "o", "--data", "d", "--set", "seed=4", "--until", "evaluate")
    assert (
        call("run", recipe, *words, "--device", "cpu", "--no-fallback", "--profile").exit_code == 0
    )
    (first, given), (second, kwargs) = calls
    assert given == {
        "out": Path("runs/tiny"), "data": None, "until": None, "device": None, "fallback": True,
        "profile": False,
    }  # fmt: skip
    assert kwargs == {
        "out": Path("o"), "data": Path("d"), "until": "evaluate", "device": "cpu",
        "fallback": False, "profile": True,
    }  # fmt: skip
    assert (first.seed, second.seed, second.overrides) == (0, 4, ("seed=4",))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("the folder x holds no pairs"), 2, "the folder x holds no pairs"),
        (QualityError("too far off"), 3, "too far off"),
        (Stopped("stopped; run again"), 75, "stopped; run again"),
        (CompressError("the loss is nan"), 1, "the loss is nan"),
        (OSError(28, "No space left on device", "a/b"), 1, "a/b: No space left on device"),
        (OSError("no more"), 1, "no more"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(recipe, monkeypatch, error, code, line):
    def run(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(pipeline, "run", run)
    result = call("run", recipe)
    said = line if isinstance(error, Stopped) else f"Error: {line}"  # a stop is what was asked for
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"{said}\n")


def test_ctrl_c_says_what_was_stopped_and_what_to_do(recipe, monkeypatch):
    monkeypatch.setattr(preview, "check", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it behind &
    try:
        result = call("check", recipe)
    finally:
        signal.signal(signal.SIGINT, before)
    said = "\ncheck: stopped before the end; run the same command again\n"
    assert (result.exit_code, result.stdout, result.stderr) == (75, "", said)


def test_a_bug_is_not_hidden(recipe, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda *_a, **_k: 1 / 0)
    assert isinstance(call("run", recipe).exception, ZeroDivisionError)


@pytest.mark.parametrize("command", ["run", "check", "doctor"])
def test_a_wrong_recipe_ends_every_command_with_code_2(recipe, command):
    Path(recipe).write_text(RECIPE.replace("evaluate", "evaluat"))
    result = call(command, recipe)
    assert result.exit_code == 2
    said = "r.yaml: steps[0]: unknown step 'evaluat'; did you mean 'evaluate'?"
    assert result.stderr == f"Error: {said}\n"


def test_set_is_said_in_the_message(recipe):
    result = call("check", recipe, "--set", "seed=x")
    said = "r.yaml with --set seed=x: seed: expected a whole number, got 'x'"
    assert (result.exit_code, result.stderr) == (2, f"Error: {said}\n")


def test_check_prints_one_json_object(recipe, monkeypatch):
    monkeypatch.setattr(preview, "check", lambda recipe: {"recipe": recipe.name})
    result = call("check", recipe, "--json")
    assert json.loads(result.stdout) == {"recipe": "tiny"}
    shown = []
    monkeypatch.setattr(preview, "render", shown.append)
    assert call("check", recipe).exit_code == 0
    assert shown == [{"recipe": "tiny"}]


def test_words_that_the_command_line_repeats_to_import_nothing_heavy():
    assert engines.MODES == targets.MODES
    assert set(engines.FORMATS) == set(get_args(FormatName))


def test_sweep_hands_words_to_the_sweep(recipe, monkeypatch):
    calls = []
    monkeypatch.setattr(sweeps, "run", lambda *given: calls.append(given) or given[0].out)
    result = call("sweep", recipe, "--vary", "seed=0,1")
    assert (result.exit_code, result.stdout) == (0, "runs/r-sweep.md\n")
    words = ("--set", "name=x", "--out", "o", "--data", "d", "--device", "cpu", "--jobs", "3")
    call("sweep", recipe, "--vary", "seed=0", *words, "--no-baseline", "--no-fallback")
    call("sweep", recipe, "--vary", "seed=0", "--without", "sparsify")
    (first,), (second,), (third,) = calls
    assert (first.vary, first.fallback, first.jobs) == (("seed=0,1",), True, 1)
    assert first.without == COMPRESSING  # the command line's default imports no steps
    assert third.command() == "compress sweep r.yaml --vary seed=0 --without sparsify"
    assert second == sweeps.Sweep(
        recipe=Path("r.yaml"), vary=("seed=0",), overrides=("name=x",), out=Path("o"),
        data=Path("d"), device="cpu", fallback=False, without=(), jobs=3,
    )  # fmt: skip
    words = "compress sweep r.yaml --vary seed=0 --set name=x --no-baseline"
    assert second.command() == words


def python(*arguments):
    """Run Python in a process of its own."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_help_is_quick_and_names_the_exit_codes():
    """Of the CPU's time, which other work on the machine does not lengthen; torch takes seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = python("-m", "compress", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage: compress" in result.stdout
    assert "75 stopped by a signal" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6


def test_the_version_is_that_of_the_package():
    from compress import __version__

    assert python("-m", "compress", "--version").stdout == f"compress {__version__}\n"


def test_the_command_line_imports_nothing_heavy():
    code = "import compress.cli.main, sys; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = set(python("-c", code).stdout.split())
    assert not loaded & {"torch", "yaml", "numpy", "rich", "modelopt"}


@pytest.mark.parametrize(
    ("triton", "listed"),
    [(None, False), ("3.6.0", False), ("3.9.0", True), ("3.10.1+git", True), ("unknown", True)],
)
def test_nothing_is_frozen_where_triton_would_list_it_as_leaked(monkeypatch, triton, listed):
    modules = {"triton": SimpleNamespace(__version__=triton)} if triton else {}
    monkeypatch.setattr(images, "sys", SimpleNamespace(modules=modules))
    frozen: list[bool] = []
    monkeypatch.setattr(images, "gc", SimpleNamespace(freeze=lambda: frozen.append(True)))
    with images._short_end():
        pass
    assert bool(frozen) is not listed


def test_readme_and_help_call_an_exit_status_the_same():
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    told = re.search(r"Exit status: .*, (3 .*?), 75", readme)[1]
    assert f"{told}, 75" in " ".join(call("--help").stdout.split())
