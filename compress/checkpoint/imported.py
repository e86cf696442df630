"""Networks of the user's own: how they are imported, and the hash of their code.

What such a network computes depends on its weights and on its code, so both are part of the
identity of a checkpoint, of a stage and of derived DICOM images. The code is the module that a
recipe names and every module of the same folder that it imports, directly or through others. Of an
installed package it is the version.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from torch import nn

from compress.base.errors import UsageError
from compress.base.files import digest, sha256

INSTALLED = ("site-packages", "dist-packages")
"""Folders of packages that change by their version only."""


def network_class(path: str, folder: str | None) -> Callable[..., nn.Module]:
    """The class or function that `path` names; its module is imported, that is, its code is run.

    Args:
        path: `package.module:Class`.
        folder: where the module is looked for first.

    Raises:
        UsageError: there is no such module or class.
    """
    module_name, _, class_name = path.partition(":")
    code_hash(path, folder)  # now: the file may be edited while its network trains
    search = [folder] if folder else []
    _forget_namesakes(module_name, folder)
    sys.path[:0] = search
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # the code of a module raises whatever it likes
        reason = (str(error) or type(error).__name__) + _places(error, module_name, folder)
        raise UsageError(f"the network {path!r} cannot be imported: {reason}") from error
    finally:
        del sys.path[: len(search)]
        # Behind all else: an import inside a function runs later.
        sys.path += [place for place in search if place not in sys.path]
    if isinstance(found, nn.Module):
        made = f"{type(found).__name__} that was made already"
        raise UsageError(f"the network {path!r} is a {made}; name its class, or what makes it")
    if not callable(found):
        raise UsageError(f"the network {path!r} is not a class")
    return found  # type: ignore[no-any-return]


def _places(error: Exception, module: str, folder: str | None) -> str:
    """Where a module was looked for that is not there, and what to do, as the end of a sentence."""
    if not isinstance(error, ModuleNotFoundError) or error.name != module.partition(".")[0]:
        return ""
    looked = "the folders of PYTHONPATH" if folder is None else f"{folder} and those of PYTHONPATH"
    return f"; it was looked for in {looked}: set PYTHONPATH to the folder that holds it"


@cache
def code_hash(path: str, folder: str | None) -> str | None:
    """The SHA-256 of the code of an imported network, as it was when this process first asked.

    Args:
        path: `package.module:Class`.
        folder: where the module is looked for first.

    Returns:
        Hexadecimal; None where there is no Python source.
    """
    name = path.partition(":")[0]
    root = _root(name, folder)
    if root is None:
        return None
    if root.name in INSTALLED and (versions := _versions(name)):
        return digest(versions)
    files = _sources(name, root)
    return digest({module: sha256(file) for module, file in files.items()}) if files else None


def _root(module: str, folder: str | None) -> Path | None:
    """The folder on the search path that holds the top-level package or module of `module`."""
    if folder is not None and _sources(module, Path(folder)):
        return Path(folder)
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.has_location and spec.origin else None


def _versions(module: str) -> list[str]:
    """Name and version of the distributions that a module comes from."""
    names = metadata.packages_distributions().get(module.partition(".")[0], [])
    return sorted({f"{name} {metadata.version(name)}" for name in names})


def _sources(module: str, root: Path) -> Mapping[str, Path]:
    """The module and all modules below `root` that it imports, by name, with their files."""
    found: dict[str, Path] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        file = _file(name, root)
        if name in found or file is None:
            continue
        found[name] = file
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        queue += _imports(file, package)
        queue += [name.rpartition(".")[0]] * ("." in name)  # a package's __init__.py runs, too
    return dict(sorted(found.items()))


def _file(module: str, root: Path) -> Path | None:
    place = root.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _imports(file: Path, package: str) -> Iterator[str]:
    """Absolute names of what may be modules in the import statements of a file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the import says what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return ""


def _forget_namesakes(module: str, folder: str | None) -> None:
    """Let modules be imported from `folder` though others of their names were, from elsewhere.

    Two projects may both call a module `net`; Python would give the second one the first one's.
    """
    if folder is None:
        return
    for name, file in _sources(module, Path(folder)).items():
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if loaded and name not in sys.stdlib_module_names and not file.samefile(loaded):
            del sys.modules[name]
