"""Physics of image quality of any checkpoints in one table: does compression cost detectability?

    python tests/bench/physics.py --out OUT --network dense=RUN/00-train --network 60=RUN/04-retrain

Held-out slices of the demo set, or phantoms; every network sees the same noise and discs. The first
network is what the others are compared with. A .safetensors file holds weights of DDnet under our
names or 2dnet's. Writes physics.json, physics.md and the pictures to OUT.
"""

import argparse
import base64
import json
from pathlib import Path

import numpy as np
import torch

from compress import checkpoint
from compress.base.files import write_json
from compress.base.progress import start_log
from compress.checkpoint import ModelOptions
from compress.context import Work
from compress.data import DataOptions, load
from compress.graph.padding import AnySize, multiple
from compress.reporting import physics, physics_plots
from compress.steps.physics import Settings, measure


def network(path: Path, device: torch.device) -> AnySize:
    """A checkpoint's folder, or a file of DDnet's weights, ready to run."""
    if path.is_dir():
        net = checkpoint.load(path).net
    else:
        net = ModelOptions(name="ddnet", weights=str(path)).build()
    return AnySize(net.to(device).eval(), multiple=multiple(net))


def named(text: str) -> tuple[str, Path]:
    """NAME=PATH."""
    name, _, path = text.partition("=")
    if not path or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"expected NAME=PATH of a checkpoint, got {text!r}")
    return name, Path(path)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", type=named, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--realisations", type=int, default=24)
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--source", choices=["demo", "phantom"], default="demo")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Measure, and write what was found."""
    args = options()
    start_log()
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    asked = DataOptions(
        source=args.source,
        train_slices=1,
        test_slices=args.slices,
        image_size=args.image_size,
    )
    work = Work(stage=args.out, device=device, data=load(asked, seed=0, fallback=False), seed=0)
    nets = {"input": None, **{name: network(path, device) for name, path in args.network}}
    batch = 16 if device.type == "cuda" else 1
    settings = Settings(realisations=args.realisations, slices=args.slices, batch=batch)
    found = measure(nets, work, settings)
    write_json(args.out / "physics.json", found)
    text = physics.markdown(found)
    (args.out / "physics.md").write_text(text + "\n")
    with np.load(args.out / found["file"]) as maps:
        for k, one in enumerate(physics_plots.figures(found, dict(maps))):
            data = base64.b64decode(one["uri"].partition(",")[2])
            (args.out / f"{k:02d}.png").write_bytes(data)
    print(text, json.dumps(found["seconds"]), sep="\n")


if __name__ == "__main__":
    main()
