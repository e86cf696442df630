"""doctor: says the truth about parts that work, are broken, missing, or are something else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.base import machine
from compress.base.errors import UsageError
from compress.base.machine import Package
from compress.cli import main
from compress.engines.formats import formats
from compress.recipe import shipped
from compress.run import doctor, manifest
from compress.sparsity import masks

RECIPE = """
schema: 1
model: {name: ddnet}
steps:
  - train: {epochs: 1}
  - prune: {amount: 0.6}
  - sparsify
  - evaluate
  - export: {formats: [torch_tensorrt, aot_inductor, onnx]}
  - report
"""


def part(name, note="", get=""):
    found = "" if note else "1.0"
    return {"name": name, "works": not note, "found": found, "note": note, "use": "u", "get": get}


@pytest.fixture
def parts(monkeypatch):
    """A machine where everything works; tests break what they need."""
    names = [p.module for p in doctor.packages()] + ["GPU", "C++ compiler", "disk", "demo data"]
    found = {name: part(name) for name in names}
    monkeypatch.setattr(doctor, "all_parts", lambda: iter(found.values()))
    return found


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def rows(report):
    ((_, steps),) = ((r["recipe"], r["steps"]) for r in report["recipes"])
    return {row["where"]: row for row in steps}


def test_every_step_says_what_it_uses(parts, recipe):
    found = rows(doctor.doctor(recipe))
    assert list(found) == [
        "steps[0].train", "steps[1].prune", "steps[2].sparsify", "steps[3].evaluate",
        "steps[4].export torch_tensorrt", "steps[4].export aot_inductor", "steps[4].export onnx",
        "steps[5].report",
    ]  # fmt: skip
    assert all(row["uses"] and not row["missing"] and not row["get"] for row in found.values())
    assert found["steps[2].sparsify"]["uses"].startswith(masks.choose("auto")[0])


def test_what_is_missing_comes_with_its_command(parts, recipe):
    get = "pip install 'torch-tensorrt==2.13.*'"
    for name in ("torch_tensorrt", "tensorrt"):
        parts[name] = part(name, "not installed", get)
    row = rows(doctor.doctor(recipe))["steps[4].export torch_tensorrt"]
    assert row["missing"] == "torch_tensorrt: not installed; tensorrt: not installed"
    assert row["get"] == get


def test_a_step_that_asks_for_what_is_not_here_says_so(parts, recipe, monkeypatch):
    def choose(_asked):
        raise UsageError("backend asp cannot be used: Apex is not installed")

    monkeypatch.setattr(masks, "choose", choose)
    row = rows(doctor.doctor(recipe))["steps[2].sparsify"]
    assert row["missing"] == "backend asp cannot be used: Apex is not installed"


def test_without_a_recipe_all_that_are_shipped_are_looked_at(parts):
    names = {Path(r["recipe"]).name for r in doctor.doctor()["recipes"]}
    assert {"ddnet_struct60_asp.yaml", "smoke.yaml"} <= names


def test_an_unreadable_recipe_is_refused(parts, tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        doctor.doctor(tmp_path / "no.yaml")


def test_the_command_prints_json_or_tables_with_whole_commands(parts, recipe):
    parts["apex.amp"] = part("apex.amp", "not [installed]", machine.CONTAINER)
    runner = CliRunner()
    result = runner.invoke(main.main, ["doctor", str(recipe), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["parts"]
    shown = runner.invoke(main.main, ["doctor", str(recipe)]).stdout
    assert f"for apex.amp:\n    {machine.CONTAINER}\n" in shown
    assert "steps[2].sparsify" in shown
    assert "not [installed]" in shown


def test_names_of_parts_are_whole_in_a_narrow_window(parts, recipe):
    parts["GPU"]["use"] = parts["GPU"]["found"] = "fast training, " * 8
    shown = CliRunner(env={"COLUMNS": "60"}).invoke(main.main, ["doctor", str(recipe)]).stdout
    words = {word for line in shown.splitlines() for word in line.split()}
    assert {p.module for p in doctor.packages()} <= words


def without_a_gpu(parts):
    parts["GPU"] = part("GPU", "no NVIDIA GPU is visible")
    for name in ("torch_tensorrt", "tensorrt", "triton"):
        parts[name] = part(name, "not installed", "pip install x")


def test_all_recipes_get_a_line_each_at_the_end(parts, monkeypatch):
    without_a_gpu(parts)
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    shown = CliRunner().invoke(main.main, ["doctor"]).stdout
    assert "steps[" not in shown
    last = shown.splitlines()[-len(shipped.paths()) - 1 :]
    assert last.pop() == "compress doctor RECIPE shows every step of a recipe."
    verdicts = dict(line.split(maxsplit=1) for line in last)
    assert [*verdicts] == [path.stem for path in shipped.paths()]
    found = {name: said.strip() for name, said in verdicts.items()}
    assert found["smoke"] == "ready"
    assert found["ddnet_struct60_gpu"] == "for a machine with a GPU"
    assert found["ddnet_struct60_asp"] == "ready, without export torch_tensorrt and fused"
    assert "missing" not in "".join(last)


def test_what_stops_a_recipe_is_said_in_its_line(parts, monkeypatch):
    def choose(_asked):
        raise UsageError("backend asp cannot be used: Apex is not installed")

    monkeypatch.setattr(masks, "choose", choose)
    shown = " ".join(CliRunner().invoke(main.main, ["doctor"]).stdout.split())
    assert "smoke missing: backend asp cannot be used: Apex is not installed" in shown


def package(module, distribution="x"):
    return machine.examine(Package(distribution, module, "use", "get it"))


def test_a_package_works_when_it_can_be_imported():
    found = package("click", "click")
    assert found["works"]
    assert (found["note"], found["get"]) == ("", "")
    assert found["found"][0].isdecimal()


def test_a_package_that_is_not_there_comes_with_its_command():
    found = package("no_such_package.part")
    assert (found["works"], found["note"], found["get"]) == (False, "not installed", "get it")


@pytest.mark.parametrize(
    ("gpu", "version", "note", "get"),
    [
        (False, "2.13.0", ": it needs an NVIDIA GPU that PyTorch can use", ""),
        (True, "2.15.0", ": Torch-TensorRT for torch 2.15 was not out in 2026-11; torch 2.14 or "
         "older is needed", ""),
        (True, "2.14.0", "", "pip install 'torch-tensorrt==2.14.*'"),
    ],
)  # fmt: skip
def test_no_package_is_advised_that_would_not_help(gpu, version, note, get, monkeypatch):
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(doctor.torch, "__version__", version)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _name: None)
    found = [machine.examine(one) for one in formats()["torch_tensorrt"].packages()]
    assert [one["name"] for one in found] == ["torch_tensorrt", "tensorrt"]
    assert {(one["note"], one["get"]) for one in found} == {(f"not installed{note}", get)}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put a package on the path of this process and its children."""

    def install(name, code=""):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return tmp_path / name

    return install


def test_a_package_that_cannot_be_imported_says_why(installed):
    installed("brokenpkg", "raise ImportError('libcuda.so.1: not found')")
    found = package("brokenpkg")
    assert not found["works"]
    assert found["note"] == "cannot be imported: ImportError: libcuda.so.1: not found"
    assert found["found"] == "installed, without a version"


def test_a_package_has_a_version_under_whatever_name_it_was_installed(installed):
    """Torch-TensorRT 2.14 brings the module `tensorrt` by `tensorrt-cu13` alone."""
    of = installed("tensorrt").parent / "tensorrt_cu13-11.1.0.106.dist-info"
    of.mkdir()
    (of / "METADATA").write_text("Name: tensorrt-cu13\nVersion: 11.1.0.106\n")
    (of / "top_level.txt").write_text("tensorrt\n")
    assert package("tensorrt", "tensorrt")["found"] == "11.1.0.106"
    assert manifest.versions()["tensorrt"] == "11.1.0.106"


def test_a_package_that_kills_its_process_is_survived(installed):
    installed("killpkg", "import os; os.abort()")
    assert package("killpkg")["note"].startswith("cannot be imported")


def test_the_unrelated_apex_of_the_package_index_is_known(installed):
    installed("apex", "raise SystemExit('must not be imported')")
    found = package("apex.amp", "apex")
    assert found["note"] == "an unrelated package of that name; pip uninstall apex"
    assert not found["works"]


def test_the_compiler_is_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    found = machine.compiler()
    assert "is not installed" in found["note"]
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\necho 'no headers' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert machine.compiler()["note"].endswith("does not compile one line: no headers")


def test_a_gpu_that_torch_cannot_use_is_told_from_none(monkeypatch):
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_output", lambda _c: "NVIDIA H100, 9.0, 81559 MiB, 575.57\n")
    found = machine.gpu()
    assert found["found"] == "NVIDIA H100, SM 9.0, 81559 MiB, driver 575.57"
    assert "cannot use it" in found["note"]
    assert found["get"].startswith("pip install")
    monkeypatch.setattr(machine, "_output", lambda _c: "")
    assert machine.gpu()["note"] == "no NVIDIA GPU is visible"


def test_the_demo_set_is_in_the_cache_or_will_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "B.npy").touch()
    found = doctor.demo()
    assert found["works"]
    assert found["found"] == "patients A, C are fetched by the first run that needs them"
    monkeypatch.setattr(machine, "version_of", lambda _name: None)
    assert doctor.demo()["note"] == "pip, whose settings say where to fetch it, is not installed"
    assert doctor.demo()["get"].endswith(" -m ensurepip")
    for patient in "AC":
        (tmp_path / "demo" / f"{patient}.npy").touch()
    assert doctor.demo()["found"] == "in the cache"


@pytest.mark.slow
def test_doctor_tells_the_truth_about_this_machine():
    command = [sys.executable, "-m", "compress", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    found = {part["name"]: part["works"] for part in report["parts"]}
    assert found["modelopt.torch.sparsity"]
    assert found["onnxruntime"]
    assert report["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
