"""Rules that no reader should have to check: which package imports which, how long things are."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "compress").rglob("*.py"), *(ROOT / "models").rglob("*.py")])
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in FILES}

ORDER = (
    ("cli", "api"),
    ("sweep",),
    ("bench",),
    ("run",),
    ("recipe",),
    ("imaging", "steps"),
    ("engines",),
    ("training",),
    ("context",),
    ("checkpoint",),
    ("pruning", "quantization", "sparsity"),
    ("reporting",),
    ("data",),
    ("dicom",),
    ("cluster", "graph", "models", "quality"),
    ("base",),
)
"""Packages and the modules beside them, top to bottom: each imports those below, none beside it."""
FLOOR = {package: floor for floor, packages in enumerate(ORDER) for package in packages}
TOP = {"__init__", "__main__", "api", "context"}
"""Modules at the top of compress/."""

OWNERS = {
    "apex.amp": {"compress/training/apex_amp.py"},
    "apex.contrib.sparsity": {"compress/sparsity/masks.py"},
    "apex": set(),
    "modelopt.torch.sparsity": {"compress/sparsity/masks.py"},
    "modelopt.torch.quantization": {"compress/quantization/quantisers.py"},
    "modelopt.torch.opt": {"compress/pruning/modelopt_mode.py"},
    "modelopt": set(),
    "torch_pruning": set(),
    "torch_tensorrt": {"compress/engines/torch_tensorrt.py"},
    "tensorrt": {"compress/engines/tensorrt_plan.py"},
    "onnx": {"compress/engines/onnx.py"},
    "onnxruntime": {"compress/engines/onnx.py"},
    "onnxscript": {"compress/engines/onnx.py"},
    "triton": {"compress/engines/kernels/"},
    "cuda": {"compress/engines/kernels/cuda/"},
    "matplotlib": {"compress/reporting/"},
    "numba": {"compress/data/fanbeam.py"},
    "pydicom": {"compress/dicom/"},
    "piq": {"compress/quality/similarity.py"},
    "pooch": {"compress/data/fetch.py"},
    "ray": {"compress/cluster/ray.py"},
    "requests": {"compress/data/fetch.py"},
    "submitit": {"compress/cluster/submitit.py"},
    "tifffile": {"compress/data/images.py"},
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


def package(dotted: str) -> str | None:
    """The package of an imported name or of a module; None outside compress."""
    first, *rest = dotted.split(".")
    return rest[0] if first == "compress" and rest and rest[0] in FLOOR else None


def named(tree: ast.AST) -> list[str]:
    """Modules of ours that are imported, or named in a string that a program could import."""
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    texts = [text for text in strings if isinstance(text, str) and " " not in text]
    return [*imports(tree), *(text for text in texts if re.fullmatch(r"compress(\.\w+)+", text))]


def upward(package_: str, tree: ast.AST) -> list[str]:
    """What a module of `package_` imports from beside or above it."""
    below = FLOOR[package_]
    others = [(name, package(name)) for name in named(tree)]
    return [name for name, p in others if p and p != package_ and FLOOR[p] <= below]


@pytest.mark.parametrize("file", TREES)
def test_imports_point_downward(file):
    where = package("compress." + file.removeprefix("compress/").removesuffix(".py").split("/")[0])
    if where is None:
        assert Path(file).stem in TOP
        return
    assert not upward(where, TREES[file]) or file in STARTS_COMMANDS


STARTS_COMMANDS = {"compress/imaging/forking.py"}
"""The server of worker processes preloads the module of the command that starts it."""


@pytest.mark.parametrize(
    "planted",
    [
        "from compress.cli import main",
        "def f():\n    import compress.steps.train",
        "from compress import sweep",
        "NEEDED = 'compress.engines.build'",
        "from compress.sparsity import masks",
    ],
)
def test_an_import_upward_is_found(planted):
    assert upward("pruning", ast.parse(planted))


def test_every_package_has_its_floor_and_few_modules_lie_at_the_top():
    folders = {path.parent.name for path in (ROOT / "compress").glob("*/__init__.py")}
    assert folders | {"api", "context"} == FLOOR.keys()
    assert {path.stem for path in (ROOT / "compress").glob("*.py")} == TOP


def test_each_package_lists_its_modules():
    for path in (ROOT / "compress").rglob("__init__.py"):
        modules = {one.name for one in path.parent.glob("*.py") if not one.stem.startswith("__")}
        listed = set(re.findall(r"\w+\.py", ast.get_docstring(ast.parse(path.read_text())) or ""))
        assert modules <= listed, f"{path.parent.name} does not list {modules - listed}"


ALONE = """
import os, sys
import numba, pydicom, scipy.ndimage, torch, yaml
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            os._exit(error.name != "triton")
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(name)
"""
"""Each module in a process where nothing of ours was imported before it: no hidden circle.

Of others' packages, those that take long are imported once.
"""


def test_every_module_can_be_imported_alone():
    dotted = [
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in TREES
    ]
    names = [f"compress.{name}" if name.startswith("models") else name for name in dotted]
    command = [sys.executable, "-c", ALONE, *(n for n in names if not n.endswith("__main__"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stdout.split()


@pytest.mark.parametrize("file", [file for file in TREES if file.startswith("models/")])
def test_networks_know_nothing_of_compression(file):
    assert not [name for name in imports(TREES[file]) if name.partition(".")[0] == "compress"]


@pytest.mark.parametrize(
    "file",
    [file for file in TREES if file.startswith("compress/cli/")]
    + ["compress/base/ending.py", "compress/base/openmp.py"],
)
def test_the_command_line_imports_click_and_nothing_heavy(file):
    tops = {name.partition(".")[0] for name in at_import(TREES[file])}
    assert tops <= {
        "click", "collections", "compress", "contextlib", "gc", "json", "logging", "os", "pathlib",
        "sys", "time", "typing",
    }  # fmt: skip
    inside = {n for n in at_import(TREES[file]) if n.startswith("compress.")}
    light = (
        "compress.__version__",
        "compress.cli.",
        "compress.engines.formats.",
        "compress.engines.precision.",
        "compress.base.ending",
        "compress.base.openmp",
        "compress.base.errors.",
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
    modules = "compress.imaging.tasks, compress.imaging.workers, compress.imaging.command, sys"
    code = f"import {modules}; print(*{{'torch', 'numba'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
