"""The fused engine beside torch.compile, layer by layer and whole, dense and 2:4.

    python tests/bench/fused.py --out fused.json           # on a GPU, six to eight minutes
    python tests/bench/fused.py --out fused.json --part layers-dense-16 --seconds 90

Each part runs in a process of its own with a time limit; its result is in the file before the next
one starts, so a run that is cut off keeps what it had. Times are medians of CUDA events around
captured graphs; what is compared runs in turns. Parts:

    parity              relative error against float64, fresh inputs, sizes and batches
    layers-NET-BATCH    tilings measured; then each layer's time beside its floor
    engine-NET-BATCH    the whole engine and torch.compile with one CUDA graph, in turns
    stem-NET-BATCH      every CUDA cut of the stem, of its max-pool, and of both in one kernel
    decoder-NET-BATCH   likewise of the upsamplings and the 5x5 behind each
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from compress.base.files import write_json
from compress.engines import fused
from compress.engines.kernels import remembered, report, timed
from compress.engines.kernels.choose import Found
from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.cuda.window import Window, strips
from compress.engines.kernels.jobs import jobs
from compress.engines.kernels.plan import Conv, Pool, Upsample, compiled
from compress.engines.kernels.route import Layer, merges
from compress.engines.kernels.session import Session
from compress.engines.kernels.tune import tune
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet

NETWORKS = {
    "dense": {"residual": True},
    "16-16-16": {"residual": True, "bottleneck": 16, "decoder": 16},
    "dense-2to4": {"residual": True},
    "16-16-16-2to4": {"residual": True, "bottleneck": 16, "decoder": 16},
    "3x3": {"residual": True, "kernels": (3, 3, 3, 3, 3)},
    "3x3-2to4": {"residual": True, "kernels": (3, 3, 3, 3, 3)},
}
"""Those that end in 2to4 keep two of four input channels of every convolution."""
SIDE = 512
PARTS = {
    "parity": 60,
    **{f"layers-{name}-{batch}": 150 for batch in (16, 1) for name in NETWORKS},
    **{f"engine-{name}-{batch}": 120 for batch in (16, 1) for name in NETWORKS},
    **{f"stem-16-16-16-{batch}": 60 for batch in (16, 1)},
    **{f"decoder-{name}-16": 120 for name in NETWORKS if name.endswith("2to4")},
}
"""Part -> seconds that it may take."""


def network(name: str) -> nn.Module:
    """A DDnet with weights that leave something to compare."""
    torch.manual_seed(0)
    net = DDnet(**NETWORKS[name]).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        nn.init.normal_(net.decoders[-1].narrow.conv.weight, std=0.1)  # type: ignore[union-attr]
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
        if name.endswith("2to4"):
            net = deconv_to_conv(net)
            for module in net.modules():
                if isinstance(module, nn.Conv2d) and module.in_channels % 4 == 0:
                    module.weight.copy_(two_of_four(module.weight))
    return net


def two_of_four(weight: Tensor) -> Tensor:
    """The two largest of every four input channels."""
    groups = weight.movedim(1, -1).unflatten(-1, (-1, 4))
    kept = groups.abs().argsort(-1).argsort(-1) >= 2
    return (groups * kept).flatten(-2).movedim(-1, 1).contiguous()


def milliseconds(calls: dict[str, Callable[[], object]], rounds: int = 20) -> dict[str, float]:
    """Median time of each call, in turns, by CUDA events."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for at in range(rounds + 3):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if at >= 3:
                found[name].append(start.elapsed_time(end))
    return {name: statistics.median(times) for name, times in found.items()}


def graphed(call: Callable[[], object], repeats: int = 1) -> torch.cuda.CUDAGraph:
    """A call as a CUDA graph, after it was warmed up on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.inference_mode():
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        for _ in range(repeats):
            call()
    return graph


def parity() -> dict[str, Any]:
    """Relative error of the whole engine, fresh inputs."""
    found = {}
    seed = int(time.time())
    for name in NETWORKS:
        net = network(name).double().cuda()
        plan, tensors = compiled(net)
        for shape in [(1, 512, 512), (2, 304, 176), (16, 64, 128), (32, 32, 16)]:
            draw = torch.Generator().manual_seed(seed)
            x = torch.rand(shape[0], 1, *shape[1:], generator=draw).cuda()
            y = Session(plan, tensors, shape, poison=True)(x)
            with torch.no_grad():
                expected = torch.cat([net(one[None].double()) for one in x])
            off = float((y - expected).abs().max() / expected.abs().max())
            found[f"{name} {shape}"] = off if off == off else "NaN"
    good = all(isinstance(off, float) and off <= 2e-3 for off in found.values())
    return {"seed": seed, "errors": found, "ok": good}


def tuned(session: Session, seconds: float) -> Found:
    """Kernels measured now, or in an earlier part or build."""
    with remembered.tilings(fused.gpu(torch.device("cuda"))) as known:
        return tune(session, seconds, known)


def layers(name: str, batch: int, seconds: float, engine: Path) -> dict[str, Any]:
    """Tune, write the engine's file, and give every kernel's time beside its floor."""
    plan, tensors = compiled(network(name).cuda())
    start = time.monotonic()
    session = Session(plan, tensors, (batch, SIDE, SIDE))
    found = tuned(session, seconds)
    took = time.monotonic() - start
    fused.save(plan, tensors, engine, {fused.gpu(torch.device("cuda")): found.choices})
    chosen = Session(plan, tensors, (batch, SIDE, SIDE), choices=found.choices)
    rows = []
    for (unit, cut, _), call in zip(found.units, chosen.calls, strict=True):
        graph = graphed(call, 10)
        us = milliseconds({"it": graph.replay}, 10)["it"] * 1e3 / 10 / batch
        parts = report.parts(unit)
        names = [op.name if isinstance(op, Conv) else op.target.buffer for op in parts]
        shape = "" if cut is None else session.key(unit)
        floor = sum(report.floor_us(session, op) for op in parts)
        kind = report.kernel(unit, cut)
        rows.append({"layer": " + ".join(names), "what": shape, "kernel": kind, "us": us,
                     "floor_us": floor, "cut": str(cut)})  # fmt: skip
        print(f"{rows[-1]['layer']:55} {shape:40} {kind:20} {us:7.2f} {floor:6.2f} {cut}")
    sums = {key: sum(row[key] for row in rows) for key in ("us", "floor_us")}
    print(f"{name} batch {batch}: {sums}, {len(rows)} kernels, tuned in {took:.0f} s")
    return {"tuning_seconds": took, "rows": rows, "sums": sums}


def whole(name: str, batch: int, seconds: float, engine: Path) -> dict[str, Any]:
    """The engine and torch.compile, each one CUDA graph, in turns."""
    net, shape = network(name).cuda(), (batch, SIDE, SIDE)
    x = torch.rand(batch, 1, SIDE, SIDE, device="cuda")
    plan, tensors = compiled(net)
    choices = tuned(Session(plan, tensors, shape), seconds).choices
    kind = fused.gpu(torch.device("cuda"))
    fused.save(plan, tensors, engine.with_suffix(f".b{batch}.safetensors"), {kind: choices})
    session = Session(plan, tensors, shape, choices=choices)
    session.image.copy_(x)
    session.capture()
    half = network(name).half().cuda().to(memory_format=torch.channels_last)
    low = x.half().to(memory_format=torch.channels_last)
    compiled_net = torch.compile(half)
    graph = graphed(lambda: compiled_net(low))
    assert session.graph is not None
    replays = {"fused": session.graph, "torch.compile": graph}
    ms = milliseconds({key: one.replay for key, one in replays.items()}, 30)
    return {
        "ms": ms,
        "ms_a_slice": {key: value / batch for key, value in ms.items()},
        "speed_up": ms["torch.compile"] / ms["fused"],
        "chains": sorted(choices.chain),
        "layers": sorted(choices.layer),
        "kernels": len(session.calls),
        "buffers_MB": session.memory / 1e6,
    }


def pairs(first: type, name: str, batch: int, _seconds: float, _engine: Path) -> dict[str, Any]:
    """Microseconds a slice of every cut of neighbours, in the fastest of its strips.

    Args:
        first: of pairs the class of the first operation; Conv is the stem.
    """
    plan, tensors = compiled(network(name).cuda())
    session = Session(plan, tensors, (batch, SIDE, SIDE))
    for buffer in session.buffers.values():
        buffer.inside.normal_(std=0.1)
    found, rows = jobs(session), []
    layers = [one for one in merges(plan).values() if isinstance(one, Layer)]
    of_stem = [one for one in layers if isinstance(one.second, Pool)]
    chosen = of_stem if first is Conv else [one for one in layers if isinstance(one.first, first)]
    for key in (session.key(op) for both in chosen for op in (both.first, both.second, both)):
        job = found[key]
        compiler.ahead([s for cut in job.cuda if (s := job.source(cut))], session.image.device)
        for cut in job.cuda:
            sides = strips(SIDE) if isinstance(cut, Window) else [cut.strip]
            times = {}
            for one in (replace(cut, strip=side) for side in sides):
                times[one] = timed.milliseconds(partial(job.make, one), session.image.device)
            best = min(times, key=times.__getitem__)
            rows.append({"what": key, "us": times[best] * 1e3 / batch, "cut": str(best)})
            print(f"{key:40} {rows[-1]['us']:7.2f} {best}")
    return {"rows": rows}


KINDS = {
    "layers": layers,
    "engine": whole,
    "stem": partial(pairs, Conv),
    "decoder": partial(pairs, Upsample),
}


def run(part: str, seconds: float, engine: Path) -> dict[str, Any]:
    """The result of a part."""
    if part == "parity":
        return parity()
    kind, _, rest = part.partition("-")
    name, _, batch = rest.rpartition("-")
    path = engine.with_name(f"{engine.stem}-{name}.safetensors")
    return KINDS[kind](name, int(batch), seconds, path)


def part_of(part: str, out: Path, seconds: float) -> dict[str, Any]:
    """A part in a process of its own: its result, or why there is none."""
    file = out.with_name(f"{out.stem}-{part}.json")
    command = [sys.executable, __file__, "--out", str(out), "--part", part]
    try:
        subprocess.run(
            [*command, "--seconds", str(seconds)], timeout=PARTS[part], check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        return dict(json.loads(file.read_text()))
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {PARTS[part]} s"}
    except subprocess.CalledProcessError as error:
        return {"failed": error.stderr[-2000:]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="JSON file of all results.")
@click.option("--part", type=click.Choice(list(PARTS)), help="Run this part in this process.")
@click.option("--seconds", default=40.0, help="For measuring tilings, in each part.")
def main(out: Path | None, part: str | None, seconds: float) -> None:
    """Measure the fused engine."""
    if out is None:
        raise click.UsageError("--out says where the results go")
    out.parent.mkdir(parents=True, exist_ok=True)
    if part:
        result = run(part, seconds, out.with_suffix(".safetensors"))
        write_json(out.with_name(f"{out.stem}-{part}.json"), result)
        click.echo(json.dumps(result, indent=1))
        return
    versions = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name()}
    results: dict[str, Any] = {"versions": versions}
    for name in PARTS:
        start = time.monotonic()
        results[name] = part_of(name, out, seconds)
        results[name]["seconds"] = round(time.monotonic() - start, 1)
        write_json(out, results)
        click.echo(f"{name}: {json.dumps(results[name])[:400]}")


if __name__ == "__main__":
    main()
