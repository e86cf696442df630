"""Engines on a GPU: built, reloaded, compared and timed side by side; prints one JSON object.

    python tests/gpu/engines.py --out /tmp/engines --rig RIG > engines.json

Three networks: DDnet dense, struct60 (widths 16/16/16) and struct60 with 2:4 zeros, out of
--checkpoints (folders of these names) or made here with random weights, which is enough for speed
and rounding. Parts, each in processes of their own with a time limit: AOTInductor engines for each
batch, several at once, beside processes that fill torch.compile's cache; TensorRT engines one by
one; then `compress bench` of everything. After each part what is known is written to
OUT/engines.json. --rig names a folder with `lib` and `site` that holds TensorRT-RTX; without it
TensorRT is used where it is installed. Exit status: 0 where every part has ended and every engine
agrees, else 3.
"""

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import checkpoint
from compress.base.hu import to_network
from compress.base.timing import Budget
from compress.bench import command as bench
from compress.bench.targets import artefacts
from compress.checkpoint import Model, ModelOptions
from compress.data import DataOptions, load
from compress.engines.base import Shape
from compress.graph import cost
from compress.graph.layout import by_output
from compress.run import export as exporting
from compress.sparsity import eligibility, masks, pattern

NAMES = ("dense", "struct60", "struct60-24")
FORMATS = ("aot_inductor", "torch_tensorrt", "fused", "onnx")
MODES = ("eager-fp32", "eager-fp16", "compiled")
MARK = "part: "
LIMITS = {
    "aot_inductor": 200, "torch_tensorrt": 120, "fused": 300, "onnx": 300, "warm": 150, "bench": 500
}  # fmt: skip
"""Seconds that a part may take."""
JOBS = max(2, len(os.sched_getaffinity(0)) * 9 // 16)


def network(narrow: bool, low: torch.Tensor) -> Model:
    """A residual DDnet whose layers see what they would after training; f(x) is about 60 HU."""
    torch.manual_seed(0)
    widths = {"trunk": 16, "bottleneck": 16, "decoder": 16} if narrow else {}
    origin = ModelOptions(name="ddnet", options={"residual": True, **widths})
    net, last = origin.build().to(low.device), "decoders.3.narrow.conv"
    conv = net.get_submodule(last)
    torch.nn.init.normal_(conv.weight)
    with torch.no_grad():
        net.train()
        for _ in range(20):  # BatchNorm's statistics become those of slices
            net(low)
        conv.weight.mul_(0.02 / net.eval().body(low).std())
    model = Model(net=net.cpu(), origin=origin)
    return model.rewritten("deconv_to_conv") if narrow else model


def prepare(args: argparse.Namespace) -> None:
    """Checkpoints and pairs of slices in OUT."""
    data = load(
        DataOptions(source=args.data, train_slices=1, test_slices=4, image_size=args.size), seed=0
    )
    for name, *sides in zip(data.test.names, data.test.low, data.test.full, strict=True):
        for side, image in zip(("low", "full"), sides, strict=True):
            path = args.out / "pairs" / side / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, image)
    if args.checkpoints:
        return
    low = to_network(torch.tensor(data.test.low[0]).to(args.device))[None, None, :256, :256]
    for name in NAMES:
        model = network(name != "dense", low)
        if name.endswith("24"):
            layers = cost.compressible(model.net)
            able = {n: m for n, m in layers.items() if not eligibility.refusal(m)}
            held = {n: pattern.mask_2to4(by_output(m)) for n, m in able.items()}
            masks.apply(model.net, held)
            model = replace(model, masks=held)
        (args.out / name).mkdir(parents=True, exist_ok=True)
        checkpoint.save(model, args.out / name)


def export(args: argparse.Namespace, name: str, format_: str, batch: int) -> dict[str, Any]:
    """One engine: what export.json says of it."""
    options = {
        "formats": (format_,),
        "batch": (batch,),
        "image_size": args.size,
        "precision": "fp16",
    }
    if name == "dense" and format_ == "aot_inductor":
        options["deconvolutions"] = "conv"  # measuring both ways would compile twice
    out = args.out / f"{name}-{format_}-b{batch}"
    start = time.monotonic()
    found = exporting.run(
        source(args, name), out, options, data=args.out / "pairs", device=args.device
    )
    times = torch._dynamo.utils.compile_times(repr="csv", aggregate=True)
    seconds = {k: float(v) for k, v in zip(*times, strict=True) if float(v) > 3}
    rows = [row | {"path": str(out / row["file"])} for row in found["engines"] if row["file"]]
    left_out = [row for row in found["engines"] if not row["file"]]
    spent = round(time.monotonic() - start, 1)
    return {"engines": rows + left_out, "seconds": spent, "compile_seconds": seconds}


def warm(args: argparse.Namespace, name: str, batch: int) -> dict[str, Any]:
    """Compile as `bench` will, so that it finds the kernels in the cache on disk."""
    device = torch.device(args.device)
    (one,) = artefacts(source(args, name), ("compiled",), device, graph=False)
    x = Shape(batch=batch, size=args.size).example(device)
    with torch.inference_mode():
        one.start()(x)
    return {}


def timed(args: argparse.Namespace, *paths: str) -> dict[str, Any]:
    """`compress bench` of the networks in every mode and of the engines."""
    where = [*(source(args, name) for name in NAMES), *map(Path, paths)]
    modes = MODES if args.device == "cuda" else ("eager-fp32",)
    budget = Budget(rounds=args.rounds, seconds=args.seconds)
    return bench.run(
        where, modes=modes, batches=args.batch, size=args.size, device=args.device, budget=budget
    )


def source(args: argparse.Namespace, name: str) -> Path:
    """The checkpoint folder of a network."""
    return Path(args.checkpoints or args.out) / name


def environment(args: argparse.Namespace) -> dict[str, str]:
    """That of the parts: TensorRT-RTX preloaded where a rig is given."""
    found = dict(os.environ)
    if args.rig:
        rig = Path(args.rig).absolute()
        (rig / "site" / "sitecustomize.py").write_text("import rig\n")
        for variable, folder in (("PYTHONPATH", "site"), ("LD_LIBRARY_PATH", "lib")):
            found[variable] = os.pathsep.join([str(rig / folder), found.get(variable, "")])
    return found


def part(args: argparse.Namespace, kind: str, *words: str) -> dict[str, Any]:
    """One part in a process of its own; where it fails, the end of what it said."""
    command = [sys.executable, __file__, "--part", kind, *words]
    for name in ("out", "size", "device", "rounds", "seconds", "checkpoints"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--batch", *map(str, args.batch)]
    about: dict[str, Any] = {"part": " ".join((kind, *words[:2]))}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment(args), start_new_session=True
    )
    try:
        out, error = process.communicate(timeout=LIMITS[kind])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the compilers that it started
        out, error = process.communicate()
        about["failed"] = f"no end in {LIMITS[kind]} s"
    lines = [line for line in out.splitlines() if line.startswith(MARK)]
    if lines:
        found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
        return about | found
    return {"failed": "it gave no result", **about, "said": error.splitlines()[-40:]}


def child(args: argparse.Namespace) -> None:
    """Do a part; shortly before its limit it says where it is."""
    kind, *words = args.part
    faulthandler.dump_traceback_later(LIMITS[kind] - 10)
    if kind == "bench":
        found = timed(args, *words)
    elif kind == "warm":
        found = warm(args, words[0], int(words[1]))
    else:
        found = export(args, words[0], kind, int(words[1]))
    print(MARK + json.dumps(found))


def everything(args: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The parts by name, each as soon as it has ended."""
    pairs = [(name, str(batch)) for name in NAMES for batch in args.batch]
    # TensorRT times its kernels while it builds, TensorRT-RTX does not.
    together = {"aot_inductor", "torch_tensorrt"} if args.rig else {"aot_inductor"}
    kinds = [kind for kind in args.formats if kind in together]
    kinds += ["warm"] if args.device == "cuda" else []
    jobs = [(kind, *pair) for pair in pairs for kind in kinds]
    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(lambda job: part(args, *job), jobs))
    yield "at_once", done
    for kind in args.formats:
        if kind not in together:
            alone = [part(args, kind, *pair) for pair in pairs]
            done += alone
            yield kind, alone
    rows = [row for one in done for row in one.get("engines", [])]
    paths = [row["path"] for row in rows if row["status"] == "built"]
    yield "bench", [part(args, "bench", *(p for p in paths if not p.endswith(".ep")))]


def table(found: dict[str, Any]) -> list[str]:
    """The benchmark as Markdown, times in milliseconds per slice."""
    (timed_,) = found.get("bench", [{}])
    lines = ["| network | runs as | batch | p50 ms | p90 ms | times dense eager fp32 |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in timed_.get("rows", []):
        path = Path(row["name"])
        name = path.name if path.name in NAMES else path.parent.name.rsplit("-", 2)[0]
        how = row["how"] + (" + CUDA graph" if row["cuda_graph"] else "")
        spread = f"{row['ratio']:.2f} ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
        times = f"{row['p50_ms']:.4f} | {row['p90_ms']:.4f}"
        lines.append(f"| {name} | {how} | {row['batch']} | {times} | {spread} |")
    return lines


def claims(found: dict[str, Any]) -> dict[str, Any]:
    """The flagship's best engine at the largest batch, beside dense eager fp32 and compiled."""
    rows = [row for part_ in found.get("bench", []) for row in part_.get("rows", [])]
    largest = max((row["batch"] for row in rows), default=0)
    own = [row for row in rows if row["batch"] == largest and f"/{NAMES[2]}" in row["name"]]
    engines = [row for row in own if not row["how"].startswith(("eager", "compiled"))]
    compiled = [row["p50_ms"] for row in own if row["how"] == "compiled"]
    if not engines:
        return {}
    best = min(engines, key=lambda row: row["p50_ms"])
    return {
        "best": {key: best[key] for key in ("name", "how", "batch", "p50_ms", "cuda_graph")},
        "times_dense_eager_fp32": best["ratio"],
        "times_compiled": compiled[0] / best["p50_ms"] if compiled else None,
        "sparse_ab": found["bench"][0]["sparse_ab"],
    }


def main() -> int:
    """Run every part; print the JSON object."""
    args = arguments()
    if args.part:
        child(args)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    found: dict[str, Any] = {"torch": torch.__version__, "gpu": gpu}
    start = time.monotonic()
    prepare(args)
    for name, parts in everything(args):
        found[name] = parts
        found["seconds"] = round(time.monotonic() - start, 1)
        (args.out / "engines.json").write_text(json.dumps(found, indent=1))
    found["table"], found["claims"] = table(found), claims(found)
    (args.out / "engines.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))
    parts = [one for value in found.values() if isinstance(value, list) for one in value]
    failed = [one for one in parts if isinstance(one, dict) and "failed" in one]
    return 3 if failed else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS[:3])
    parser.add_argument("--rig", default="", help="folder of TensorRT-RTX: lib and site")
    parser.add_argument("--checkpoints", default="", help=f"folder with {', '.join(NAMES)}")
    parser.add_argument("--data", choices=("demo", "phantom"), default="phantom")
    parser.add_argument("--size", type=int, default=512, help="side of the slices, pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each artefact and batch")
    parser.add_argument("--jobs", type=int, default=JOBS, help="compilations at once")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
