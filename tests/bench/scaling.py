"""Training on 1, 2, 4 and 8 GPUs of one host, in turns: speed, losses, a stop, a sweep; one JSON.

    python tests/bench/scaling.py --out scaling.json                # on every GPU that there is
    python tests/bench/scaling.py --device cpu --tiny               # on a CPU: 1 and 2 processes
    python tests/bench/scaling.py --part predict                    # no training: the formula alone

speed    slices a second of the project's training session, one CUDA graph a step on a GPU (ours),
         beside plain DistributedDataParallel of the same network, loss, optimizer and number format
         (ddp), with and without `sync_norm`, at a batch a device and at that batch in all. Groups
         of each size live side by side and take turns, round by round; the order turns round.
         Each builds its loop anew for a round, and its first steps are not timed.
losses   of every step on several devices, in float32, beside those of one
stop     SIGTERM to one process after the first epoch: all end with 75 and go on to the same bits
sweep    a process for each device: the share of the time in which each has one, and is at points
predict  how training should scale by the bytes that a step sends; computed, never measured

The loop of DDP takes decoded batches that lie on the device, which favours it. Ends with status 1
if a claim of the JSON is false; `null` says that this machine cannot show it.
"""

import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).parent))

from scaling_parts import RECIPE, Group, groups, stopped, swept
from scaling_predict import COUNTS, predictions
from train_step import order, spread

from compress.run.manifest import commit, versions

PARTS = ("speed", "losses", "stop", "sweep", "predict")
TINY = {"residual": True, "trunk": 8, "bottleneck": 8, "decoder": 8}
VARIANTS = {
    "frozen BatchNorm": ({"freeze_norm": True, "sync_norm": False}, 1e-4),
    "synchronised BatchNorm": ({"freeze_norm": False, "sync_norm": True}, 2e-2),
}
"""Options, and how far losses may differ, relatively: tests/gpu/test_several_gpus.py."""
NO_GPU = "not run: sync_norm needs GPUs"


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    network: dict[str, Any]
    batch: int
    side: int
    slices: int
    steps: int
    untimed: int
    rounds: int
    compared: int
    """Steps whose losses are compared."""
    epochs: int
    """Of the run that is stopped."""
    point_epochs: int
    points: int
    after: str
    """Steps of a point after its training."""


EVALUATE = "  - evaluate: {compare: false, pictures: 0}\n"
PRUNE = "  - prune: {amount: 0.3}\n"
FULL = Sizes({"residual": True}, 16, 512, 32, 60, 10, 5, 20, 200, 60, 16, PRUNE + EVALUATE)
SMALL = Sizes(TINY, 2, 32, 4, 2, 1, 2, 5, 24, 2, 2, EVALUATE)


@dataclass(frozen=True)
class Bench:
    """What all parts need."""

    sizes: Sizes
    counts: list[int]
    device: str
    folder: Path
    groups: dict[int, Group]

    def common(self) -> dict[str, Any]:
        """What every request of training says."""
        return {name: getattr(self.sizes, name) for name in ("network", "side", "slices")}

    def recipe(self, epochs: int, batch: int, steps: int) -> str:
        """A dense training of `steps` steps an epoch."""
        sizes = self.sizes
        network = json.dumps({"name": "ddnet", **sizes.network})
        return RECIPE.format(
            network=network, side=sizes.side, slices=sizes.slices, epochs=epochs, batch=batch,
            per_epoch=steps * batch,
        )  # fmt: skip


def speed(bench: Bench) -> dict[str, Any]:
    """Both ways to choose the batch, with and without `sync_norm`."""
    found: dict[str, Any] = {}
    for mode in ("a device", "in all"):
        for sync in (False, True):
            name = f"batch {bench.sizes.batch} {mode}" + (", sync_norm" if sync else "")
            if sync and bench.device == "cpu":
                found[name] = NO_GPU
                continue
            found[name] = turns(bench, mode == "a device", sync)
            click.echo(f"{name}: {json.dumps(short(found[name]))}", err=True)
    return found


def short(found: dict[str, Any]) -> dict[str, float]:
    """Slices a second of each loop and count."""
    return {name: round(row["slices_per_second"], 2) for name, row in found.items()}


def turns(bench: Bench, each: bool, sync: bool) -> dict[str, Any]:
    """Slices a second of both loops on each count, in interleaved rounds."""
    sizes = bench.sizes
    batches = {n: sizes.batch * n if each else sizes.batch for n in bench.counts}
    batches = {n: batch for n, batch in batches.items() if batch % n == 0}
    names = {f"{loop}, {n}": (loop, n) for n in batches for loop in ("ours", "ddp")}
    rates: dict[str, list[float]] = {name: [] for name in names}
    facts: dict[str, Any] = {}
    for number in range(sizes.rounds):
        for name in order(list(names), number):
            loop, n = names[name]
            answer = bench.groups[n].ask(
                "timed", loop=loop, sync_norm=sync, batch=batches[n], steps=sizes.steps,
                untimed=sizes.untimed, **bench.common(),
            )  # fmt: skip
            rates[name].append(sizes.steps * batches[n] / answer["seconds"])
            facts[name] = answer["facts"] | {"batch": batches[n]}
    return {name: described(name, names, rates) | facts[name] for name in names}


def described(
    name: str, names: dict[str, tuple[str, int]], rates: dict[str, list[float]]
) -> dict[str, float]:
    """Rate, share of linear scaling, and ratio to the loop of DDP, each by its rounds."""
    loop, n = names[name]
    found = spread("slices_per_second", rates[name])
    one = zip(rates[name], rates[f"{loop}, 1"], strict=True)
    found |= spread("share_of_linear", [several / (n * alone) for several, alone in one])
    if loop == "ours":
        other = zip(rates[name], rates[f"ddp, {n}"], strict=True)
        found |= spread("times_ddp", [a / b for a, b in other])
    return found


def losses(bench: Bench) -> dict[str, Any]:
    """Those of each step on several devices beside one's, with the same batches."""
    found: dict[str, Any] = {}
    for name, (more, tolerance) in VARIANTS.items():
        if more["sync_norm"] and bench.device == "cpu":
            found[name] = NO_GPU
            continue
        batch = max(bench.sizes.batch, bench.counts[-1])
        asked = {"batch": batch, "steps": bench.sizes.compared, **more, **bench.common()}
        seen = {n: group.ask("learned", **asked)["losses"] for n, group in bench.groups.items()}
        differences = {str(n): furthest(seen[n], seen[1]) for n in bench.counts[1:]}
        found[name] = {
            "batch": batch, "losses": {str(n): values for n, values in seen.items()},
            "largest_relative_difference": differences, "tolerance": tolerance,
            "as_on_one": all(value <= tolerance for value in differences.values()),
        }  # fmt: skip
    return found


def furthest(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest relative difference of two series."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def stop(bench: Bench) -> dict[str, Any]:
    """On as many devices as there are."""
    count, sizes = bench.counts[-1], bench.sizes
    recipe = bench.recipe(sizes.epochs, max(sizes.batch, count), 2)
    return stopped(count, bench.device, recipe, bench.folder)


def sweep(bench: Bench) -> dict[str, Any]:
    """A process for each device."""
    sizes = bench.sizes
    recipe = bench.recipe(sizes.point_epochs, sizes.batch, sizes.steps) + sizes.after
    return swept(bench.counts[-1], sizes.points, bench.device, recipe, bench.folder)


RUN = {"speed": speed, "losses": losses, "stop": stop, "sweep": sweep}


def claims(found: dict[str, Any], count: int, device: str) -> dict[str, bool | None]:
    """What the JSON shows; None where this machine or the chosen parts cannot."""
    made: dict[str, bool | None] = dict.fromkeys(
        ("losses as on one", "0.9 of linear on 8", "stopped and went on to the same bits",
         "every point done", "8 GPUs busy above 90 % of the sweep")
    )  # fmt: skip
    if "losses" in found and count > 1:
        rows = [row for row in found["losses"].values() if row != NO_GPU]
        made["losses as on one"] = all(row["as_on_one"] for row in rows)
    if "stop" in found:
        row, ends = found["stop"], [0] * count
        done = row["statuses"]["unbroken"] == row["statuses"]["resumed"] == ends
        made["stopped and went on to the same bits"] = (
            done and row["in_the_middle"] and row["all_ended_with_75"] and row["same_bits"]
        )
    if "sweep" in found:
        row = found["sweep"]
        made["every point done"] = row["points_done"] == row["points"] and not any(row["statuses"])
    if device == "cuda" and count == 8:
        made |= on_eight(found)
    return made


def on_eight(found: dict[str, Any]) -> dict[str, bool | None]:
    """The claims that need eight GPUs."""
    made: dict[str, bool | None] = {}
    if "speed" in found:
        (first, *_) = found["speed"].values()  # a batch a device, without sync_norm
        made["0.9 of linear on 8"] = first["ours, 8"]["share_of_linear"] >= 0.9
    if "sweep" in found:
        shares = [one["mean"] for one in found["sweep"]["utilization"]]
        made["8 GPUs busy above 90 % of the sweep"] = len(shares) == 8 and min(shares) > 90
    return made


def machine(device: str) -> dict[str, Any]:
    """What computes."""
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    return {
        "system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(),
        "load": os.getloadavg()[0], "device": device,
        "gpus": [torch.cuda.get_device_name(index) for index in range(gpus)],
    }  # fmt: skip


def there(device: str, counts: tuple[int, ...]) -> list[int]:
    """The counts that are asked for and possible; one is always among them."""
    most = torch.cuda.device_count() if device == "cuda" else 2
    if device == "cuda" and not most:
        raise click.UsageError("no GPU here; take --device cpu --tiny")
    if wrong := [n for n in counts if not 0 < n <= most]:
        raise click.UsageError(f"--processes {wrong[0]}: there are {most} devices")
    return sorted({1, *(counts or (n for n in COUNTS if n <= most))})


def measured(parts: Sequence[str], sizes: Sizes, counts: list[int], device: str) -> dict[str, Any]:
    """What each part finds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {}
        if together := [part for part in ("speed", "losses") if part in parts]:
            with groups(counts, device, folder) as alive:
                bench = Bench(sizes, counts, device, folder, alive)
                found = alive[1].ask("size", network=sizes.network)
                found |= {part: RUN[part](bench) for part in together}
        bench = Bench(sizes, counts, device, folder, {})  # nothing else waits on the devices
        return found | {part: RUN[part](bench) for part in ("stop", "sweep") if part in parts}


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--processes", "asked", multiple=True, type=int, help="Default: 1, 2, 4, 8.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS)
@click.option("--tiny", is_flag=True, help="A small network, small slices, few steps.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON object here, too.")
def main(
    device: str, asked: tuple[int, ...], parts: tuple[str, ...], tiny: bool, out: Path | None
) -> None:
    """Measure on this machine."""
    sizes = SMALL if tiny else FULL
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": commit(),
        "versions": versions(), "machine": machine(device), "sizes": asdict(sizes),
    }  # fmt: skip
    if set(parts) != {"predict"}:
        counts = there(device, asked)
        found = measured(parts, sizes, counts, device)
        made = claims(found, counts[-1], device)
        report |= {"processes": counts, **found, "claims": made}
    if "predict" in parts:
        report["predict"] = predictions()
    text = json.dumps(report, indent=1)
    if out is not None:
        out.write_text(text + "\n")
    click.echo(text)
    if false := [claim for claim, value in report.get("claims", {}).items() if value is False]:
        raise click.ClickException(f"not shown: {'; '.join(false)}")


if __name__ == "__main__":
    main()
