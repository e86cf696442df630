"""Apex O1 and O2 under 2:4 masks of ASP and of ModelOpt, against fp32; prints one JSON object.

    python tests/gpu/apex_masks.py --seeds 3 --epochs 20 > apex_masks.json

Needs a GPU and an Apex with amp and contrib.sparsity; what is missing is said, not replaced. A
DDnet is trained, pruned and retrained once in fp32. Every case then starts from it in a process of
its own (Apex O1 patches PyTorch for good): masks by a back end, retraining in a precision, PSNR in
float32. The demo set must lie in the cache (COMPRESS_CACHE) where there is no network.
Exit status: 0 where all losses are finite, all masks intact and both back ends agree, else 3.
"""

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from compress import checkpoint
from compress.base.errors import CompressError
from compress.base.files import digest
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data import DataOptions, load
from compress.sparsity import masks, pattern
from compress.steps.evaluate import Evaluate
from compress.steps.prune import Prune
from compress.steps.train import Train
from compress.training.precision import Name

PRECISIONS = ("fp32", "fp16", "apex-O1", "apex-O2")
BACKENDS = ("modelopt", "asp")
MARK = "case: "


def work(args: argparse.Namespace, stage: Path, seed: int) -> Work:
    """The surroundings of a step; `stage` is made."""
    stage.mkdir(parents=True, exist_ok=True)
    options = DataOptions(source=args.data, image_size=args.size)
    data = load(options, seed=0, fallback=False)
    return Work(stage=stage, device=torch.device(args.device), data=data, seed=seed)


def start(args: argparse.Namespace, folder: Path) -> None:
    """Train, prune and retrain a DDnet in fp32; its checkpoint goes to `folder`."""
    torch.manual_seed(0)
    origin = ModelOptions(name="ddnet", options={"residual": True})
    model = Model(net=origin.build().eval(), origin=origin)
    fit = Train(epochs=args.epochs, precision="fp32", crop=args.crop)
    for index, step in enumerate((fit, Prune(amount=0.6), fit)):
        model = step.run(model, work(args, folder / f"{index:02d}", 0))
    checkpoint.save(model, folder)


def case(args: argparse.Namespace, precision: str, backend: str, seed: int) -> dict[str, Any]:
    """Masks by `backend`, retraining in `precision`: losses, masks and quality."""
    model = checkpoint.load(Path(args.start)).rewritten("deconv_to_conv")
    with tempfile.TemporaryDirectory() as folder:
        place = work(args, Path(folder) / "01-retrain", seed)
        held = masks.compute(model.net, backend)
        model = replace(model, masks=held)
        masks.apply(model.net, held)
        torch.manual_seed(seed)
        fit = Train(epochs=args.epochs, precision=precision, crop=args.crop)
        trained = fit.run(model, place)
        masks.check(trained.net, held)
        loss = place.facts["loss"]
        quality = work(args, Path(folder) / "02-evaluate", seed)
        quality = replace(quality, dense=Path(args.start))
        Evaluate(pictures=0).run(trained, quality)
    weights = [trained.net.get_submodule(name).weight for name in held]
    return {
        "precision": precision,
        "backend": backend,
        "seed": seed,
        "finite": all(map(math.isfinite, loss)),
        "first_loss": loss[0],
        "last_loss": loss[-1],
        "layers": len(held),
        "intact": all(pattern.is_2to4(weight) for weight in weights),
        "masks": digest({name: mask.flatten().int().tolist() for name, mask in held.items()}),
        "seconds": place.facts["train_seconds"],
        "psnr": quality.facts["summary"]["compressed"]["psnr"]["mean"],
        "psnr_pruned": quality.facts["summary"]["dense"]["psnr"]["mean"],
    }


def missing(precision: str, backend: str) -> str:
    """What a case lacks here; empty where it can run."""
    if precision not in get_args(Name):
        return f"this version knows no precision {precision}"
    if precision.startswith("apex"):
        try:
            found = importlib.util.find_spec("apex.amp") is not None
        except ImportError:
            return "Apex is not installed"
        if not found:
            return "this apex has no amp"
    try:
        masks.choose(backend)  # type: ignore[arg-type]
    except CompressError as error:
        return str(error)
    return ""


def in_process(args: argparse.Namespace, *about: str) -> dict[str, Any]:
    """One case in a process of its own."""
    command = [sys.executable, __file__, "--case", *about, "--start", args.start]
    for name in ("epochs", "crop", "size", "data", "device"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        about_case = dict(zip(("precision", "backend", "seed"), about, strict=True))
        return {**about_case, "failed": said}
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds by precision and back end."""
    table = []
    for key in dict.fromkeys((row["precision"], row["backend"]) for row in rows):
        own = [row for row in rows if (row["precision"], row["backend"]) == key]
        psnr = [row["psnr"] for row in own if "psnr" in row]
        table.append(
            {
                "precision": key[0],
                "backend": key[1],
                "runs": len(psnr),
                "finite": all(row.get("finite", False) for row in own),
                "intact": all(row.get("intact", False) for row in own),
                "psnr_mean": statistics.mean(psnr) if psnr else None,
                "psnr_sd": statistics.stdev(psnr) if len(psnr) > 1 else None,
                "psnr_pruned": own[0].get("psnr_pruned"),
            }
        )
    return table


def main() -> int:
    """Run every case; print the JSON object."""
    args = arguments()
    if args.case:
        precision, backend, seed = args.case
        print(MARK + json.dumps(case(args, precision, backend, int(seed))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if not args.start:
            start(args, Path(folder))
            args.start = folder
        cases, absent = [], []
        for precision in args.precisions:
            for backend in args.backends:
                if lack := missing(precision, backend):
                    absent.append({"precision": precision, "backend": backend, "why": lack})
                    continue
                cases += [(precision, backend, str(seed)) for seed in range(args.seeds)]
        with ThreadPoolExecutor(args.jobs) as pool:
            rows = list(pool.map(lambda about: in_process(args, *about), cases))
    hashes = {row.get("masks") for row in rows}
    same = len(hashes) == 1
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    found = {
        "torch": torch.__version__,
        "gpu": gpu,
        "data": args.data,
        "epochs": args.epochs,
        "masks_equal": same,
        "missing": absent,
        "summary": summary(rows),
        "rows": rows,
    }
    print(json.dumps(found, indent=1))
    good = same and all(row.get("finite") and row.get("intact") for row in rows)
    return 0 if good and rows else 3


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="of every training")
    parser.add_argument("--jobs", type=int, default=1, help="cases at the same time")
    parser.add_argument("--crop", type=int, default=64, help="pixels")
    parser.add_argument("--size", type=int, default=512, help="side of phantom slices, pixels")
    parser.add_argument("--data", choices=("demo", "phantom"), default="demo")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--start", default="", help="pruned checkpoint to start from")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
