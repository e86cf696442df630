"""The command line: words in, calls out. Imports nothing heavy, decides nothing.

Knobs of the work stand in the recipe; `--set` changes one for one run. A test holds the options.
"""

import logging
from pathlib import Path
from typing import Any

import click

from compress import __version__
from compress.base import ending, openmp
from compress.base.errors import CompressError, Stopped
from compress.cli import engines, images, reports
from compress.cli.clusters import cluster, on_a_cluster
from compress.cli.engines import JSON, show
from compress.cli.images import DEVICE

log = logging.getLogger(__name__)

RECIPE = click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE")
SET = click.option(
    "overrides",
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value for this run, such as steps.1.amount=0.7 or data.train_slices=100; "
    "can be given more than once.",
)
DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of low-dose and full-dose pairs to use instead of the recipe's data.",
)
NO_FALLBACK = click.option(
    "--no-fallback", is_flag=True, help="Fail where phantoms would replace the demo set."
)


class _Commands(click.Group):
    """Turns errors meant for the user into one line on standard error and their exit code."""

    own = False
    """Whether the command is that of the process, which ends with it."""

    def main(self, *args: Any, **more: Any) -> Any:
        self.own = not args and more.get("args") is None
        openmp.decide()  # before commands import torch, which loads OpenMP
        try:
            return super().main(*args, **more)
        except SystemExit as end:
            ending.leave(end.code if isinstance(end.code, int) else int(end.code is not None))
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone; click ends quietly
            raise
        except KeyboardInterrupt:
            ending.undisturbed(self.own)
            again = "stopped before the end; run the same command again"
            click.echo(f"\n{ctx.invoked_subcommand}: {again}", err=True)
            ctx.exit(Stopped.exit_code)
        except (CompressError, OSError) as error:
            log.debug("the place of the error:", exc_info=True)
            said = _sentence(error)
            ending.undisturbed(self.own and isinstance(error, Stopped))
            click.echo(said if isinstance(error, Stopped) else f"Error: {said}", err=True)
            ctx.exit(getattr(error, "exit_code", 1))


EPILOG = """\b
Exit status: 0 done, 1 failed, 2 wrong usage or recipe,
3 a quality or accuracy check failed, 75 stopped by a signal (run again to go on)."""


@click.group(cls=_Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Make CT enhancement networks smaller and faster, and show that image quality held."""


@main.command(short_help="Write a recipe to begin with.")
@click.argument("name", metavar="NAME")
@click.option(
    "--network",
    default="ddnet",
    show_default=True,
    metavar="NETWORK",
    help="ddnet, redcnn, or a class of your own, such as my_nets:MyNet of my_nets.py beside it.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of low-dose and full-dose pairs; the demo set by default.",
)
def new(name: str, network: str, data: Path | None) -> None:
    """Write NAME.yaml into this folder: a recipe with comments that `compress check` accepts.

    A file that exists is left as it is. A class of your own is imported, that is, its code is run.
    """
    from compress.run import new as recipes

    click.echo(recipes.write(name, network, data))


@main.command(short_help="Run a recipe, or go on with a stopped run.")
@RECIPE
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Run folder; runs/<name of the recipe> by default. A stopped run goes on from it.",
)
@DATA
@SET
@click.option("--until", metavar="STEP", help="Last step to run, such as prune or 03-retrain.")
@DEVICE
@NO_FALLBACK
@click.option("--profile", is_flag=True, help="Record where training spends its time.")
@click.option("-v", "--verbose", is_flag=True, help="Say more in the log.")
def run(
    recipe: Path,
    out: Path | None,
    data: Path | None,
    overrides: tuple[str, ...],
    until: str | None,
    device: str | None,
    no_fallback: bool,
    profile: bool,
    verbose: bool,
) -> None:
    """Run RECIPE from its first step to its last; go on where an earlier run was stopped.

    For several GPUs: torchrun --nproc_per_node=N -m compress run RECIPE.

    `model: {import: ...}` in a recipe executes code from the recipe's folder.
    """
    from compress.base.progress import start_log
    from compress.recipe import load
    from compress.run import pipeline

    start_log(verbose=verbose)
    loaded = load(recipe, overrides)
    folder = pipeline.run(
        loaded,
        out=out or Path("runs") / loaded.name,
        data=data,
        until=until,
        device=device,
        fallback=not no_fallback,
        profile=profile,
    )
    if folder is not None:  # under torchrun the first process speaks for all
        click.echo(folder)


@main.command(short_help="Show what a recipe would do, without training.")
@RECIPE
@SET
@JSON
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the scores of every layer with the fitted normal curve and the threshold.",
)
def check(recipe: Path, overrides: tuple[str, ...], as_json: bool, plot: Path | None) -> None:
    """Show what RECIPE would do to its network, without training: layers, cost, 2:4, back ends."""
    from compress.recipe import load
    from compress.run import pictures, preview

    if plot is not None:
        pictures.check(plot)
    loaded = load(recipe, overrides)
    found = preview.check(loaded)
    preview.check_folder(loaded)
    drawn = pictures.draw(found, plot) if plot is not None else []
    show(found, as_json, preview.render)
    for picture in drawn:
        click.echo(picture, err=True)


@main.command(short_help="Run a recipe at every point of a grid.")
@RECIPE
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=VALUES",
    help="Values of one option, such as steps.prune.amount=0.1:0.9:0.1 or reseed=0,1,2; can be "
    "given more than once for every combination.",
)
@SET
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the sweep; runs/<name of the recipe>-sweep by default.",
)
@DATA
@DEVICE
@click.option(
    "--jobs",
    type=int,
    help="Processes that share the points, or most tasks at once on a cluster; 1 by default, with "
    "ray and slurm as many as there is room for.",
)
@on_a_cluster
@click.option("--point", metavar="NAME", help="Run this point alone, and write no tables.")
@click.option(
    "--without",
    metavar="STEPS",
    help="Compare each point with the recipe without these steps, trained as long; "
    "prune,sparsify,quantize by default, which is the dense network.",
)
@click.option("--no-baseline", is_flag=True, help="Leave out the networks to compare with.")
@NO_FALLBACK
def sweep(
    recipe: Path,
    vary: tuple[str, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    data: Path | None,
    device: str | None,
    jobs: int | None,
    address: str | None,
    gpus: int | None,
    cpus: int | None,
    point: str | None,
    without: str | None,
    no_baseline: bool,
    no_fallback: bool,
) -> None:
    """Run RECIPE at every point of a grid, and write one table and plots of all.

    Stages that points share, such as the dense training, are done once. Finished points are never
    run again, and the same command may run several times at once, on several GPUs. Without --vary
    only the table and plots of the points in --out are written, such as those of two machines.
    """
    from compress.base.progress import start_log
    from compress.sweep.grid import COMPRESSING
    from compress.sweep.options import Sweep
    from compress.sweep.run import run

    start_log()
    left = COMPRESSING if without is None else tuple(w.strip() for w in without.split(","))
    where = cluster(address, gpus, cpus, jobs)
    asked = Sweep(
        recipe=recipe,
        vary=vary,
        overrides=overrides,
        out=out or Path("runs") / f"{recipe.stem}-sweep",
        data=data,
        device=device,
        fallback=not no_fallback,
        without=() if no_baseline else left,
        jobs=1 if jobs is None or where is not None else jobs,
        point=point,
        cluster=where,
    )
    made = run(asked)  # of the tables, a person reads this one:
    click.echo(made if point is not None else made.with_suffix(".md"))


@main.command(short_help="Show what this machine has and lacks.")
@click.argument("recipe", type=click.Path(path_type=Path), metavar="[RECIPE]", required=False)
@JSON
def doctor(recipe: Path | None, as_json: bool) -> None:
    """Show what this machine has, what each step would use here, and how to get what is missing.

    Shows each step of RECIPE, or a line for every recipe that comes with this program.
    """
    from compress.base.progress import start_log
    from compress.run import doctor as doctors

    start_log()
    show(doctors.doctor(recipe), as_json, doctors.render)


main.add_command(engines.export)
main.add_command(engines.bench)
main.add_command(reports.inspect)
main.add_command(reports.report)
main.add_command(images.enhance)
main.add_command(images.simulate)
main.add_command(images.evaluate)


def _sentence(error: Exception) -> str:
    """An error as one sentence; the system's own have a file and a reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
