"""Masks through everything that could bring a masked weight back, up to the exported file."""

import copy
import importlib.util
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from children import ending
from networks import Plain
from pairs import data
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compress import checkpoint
from compress.base.errors import CompressError, Stopped
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import onnx
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.sparsity import masks, pattern
from compress.steps.export import Export
from compress.steps.train import Train
from compress.training import state

TESTS = Path(__file__).parent
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_after_every_step(optimizer: str, accumulate: int, dtype: torch.dtype) -> None:
    net = Plain(32)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    steps = OPTIMIZERS[optimizer](net.parameters())
    before = net.middle.weight.detach().clone()
    for _ in range(4):
        steps.zero_grad()
        for _ in range(accumulate):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
                loss = net(torch.rand(2, 1, 16, 16)).float().square().mean()
            (loss / accumulate).backward()
        steps.step()
        hold()
        hold.check()
    kept = held["middle"]
    assert (net.middle.weight[~kept] == 0).all()
    assert not torch.equal(net.middle.weight[kept], before[kept])


def test_masked_weights_that_momentum_pushes_come_back_without_the_holder() -> None:
    """The holder is what holds: masking once is not enough."""
    net = Plain(32)
    held = masks.compute(net, "modelopt")
    masks.apply(net, held)
    steps = OPTIMIZERS["momentum"](net.parameters())
    net(torch.rand(2, 1, 16, 16)).square().mean().backward()
    steps.step()
    assert not pattern.is_2to4(net.middle.weight)


def test_a_moving_average_of_masked_weights_is_masked() -> None:
    net = Plain(32)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    steps = OPTIMIZERS["adam"](net.parameters())
    for _ in range(4):
        net(torch.rand(2, 1, 16, 16)).square().mean().backward()
        steps.step()
        hold()
        average.update_parameters(net)
    masks.check(average.module, held)
    assert not torch.equal(average.module.middle.weight, net.middle.weight)


def test_two_processes_have_the_same_masks_and_weights(tmp_path: Path) -> None:
    files = [tmp_path / f"{rank}.safetensors" for rank in range(2)]
    script, store = str(TESTS / "ddp_masks.py"), str(tmp_path / "store")
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), "2", store, str(file)], text=True)
        for rank, file in enumerate(files)
    ]
    with ending(ranks):
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    one, other = map(load_file, files)
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert (one["middle.weight"][~one["mask.middle"]] == 0).all()
    assert one["mask.middle"].sum() * 2 == one["mask.middle"].numel()


def sparse() -> Model:
    torch.manual_seed(0)
    origin = ModelOptions(import_="networks:Plain", options={"width": 32})
    net = Plain(32)
    held = masks.compute(net, "modelopt")
    masks.apply(net, held)
    return Model(net=net, origin=origin, masks=held)


def work(folder: Path, **changes: object) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"stage": folder, "device": torch.device("cpu"), "data": data(), "seed": 0}
    return Work(**{**values, **changes})


SMALL = Train(epochs=2, batch=2, crop=32, slices_per_epoch=8, lr=1e-2, weight_decay=0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_through_the_training_loop_and_the_checkpoint(precision: str, tmp_path: Path) -> None:
    model = sparse()
    trained = replace(SMALL, precision=precision).run(model, work(tmp_path / "01-retrain"))
    checkpoint.save(trained, tmp_path)
    back = checkpoint.load(tmp_path)
    masks.check(back.net, model.masks)
    assert back.masks.keys() == model.masks.keys() == {"middle"}
    assert all(torch.equal(mask, model.masks[name]) for name, mask in back.masks.items())
    assert not torch.equal(back.net.middle.weight, model.net.middle.weight)


def test_a_mask_that_broke_ends_the_stage_with_the_layers_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks.Holder, "__call__", lambda self: None)
    with pytest.raises(CompressError, match="the 2:4 mask of middle is broken"):
        SMALL.run(sparse(), work(tmp_path / "01-retrain"))


class StopAfter(threading.Event):
    """Asks for the end when it was looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_through_a_stop_and_a_resume_to_the_same_bits(precision: str, tmp_path: Path) -> None:
    options = replace(SMALL, precision=precision)
    whole = options.run(sparse(), work(tmp_path / "a" / "01-retrain"))
    folder = tmp_path / "b" / "01-retrain"
    with pytest.raises(Stopped):
        options.run(sparse(), work(folder, stop=StopAfter(3)))
    saved = load_file(folder / state.FILE)
    assert pattern.is_2to4(saved["net.middle.weight"])
    resumed = options.run(sparse(), work(folder))
    masks.check(resumed.net, whole.masks)
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(resumed.net.state_dict()[name], tensor)


def test_into_the_weights_of_an_exported_file(tmp_path: Path) -> None:
    trained = SMALL.run(sparse(), work(tmp_path / "01-retrain"))
    Export(image_size=32).run(trained, work(tmp_path / "02-export"))
    inside = onnx.weights(tmp_path / "02-export" / "onnx-fp32-b1.onnx")
    assert inside.keys() == {"first", "middle", "last"}
    assert torch.equal(inside["middle"] != 0, trained.net.middle.weight != 0)
    assert (inside["middle"][~trained.masks["middle"]] == 0).all()
    assert pattern.is_2to4(inside["middle"])


def asp():
    """Apex's ASP, fresh; skips where it cannot be imported (see docs/notes.md)."""
    if importlib.util.find_spec("apex") is None:
        pytest.skip("Apex is not installed")
    module = pytest.importorskip("apex.contrib.sparsity", reason="this apex has no ASP")
    masks._reset(module.ASP)
    return module.ASP


def patched(net: nn.Module, optimizer: torch.optim.Optimizer, calculator: object) -> None:
    """ASP on a network and its optimizer, with the arguments that masks.py gives it."""
    calls = asp()
    calls.init_model_for_pruning(
        net, mask_calculator=calculator, verbosity=0, whitelist=[nn.Conv2d, nn.Linear],
        allow_permutation=False,
    )  # fmt: skip
    calls.init_optimizer_for_pruning(optimizer)
    calls.compute_sparse_masks()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_asps_optimizer_holds_our_masks_as_our_holder_does(optimizer: str) -> None:
    one = Plain(32)
    other = copy.deepcopy(one)
    ours, theirs = (OPTIMIZERS[optimizer](net.parameters()) for net in (one, other))
    held = masks.compute(one, "modelopt")
    hold = masks.Holder(one, held)
    patched(other, theirs, pattern.mask_2to4)
    for _ in range(4):
        x = torch.rand(2, 1, 16, 16)
        for net, steps in ((one, ours), (other, theirs)):
            steps.zero_grad()
            net(x).square().mean().backward()
            steps.step()
        hold()
        masks.check(one, held)
        masks.check(other, held)
    # Dense weights and kept ones move alike: neither mask reaches beyond its own entries.
    for name, tensor in one.named_parameters():
        torch.testing.assert_close(other.get_parameter(name), tensor, rtol=1e-4, atol=1e-6)
    masks._reset(asp())


def test_asps_own_masks_are_modelopts(monkeypatch: pytest.MonkeyPatch) -> None:
    """ASP's m4n2_1d asks for CUDA; with that call stubbed its arithmetic runs on the CPU."""
    asp()
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_args, **_kwargs: self)
    monkeypatch.setattr(nn.Module, "cuda", lambda self, *_args: self)
    monkeypatch.setattr(torch.cuda, "IntTensor", torch.IntTensor)
    torch.manual_seed(0)
    net = deconv_to_conv(DDnet(trunk=16, bottleneck=16, decoder=16))
    theirs, modelopts = masks.compute(net, "asp"), masks.compute(net, "modelopt")
    assert theirs.keys() == modelopts.keys()
    assert len(theirs) == 43
    for name, mask in theirs.items():
        assert torch.equal(mask, modelopts[name])
        assert torch.equal(mask, pattern.mask_2to4(net.get_submodule(name).weight))
