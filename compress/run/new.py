"""`compress new`: a recipe to begin with, made for a network and a folder of pairs."""

import json
from collections.abc import Iterator
from pathlib import Path
from string import Template

from torch import nn

from compress.base.errors import CompressError, UsageError
from compress.checkpoint import NETWORKS
from compress.data import folder
from compress.graph.padding import multiple, up
from compress.recipe import Recipe, load
from compress.recipe.recipe import check_name
from compress.run import preview

CROP = 64
"""Side of the crops to train with in pixels, where the slices are as large."""
AMOUNTS = ((0.5, "16"), (0.5, "null"), (0.3, "null"), (0.1, "null"))
"""Share of the MACs to remove and `round_to`: the first that a network can reach is taken."""
TEMPLATE = Template("""\
# What `compress run $name.yaml` does, from top to bottom, in the folder runs/$name.
# `compress check $name.yaml` shows the plan without training, and recipes/README.md of compress
# lists every option of every step.
schema: 1

$model
$data
seed: 0  # of every random draw: equal seeds, equal results

steps:
  # The dense network, which everything is compared with. More epochs give better images.
  - train:    {epochs: 32, crop: $crop, batch: 8}

  # Whole channels are removed, here $percent % of the multiply-accumulates; the rest learns again.
  # round_to: kept channels are a multiple of it; 2:4 kernels need 16.
  - prune:    {amount: $amount, target: macs, round_to: $round_to}
  - retrain:  {epochs: 40, crop: $crop, batch: 8}

  # Two of every four weights become zero, for sparse tensor cores. Remove both lines to do without.
  - sparsify
  - retrain:  {epochs: 40, crop: $crop, batch: 8}

  # INT8, for TensorRT or ddnet's fused engine; layers that cost too many HU stay in half precision.
  # - quantize

  # The dense network trained as long as both retrains, for a fair comparison; doubles their time.
  # - baseline

  # PSNR, SSIM and RMSE on slices that were held out.
  - evaluate

  # Engines, compared with the network. With a GPU: [torch_tensorrt, aot_inductor]; ddnet: [fused].
  - export:   {formats: [onnx], batch: [1], image_size: $size}

  # runs/$name/07-report/report.html
  - report
""")
OWN = """\
# A class of your own; its module lies beside this file and is imported, that is, its code is run.
# Further options go to the class, such as {import: ..., depth: 5}."""
OURS = "# A network of this package; ddnet and redcnn have options of their own, see there."
PAIRS = "# Pairs in HU, FOLDER/low/NAME and FOLDER/full/NAME; a path is relative to this file."
DEMO = "# Real chest CT of three patients, fetched once (70 MB). Your own pairs: --data FOLDER."


def write(name: str, network: str, data: Path | None) -> Path:
    """Write NAME.yaml into the working folder, a recipe that `compress check` accepts.

    Args:
        name: of the recipe; letters, digits, `.`, `_` and `-`. A `.yaml` behind it is left out.
        network: ddnet, redcnn, or `module:Class` of the user's own.
        data: folder of pairs; None takes the demo set.

    Returns:
        The file.

    Raises:
        UsageError: the file exists, the name cannot be one, or network or data cannot be used.
    """
    name = name.removesuffix(".yaml")
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if ":" not in network and network not in NETWORKS:
        own = f"{Path(network).stem}:CLASS" if network.endswith(".py") else "MODULE:CLASS"
        raise UsageError(
            f"--network {network}: there is no such network; write {' or '.join(NETWORKS)}, or "
            f"{own} for a network of your own"
        )
    path, side = Path(f"{name}.yaml"), 512 if data is None else min(folder.shape(data))
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(f"{path} exists and is left as it is; choose another name") from error
    with file:
        pass
    try:
        _fit(path, network, data, side)
    except BaseException:
        path.unlink()
        raise
    return path


def _fit(path: Path, network: str, data: Path | None, side: int) -> None:
    """Fill the file with the first recipe that the network can take.

    Raises:
        UsageError: there is none; why not the most cautious one.
    """
    step = multiple(_network(path, _text(path.stem, network, data, CROP, CROP, AMOUNTS[0])))
    crop, size = min(CROP, side) // step * step or side, up(side, step)
    texts = (_text(path.stem, network, data, crop, size, amount) for amount in AMOUNTS)
    failed = list(_refused(path, texts))
    if len(failed) == len(AMOUNTS):
        raise failed[-1]


def _refused(path: Path, texts: Iterator[str]) -> Iterator[CompressError]:
    """Write one text after the other until one is accepted; what was said of each before."""
    for text in texts:
        try:
            preview.check(_written(path, text))
            return
        except CompressError as error:
            yield error


def _network(path: Path, text: str) -> nn.Module:
    return _written(path, text).model.build().eval()


def _written(path: Path, text: str) -> Recipe:
    path.write_text(text, encoding="utf-8")
    return load(path)


def _text(
    name: str, network: str, data: Path | None, crop: int, size: int, amount: tuple[float, str]
) -> str:
    """The recipe; values that a user gave are quoted as JSON, which YAML reads."""
    own = ":" in network
    options = f"import: {json.dumps(network)}" if own else f"name: {json.dumps(network)}"
    residual = ", residual: true" if network == "ddnet" else ""
    place = "demo" if data is None else f"folder, path: {json.dumps(str(data))}"
    share, round_to = amount
    return TEMPLATE.substitute(
        name=name,
        model=f"{OWN if own else OURS}\nmodel: {{{options}{residual}}}\n",
        data=f"{DEMO if data is None else PAIRS}\ndata: {{source: {place}}}\n",
        crop=crop,
        size=size,
        amount=share,
        percent=round(share * 100),
        round_to=round_to,
    )
