"""Rules of design.md that no reader should have to check: who imports whom, how long things are."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "compress").rglob("*.py"), *(ROOT / "models").rglob("*.py")])
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in FILES}

OWNERS = {
    "apex.amp": {"compress/training/precision.py"},
    "apex.contrib.sparsity": {"compress/sparsity/masks.py"},
    "apex": set(),
    "modelopt.torch.sparsity": {"compress/sparsity/masks.py"},
    "modelopt.torch.opt": {"compress/pruning/modelopt_mode.py"},
    "modelopt": set(),
    "torch_pruning": {"compress/graph/groups.py"},
    "torch_tensorrt": {"compress/engines/torch_tensorrt.py"},
    "tensorrt": {"compress/engines/tensorrt_plan.py"},
    "onnx": {"compress/engines/onnx.py"},
    "onnxruntime": {"compress/engines/onnx.py"},
    "onnxscript": {"compress/engines/onnx.py"},
    "triton": {"compress/engines/kernels/"},
    "matplotlib": {"compress/reporting/"},
    "numba": {"compress/data/fanbeam.py"},
    "pydicom": {"compress/dicom/"},
}
"""Vendor module -> the files (or the folder) that may import it, inside functions only."""
DECORATES = {"numba", "pydicom", "triton"}
"""Vendors whose owner is a module or a folder of its own, imported late as a whole."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(node: ast.AST) -> list[str]:
    """The absolute names that an import statement names, its members included."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide who imports whom"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports(tree: ast.AST) -> list[str]:
    return [name for node in ast.walk(tree) for name in modules(node)]


def at_import(tree: ast.AST) -> list[str]:
    """What is imported when the module is: everything that stands in no function."""
    found, queue = [], [tree]
    while queue:
        for node in ast.iter_child_nodes(queue.pop()):
            found += modules(node)
            if not isinstance(node, Function | ast.Lambda):
                queue.append(node)
    return found


def vendor(name: str) -> str | None:
    """The most exact entry of OWNERS for an imported name."""
    fits = [key for key in OWNERS if name == key or name.startswith(f"{key}.")]
    return max(fits, key=len, default=None)


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


@pytest.mark.parametrize("file", [file for file in TREES if file.startswith("models/")])
def test_networks_know_nothing_of_compression(file):
    assert not [name for name in imports(TREES[file]) if name.partition(".")[0] == "compress"]


@pytest.mark.parametrize(
    "file",
    [file for file in TREES if file.startswith("compress/cli/")] + ["compress/base/ending.py"],
)
def test_the_command_line_imports_click_and_nothing_heavy(file):
    tops = {name.partition(".")[0] for name in at_import(TREES[file])}
    assert tops <= {
        "click", "collections", "compress", "contextlib", "gc", "json", "logging", "os", "pathlib",
        "sys", "typing",
    }  # fmt: skip
    inside = {n for n in at_import(TREES[file]) if n.startswith("compress.")}
    light = (
        "compress.__version__",
        "compress.cli.",
        "compress.base.ending",
        "compress.base.errors.CompressError",
    )
    assert all(name.startswith(light) for name in inside)


@pytest.mark.parametrize("file", TREES)
def test_vendors_are_imported_by_their_owners_only(file):
    found = {name: vendor(name) for name in imports(TREES[file])}
    for name, key in found.items():
        allowed = key is None or any(file.startswith(owner) for owner in OWNERS[key])
        assert allowed, f"{file} imports {name}, which belongs to {OWNERS[key] or 'nobody'}"


@pytest.mark.parametrize("file", TREES)
def test_vendors_are_imported_late(file):
    early = [n for n in at_import(TREES[file]) if vendor(n) and vendor(n) not in DECORATES]
    assert not early, f"{file} imports {early} outside a function"


@pytest.mark.parametrize("file", TREES)
def test_nothing_is_long(file):
    assert len((ROOT / file).read_text("utf-8").splitlines()) <= 300
    long = {f.name: length(f) for f in functions(TREES[file]) if length(f) > 60}
    assert not long


def test_functions_are_mostly_short():
    lengths = sorted(length(f) for tree in TREES.values() for f in functions(tree))
    assert statistics.median(lengths) <= 12
    assert lengths[int(0.9 * len(lengths))] <= 30


def undocumented(node: ast.AST, prefix: str = "") -> Iterator[str]:
    """Public functions, classes and methods of public classes without a docstring."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef) or child.name.startswith("_"):
            continue
        if ast.get_docstring(child) is None:
            yield prefix + child.name
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, f"{child.name}.")


@pytest.mark.parametrize("file", TREES)
def test_everything_public_is_documented(file):
    assert ast.get_docstring(TREES[file]), f"{file} does not say what it is"
    assert not list(undocumented(TREES[file]))


@pytest.mark.parametrize("file", TREES)
def test_nothing_prints_but_the_command_line_and_tables(file):
    calls = [n for n in ast.walk(TREES[file]) if isinstance(n, ast.Call)]
    assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def test_processes_that_read_dicom_import_no_torch():
    modules = "compress.enhance.tasks, compress.enhance.workers, compress.enhance.command, sys"
    code = f"import {modules}; print(*{{'torch', 'numba'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
