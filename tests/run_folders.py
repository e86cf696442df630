"""Run folders as the pipeline leaves them, with numbers like those of the flagship recipe."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np

DENSE = {
    "params": 566_451,
    "macs": 19_086_442_496,
    "conv_weights": 560_800,
    "nonzero_weights": 560_800,
    "bytes": 2_283_912,
}
PRUNED = {
    "params": 174_051,
    "macs": 7_252_606_976,
    "conv_weights": 170_080,
    "nonzero_weights": 170_080,
    "bytes": 712_300,
}
FLAGSHIP = ("train", "prune", "retrain", "sparsify", "retrain", "evaluate", "export")


def make(folder: Path, steps: tuple[str, ...] = FLAGSHIP, side: int = 32) -> Path:
    """A run folder with these steps done, ready for its report stage, which is made too, empty."""
    folder.mkdir(exist_ok=True)
    cost = DENSE
    for index, step in enumerate(steps):
        if step == "prune":
            cost = PRUNED
        if step == "sparsify":
            cost = {**cost, "nonzero_weights": cost["conv_weights"] // 2}
        stage = folder / f"{index:02d}-{step}"
        stage.mkdir()
        if step == "evaluate":
            compressed = bool({"prune", "sparsify"} & {*steps[:index]})
            facts = evaluation(stage, compressed, side)
        else:
            facts = FACTS[step](index)
        if step in ("train", "prune", "retrain", "sparsify", "quantize"):
            with (stage / "model.safetensors").open("wb") as file:
                file.truncate(cost["bytes"] + 30_000)
        write(
            stage / "facts.json",
            {
                "schema": 1,
                "stage": stage.name,
                "step": step,
                "hash": "0",
                "options": {},
                "started": "2026-11-24T08:30:00+00:00",
                "seconds": 17.25 * (index + 1),
                "cost": cost,
                "facts": facts,
            },
        )
        if step == "train":
            network = {"name": "ddnet", "import": None, "options": {"residual": True}}
            write(stage / "model.json", {"network": network})
    write(folder / "manifest.json", manifest())
    (folder / "recipe.yaml").write_text("name: flagship\nsteps:\n  - train: {epochs: 10}\n")
    (folder / f"{len(steps):02d}-report").mkdir()
    return folder


def write(path: Path, value: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value, allow_nan=False))


def manifest() -> dict[str, Any]:
    """A manifest of a CPU run on the demo set."""
    return {
        "name": "flagship",
        "overrides": [],
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "nvidia-modelopt": "0.47.0"},
        "commit": "3f1c2d4e5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d",
        "device": "cpu",
        "gpu": None,
        "seed": 0,
        "data": {"source": "demo", "fingerprint": "ab" * 32, "train": 24, "test": 6, "notices": []},
        "backends": [{"stage": "03-sparsify", "choice": "modelopt", "why": "auto: no Apex here"}],
        "notices": [],
    }


def training(index: int) -> dict[str, Any]:
    """A loss that falls, and jumps up after each change of the network."""
    epochs, start = (10, 2e-3) if not index else (20, 3e-4)
    jitter = random.Random(index)
    loss = [
        2e-5 + start * math.exp(-8 * i / epochs) * jitter.uniform(0.8, 1.2) for i in range(epochs)
    ]
    rates = [1e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi * i / epochs)) / 2) for i in range(epochs)]
    return {
        "epochs": epochs,
        "steps": 32 * epochs,
        "batch": 8,
        "crop": 64,
        "precision": "fp32",
        "precision_why": "auto: no GPU",
        "device": "cpu",
        "train_seconds": 8.5 * epochs,
        "loss": loss,
        "lr": rates,
    }


def layers() -> list[tuple[str, int, int, int]]:
    """(name, out, in, kernel) of DDnet's 45 convolutions after pruning to 16 everywhere."""
    found = [("stem.conv", 16, 1, 7)]
    for stage in range(4):
        for layer in range(4):
            path = f"blocks.{stage}.{layer}"
            found.append((f"{path}.bottleneck.conv", 16, 16 * (layer + 1), 1))
            found.append((f"{path}.growth.conv", 16, 16, 5))
        found.append((f"transitions.{stage}.conv", 16, 80, 1))
    for stage in range(4):
        found.append((f"decoders.{stage}.wide.conv", 16, 32, 5))
        found.append((f"decoders.{stage}.narrow.conv", 1 if stage == 3 else 16, 16, 1))
    return found


def pruning(_: int) -> dict[str, Any]:
    """Gaussian pruning of the 44 groups."""
    draw = random.Random(0)
    groups = []
    for name, kept, _into, _kernel in layers()[:-1]:
        width = 64 if "bottleneck" in name else 32 if "wide" in name else 16
        z = [round(draw.gauss(0, 1), 6) for _ in range(width)]
        groups.append(
            {
                "name": name,
                "width": width,
                "kept": kept,
                "mean": 0.8,
                "sigma": 0.1,
                "threshold": 0.87,
                "z": z,
                "scores": [round(0.8 + 0.1 * value, 6) for value in z],
                "fixed": "",
            }
        )
    return {
        "criterion": "gaussian",
        "amount": 0.6,
        "of": "macs",
        "align": 16,
        "scope": "layer",
        "zeros": 0.0,
        "threshold": 0.7,
        "removed": {"macs": 0.62, "params": 0.6927, "channels": 0.61},
        "before": {"params": DENSE["params"], "macs": DENSE["macs"]},
        "after": {"params": PRUNED["params"], "macs": PRUNED["macs"]},
        "groups": groups,
        "protected": [],
    }


def sparsity(_: int) -> dict[str, Any]:
    """2:4 everywhere but in the first and the last layer."""
    table = [
        {
            "name": name,
            "shape": [out, into, kernel, kernel],
            "done": out > 1 < into,
            "reason": ""
            if out > 1 < into
            else "1 input channel, not a multiple of 16"
            if into == 1
            else "1 output channel, not a multiple of 8",
        }
        for name, out, into, kernel in layers()
    ]
    return {
        "pattern": "2:4",
        "backend": "modelopt",
        "why": "auto: no Apex here",
        "convolutions": 45,
        "done": 43,
        "eligible_backend": 43,
        "eligible_trt": 44,
        "layers": table,
        "share_of_weights": 0.993,
        "zeros_in_sparse_layers": 0.5,
        "kept_magnitude": 0.7274,
        "permutation": {"exchanges": 222, "kept_before": 0.7186, "kept": 0.7274},
    }


def quantised(_: int) -> dict[str, Any]:
    """INT8 everywhere but in the first layer."""
    table = [
        {
            "name": name,
            "int8": into > 1,
            "reason": "" if into > 1 else "alone it costs 4.6 HU, too much for the budget",
            "error_hu": 0.1 if into > 1 else 4.6,
            "macs": 1_000_000,
        }
        for name, _, into, _ in layers()
    ]
    return {
        "format": "int8",
        "method": "max",
        "crops": 16,
        "budget_hu": 1.0,
        "error_all_hu": 4.71,
        "error_hu": 0.93,
        "equalised": 43,
        "layers": table,
    }


def export(_: int) -> dict[str, Any]:
    """ONNX built, TensorRT not."""
    parity = {
        "max_hu": 0.0041,
        "mean_hu": 0.0006,
        "slices": 2,
        "limit_max_hu": 1.0,
        "limit_mean_hu": 0.1,
        "ok": True,
    }
    built = {"status": "built", "reason": "", "command": "", "precision": "fp32", "parity": parity}
    return {
        "engines": [
            {
                "format": "torch_tensorrt",
                "precision": "fp16",
                "status": "not built",
                "reason": "torch_tensorrt is not installed and there is no GPU",
                "command": "pip install 'torch-tensorrt==2.13.*'",
                "file": None,
                "bytes": None,
                "sidecar": None,
                "parity": None,
            },
            {
                **built,
                "format": "onnx",
                "file": "model.onnx",
                "bytes": 731_204,
                "sidecar": "s.json",
            },
        ]
    }


def evaluation(stage: Path, compressed: bool, side: int) -> dict[str, Any]:
    """Quality of three networks on slices of patients C and D, two of them as pictures."""
    level = {"input": 36.4, "dense": 45.9, "compressed": 45.4}
    if not compressed:
        del level["compressed"]
    rows = [
        {"slice": f"C-{i:03d}", "patient": "CD"[i // 4], "network": name, **metrics(psnr + 0.1 * i)}
        for name, psnr in level.items()
        for i in range(6)
    ]
    pictures(stage / "pictures.npz", compressed, side)

    def summary(own: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            network: {
                key: {
                    "mean": float(np.mean([r[key] for r in own if r["network"] == network])),
                    "sd": float(np.std([r[key] for r in own if r["network"] == network], ddof=1)),
                }
                for key in metrics(1.0)
            }
            for network in level
        }

    return {
        "networks": list(level),
        "summary": summary(rows),
        "by_patient": {who: summary([r for r in rows if r["patient"] == who]) for who in "CD"},
        "rows": rows,
        "data_range_hu": 2924.0,
        "slices": 6,
        "pictures": "pictures.npz",
    }


def metrics(psnr: float) -> dict[str, float]:
    """All metrics of a slice, from its PSNR."""
    values = {}
    for suffix, width, gap in (("", 2924, 0.0), ("_lung", 1500, 4.5), ("_mediastinum", 400, 12.0)):
        own = psnr - gap
        values[f"psnr{suffix}"] = own
        values[f"ssim{suffix}"] = 1 - 10 ** (-own / 25)
        values[f"rmse_hu{suffix}"] = width * 10 ** (-own / 20)
    return {**values, "ms_ssim": 1 - 10 ** (-psnr / 15)}


def pictures(path: Path, compressed: bool, side: int) -> None:
    """A chest of ellipses with vessels, and its noisy and smoothed versions."""
    draw = np.random.default_rng(0)
    grid = np.linspace(-1, 1, side)
    full = np.full((2, side, side), -1000.0)
    for image in full:
        paint(image, grid, 0, 0, 0.92, 0.68, 40)
        for centre in (-0.42, 0.42):
            paint(image, grid, centre, -0.05, 0.33, 0.47, -850)
            for _ in range(60):
                x, y = centre + draw.uniform(-0.2, 0.2), draw.uniform(-0.35, 0.25)
                paint(image, grid, x, y, *draw.uniform(0.004, 0.02, 2), draw.uniform(-300, 60))
        paint(image, grid, 0, 0.45, 0.13, 0.12, 400)
        paint(image, grid, 0.03, -0.05, 0.14, 0.2, 60)
        image += 8 * draw.standard_normal(image.shape)
    noise = draw.standard_normal(full.shape)
    images = {"full": full, "low": full + 45 * noise, "dense": full + 9 * noise}
    if compressed:
        images["compressed"] = full + 11 * draw.standard_normal(full.shape)
    arrays = {name: image.astype(np.float32) for name, image in images.items()}
    np.savez_compressed(path, names=np.array(["C-001", "C-004"]), **arrays)


def paint(
    image: np.ndarray, grid: np.ndarray, x: float, y: float, a: float, b: float, hu: float
) -> None:
    """Fill an ellipse of `image`, in place."""
    image[((grid[None] - x) / a) ** 2 + ((grid[:, None] - y) / b) ** 2 <= 1] = hu


FACTS = {
    "train": training,
    "retrain": training,
    "prune": pruning,
    "sparsify": sparsity,
    "quantize": quantised,
    "export": export,
}


def built(run: Path) -> None:
    """Let the TensorRT engine of a flagship run be there, tell kernels and times, and be timed."""
    stage = run / "06-export"
    facts = json.loads((stage / "facts.json").read_text())
    engine = facts["facts"]["engines"][0]
    name = "torch_tensorrt-fp16-b1.ep"
    engine |= {"status": "built", "reason": "", "command": "", "file": name, "bytes": 912_000}
    engine |= {"batch": 1, "sidecar": f"{name}.json", "parity": None}
    write(stage / "facts.json", facts)
    rows = [
        {
            "name": layer,
            "shape": [out, into, kernel, kernel],
            "eligible_backend": out > 1 < into,
            "eligible_trt": into > 1,
            "picked": "yes" if "wide" in layer else "no",
            "macs": out * into * kernel**2 * 262_144,
            "share_of_macs": 1 / 45,
            "share_of_time": None if layer == "stem.conv" else index / 990,
        }
        for index, (layer, out, into, kernel) in enumerate(layers())
    ]
    side = {"sha256": "5e" * 32, "weights": "7c" * 32, "place": {}, "built": {"layers": rows}}
    write(stage / f"{name}.json", side)
    write(run / "bench.json", bench(name))


def bench(engine: str) -> dict[str, Any]:
    """What `compress bench` says of the dense network and an engine."""
    keys = ("name", "how", "batch", "p50_ms", "p90_ms", "slices_per_second", "ratio")
    rows = [
        ("somewhere/00-train", "eager-fp32", 1, 5.31, 5.4, 188.0, 1.0),
        (f"somewhere/06-export/{engine}", "torch_tensorrt fp16", 1, 0.79, 0.8, 1265.0, 6.72),
        ("somewhere/00-train", "eager-fp32", 16, 2.51, 2.6, 398.0, 1.0),
    ]
    place = {"gpu": "NVIDIA A100-SXM4-80GB"}
    named = [dict(zip(keys, row, strict=True)) for row in rows]
    named[1]["runs"] = "torch_tensorrt fp16, CUDA graph"
    return {"schema": 1, "place": place, "size": 512, "rows": named}
