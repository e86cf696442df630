"""Which layers of a TensorRT engine are eligible for sparse kernels, and which run one.

TensorRT says it in two places. Its build log has one line with the layers whose weights are 2:4
and one with those for which a sparse kernel was the fastest; their words changed with TensorRT 8.6.
The engine's layer information names the kernel of each layer, where it was built to tell it.
Names of layers hold the module that they came from: `[...]-[net.stem.conv/convolution]`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from compress.engines.records import Built

MARK = "(Sparsity)"
"""What every line of the build log on this subject holds."""
_ELIGIBLE = re.compile(
    r"\(Sparsity\) (?:Layers eligible for sparse math:"
    r"|Found (?P<count>\d+) layer\(s\) eligible to use sparse tactics:?)(?P<names>.*)"
)
_PICKED = re.compile(
    r"\(Sparsity\) (?:TRT inference plan picked sparse implementation for layers:"
    r"|Chose (?P<count>\d+) layer\(s\) using sparse tactics:?)(?P<names>.*)"
)
_WRONG = re.compile(r"Error Code \d+: [^(]*\((?P<why>.+?)(?: In \S+ at \S+?)?\)\s*$", re.DOTALL)


@dataclass(frozen=True)
class Layers:
    """Some layers of an engine, as TensorRT calls them."""

    count: int
    names: tuple[str, ...]
    """Fewer than `count` where TensorRT gave the number alone."""

    def modules(self, known: Iterable[str]) -> list[str] | None:
        """The modules of `known` that they came from; None where a layer's is not to be told."""
        known = list(known)
        found = [[name for name in known if _holds(layer, name)] for layer in self.names]
        if len(self.names) < self.count or not all(found):
            return None
        wanted = {name for names in found for name in names}
        return [name for name in known if name in wanted]


def wrong(message: str) -> str:
    """What an error in the log says, without the places in TensorRT's source."""
    found = _WRONG.search(message)
    return (found["why"] if found else message).strip().rstrip(".")


def from_log(text: str) -> tuple[Layers | None, Layers | None]:
    """Eligible and picked layers by a build log; None where it says nothing of them."""
    return _last(_ELIGIBLE, text), _last(_PICKED, text)


def from_layers(text: str) -> Layers | None:
    """Layers with a sparse kernel by an engine's layer information.

    Args:
        text: what TensorRT's engine inspector gives as JSON.

    Returns:
        The layers; None where the information holds no kernels, as it does unless the engine was
        built with detailed profiling.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    told = [one for one in layers if isinstance(one, dict) and one.get("TacticName")]
    if not told:
        return None
    sparse = tuple(str(one["Name"]) for one in told if "sparse" in one["TacticName"].lower())
    return Layers(len(sparse), sparse)


def facts(log: str, layers: str, known: Sequence[str]) -> Built:
    """What the sidecar of an engine says of sparse kernels.

    Args:
        log: TensorRT's build log.
        layers: the engine's layer information, or nothing.
        known: names of the network's convolutions and linear layers.

    Returns:
        sparsity {source, eligible, picked}: numbers of layers, None where not told; and, where
        each layer can be named, eligible and picked: lists of module names.
    """
    eligible, picked = from_log(log)
    source = "build log" if eligible or picked else ""
    if picked is None and (picked := from_layers(layers)):
        source = source or "layer information"
    counts = {"eligible": eligible, "picked": picked}
    found: dict[str, object] = {
        "sparsity": {"source": source or None}
        | {word: None if some is None else some.count for word, some in counts.items()}
    }
    for word, some in counts.items():
        names = None if some is None else some.modules(known)
        if names is not None:
            found[word] = names
    return cast("Built", found)


def _last(pattern: re.Pattern[str], text: str) -> Layers | None:
    """The last such line: TensorRT may choose more than once, and the last choice is built."""
    lines = list(pattern.finditer(text))
    if not lines:
        return None
    names = tuple(name for part in lines[-1]["names"].split(", ") if (name := part.strip()))
    return Layers(int(lines[-1]["count"] or len(names)), names)


def _holds(layer: str, module: str) -> bool:
    """Whether a layer's name holds the path of a module, however its parts are joined."""
    plain = [".".join(re.findall(r"[A-Za-z0-9]+", text)) for text in (layer, f"net.{module}")]
    return f".{plain[1]}." in f".{plain[0]}."
