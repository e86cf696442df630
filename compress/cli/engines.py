"""The commands that build and time engines: words in, calls out, like `cli`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from compress.cli.images import DEVICE
from compress.cli.parameters import Names, Numbers
from compress.engines.formats import FormatName
from compress.engines.precision import Precision

FORMATS = get_args(FormatName)
MODES = ("eager-fp32", "eager-tf32", "eager-fp16", "eager-bf16", "compiled")
JSON = click.option("as_json", "--json", is_flag=True, help="Print one JSON object instead.")


@click.command(short_help="Build engines of a checkpoint and check them.")
@click.argument("model", type=click.Path(path_type=Path, file_okay=False), metavar="MODEL")
@click.option(
    "formats",
    "--format",
    type=Names(FORMATS),
    multiple=True,
    metavar="NAMES",
    help=f"Engine formats: {', '.join(FORMATS)}; onnx by default.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", *get_args(Precision)]),
    default="auto",
    help="Arithmetic inside; auto: fp16 for a GPU, fp32 for the CPU.",
)
@click.option(
    "--batch",
    type=Numbers(),
    default=(1,),
    metavar="N,N",
    help="Slices at once, an engine for each; 1 by default.",
)
@click.option("--dynamic-batch", is_flag=True, help="One engine for every batch up to the largest.")
@click.option(
    "image_size",
    "--size",
    type=int,
    default=512,
    help="Side of the slices in pixels; 512 by default.",
)
@click.option(
    "--deconvolutions",
    type=click.Choice(["auto", "conv", "keep"]),
    default="auto",
    help="Stride-1 deconvolutions as convolutions or kept; auto measures on a GPU, else conv.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder for engines, sidecars and export.json.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of pairs to compare on; the demo set by default where it was fetched before, else "
    "phantoms.",
)
@click.option(
    "--triton",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Put the engines into this model repository of Triton Inference Server, too.",
)
@click.option(
    "--triton-name",
    metavar="NAME",
    help="Name of the model there; one that exists gets its next version. The engine's by default.",
)
@DEVICE
@click.option("--no-fallback", is_flag=True, help="Fail where phantoms would replace the demo set.")
@JSON
def export(
    model: Path,
    formats: tuple[tuple[str, ...], ...],
    out: Path,
    data: Path | None,
    triton: Path | None,
    triton_name: str | None,
    device: str | None,
    no_fallback: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile the checkpoint folder MODEL into engines, each with its sidecar.

    Every engine is loaded by a fresh process and compared with the network in HU; exit status 3
    where it differs too much, 1 where a format cannot be built here.
    """
    from compress.base.progress import start_log
    from compress.run import export as exporting

    start_log()
    names = tuple(dict.fromkeys(name for names in formats for name in names))
    chosen = {**options, "formats": names or ("onnx",)}
    found = exporting.run(
        model,
        out,
        chosen,
        data=data,
        device=device,
        fallback=not no_fallback,
        triton=triton,
        triton_name=triton_name,
    )
    show(found, as_json, exporting.render)
    exporting.complain(found)


@click.command(short_help="Time checkpoints and engines side by side.")
@click.argument(
    "paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="MODEL|ENGINE..."
)
@click.option(
    "modes",
    "--mode",
    type=Names(MODES),
    default=MODES[:1],
    metavar="NAMES",
    help=f"How checkpoints run: {', '.join(MODES)}; {MODES[0]} by default.",
)
@click.option(
    "batches",
    "--batch",
    type=Numbers(),
    default=(),
    metavar="N,N",
    help="Slices at once; by default those of the engines, else 1.",
)
@click.option(
    "--size",
    type=click.IntRange(16),
    metavar="N",
    help="Side of the slices in pixels; as the engines, else 512.",
)
@DEVICE
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Turns of every artefact; ratios and their spread are over them.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Time for each artefact and batch, about.",
)
@click.option("--no-graph", is_flag=True, help="Run without CUDA graphs.")
@JSON
def bench(
    paths: tuple[Path, ...],
    modes: tuple[str, ...],
    batches: tuple[int, ...],
    size: int | None,
    device: str | None,
    rounds: int,
    seconds: float,
    no_graph: bool,
    as_json: bool,
) -> None:
    """Time checkpoint folders and engines in turns, in one run, per slice.

    The first one is what the others are compared with. Two of equal widths, with and without 2:4,
    show what 2:4 sparsity is worth here.
    """
    from compress.base.timing import Budget
    from compress.bench import command, table

    found = command.run(
        paths,
        modes=modes,
        batches=batches,
        size=size,
        device=device,
        graph=not no_graph,
        budget=Budget(rounds=rounds, seconds=seconds),
    )
    show(found, as_json, table.render)


def show(found: Mapping[str, Any], as_json: bool, render: Any) -> None:
    """Print what was found, as JSON or as its table."""
    if as_json:
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    else:
        render(found)
