"""The arms of `pruners.py`: how each prunes DDnet, its training and its figures.

All arms of a seed see the same crops in the same order, the same number of steps and one half
cosine of the learning rate. Those that prune start from one network, trained densely for the first
part of the epochs; they differ in what they remove from it.
"""

import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pruners_int8 as int8
import pruners_others as others
import torch
from pruners_settings import ROW, TABLE, Arm, Settings
from torch import nn

from compress import checkpoint
from compress.base import devices
from compress.base.files import write_json
from compress.base.locks import claimed
from compress.base.reasons import reason
from compress.checkpoint import Model
from compress.context import Work
from compress.data import Data, DataOptions, load
from compress.graph import cost
from compress.models.ddnet import KERNELS
from compress.pruning import latency
from compress.steps.evaluate import Evaluate
from compress.steps.prune import Prune
from compress.steps.sparsify import Sparsify
from compress.steps.train import Train


def run(arm: Arm, settings: Settings) -> dict[str, Any]:
    """Train an arm to its end and measure it; its row, which also lies in its folder."""
    folder = settings.out / "arms" / arm.name
    folder.mkdir(parents=True, exist_ok=True)
    started = time.time()
    kernels = " ".join(map(str, arm.kernels)) if arm.network == "ddnet" else ""
    options = " ".join(f"{name}={value}" for name, value in arm.train)
    row: dict[str, Any] = {**asdict(arm), "kernels": kernels, "train": options}
    row |= {"epochs": settings.epochs}
    if started > settings.until:
        return row | {"status": "not begun", "reason": "the time was up"}
    try:
        row |= _row(arm, settings, folder)
        row |= {"status": "done", "reason": ""}
    except Exception as error:  # other programs raise whatever they like
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {reason(error)}"}
    row["seconds"] = round(time.time() - started, 1)
    write_json(folder / ROW, row)
    return row


def _row(arm: Arm, settings: Settings, folder: Path) -> dict[str, Any]:
    whole = _whole(arm, settings)
    if arm.how == "none":
        facts: dict[str, Any] = {}
        net = trained(_fresh(arm, settings), settings.train(arm, settings.epochs), arm, settings)
    else:
        net, facts = _pruned(arm, settings)
    if arm.int8:
        net, more = int8.quantised(net, arm, settings)
        facts |= more
    checkpoint.save(net, folder)
    if (arm.network, arm.kernels) == ("ddnet", KERNELS) and (settings.out / TABLE).exists():
        facts |= {"predicted_ms": predicted(net.rewritten("deconv_to_conv").net, settings)}
    spent = cost.cost(net.net)
    facts |= {"macs": spent.macs, "macs_removed": 1 - spent.macs / whole, "params": spent.params}
    return facts | quality(net, arm, settings)


def _pruned(arm: Arm, settings: Settings) -> tuple[Model, dict[str, Any]]:
    """The network of an arm that prunes, and what is known of the cut."""
    dense, facts = _stem(arm, settings), {}
    started = time.time()
    small, said = PRUNERS[arm.how](arm, dense, settings)
    facts |= said | {"prune_seconds": round(time.time() - started, 1)}
    if arm.sparse:
        with work(arm, settings) as place:
            small = Sparsify().run(small, place)
    if settings.one_shot:
        shot = quality(small, arm, settings)
        facts |= {"one_shot_psnr": shot["psnr"], "one_shot_ssim": shot["ssim"]}
    done = settings.cut / settings.epochs
    rest = settings.train(arm, settings.epochs - settings.cut, lr_rewind=done)
    return trained(small, rest, arm, settings), facts


def trained(model: Model, step: Train, arm: Arm, settings: Settings) -> Model:
    """A network after a training."""
    with work(arm, settings) as place:
        return step.run(model, place)


def quality(model: Model, arm: Arm, settings: Settings) -> dict[str, Any]:
    """Means over the held-out slices: PSNR in dB, also its deviation; SSIM; RMSE in HU."""
    with work(arm, settings) as place:
        Evaluate(batch=8, compare=False, pictures=0).measure(model, place)
        (found,) = place.facts["summary"].values()
    names = {"psnr": "psnr", "ssim": "ssim", "rmse_hu": "rmse_hu"}
    means = {name: found[key]["mean"] for name, key in names.items()}
    return {**means, "psnr_sd": found["psnr"]["sd"]}


@cache
def data(source: str) -> Data:
    """The slices, once a process; `source` is the JSON of the options."""
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(source).items()}
    return load(DataOptions(**options), seed=0, fallback=False)


def slices(settings: Settings, realisations: int = 1) -> Data:
    """The slices of a comparison."""
    return data(json.dumps({**settings.data, "realisations": realisations}, sort_keys=True))


def ready(settings: Settings) -> None:
    """Read the slices, in a process that waits for arms."""
    slices(settings)


@contextmanager
def work(arm: Arm, settings: Settings) -> Iterator[Work]:
    """Surroundings of a step; the name of its folder seeds the draws, the same for all arms."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "train"
        stage.mkdir()
        found, device = slices(settings, arm.realisations), devices.choose(settings.device)
        yield Work(stage=stage, device=device, data=found, seed=arm.seed)


def _fresh(arm: Arm, settings: Settings) -> Model:
    torch.manual_seed(arm.seed)
    about = settings.origin(arm)
    return Model(net=about.build().eval(), origin=about)


def _whole(arm: Arm, settings: Settings) -> int:
    """MACs of the arm's network with 5x5 kernels."""
    return cost.cost(settings.origin(replace(arm, kernels=KERNELS)).build().eval()).macs


def _stem(arm: Arm, settings: Settings) -> Model:
    """The network before the cut: trained densely once for all arms of these kernels and seed."""
    kernels = "".join(map(str, arm.kernels))
    other = "".join(f"-{option}-{value}" for option, value in arm.train)
    name = f"{arm.network}-{kernels}-{arm.realisations}{other}-{arm.seed}"
    folder = settings.out / "stems" / name
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with claimed(folder / ".claim") as mine:
            if mine:
                if not (folder / "model.json").exists():
                    step = settings.train(
                        arm, settings.cut, lr_until=settings.cut / settings.epochs
                    )
                    checkpoint.save(trained(_fresh(arm, settings), step, arm, settings), folder)
                return checkpoint.load(folder)
        time.sleep(0.2)


def _share(arm: Arm, model: Model, settings: Settings) -> float:
    """What the share of DDnet's MACs is of the arm's own."""
    return 1 - (1 - arm.removed) * _whole(arm, settings) / cost.cost(model.net).macs


def _ours(arm: Arm, model: Model, settings: Settings) -> tuple[Model, dict[str, Any]]:
    step = Prune(
        criterion=arm.criterion, amount=_share(arm, model, settings), round_to=None,
        solver=arm.solver, kernels=arm.smaller,
    )  # type: ignore[arg-type]  # fmt: skip
    return _step(step, arm, model, settings)


def _latency(arm: Arm, model: Model, settings: Settings) -> tuple[Model, dict[str, Any]]:
    """Ours, with the predicted milliseconds of the plan by MACs as the budget."""
    by_macs, _ = _ours(replace(arm, smaller="keep"), model, settings)
    dense = model.rewritten("deconv_to_conv")
    before, after = (predicted(one.net, settings) for one in (dense, by_macs))
    step = Prune(
        criterion=arm.criterion, amount=1 - after / before, round_to=None, target="latency",
        latency_table=str(settings.out / TABLE), latency_size=settings.latency_size,
        kernels=arm.smaller,
    )  # type: ignore[arg-type]  # fmt: skip
    small, facts = _step(step, arm, model, settings)
    return small, facts | {"budget_ms": after}


def predicted(net: nn.Module, settings: Settings) -> float:
    """Milliseconds of a network by the table."""
    size = (settings.latency_size,) * 2
    return latency.Predictor(net, latency.read(settings.out / TABLE), size).ms()


def _step(step: Prune, arm: Arm, model: Model, settings: Settings) -> tuple[Model, dict[str, Any]]:
    with work(arm, settings) as place:
        small = step.run(model, place)
        found = place.facts.get("kernels", [])
        cut = sum(kernel["after"] < kernel["before"] for kernel in found)
        return small, {"align": place.facts["align"], "kernels_cut": cut}


def _others(prune: Callable[..., tuple[nn.Module, int]]) -> Callable[..., Any]:
    """Another program's pruning, as ours are called."""

    def pruned(arm: Arm, model: Model, settings: Settings) -> tuple[Model, dict[str, Any]]:
        model = model.rewritten("deconv_to_conv")
        budget = round((1 - arm.removed) * _whole(arm, settings))
        device = devices.choose(settings.device)
        train = slices(settings, arm.realisations).train
        small, align = prune(copy.deepcopy(model.net), budget, train, device)
        return replace(model, net=small), {"align": align}

    return pruned


PRUNERS: Mapping[str, Callable[..., tuple[Model, dict[str, Any]]]] = {
    "ours": _ours,
    "latency": _latency,
    "torch_pruning": _others(others.torch_pruning),
    "fastnas": _others(others.fastnas),
}
