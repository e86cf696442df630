"""Which pruning gives most dB for its milliseconds, and which criterion beats random: on GPUs.

    python tests/bench/pruners.py --out OUT                      # Pareto on patient C, 9 minutes
    python tests/bench/pruners.py --out OUT --held-out B
    python tests/bench/pruners.py --out OUT --part criteria      # five seeds, 5 minutes
    python tests/bench/pruners.py --out OUT --part others        # RED-CNN and BasicUNet at half
    python tests/bench/pruners.py --out OUT --part training      # noise, transposes, norms, rate
    python tests/bench/pruners.py --out OUT --part widths        # 60, 75, 90 %, 5x5 and 3x3, 2:4
    python tests/bench/pruners.py --out OUT --part int8          # 60 %, 2:4, then INT8
    python tests/bench/pruners.py --out OUT --tiny --device cpu  # does it run? 1 minute

Pareto: DDnet dense; our plans by MACs and by milliseconds, also with kernels that the cut makes
smaller; Torch-Pruning's MagnitudePruner; ModelOpt's FastNAS; 3x3 kernels from the start. Every arm
is trained alike, see pruners_arms.py, then all are timed in turns, see pruners_times.py. Latency
arms have as their budget what the table of measured layers predicts for our plan by MACs. With
smaller kernels the table has up to 160 layers: --table-seconds 170 gives each as long as before.

Criteria: 60 % of the MACs by each criterion, five seeds, with the paired t-test to random channels.

Arms are trained on every GPU, in several processes each; networks are timed on the first GPU.
Rows are in OUT/rows.json and rows.csv as soon as an arm has ended, PSNR over milliseconds in
OUT/pareto.png, networks in WORK/arms. The same command goes on with what is missing, then times all
again, for example with --batches 16. FastNAS needs `pip install torchprofile==0.0.4`, BasicUNet
`pip install monai`; Torch-Pruning is in the extra `test`.
"""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import click
import pruners_arms as arms_of
import torch
from pruners_parts import PARTS
from pruners_plot import plot
from pruners_settings import ROW, Arm, Settings
from pruners_stats import paired
from pruners_table import SPAWN, table
from pruners_times import Timer, known

from compress.base.files import read_json, write_json
from compress.cluster.submitit import visible_gpus
from compress.models.ddnet import KERNELS
from compress.run import manifest

CORES = len(os.sched_getaffinity(0))
COMPILED = 200.0
"""Seconds before the end after which torch.compile is given no network more."""
PYTORCH = 60.0
"""Seconds kept for timing PyTorch and torch.compile."""
LAST = 35.0
"""Seconds before the end after which nothing is compiled."""
MEASURED = 12.0
"""Seconds kept for timing engines in turns."""
REAL = {"source": "demo", "train_slices": None, "test_slices": None}
TINY = {"source": "phantom", "image_size": 64, "views": 90, "train_slices": 4, "test_slices": 2}


def workers(gpus: Sequence[str]) -> ProcessPoolExecutor:
    """Processes that train arms, one for each GPU that is named; it sees no other."""
    own: Queue[str] = SPAWN.Queue()
    for gpu in gpus:
        own.put(gpu)
    return ProcessPoolExecutor(len(gpus), SPAWN, _see, (own,))


def visible(device: str) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; "" for a CPU."""
    return visible_gpus() if device == "cuda" else [os.environ.get("CUDA_VISIBLE_DEVICES", "")]


def _see(own: "Queue[str]") -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = own.get()  # CUDA reads it when it starts


def _prepare(
    arms: Sequence[Arm], settings: Settings, pool: ProcessPoolExecutor, given: dict[str, Any],
    processes: int,
) -> None:  # fmt: skip
    """The table, if an arm plans by it, on the GPU, and low dose meanwhile on the CPU."""
    most = max(arm.realisations for arm in arms)

    def simulate() -> None:
        """Into the cache; then the other processes read it and import PyTorch."""
        arms_of.slices(settings, most)
        for _ in range(processes):
            pool.submit(arms_of.ready, settings)

    simulating = threading.Thread(target=simulate)
    simulating.start()
    if any(arm.how == "latency" for arm in arms):
        smaller = any(arm.smaller != "keep" for arm in arms)
        said = table(settings, given["table_seconds"], smaller=smaller)
        click.echo(f"layers: {said}", err=True)
    simulating.join()


def trained(
    arms: Sequence[Arm],
    settings: Settings,
    pool: ProcessPoolExecutor,
    timer: Timer | None,
    until: float,
) -> None:
    """Run all arms; until then networks are compiled here meanwhile."""
    pending: set[Future[dict[str, Any]]] = {pool.submit(arms_of.run, a, settings) for a in arms}
    while pending:
        ended, pending = wait(pending, return_when=FIRST_COMPLETED)
        try:
            rows = [future.result() for future in ended]
        except BrokenProcessPool:  # a GPU that failed takes its process along
            click.echo("a process ended; the arms that were left have no row", err=True)
            return
        for row in rows:
            write(settings)
            said = f"{row['psnr']:.2f} dB" if row["status"] == "done" else row["reason"]
            click.echo(f"{row['name']}: {said}, {row.get('seconds', 0)} s", err=True)
        for row in rows:
            if timer and row["status"] == "done" and time.time() < until:
                timer.add(row["name"], settings.out / "arms" / row["name"])


def _done(arm: Arm, settings: Settings) -> bool:
    path = settings.out / "arms" / arm.name / ROW
    return path.exists() and read_json(path)["status"] == "done"


def timed(settings: Settings, timer: Timer, until: float) -> None:
    """Time every network in turns; each part is written when it has ended."""
    folders = {p.parent.name: p.parent for p in sorted(settings.out.glob("arms/*/model.json"))}
    times: dict[str, Any] = {}
    if timer.device.type == "cuda":
        for index, batch in enumerate(timer.batches):
            left = until - PYTORCH - time.time()
            _fused(settings, batch, time.time() + left / (len(timer.batches) - index))
            times |= known(settings.out, settings.report, timer.batches)
            write(settings, times)
    for batch in timer.batches:
        times[f"eager_b{batch}_ms"] = timer.eager(folders, batch)
        write(settings, times)
    for name, folder in folders.items():
        if time.time() < until - LAST:
            timer.add(name, folder)
    write(settings, times | timer.compiled())
    for name, why in timer.failed.items():
        click.echo(f"torch.compile of {name}: {why}", err=True)


def _fused(settings: Settings, batch: int, until: float) -> None:
    script = Path(__file__).with_name("pruners_times.py")
    command = [sys.executable, str(script), str(settings.out), str(batch), str(until - MEASURED)]
    try:
        subprocess.run(command, check=False, timeout=max(1.0, until + 5 - time.time()))
    except subprocess.TimeoutExpired:
        click.echo(f"fused, batch {batch}: the time was up", err=True)


def write(settings: Settings, times: dict[str, Any] | None = None) -> None:
    """All rows so far, with their milliseconds, as JSON and CSV."""
    rows = [read_json(path) for path in sorted(settings.out.glob(f"arms/*/{ROW}"))]
    for row in rows:
        row |= {column: found.get(row["name"]) for column, found in (times or {}).items()}
    write_json(settings.report / "rows.json", rows)
    columns = [*dict.fromkeys(key for row in rows for key in row)]
    with (settings.report / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    if importlib.util.find_spec("matplotlib"):
        plot(rows, settings.report / "pareto.png")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), help="For networks; OUT/work.")
@click.option("--part", type=click.Choice([*PARTS]), default="pareto")
@click.option("--held-out", default="C", help="Patient to measure on; the others train.")
@click.option("--epochs", type=int, help="In all; see PARTS.")
@click.option("--at", default=0.15, help="Share of the epochs before the cut.")
@click.option("--seeds", help="With commas; see PARTS.")
@click.option("--arms", help="Only those whose names begin so, with commas.")
@click.option("--jobs", default=4, help="Processes that share a GPU.")
@click.option("--device", default="cuda")
@click.option("--latency-from", default="fused", help="What runs the layers of the table.")
@click.option("--table-seconds", default=95.0, help="For measuring layers.")
@click.option("--begin-until", default=320.0, help="Seconds after which no arm is begun.")
@click.option("--until", default=540.0, help="Seconds after which nothing is timed.")
@click.option("--batches", default="1", help="Slices at once, for timing.")
@click.option("--compile/--no-compile", "compiles", default=True)
@click.option("--tiny", is_flag=True, help="Phantoms of 64 pixels, two epochs.")
def main(out: Path, part: str, **given: Any) -> None:
    """Run a comparison, or go on with it."""
    started = time.time()
    # Processes that share the cores: without, pruning took most of an arm's time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    gpus = visible(given["device"]) * given["jobs"]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // len(gpus))))
    work = (given["work"] or out / "work").resolve()
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(work, out.resolve(), part, started, given)
    seeds = [int(seed) for seed in (given["seeds"] or PARTS[part].seeds).split(",")]
    chosen = PARTS[part].arms(seeds)
    if given["arms"]:
        chosen = [arm for arm in chosen if arm.name.startswith(tuple(given["arms"].split(",")))]
    write_json(
        out / "about.json",
        {**_about(settings), "options": {k: str(v) for k, v in given.items()} | {"part": part}},
    )
    timer = None
    if part == "pareto":
        batches = tuple(int(b) for b in given["batches"].split(","))
        timer = Timer(settings.device, settings.latency_size, batches, given["compiles"])
    end = started + given["until"]
    if left := [arm for arm in chosen if not _done(arm, settings)]:
        with workers(gpus) as pool:
            _prepare(left, settings, pool, given, len(gpus))
            trained(left, settings, pool, timer, end - COMPILED)
    click.echo(f"trained: {time.time() - started:.0f} s", err=True)
    if timer:
        timed(settings, timer, end)
    else:
        write(settings)
        rows = read_json(out / "rows.json")
        write_json(
            out / "paired.json", {name: paired(rows, name) for name in PARTS[part].references}
        )
    click.echo((out / "rows.csv").read_text())
    click.echo(f"{time.time() - started:.0f} s", err=True)


def _settings(work: Path, out: Path, part: str, started: float, given: dict[str, Any]) -> Settings:
    tiny, held = given["tiny"], given["held_out"]
    epochs = given["epochs"] or (2 if tiny else PARTS[part].epochs)
    patients = {"train_patients": sorted({*"ABC"} - {held}), "test_patients": [held]}
    if held == "B":
        patients["train_patients"] = ["A"]
    return Settings(
        out=work, report=out, device=given["device"], epochs=epochs,
        data=TINY if tiny else REAL | patients,
        at=given["at"], slices_per_epoch=4 if tiny else 182 if held == "C" else 134,
        rounded=1 if tiny else 4, tiny=tiny, latency_from=given["latency_from"],
        latency_size=64 if tiny else 512, one_shot=part == "criteria",
        until=started + given["begin_until"],
    )  # fmt: skip


def _about(settings: Settings) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if settings.device.startswith("cuda") else None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": manifest.commit(),
        "versions": manifest.versions(),
        "gpu": gpu,
        "epochs": settings.epochs,
        "epochs_before_the_cut": settings.cut,
        "slices_per_epoch": settings.slices_per_epoch,
        "kernels": list(KERNELS),
        "command": json.dumps(sys.argv),
    }


if __name__ == "__main__":
    main()
