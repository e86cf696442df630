"""The commands that read and write images: words in, calls out, like `cli`."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from compress.base.errors import CompressError
from compress.cli.clusters import cluster, on_a_cluster
from compress.cli.parameters import Shard

LEAKS_FROM = (3, 9)
"""The version of Triton from which on its library lists objects that outlive it."""
INPUT = click.argument("source", type=click.Path(path_type=Path), metavar="INPUT")
SERIES = click.option(
    "series",
    "--series",
    multiple=True,
    metavar="KEY",
    help="Series to take: a key from the table, a UID, or all; can be given more than once.",
)
AGAIN = click.option(
    "--include-results", is_flag=True, help="Take results of this command in INPUT, too."
)
DEVICE = click.option(
    "--device", metavar="DEVICE", help="cpu, cuda or cuda:N; the GPU if there is one."
)


@contextmanager
def _no_paths() -> Iterator[None]:
    """Errors of the system without the file's name, which may be a patient's."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CompressError(f"a file or folder cannot be used: {reason}") from error


@contextmanager
def _stoppable(words: str) -> Iterator[None]:
    """End with `words` at a signal that comes before the command listens to them itself."""
    from compress.base.errors import Stopped
    from compress.base.signals import at_once, interruptible

    with interruptible("stopping") as stop, at_once(stop, Stopped(words)):
        yield


@contextmanager
def _short_end() -> Iterator[None]:
    """Spare the end of the process a look through all objects of torch, a third of a second.

    Not where Triton is loaded, which torch may do, and would list objects that stay as leaks.
    """
    try:
        yield
    finally:
        if not _lists_leaks(sys.modules.get("triton")):
            gc.freeze()


def _lists_leaks(triton: Any) -> bool:
    """Whether a module of Triton does so, some thirty lines behind the last word of the command."""
    words = str(getattr(triton, "__version__", "")).split(".")[:2]
    numbers = tuple(int(word) for word in words if word.isdecimal())
    return triton is not None and (len(numbers) < 2 or numbers >= LEAKS_FROM)


@click.command(short_help="Enhance DICOM CT series with a network or an engine.")
@INPUT
@click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MODEL|ENGINE",
    help="Folder of a checkpoint, or the file or the sidecar of an engine.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="OUT",
    help="Folder for the derived images; it gets the folders of INPUT and manifest.json.",
)
@SERIES
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Slices at once.")
@DEVICE
@click.option("--skip-existing", is_flag=True, help="Keep results that are there: go on.")
@click.option("--overwrite", is_flag=True, help="Write results again that are there.")
@click.option(
    "--shard", type=Shard(), default=(1, 1), metavar="i/n", help="Do one of n parts of INPUT."
)
@click.option("--assume-hu", is_flag=True, help="Take stored values as HU without a rescale slope.")
@click.option("--strip-private", is_flag=True, help="Leave private attributes out.")
@AGAIN
@on_a_cluster
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="Parts of INPUT on a cluster; 4 by default."
)
def enhance(
    source: Path,
    model: Path,
    out: Path,
    series: tuple[str, ...],
    batch: int | None,
    device: str | None,
    skip_existing: bool,
    overwrite: bool,
    shard: tuple[int, int],
    assume_hu: bool,
    strip_private: bool,
    include_results: bool,
    address: str | None,
    gpus: int | None,
    cpus: int | None,
    jobs: int | None,
) -> None:
    """Enhance the CT images in INPUT, a DICOM file, a folder or a zip, and write derived images.

    Everything that is no CT image is left aside, counted with the reason. A file that cannot be
    enhanced stops no other. `model: {import: ...}` in a checkpoint executes that code.
    """
    if skip_existing and overwrite:
        raise click.UsageError("--skip-existing and --overwrite exclude each other")
    where = cluster(address, gpus, cpus)
    if where is None and jobs is not None:
        raise click.UsageError("--jobs is for --cluster")
    if where is not None and shard != (1, 1):
        raise click.UsageError("--shard and --cluster exclude each other; --jobs N makes N parts")
    from compress.imaging import STOPPED, forking

    if where is None:
        forking.begin()  # imports what the workers need while this process imports the rest
    with _stoppable(STOPPED), _no_paths(), _short_end():
        from compress.base.progress import start_log
        from compress.imaging import command, parts

        start_log()
        options = command.Options(
            source=source,
            model=model,
            out=out,
            series=series,
            batch=batch,
            device=device,
            existing="skip" if skip_existing else "overwrite" if overwrite else "refuse",
            shard=shard,
            assume_hu=assume_hu,
            strip_private=strip_private,
            include_results=include_results,
        )
        if where is None:
            command.run(options)
        else:
            parts.run(options, where, jobs)


@click.command(short_help="Make low-dose partners of a DICOM CT series.")
@INPUT
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PAIRS",
    help="New folder for the pairs; PAIRS/npy and PAIRS/dicom are both good for --data.",
)
@click.option(
    "--photons",
    type=click.FloatRange(min=1),
    default=1e5,
    show_default=True,
    help="Photons per ray that leave the simulated source.",
)
@click.option(
    "--electronic",
    type=click.FloatRange(min=0),
    default=10**0.5,
    show_default="3.16, the square root of 10",
    help="Standard deviation of the electronic noise, in photons.",
)
@click.option(
    "--views",
    type=click.IntRange(min=8),
    default=720,
    show_default=True,
    help="Views in one turn of the simulated scanner.",
)
@click.option(
    "--geometry",
    type=click.Choice(["fan", "parallel"]),
    default="fan",
    show_default=True,
    help="Beam of the simulated scanner.",
)
@SERIES
@DEVICE
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the noise; 0 by default.")
@AGAIN
def simulate(
    source: Path,
    out: Path,
    photons: float,
    electronic: float,
    views: int,
    geometry: Any,
    series: tuple[str, ...],
    device: str | None,
    seed: int,
    include_results: bool,
) -> None:
    """Insert the noise of a low dose into the CT images in INPUT, and write pairs to train with."""
    from compress.imaging import STOPPED_SIMULATION

    with _stoppable(STOPPED_SIMULATION), _no_paths():
        from compress.base.progress import start_log
        from compress.imaging import simulate as command

        start_log()
        command.run(
            command.Options(
                source=source,
                out=out,
                photons=photons,
                electronic=electronic,
                views=views,
                geometry=geometry,
                series=series,
                device=device,
                seed=seed,
                include_results=include_results,
            )
        )


@click.command(short_help="Measure image quality on pairs of your own.")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL|ENGINE")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder of pairs; its test part where it has one, else all of it.",
)
@click.option(
    "--windows",
    metavar="NAMES",
    help="Windows besides the full range, such as lung,mediastinum; all by default.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evaluation"),
    show_default=True,
    metavar="DIR",
    help="Folder for evaluation.csv and evaluation.json.",
)
@click.option(
    "--physics",
    is_flag=True,
    help="Bias, noise texture, sharpness and detectability, too, on simulated noise.",
)
@DEVICE
def evaluate(
    model: Path,
    data: Path,
    windows: str | None,
    out: Path,
    physics: bool,
    device: str | None,
) -> None:
    """Measure the slices in DIR and what MODEL makes of them: RMSE, PSNR, SSIM, MS-SSIM.

    Per slice and window in evaluation.csv; means per patient and over all slices, too, in
    evaluation.json. --physics adds its table to the latter and writes physics.md and physics.npz.
    """
    from compress.base.progress import start_log
    from compress.run import evaluate as evaluation
    from compress.steps.physics import Settings

    start_log()
    chosen = evaluation.windows(windows)
    settings = Settings() if physics else None
    evaluation.render(evaluation.run(model, data, out, chosen, device, settings))
