"""Masks on single weights: how many, which, and that they hold."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Plain
from pairs import data

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.pruning import unstructured
from compress.steps.prune import Prune
from compress.steps.sparsify import Sparsify
from compress.steps.train import Train

KINDS = st.sampled_from(unstructured.KINDS)


def work(folder: Path) -> Work:
    folder.mkdir()
    return Work(stage=folder, device=torch.device("cpu"), data=data(), seed=0)


def model() -> Model:
    torch.manual_seed(0)
    return Model(net=Plain(16), origin=ModelOptions(import_="networks:Plain"))


@settings(max_examples=30, deadline=None)
@given(kind=KINDS, amount=st.floats(0.01, 0.99), per_layer=st.booleans())
def test_the_share_asked_for_is_zero(kind: str, amount: float, per_layer: bool) -> None:
    net = Plain(16)
    found = unstructured.masks(net, kind, amount, per_layer=per_layer)
    sizes = {name: mask.numel() for name, mask in found.items()}
    assert unstructured.zeros(net, found) == pytest.approx(amount, abs=2 / min(sizes.values()))
    if per_layer:
        for mask in found.values():
            assert int((~mask).sum()) == round(amount * mask.numel())


def test_the_smallest_weights_go() -> None:
    net = Plain(16)
    for per_layer in (True, False):
        found = unstructured.masks(net, "magnitude_weights", 0.5, per_layer=per_layer)
        weights = {name: getattr(net, name).weight.abs() for name in found}
        if per_layer:
            for name, mask in found.items():
                assert weights[name][~mask].max() <= weights[name][mask].min()
        else:
            gone = torch.cat([weights[n][~m] for n, m in found.items()])
            kept = torch.cat([weights[n][m] for n, m in found.items()])
            assert gone.max() <= kept.min()


def test_random_masks_follow_the_seed() -> None:
    one, same, other = (
        unstructured.masks(Plain(8), "random_weights", 0.5, seed=s) for s in (1, 1, 2)
    )
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one["middle"], other["middle"])


def test_masks_hold_through_retraining_and_saving(tmp_path: Path) -> None:
    place = work(tmp_path / "01-prune")
    masked = Prune(amount=0.7, criterion="random_weights").run(model(), place)
    assert place.facts["removed"]["macs"] == 0
    assert place.facts["zeros"] == pytest.approx(0.7, abs=0.01)
    assert place.facts["after"]["macs"] == place.facts["before"]["macs"]
    train = Train(epochs=2, batch=2, crop=32, slices_per_epoch=8, weight_decay=0.1)
    trained = train.run(masked, work(tmp_path / "02-retrain"))
    for name, mask in masked.masks.items():
        assert not trained.net.get_submodule(name).weight[~mask].any()
    checkpoint.save(trained, tmp_path)
    again = checkpoint.load(tmp_path)
    assert again.pattern == "unstructured"
    assert all(torch.equal(again.masks[n], mask) for n, mask in masked.masks.items())


def test_what_would_undo_the_masks_is_refused(tmp_path: Path) -> None:
    masked = Prune(amount=0.7, criterion="magnitude_weights").run(model(), work(tmp_path / "a"))
    for index, step in enumerate(
        (Prune(amount=0.5), Prune(amount=0.5, criterion="random_weights"))
    ):
        with pytest.raises(UsageError, match=r"the network (is masked|has masks)"):
            step.run(masked, work(tmp_path / f"b{index}"))
    with pytest.raises(UsageError, match="single weights were masked before"):
        Sparsify().run(masked, work(tmp_path / "c"))
    with pytest.raises(ValueError, match="random_weights needs an amount"):
        Prune(threshold=0.5, criterion="random_weights")
    with pytest.raises(ValueError, match="rounds needs an amount"):
        replace(Prune(threshold=0.5), rounds=2)


def test_weights_that_are_not_trained_are_not_masked() -> None:
    net = Plain()
    first = next(iter(unstructured.masks(net, "magnitude_weights", 0.5)))
    net.get_submodule(first).weight.requires_grad_(False)
    assert first not in unstructured.masks(net, "magnitude_weights", 0.5)
    with pytest.raises(UsageError, match="trains no two-dimensional convolution to mask"):
        unstructured.masks(net.requires_grad_(False), "magnitude_weights", 0.5)
