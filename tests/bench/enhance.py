"""Slices per second of the whole command: python tests/bench/enhance.py --help.

Writes the 133 slices of the demo set's patient A (or phantoms, where it cannot be had) as an
uncompressed DICOM series, runs `compress enhance` on it in a process of its own, once to warm up
the disk's cache and then a few times, and prints one JSON object:

    slices_per_second       slices / seconds from the loaded network to the written manifest
    with_start              slices / seconds of the process, imports and loading included
    outside_the_network     share of the former in which the network did not compute

With --phases also where the wall time of the process goes, in seconds; the first nine follow each
other and, with `end`, add up to `wall`:

    start       Python, and what is imported before the workers start
    workers     listing INPUT, starting the workers
    torch       importing torch, while the workers look at the headers
    load        loading the network, likewise
    scan        waiting for the rest of the headers
    choose      table of the series, targets of the results
    prepare     results that are there already, memory for the slices
    stream      from the first file to the last
    sync        making the names of the results last
    end         the manifest, ending the workers and Python
    first       of `stream`: until the first batch was sent into the network
    for_workers, for_network    of `stream`: waiting
    network     of `stream`: the network computes (on a GPU beside everything else)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from dicom_files import dataset, packed

from compress.data import Unavailable, demo, demo_volumes, phantom

PARTS = ("workers", "torch", "load", "scan", "choose", "prepare", "stream", "sync")
WITHIN = ("first", "for_workers", "for_network", "network")


def volume(count: int) -> tuple[str, list[np.ndarray]]:
    """Where the slices come from, and `count` of them, (512, 512) int16 HU."""
    try:
        scans = demo_volumes.volumes(demo.cache_folder() / "demo")
        name, slices = "demo", list(next(hu for v, hu in scans.items() if v.patient == "A"))
    except Unavailable:
        name, slices = "phantom", [phantom.chest("P1", k, 512, 0).image for k in range(8)]
    return name, [slices[k % len(slices)] for k in range(count)]


def write(folder: Path, slices: list[np.ndarray]) -> None:
    """As an uncompressed series, stored with 16 bits as scanners with extended scale do."""
    for index, hu in enumerate(slices):
        ds = dataset(hu.clip(-1024, 3071), index=index, PixelSpacing=[0.703125, 0.703125])
        (folder / f"IM{index:04d}").write_bytes(packed(ds))


def timed(source: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """One run of the command."""
    with tempfile.TemporaryDirectory(dir=arguments.disk) as out:
        began = time.time()
        command = [sys.executable, "-m", "compress", "enhance", str(source), "-o", out]
        command += ["-m", arguments.model]
        for option in ("device", "batch"):
            if getattr(arguments, option) is not None:
                command += [f"--{option}", str(getattr(arguments, option))]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        manifest = json.loads((Path(out) / "manifest.json").read_text())
        written = (Path(out) / "manifest.json").stat().st_mtime - began
    seconds = manifest["seconds"]
    start = written - sum(seconds[part] for part in PARTS)
    return {**seconds, "start": start, "end": wall - written, "wall": wall,
            "device": manifest["device"], "precision": manifest["precision"]}  # fmt: skip


def phases(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each part, see above."""
    names = ("start", *PARTS, "end", "wall", *WITHIN)
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in names}


def main() -> None:
    """Write, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="folder of a checkpoint, or an engine")
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--slices", type=int, default=133)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--disk", help="folder to write to, such as /dev/shm")
    parser.add_argument("--phases", action="store_true", help="where the wall time goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.disk) as folder:
        name, slices = volume(arguments.slices)
        write(Path(folder), slices)
        timed(Path(folder), arguments)
        runs = [timed(Path(folder), arguments) for _ in range(arguments.runs)]
    middle = {key: statistics.median(run[key] for run in runs)
              for key in ("load", "work", "network", "wall")}  # fmt: skip
    print(json.dumps({
        "data": name, "slices": len(slices), "runs": arguments.runs,
        "device": runs[0]["device"], "precision": runs[0]["precision"],
        "cores": os.cpu_count(),
        "slices_per_second": round(len(slices) / middle["work"], 1),
        "slices_per_second_of_each_run": [round(len(slices) / run["work"], 1) for run in runs],
        "with_start": round(len(slices) / middle["wall"], 1),
        "outside_the_network": round(1 - middle["network"] / middle["work"], 3),
        "seconds": {key: round(value, 3) for key, value in middle.items()},
        **({"phases": phases(runs)} if arguments.phases else {}),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
