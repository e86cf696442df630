"""How fast DDnet trains here, beside the loop of the public 2dnet project; prints one JSON object.

    python tests/bench/train_step.py                    # on a GPU: 512x512, batch 1 and 16
    python tests/bench/train_step.py --size 176 --batch 1 --steps 1 --rounds 1   # anywhere

Loops, on the same network, slices and loss, in interleaved rounds of the same number of steps; the
order turns round from one to the next, so that no loop always follows the same one. One short round
before them is not timed: it compiles and captures, so a longer `--steps` costs no more there.

    ours           compress' own training session: number format auto, one CUDA graph a step,
                   training set in GPU memory
    ours_compiled  the same with `compile: true`
    study          the loop as 2dnet runs it: eager float32 (torch's defaults: cuDNN may use TF32),
                   Adam eps 1e-8, its own MS-SSIM, batches copied in every step from pinned memory
                   without waiting, `.item()` on each loss
    study_fp32     the same with TF32 forbidden
    study_amp      its mixed precision: float16 autocast with GradScaler (bfloat16 on the CPU)
    study_compile  study with torch.compile of the network

2dnet reads its slices from TIFF files in a loader process and pins them as they come; here its
batches lie ready in pinned memory, so its loops are faster than they are there. 2dnet wraps the
network for parallel training, which one process does not need either.
"""

import copy
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.base.hu import to_network
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data import Data, Pairs
from compress.models.ddnet import DDnet
from compress.quality.ssim import MS_SSIM_SIDE
from compress.sparsity import masks
from compress.steps.train import Train
from compress.training.profiling import Recorder
from compress.training.session import Session

NETWORKS = ("dense", "pruned", "sparse")
UNTIMED = 20
"""Most steps of the round that is not timed."""
MIX = "mse+0.1*(1-ms_ssim)"
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@dataclass(frozen=True)
class Loop:
    """A training loop that goes on from where its last round ended."""

    round: Callable[[int], None]
    """Trains this many steps; all their work is done, or queued, when it returns."""
    facts: Callable[[], dict[str, Any]]
    """How it runs: number format, device, where batches come from."""
    losses: list[tuple[float, ...]] = field(default_factory=list)
    """MSE, the rest and the sum at each step, where the loop reads them."""


def pairs(count: int, side: int) -> Pairs:
    """Smooth slices between -1000 and 500 HU and their noisy partners."""
    draw = np.random.default_rng(0)
    grid = np.linspace(-3, 3, side)
    full = [
        (-250 + 750 * np.sin(grid[None] * draw.uniform(1, 3)) * np.cos(grid[:, None])).astype("i2")
        for _ in range(count)
    ]
    low = [(image + draw.normal(0, 60, image.shape)).astype("i2") for image in full]
    names = tuple(f"s{k}" for k in range(count))
    return Pairs(low=tuple(low), full=tuple(full), names=names, patients=("P",) * count)


def network(name: str) -> Model:
    """Dense DDnet, its pruned form with widths 16/16/16, and that with 2:4 masks."""
    torch.manual_seed(0)
    options = {} if name == "dense" else {"bottleneck": 16, "decoder": 16}
    origin = ModelOptions(name="ddnet", options=options)
    model = Model(net=DDnet(**options), origin=origin)
    if name == "dense":
        return model
    model = model.rewritten("deconv_to_conv")  # as prune and sparsify do
    if name == "pruned":
        return model
    found = masks.compute(model.net, "modelopt")
    masks.apply(model.net, found)
    return replace(model, masks=found)


def ours(
    model: Model, data: Data, steps: int, batch: int, device: torch.device, **more: Any
) -> Loop:
    """The real training session."""
    loss = more.pop("loss")
    options = Train(
        epochs=10_000, batch=batch, crop=None, slices_per_epoch=steps * batch, lr=1e-4, loss=loss,
        **more,
    )  # fmt: skip
    work = Work(stage=Path(tempfile.mkdtemp()), device=device, data=data, seed=0)
    session = Session(options, model, work)
    recorder = Recorder(None, 1, device)

    def round_(count: int) -> None:
        session.step += steps - count  # to the last steps of an epoch, as after an interruption
        session.epoch(recorder)

    def facts() -> dict[str, Any]:
        # Its epochs and steps count those that were skipped.
        left_out = {"epochs", "steps", *session.history}
        return {name: value for name, value in session.facts().items() if name not in left_out}

    return Loop(round_, facts)


def study(
    model: Model, data: Data, steps: int, batch: int, device: torch.device, *,
    loss: str, amp: bool = False, compiled: bool = False,
) -> Loop:  # fmt: skip
    """2dnet's loop."""
    net: Any = copy.deepcopy(model.net).to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, eps=1e-8)
    scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    facts = {
        "precision": str(half).removeprefix("torch.") if amp else float32(device),
        "loader": "batches in memory, pinned" if device.type == "cuda" else "batches in memory",
        "device": str(device), "compiled": compiled,
    }  # fmt: skip
    run = torch.compile(net) if compiled else net
    low, full = (
        to_network(torch.from_numpy(np.stack(images))[:, None])
        for images in (data.train.low, data.train.full)
    )
    drawn = [torch.randint(len(low), (batch,)) for _ in range(8)]
    loader = cycle(  # cut before the clock runs
        [(pinned(low[chosen], device), pinned(full[chosen], device)) for chosen in drawn]
    )
    history: list[tuple[float, ...]] = []

    def round_(count: int) -> None:
        for inputs, targets in islice(loader, count):
            targets = targets.to(device, non_blocking=True)
            inputs = inputs.to(device, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=half, enabled=amp):
                outputs = run(inputs)
                mse = F.mse_loss(outputs, targets)
                rest = 0.1 * (1 - study_ms_ssim(outputs, targets)) if loss == MIX else 0 * mse
                total = mse + rest
            history.append((mse.item(), rest.item(), total.item()))
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()

    return Loop(round_, lambda: facts, history)


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """Page-locked for a GPU, as a loader with pin_memory=True hands it out."""
    return x.pin_memory() if device.type == "cuda" else x


def float32(device: torch.device) -> str:
    """What float32 means on the device as its switches are now."""
    tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return "float32 with TF32 as cuDNN allows" if tf32 else "float32"


def study_ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM the way 2dnet computes it: the range looked up in the image, whole 11x11 windows.

    Each scale makes its Gaussian anew on the CPU, filters five times, and takes means over the
    batch; terms are shifted to (x + 1) / 2 and the last scale's counts for every other one.
    """
    similarities, contrasts = [], []
    for _ in WEIGHTS:
        high = 255 if a.max() > 128 else 1
        span = high - (-0.1 if a.min() < -0.001 else 0)
        similarity, contrast = _study_ssim(a, b, span)
        similarities.append((similarity + 1) / 2)
        contrasts.append((contrast + 1) / 2)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    weights = torch.tensor(WEIGHTS).to(a.device)
    parts = torch.stack(contrasts)[:-1] ** weights[:-1]
    value = (parts * (torch.stack(similarities) ** weights)[-1]).prod()
    if torch.isnan(value):
        raise SystemExit("the study's MS-SSIM is NaN")
    return value


def _study_ssim(a: Tensor, b: Tensor, span: float) -> tuple[Tensor, Tensor]:
    side = min(11, *a.shape[-2:])
    line = torch.exp(-((torch.arange(side) - side // 2) ** 2) / 4.5)
    line = line / line.sum()
    window = torch.outer(line, line)[None, None].to(a.device)

    def local(x: Tensor) -> Tensor:
        return F.conv2d(x, window)

    mean_a, mean_b = local(a), local(b)
    variance_a, variance_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    over, under = 2 * both + c2, variance_a + variance_b + c2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * over / under).mean(), (over / under).mean()


LOOPS: dict[str, Callable[..., Loop]] = {
    "ours": ours,
    "ours_compiled": lambda *a, **k: ours(*a, compile=True, **k),
    "study": study,
    "study_fp32": study,
    "study_amp": lambda *a, **k: study(*a, amp=True, **k),
    "study_compile": lambda *a, **k: study(*a, compiled=True, **k),
}


@contextmanager
def switches(name: str) -> Iterator[None]:
    """Forbid TF32 where a loop is to run without it."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = name != "study_fp32"
    yield
    torch.backends.cudnn.allow_tf32 = before


def seconds(loop: Loop, steps: int, device: torch.device) -> float:
    """Wall time of a round of so many steps, the device idle before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    loop.round(steps)
    wait()
    return time.perf_counter() - started


def prepared(
    name: str, steps: int, device: torch.device, make: Callable[[], Loop]
) -> tuple[Loop, int | None]:
    """A loop after a first round of so many steps, and the most memory it took, in bytes."""
    on_gpu = device.type == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    with switches(name):
        loop = make()
        seconds(loop, steps, device)
    return loop, torch.cuda.max_memory_allocated() - before if on_gpu else None


def compare(
    names: list[str], model: Model, data: Data, loss: str, batch: int, steps: int, rounds: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Images per second of each loop, and ratios of the first to the others round by round."""
    loops, found = {}, {}
    for name in names:
        loops[name], peak = prepared(
            name, min(steps, UNTIMED), device,
            lambda name=name: LOOPS[name](model, data, steps, batch, device, loss=loss),
        )  # fmt: skip
        found[name] = {"peak_bytes": peak}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in order(names, number):
            with switches(name):
                taken[name].append(seconds(loops[name], steps, device))
    for name in names:
        rates = [steps * batch / t for t in taken[name]]
        found[name] |= spread("images_per_second", rates)
        found[name]["ms_per_step"] = 1e3 * statistics.median(taken[name]) / steps
        found[name]["facts"] = loops[name].facts()
    for own in (n for n in names if n.startswith("ours")):
        for other in (n for n in names if n.startswith("study")):
            pairs_ = zip(taken[other], taken[own], strict=True)
            found[own] |= spread(f"times_{other}", [a / b for a, b in pairs_])
    return found


def order(names: list[str], number: int) -> list[str]:
    """The loops in the order of this round: there and back, then the same from the next one on."""
    first = number // 2 % len(names)
    turned = names[first:] + names[:first]
    return turned[::-1] if number % 2 else turned


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)
    }  # fmt: skip


def refuse(size: int, loss: str) -> None:
    """Raise what speaks against slices of this side before any work is done."""
    if size % 16:  # DDnet halves its images four times
        raise click.UsageError(f"--size must be a multiple of 16, got {size}; take 512")
    if loss == MIX and size < MS_SSIM_SIDE:
        raise click.UsageError(
            f"loss {MIX} needs --size {MS_SSIM_SIDE} at least, got {size}; or take --loss mse"
        )


COUNT = click.IntRange(min=1)


@click.command()
@click.option(
    "--size", default=512, type=click.IntRange(min=32),  # BatchNorm needs more than one pixel
    help="Side of the slices, a multiple of 16; at least 176 with the mixed loss.",
)  # fmt: skip
@click.option("--batch", "batches", multiple=True, type=COUNT, default=(1, 16))
@click.option("--steps", default=100, type=COUNT, help="Steps in a round.")
@click.option("--rounds", default=5, type=COUNT, help="Rounds after the first, untimed one.")
@click.option("--network", "networks", multiple=True, type=click.Choice(NETWORKS), default=NETWORKS)
@click.option(
    "--loop", "loops", multiple=True, type=click.Choice(tuple(LOOPS)), default=tuple(LOOPS)
)
@click.option("--loss", default=MIX, type=click.Choice([MIX, "mse"]))
@click.option("--slices", default=32, type=COUNT, help="Slices in the training set.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON object here, too.")
def main(
    size: int, batches: tuple[int, ...], steps: int, rounds: int, networks: tuple[str, ...],
    loops: tuple[str, ...], loss: str, slices: int, out: Path | None,
) -> None:  # fmt: skip
    """Compare training loops on this machine."""
    refuse(size, loss)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found, chosen = pairs(slices, size), list(dict.fromkeys(loops))
    data = Data(train=found, test=found, source="bench", fingerprint="bench")
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    report: dict[str, Any] = {
        "gpu": gpu, "torch": torch.__version__, "size": size, "loss": loss, "steps": steps,
        "rounds": rounds, "untimed_rounds": 1, "untimed_steps": min(steps, UNTIMED),
        "results": {},
    }  # fmt: skip
    for name in networks:
        for batch in batches:
            result = compare(chosen, network(name), data, loss, batch, steps, rounds, device)
            report["results"][f"{name}, batch {batch}"] = result
            short = {n: round(r["images_per_second"], 2) for n, r in result.items()}
            click.echo(f"{name}, batch {batch}: images/s {short}", err=True)
            if out is not None:
                out.write_text(json.dumps(report, indent=1))
    click.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
