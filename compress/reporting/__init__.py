"""The report of a run, made from the facts that its stages left; nothing is computed again.

collect.py     facts.json, manifest.json and recipe.yaml -> report.json, a dictionary
records.py     what that dictionary holds
numbers.py     the figures on top: cost, file size, latency, PSNR
layers.py      one row for every layer: channels, 2:4, what an engine made of it
speed.py       latencies that `compress bench` left in the run folder
storage.py     sizes of the checkpoint files: dense, pruned, 2:4
sentences.py   that dictionary -> sentences: on top the result and warnings, last the limits
asked.py       the amount that a pruning was asked for, and the unit of its threshold
undone.py      what the run did not do, and what would
pictures.py    slices in HU -> PNG
charts.py      numbers -> SVG
page.py        the dictionary and the pictures -> report.html and report.md
physics.py     the physics of image quality: table and sentences (physics_plots.py: PNG)
compare.py     several runs -> one page
histograms.py  scores of each layer with the threshold, PNG
plots.py       plots of a sweep, PNG
formatting.py  numbers as a person reads them
"""

from pathlib import Path

from compress.base.errors import UsageError
from compress.base.files import write_atomic, write_json


def write(run: Path, folder: Path) -> Path:
    """Write report.json, report.md and report.html of a run.

    Args:
        run: the run folder; only stages whose names sort before `folder`'s are read, so that what
            an earlier, longer recipe left behind it does not come in.
        folder: where the files go; it exists.

    Returns:
        The path of report.html, one file that needs no other and no network.

    Raises:
        UsageError: `run` holds no run.
        OSError: the disk is full or `folder` is not writable.
    """
    from compress.reporting import collect, page

    report = collect.collect(run, before=folder.name)
    write_json(folder / "report.json", report)
    write_atomic(folder / "report.md", page.markdown(report).encode())
    html = folder / "report.html"
    kept = (collect.pictures(run, report), collect.maps(run, report))
    write_atomic(html, page.html(report, *kept).encode())
    return html


def refuse_no_run(folder: Path) -> None:
    """Refuse a folder that is not that of a run; of a sweep, name its runs.

    Raises:
        UsageError: says what is wrong with the folder, and which one to take where that is known.
    """
    if (folder / "manifest.json").is_file():
        return
    if not folder.exists():
        raise UsageError(f"{folder}: there is no such run folder")
    found = (*folder.glob("*/manifest.json"), *folder.glob("points/*/manifest.json"))
    inside = sorted(path.parent for path in found)
    hint = f"; try {inside[-1]}" if inside else ""
    raise UsageError(f"{folder} holds no run: it has no manifest.json{hint}")
