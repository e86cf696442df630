"""The fused engine beside torch.compile, layer by layer and whole; and whether 2:4 would pay.

    python tests/bench/fused.py --floor                    # tables of docs/fused.md, anywhere
    python tests/bench/fused.py --out fused.json           # on a GPU, six to eight minutes
    python tests/bench/fused.py --out fused.json --part layers-dense-16 --seconds 90

Each part runs in a process of its own with a time limit; its result is in the file before the next
one starts, so a run that is cut off keeps what it had. Times are medians of CUDA events around
captured graphs; what is compared runs in turns. Parts:

    parity              relative error against float64, fresh inputs, sizes and batches
    layers-NET-BATCH    tilings measured; then each layer's time beside its floor
    engine-NET-BATCH    the whole engine and torch.compile with one CUDA graph, in turns
    sparse24            the most that sparse tensor cores could gain, and what they gain in a GEMM
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from compress.base.files import write_json
from compress.engines import fused
from compress.engines.kernels import remembered
from compress.engines.kernels.plan import Chain, Conv, Plan, Pool, Upsample, compiled
from compress.engines.kernels.session import Choices, Session
from compress.models.ddnet import DDnet

BYTES_A_SECOND, FLOPS = 3e12, 800e12
"""What an H100 reaches: memory, and float16 tensor cores."""
NETWORKS = {
    "dense": {"residual": True},
    "16-16-16": {"residual": True, "bottleneck": 16, "decoder": 16},
}
SIDE = 512
PARTS = {
    "parity": 60,
    "layers-dense-16": 150,
    "engine-dense-16": 120,
    "layers-dense-1": 150,
    "layers-16-16-16-16": 150,
    "layers-16-16-16-1": 150,
    "engine-16-16-16-16": 120,
    "engine-dense-1": 120,
    "engine-16-16-16-1": 120,
    "sparse24": 60,
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
    return net


def floors(plan: Plan) -> Iterator[dict[str, Any]]:
    """Bytes, operations and the least time of each operation, for one slice of 512x512."""
    for op in plan.operations:
        for one in (op.first, op.second) if isinstance(op, Chain) else (op,):
            yield _conv(plan, one) if isinstance(one, Conv) else _move(plan, one)


def pixels(plan: Plan, buffer: str) -> int:
    return int((SIDE >> plan.buffers[buffer].level) ** 2)


def _conv(plan: Plan, op: Conv) -> dict[str, Any]:
    inside, out = sum(op.source.slots), sum(op.target.slots)
    at = pixels(plan, op.source.buffer)
    flops = 2 * at * op.size**2 * inside * op.out + (2 * at * op.out * out if op.then else 0)
    behind = f" -> 1x1 {out}" if op.then else ""
    what = f"{op.size}x{op.size} {inside} -> {op.out}{behind}"
    return _row(op.name, what, at, 2 * at * (inside + out), flops)


def _move(plan: Plan, op: Pool | Upsample) -> dict[str, Any]:
    channels, read = sum(op.source.slots), pixels(plan, op.source.buffer)
    at = pixels(plan, op.target.buffer)
    kind = "max-pool" if isinstance(op, Pool) else "bilinear x2"
    return _row(op.target.buffer, f"{kind} {channels}", at, 2 * channels * (read + at), 0)


def _row(name: str, what: str, at: int, moved: int, flops: int) -> dict[str, Any]:
    memory, arithmetic = moved / BYTES_A_SECOND * 1e6, flops / FLOPS * 1e6
    return {
        "layer": name,
        "what": what,
        "side": int(at**0.5),
        "MB": moved / 1e6,
        "GFLOP": flops / 1e9,
        "floor_us": max(memory, arithmetic),
        "bound": "memory" if memory >= arithmetic else "arithmetic",
        "floor24_us": max(memory, arithmetic / 2),
    }


def table(name: str) -> str:
    """The table of a network in Markdown; times are filled in by a run on a GPU."""
    plan, _ = compiled(network(name))
    rows = list(floors(plan))
    lines = [
        "| layer | what | side | MB | GFLOP | floor, us | bound by | floor with 2:4 | time "
        "| distance |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['layer']} | {row['what']} | {row['side']} | {row['MB']:.2f} "
            f"| {row['GFLOP']:.3f} | {row['floor_us']:.2f} | {row['bound']} "
            f"| {row['floor24_us']:.2f} | not run | not run |"
        )
    total = {k: sum(r[k] for r in rows) for k in ("MB", "GFLOP", "floor_us", "floor24_us")}
    lines.append(
        f"| all | | | {total['MB']:.1f} | {total['GFLOP']:.2f} | {total['floor_us']:.1f} | "
        f"| {total['floor24_us']:.1f} | not run | not run |"
    )
    return "\n".join(lines)


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


def tuned(session: Session, seconds: float) -> Choices:
    """Tilings measured now, or in an earlier part or build."""
    from compress.engines.kernels.tune import tune

    with remembered.tilings(fused.gpu(torch.device("cuda"))) as known:
        return tune(session, seconds, known)


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The row of a chain in one kernel; its floor is the sum of both, which it may undercut."""
    names = {key: f"{first[key]} + {second[key]}" for key in ("layer", "what")}
    sums = {key: first[key] + second[key] for key in ("MB", "GFLOP", "floor_us", "floor24_us")}
    return {**first, **names, **sums}


def layers(name: str, batch: int, seconds: float, engine: Path) -> dict[str, Any]:
    """Tune, write the engine's file, and time every layer beside its floor."""
    plan, tensors = compiled(network(name).cuda())
    shape = (batch, SIDE, SIDE)
    start = time.monotonic()
    choices = tuned(Session(plan, tensors, shape), seconds)
    took = time.monotonic() - start
    fused.save(plan, tensors, engine, {fused.gpu(torch.device("cuda")): choices})
    session = Session(plan, tensors, shape, choices=choices)
    rows = iter(floors(plan))
    found = []
    for op in plan.operations:
        ours = [next(rows), next(rows)] if isinstance(op, Chain) else [next(rows)]
        calls = list(session.prepare(op))
        if len(calls) == 1 and len(ours) == 2:
            ours = [joined(*ours)]
        for row, call in zip(ours, calls, strict=True):
            graph = graphed(call, 10)
            us = milliseconds({"it": graph.replay}, 10)["it"] * 1e3 / 10 / batch
            found.append({**row, "us": us, "distance": us / row["floor_us"]})
    cuts = {key: str(cut) for key, cut in {**choices.conv, **choices.chain}.items()}
    sums = {"us": sum(r["us"] for r in found), "floor_us": sum(r["floor_us"] for r in floors(plan))}
    return {"tuning_seconds": took, "rows": found, "sums": sums, "cuts": cuts}


def whole(name: str, batch: int, seconds: float, engine: Path) -> dict[str, Any]:
    """The engine and torch.compile, each one CUDA graph, in turns."""
    net, shape = network(name).cuda(), (batch, SIDE, SIDE)
    x = torch.rand(batch, 1, SIDE, SIDE, device="cuda")
    plan, tensors = compiled(net)
    choices = tuned(Session(plan, tensors, shape), seconds)
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
        "floor_ms_a_slice": sum(r["floor_us"] for r in floors(plan)) / 1e3,
        "chains": sorted(choices.chain),
        "kernels": len(session.calls),
        "buffers_MB": session.memory / 1e6,
    }


def sparse24() -> dict[str, Any]:
    """Bounds on what 2:4 could bring; go on with mma.sp only where they leave 15 % of the whole.

    bound: the 5x5 32 -> 32 with 16 input channels takes half of the products and half of the loads;
    with sparse tensor cores the same layer has half of the products and all of the loads.
    gemm: the same layer's matrix, 128 x 1152, times windows that fit in the L2 cache, dense and by
    cuSPARSELt: real sparse tensor cores at this width, with no convolution around them.
    """
    from torch.sparse import to_sparse_semi_structured

    found: dict[str, Any] = {"bound_ms": {}}
    ends, alive = {}, []  # what a graph reads must not be freed before it is replayed
    for width in (16, 8):  # trunk 16: 32 channels in; trunk 8: 16 channels in, out 32 as before
        net = DDnet(trunk=width).eval().cuda()
        plan, tensors = compiled(net)
        session = Session(plan, tensors, (16, SIDE, SIDE))
        (call,) = session.prepare(plan.operations[-1])
        ends[f"{2 * width} channels in"] = graphed(call).replay
        alive += [session, call]
    found["bound_ms"] = milliseconds(ends)
    weight = torch.randn(128, 1152, device="cuda").half()
    keep = weight.view(128, -1, 4).abs().argsort(-1).argsort(-1) >= 2
    weight = weight * keep.view(128, 1152)
    windows = torch.randn(1152, 8192, device="cuda").half()
    thin = to_sparse_semi_structured(weight)
    calls = {"dense": lambda: torch.mm(weight, windows), "2:4": lambda: torch.mm(thin, windows)}
    graphs = {name: graphed(call, 10).replay for name, call in calls.items()}
    found["gemm_ms_of_10"] = milliseconds(graphs)
    return found


def run(part: str, seconds: float, engine: Path) -> dict[str, Any]:
    """The result of a part."""
    if part == "parity":
        return parity()
    if part == "sparse24":
        return sparse24()
    kind, _, rest = part.partition("-")
    name, _, batch = rest.rpartition("-")
    path = engine.with_name(f"{engine.stem}-{name}.safetensors")
    return (layers if kind == "layers" else whole)(name, int(batch), seconds, path)


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
@click.option("--floor", is_flag=True, help="Print the tables of docs/fused.md and end.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file of all results.")
@click.option("--part", type=click.Choice(list(PARTS)), help="Run this part in this process.")
@click.option("--seconds", default=40.0, help="For measuring tilings, in each part.")
def main(floor: bool, out: Path | None, part: str | None, seconds: float) -> None:
    """Measure the fused engine."""
    if floor:
        click.echo("\n\n".join(f"### {name}\n\n{table(name)}" for name in NETWORKS))
        return
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
