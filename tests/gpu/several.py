"""One of several processes that train a network on a GPU each: what it learned, as JSON.

    torchrun --nproc_per_node=2 tests/gpu/several.py FOLDER NETWORK OPTIONS
    torchrun --nproc_per_node=2 tests/gpu/several.py FOLDER ddnet '{"batch": 16}' --speed

NETWORK is a key of `NETWORKS`, OPTIONS is JSON for `Train`. FOLDER/<rank>.json holds the facts of
the training, a hash of the parameters, BatchNorm's statistics, and with `--speed` how many whole
512x512 slices a second all processes train together: the time of 24 epochs less that of 4, after
4 to warm up. `--device cpu` is to try it.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from pairs import data

from compress.base.ending import leave
from compress.base.torchrun import joined
from compress.base.world import World
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data import Data
from compress.sparsity import masks
from compress.steps.train import Train

NETWORKS = {
    "redcnn": ModelOptions(name="redcnn", options={"channels": 8}),  # no BatchNorm
    "ddnet": ModelOptions(name="ddnet", options={"residual": True}),
    "ddnet24": ModelOptions(name="ddnet", options={"residual": True}),
}
"""By name; the last one gets 2:4 masks."""
WHOLE = {"crop": None, "slices_per_epoch": 160, "precision": "bf16"}
"""What is timed, unless OPTIONS say otherwise."""


def start(name: str) -> Model:
    """A fresh network, the same in all processes."""
    torch.manual_seed(0)
    origin = NETWORKS[name]
    model = Model(net=origin.build(), origin=origin)
    if name.endswith("24"):
        model = model.rewritten("deconv_to_conv")
        model = replace(model, masks=masks.compute(model.net, "modelopt"))
    return model


def digest(net: nn.Module) -> str:
    """Of all parameters, to the bit."""
    found = hashlib.sha256()
    for parameter in net.parameters():
        found.update(parameter.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def statistics(net: nn.Module) -> list[float]:
    """Running means and variances of all BatchNorm layers, one after the other."""
    found = [b.flatten() for name, b in net.named_buffers() if "running" in name]
    return torch.cat(found).tolist() if found else []


def train(
    folder: Path, place: tuple[World, str], network: str, pairs: Data, options: dict[str, Any]
) -> dict[str, Any]:
    """The facts of one training."""
    world, device = place
    stage = folder / str(world.rank) / "00-train"  # its name seeds the draws
    stage.mkdir(parents=True)
    work = Work(stage=stage, device=torch.device(device), data=pairs, seed=0, world=world)
    model = start(network)
    trained = Train(**options).run(model, work)
    masks.check(trained.net, model.masks)
    net = trained.net
    about = {"parameters": digest(net), "statistics": statistics(net), "device": device}
    return work.facts | about


def speed(
    folder: Path, place: tuple[World, str], network: str, options: dict[str, Any]
) -> dict[str, Any]:
    """The facts of a long training, and slices a second by its difference from a short one."""
    pairs, options = data(side=512, train=24), WHOLE | options
    _, short, long = (
        train(folder / str(index), place, network, pairs, options | {"epochs": epochs})
        for index, epochs in enumerate((4, 4, 24))
    )
    seconds = long["train_seconds"] - short["train_seconds"]
    return long | {"slices_per_second": 20 * options["slices_per_epoch"] / seconds}


def main() -> None:
    """Train, and write what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("options", type=json.loads)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    with joined(args.device) as (world, device):
        place = world, str(device)
        if args.speed:
            facts = speed(args.folder, place, args.network, args.options)
        else:
            facts = train(args.folder, place, args.network, data(side=96), args.options)
        (args.folder / f"{world.rank}.json").write_text(json.dumps(facts))
    leave(0)


if __name__ == "__main__":
    main()
