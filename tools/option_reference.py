"""The reference of recipe options, made from the dataclasses that read them.

`python tools/option_reference.py recipes/README.md` writes it into that file, below the mark.
"""

import argparse
import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from compress.checkpoint import NETWORKS, ModelOptions
from compress.data import DataOptions
from compress.recipe.schema import describe, parameters
from compress.steps import STEPS

MARK = "<!-- From here on written by `python tools/option_reference.py recipes/README.md`. -->\n"


def reference() -> str:
    """Every section, step and option with type, default and meaning, as Markdown."""
    return "\n".join([MARK, *_sections()])


def _sections() -> Iterator[str]:
    docs = field_docs(ModelOptions)
    yield "## model\n\n| option | type | default | meaning |\n|---|---|---|---|"
    for name in ("name", "import_", "weights"):
        yield f"| `{name.rstrip('_')}` | text or null | null | {_cell(docs[name])} |"
    for name, network in NETWORKS.items():
        yield f"\n### name: {name}\n\n{_table(network, _argument_docs(network))}"
    yield f"\n## data\n\n{_table(DataOptions, field_docs(DataOptions))}"
    for step in dict.fromkeys(STEPS.values()):
        words = ", ".join(word for word, kind in STEPS.items() if kind is step)
        yield f"\n## {words}\n\n{inspect.getdoc(step)}\n\n{_table(step, field_docs(step))}".rstrip()
    yield ""


def field_docs(options: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, by field; inherited ones come first."""
    docs = {}
    for owner in filter(is_dataclass, reversed(options.__mro__)):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                assert isinstance(field.target, ast.Name)
                docs[field.target.id] = inspect.cleandoc(ast.literal_eval(doc.value))
    return docs


def _argument_docs(network: type) -> dict[str, str]:
    """What the docstring of a class says of its arguments, by argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(network) or "", re.M | re.S)
    entries = re.findall(
        r"^    (\w+): (.*?)(?=^    \w|\Z)", section[1] if section else "", re.M | re.S
    )
    return dict(entries)


def _table(build: Callable[..., object], docs: Mapping[str, str]) -> str:
    rows = [
        f"| `{name}` | {describe(one.annotation)} | {_default(one.default)} | {_cell(docs[name])} |"
        for name, one in parameters(build).items()
    ]
    head = ["| option | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join(head + rows) if rows else "No options."


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the reference into the file that the command line names, below the mark."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path, help="recipes/README.md")
    path = parser.parse_args().file
    head = path.read_text(encoding="utf-8").partition(MARK)[0]
    path.write_text(head + reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
