"""The commands that show runs and files that are there: words in, calls out, like `cli`."""

from pathlib import Path

import click

from compress.cli.engines import JSON, show


@click.command(short_help="Write the report of a run anew, or compare runs.")
@click.argument(
    "runs",
    type=click.Path(path_type=Path, file_okay=False),
    nargs=-1,
    required=True,
    metavar="RUN...",
)
@click.option(
    "-o",
    "--out",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Where the comparison of several runs goes; compare.html by default.",
)
def report(runs: tuple[Path, ...], file: Path | None) -> None:
    """Write the report of the run folder RUN anew, or one page that compares several.

    Nothing is computed again: pages are made of what the stages left. Latencies come from
    `compress bench --json ... > RUN/bench.json`.
    """
    from compress.reporting import compare
    from compress.run.report import rebuild

    if len(runs) == 1:
        if file is not None:
            raise click.UsageError("--out is for a comparison; name two or more runs")
        click.echo(rebuild(runs[0]))
        return
    click.echo(compare.write(runs, file or Path("compare.html")))


@click.command(short_help="Show every layer of a checkpoint or an engine.")
@click.argument("path", type=click.Path(path_type=Path), metavar="MODEL|ENGINE")
@JSON
def inspect(path: Path, as_json: bool) -> None:
    """Show every layer of a checkpoint folder or an engine: zeros, 2:4 and where it fails, MACs.

    An engine is named by its file or its sidecar.
    """
    from compress.engines import inspection

    show(inspection.inspect(path), as_json, inspection.render)
