"""Training on a GPU: the captured step equals single calls, and loaders, masks, resume hold."""

import gc
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pairs import data

from compress.base.errors import Stopped
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.data.crops import draws, sides
from compress.data.loaders import Choice, build
from compress.models.ddnet import DDnet
from compress.sparsity import masks
from compress.steps.train import Train
from compress.training import precision
from compress.training.update import Update

GPU = torch.device("cuda")
DATA = data(side=96)
OPTIONS = Train(epochs=2, batch=4, crop=64, slices_per_epoch=20, lr=1e-3)
MIX = "mse+0.1*(1-ms_ssim)"


def model(*, sparse: bool = False) -> Model:
    torch.manual_seed(0)
    origin = ModelOptions(name="ddnet", options={"residual": True})
    dense = Model(net=DDnet(residual=True), origin=origin).rewritten("deconv_to_conv")
    return replace(dense, masks=masks.compute(dense.net, "modelopt")) if sparse else dense


def work(folder: Path, **changes: object) -> Work:
    folder.mkdir(exist_ok=True, parents=True)
    return Work(**{"stage": folder, "device": GPU, "data": DATA, "seed": 0, **changes})


def run(folder: Path, options: Train, start: Model | None = None) -> tuple[Model, dict]:
    place = work(folder / "00-train")
    return options.run(start or model(), place), place.facts


def close(one: dict, other: dict, rtol: float) -> None:
    torch.testing.assert_close(
        torch.tensor(one["loss"]), torch.tensor(other["loss"]), rtol=rtol, atol=0
    )


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_the_captured_step_learns_what_single_calls_learn(name: str, tmp_path: Path) -> None:
    options = replace(OPTIONS, precision=name)
    _, captured = run(tmp_path / "graph", options)
    assert captured["cuda_graph"], captured["cuda_graph_why"]
    _, plain = run(tmp_path / "eager", replace(options, cuda_graph=False))
    assert not plain["cuda_graph"]
    close(captured, plain, rtol=2e-2 if name == "fp32" else 8e-2)


def test_one_captured_step_changes_weights_like_one_call() -> None:
    loader = build(Choice("gpu", ""), DATA.train, (64, 64), GPU)
    chosen = precision.choose("fp32", GPU)
    raw = next(iter(loader.batches(draws(DATA.train, count=1, batch=4, crop=64, seed=(0,)))))
    nets = []
    for graph in (True, False):
        update = Update(replace(OPTIONS, cuda_graph=graph), model(), loader, chosen)
        with chosen.switches():
            update(raw, 1e-3)
        assert update.stepper.graph is graph, update.stepper.why
        nets.append(update.net)
    for one, other in zip(nets[0].state_dict().values(), nets[1].state_dict().values()):  # noqa: B905
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2.1e-3)  # Adam: at most 2 lr apart


def test_the_mixed_loss_can_be_captured(tmp_path: Path) -> None:
    big = data(side=192)
    options = replace(OPTIONS, crop=176, batch=2, slices_per_epoch=8, loss=MIX, precision="bf16")
    facts = []
    for graph in (True, False):
        place = work(tmp_path / f"{graph}" / "00-train", data=big)
        replace(options, cuda_graph=graph).run(model(), place)
        facts.append(place.facts)
    assert facts[0]["cuda_graph"], facts[0]["cuda_graph_why"]
    close(*facts, rtol=8e-2)


@pytest.mark.slow
def test_the_compiled_and_captured_step_learns_the_same(tmp_path: Path) -> None:
    options = replace(OPTIONS, precision="bf16")
    _, faster = run(tmp_path / "compiled", replace(options, compile=True))
    assert faster["compiled"], faster["compiled_why"]
    assert faster["cuda_graph"], faster["cuda_graph_why"]
    _, plain = run(tmp_path / "plain", options)
    close(faster, plain, rtol=8e-2)


@pytest.mark.parametrize("crop", [64, None])
@pytest.mark.parametrize("versions", [1, 2, 4])
def test_all_loaders_give_equal_batches(crop: int | None, versions: int) -> None:
    found = []
    pairs = zip(DATA.train.low, DATA.train.full, strict=True)
    bank = tuple((low, *(full,) * (versions - 1)) for low, full in pairs) if versions > 1 else ()
    train = replace(DATA.train, bank=bank)
    for name in ("gpu", "workers", "host"):
        loader = build(Choice(name, ""), train, sides(train, crop), GPU)
        drawn = draws(train, count=40, batch=3, crop=crop, seed=(0,))
        found.append([torch.stack(loader.decode(raw)) for raw in loader.batches(drawn)])
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_masks_hold(name: str, tmp_path: Path) -> None:
    start = model(sparse=True)
    options = replace(OPTIONS, precision=name, weight_decay=0.1)
    trained, facts = run(tmp_path, options, start)
    assert facts["cuda_graph"], facts["cuda_graph_why"]
    masks.check(trained.net, start.masks)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_resumed_run_ends_like_a_whole_one(name: str, tmp_path: Path) -> None:
    class StopLater(threading.Event):
        left = 8

        def is_set(self) -> bool:
            self.left -= 1
            return self.left <= 0

    options = replace(OPTIONS, precision=name)
    _, whole = run(tmp_path / "whole", options)
    folder = tmp_path / "parts" / "00-train"
    with pytest.raises(Stopped):
        options.run(model(), work(folder, stop=StopLater()))
    place = work(folder)
    options.run(model(), place)
    assert place.facts["steps"] == 10
    close(place.facts, whole, rtol=8e-2)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_scope_sparse_layers_halves_the_sparse_ones_and_no_other(name: str) -> None:
    start, dtype = model(sparse=True), precision.DTYPES[name]
    chosen = precision.choose(name, GPU, "sparse_layers")
    loader = build(Choice("gpu", ""), DATA.train, (64, 64), GPU)
    options = replace(OPTIONS, precision=name, scope="sparse_layers", cuda_graph=False)
    update = Update(options, start, loader, chosen)
    seen: dict[str, set[torch.dtype]] = {}
    for path, module in update.net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            # In front of the hook that widens the output again.
            module.register_forward_hook(
                lambda _m, _i, out, path=path: seen.setdefault(path, set()).add(out.dtype),
                prepend=True,
            )
    drawn = draws(DATA.train, count=2, batch=4, crop=64, seed=(0,))
    with chosen.switches():
        for raw in loader.batches(drawn):
            update(raw, 1e-3)
    sparse = {path for path, types in seen.items() if types == {dtype}}
    rest = {path for path, types in seen.items() if types == {torch.float32}}
    assert sparse == set(start.masks)
    assert sparse | rest == set(seen)
    assert len(seen) == 45
    update.check()


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_scope_sparse_layers_can_be_captured(name: str, tmp_path: Path) -> None:
    start = model(sparse=True)
    options = replace(OPTIONS, precision=name, scope="sparse_layers")
    _, captured = run(tmp_path / "graph", options, start)
    assert captured["cuda_graph"], captured["cuda_graph_why"]
    _, plain = run(tmp_path / "eager", replace(options, cuda_graph=False), start)
    close(captured, plain, rtol=8e-2)


def test_out_of_memory_halves_the_micro_batch(tmp_path: Path) -> None:
    options = replace(OPTIONS, batch=512, slices_per_epoch=512, epochs=1)
    total = torch.cuda.get_device_properties(0).total_memory
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    try:
        _, facts = run(tmp_path, options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert facts["micro_batch"] < 512, facts["micro_batch_why"]
    assert "for the same effective batch, roughly" in facts["micro_batch_why"]


@pytest.mark.parametrize("compiles", [False, True])
def test_norms_are_frozen_in_a_step_that_is_captured_anew(compiles: bool, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=4, freeze_norm_last=0.5, compile=compiles)
    trained, facts = run(tmp_path / "last", options)
    assert facts["cuda_graph"], facts["cuda_graph_why"]
    norms = [m for m in trained.net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    counts = {int(norm.num_batches_tracked) for norm in norms}
    assert counts == {facts["steps"] // 2}
