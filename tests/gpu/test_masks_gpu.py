"""2:4 on a GPU: masks of three makers are the same bits and hold in every number format."""

import importlib.util
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from networks import Plain
from pairs import data
from torch import nn

from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.sparsity import eligibility, masks, pattern
from compress.steps.sparsify import Sparsify
from compress.steps.train import Train
from compress.training.precision import Name

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
SCRIPT = Path(__file__).with_name("apex_masks.py")
SMALL = Train(epochs=2, batch=2, crop=32, slices_per_epoch=16, lr=1e-2, weight_decay=0.1)


def work(folder: Path) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(stage=folder, device=CUDA, data=data(), seed=0)


def sparse(rule: eligibility.Rule = "backend") -> Model:
    torch.manual_seed(0)
    net = Plain(32)
    held = masks.compute(net, "modelopt", rule)
    masks.apply(net, held)
    return Model(net=net, origin=ModelOptions(import_="networks:Plain"), masks=held)


@pytest.mark.parametrize("rule", ["backend", "trt"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_through_the_training_loop(precision: Name, rule: eligibility.Rule, tmp_path: Path) -> None:
    model = sparse(rule)
    trained = replace(SMALL, precision=precision).run(model, work(tmp_path))
    masks.check(trained.net, model.masks)
    assert not torch.equal(trained.net.middle.weight, model.net.middle.weight)


@pytest.mark.parametrize("scale", [2.0**10, 2.0**100])
def test_with_a_loss_scaler_whether_or_not_the_step_is_skipped(scale: float) -> None:
    net = Plain(32).to(CUDA, memory_format=torch.channels_last)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    steps = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=scale)
    for _ in range(4):
        steps.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = net(torch.rand(2, 1, 16, 16, device=CUDA)).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(steps)
        scaler.update()
        hold()
        hold.check()


def test_the_holder_in_a_cuda_graph() -> None:
    """Its work is one fused multiplication in place: it can be captured with the step."""
    net = Plain(32).to(CUDA)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        hold()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        hold()
    with torch.no_grad():
        net.middle.weight.add_(1)
    graph.replay()
    hold.check()


@pytest.fixture
def asp():
    """Apex with ASP; skips without."""
    if importlib.util.find_spec("apex") is None:
        pytest.skip("Apex is not installed")
    return pytest.importorskip("apex.contrib.sparsity", reason="this apex has no ASP").ASP


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("network", [DDnet, lambda: DDnet(bottleneck=16, decoder=16), RedCNN])
def test_asp_modelopt_and_ours_are_the_same_bits(asp, network, seed: int) -> None:
    torch.manual_seed(seed)
    net = deconv_to_conv(network())
    theirs, modelopts = masks.compute(net, "asp"), masks.compute(net, "modelopt")
    assert theirs.keys() == modelopts.keys()
    assert len(theirs) >= 8
    for name, mask in theirs.items():
        assert torch.equal(mask, modelopts[name])
        assert torch.equal(mask, pattern.mask_2to4(net.get_submodule(name).weight))


def test_sparsify_by_asp(asp, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(net=DDnet().eval(), origin=ModelOptions(name="ddnet"))
    place = work(tmp_path)
    by_asp = Sparsify(backend="asp").run(model, place)
    by_modelopt = Sparsify(backend="modelopt").run(model, work(tmp_path))
    assert (place.facts["backend"], place.facts["done"]) == ("asp", 43)
    for name, mask in by_modelopt.masks.items():
        assert torch.equal(by_asp.masks[name], mask)


def test_asps_own_training_step_holds_its_masks_under_a_scaler(asp) -> None:
    net = Plain(32).to(CUDA)
    steps = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=0.1)
    masks._reset(asp)
    asp.init_model_for_pruning(
        net, mask_calculator="m4n2_1d", verbosity=0, whitelist=[nn.Conv2d], allow_permutation=False
    )
    asp.init_optimizer_for_pruning(steps)
    asp.compute_sparse_masks()
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(4):
        steps.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = net(torch.rand(2, 1, 16, 16, device=CUDA)).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(steps)
        scaler.update()
        assert pattern.is_2to4(net.middle.weight)
    masks._reset(asp)


@pytest.mark.parametrize("precision", ["apex-O1", "apex-O2"])
def test_apex_amp_with_masks_of_both_back_ends(asp, precision: str) -> None:
    """In processes of their own, because Apex O1 patches PyTorch for good."""
    if precision not in get_args(Name):
        pytest.skip(f"this version knows no precision {precision}")
    if importlib.util.find_spec("apex.amp") is None:
        pytest.skip("this apex has no amp")
    words = shlex.split("--seeds 1 --epochs 2 --size 64 --crop 32 --data phantom --jobs 4")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--precisions", "fp32", precision],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["missing"] == []
    assert found["masks_equal"]
    assert len(found["rows"]) == 4
    for row in found["rows"]:
        assert row.get("failed") is None
        assert row["finite"]
        assert row["intact"]
    assert done.returncode == 0
