"""What pip may and may not touch in NVIDIA's image; prints lines for pip.

    python docker/pins.py keep       constraints: the stack around torch, as it is
    python docker/pins.py requires   requirements: what pyproject.toml declares, tests included
    python docker/pins.py changed F  compares with constraints in file F; status 1 if any moved

The image's own constraint file is not used: it also pins ModelOpt and setuptools, to versions that
are too old here.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
STACK = re.compile(
    r"(torch|torchvision|torchaudio|torch[-_]tensorrt|(pytorch[-_])?triton|tensorrt.*|apex|numpy"
    r"|transformer[-_]engine|flash[-_]attn|cuda[-_].*|nvidia[-_](?!modelopt).*)",
    re.IGNORECASE,
)
"""Distributions that are compiled against each other; another version of one breaks the rest."""


def keep() -> list[str]:
    """`name==version` of every installed distribution of the stack, sorted."""
    found = {dist.metadata["Name"]: dist.version for dist in distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if STACK.fullmatch(name))


def requires() -> list[str]:
    """The requirements that pyproject.toml declares, those of its tests among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["test"]]


def changed(before: list[str]) -> Iterator[str]:
    """A sentence for every line of `before` that does not hold any more."""
    now = set(keep())
    for line in before:
        if line not in now:
            name, version = line.split("==", 1)
            here = [other.split("==", 1)[1] for other in now if other.startswith(f"{name}==")]
            yield f"{name} was {version} and is {here[0] if here else 'gone'} now"


def main(words: list[str]) -> int:
    """Print what is asked for; the exit status."""
    if words[:1] == ["changed"] and len(words) == 2:
        found = list(changed(Path(words[1]).read_text(encoding="utf-8").split()))
        print("\n".join(found) or "the stack of the image is as it was")
        return 1 if found else 0
    if words not in (["keep"], ["requires"]):
        print("usage: pins.py keep | requires | changed FILE", file=sys.stderr)
        return 2
    print("\n".join(keep() if words == ["keep"] else requires()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
