"""Checkpoints as ldct-benchmark writes them: read without running code, on its own scale of HU."""

import argparse
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.base.hu import to_hu, to_network
from compress.checkpoint import Model, ModelOptions

HERE = str(Path(__file__).parent)
SCALE = {"hu_mean": 481.45419786099086 - 1024, "hu_std": 502.18507379395044}


class Denoiser(nn.Module):
    """A network as that package has them: the arguments of a training first, which it ignores."""

    def __init__(self, args: object, out_ch: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, out_ch, 5, padding=2)
        self.tconv1 = nn.ConvTranspose2d(out_ch, 1, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tconv1(self.conv1(x).relu()) + x


def saved(path: Path, **changes: object) -> nn.Module:
    """Write a checkpoint in that package's form; its network."""
    torch.manual_seed(0)
    net = Denoiser(None)
    args = argparse.Namespace(trainer="redcnn", data_norm="meanstd", devices=[0], lr=1e-4, seed=1)
    content = {"args": args, "iteration": 7, "model_state_dict": net.state_dict()}
    torch.save(content | changes, path)
    return net


def built(path: Path, **options: object) -> nn.Module:
    given = {"args": None, **options}
    name = "test_ldct_benchmark:Denoiser"
    return ModelOptions(import_=name, folder=HERE, weights=str(path), options=given).build()


def test_a_network_computes_what_it_does_there(tmp_path):
    net = saved(tmp_path / "redcnn.pt")
    hu = torch.randint(-1000, 1500, (1, 1, 16, 16)).float()
    stored = hu + 1024
    with torch.no_grad():
        there = net((stored - 481.45419786099086) / 502.18507379395044)
        expected = there * 502.18507379395044 + 481.45419786099086 - 1024
        found = to_hu(built(tmp_path / "redcnn.pt", **SCALE)(to_network(hu)))
    assert (found - expected).abs().max() < 0.01


def test_the_scale_is_part_of_a_checkpoint(tmp_path):
    saved(tmp_path / "w.pt")
    options = {"args": None, **SCALE}
    origin = ModelOptions(
        import_="test_ldct_benchmark:Denoiser", folder=HERE, weights=str(tmp_path / "w.pt"),
        options=options,
    )  # fmt: skip
    net, x = origin.build().eval(), torch.rand(1, 1, 16, 16)
    (tmp_path / "model").mkdir()
    checkpoint.save(Model(net=net, origin=origin), tmp_path / "model")
    (tmp_path / "w.pt").unlink()
    with torch.no_grad():
        assert torch.equal(checkpoint.load(tmp_path / "model").net(x), net(x))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, r"normalisation meanstd: write hu_mean: -542.5458 and hu_std: 502.18507 in model$"),
        ({"args": {}}, r"normalisation meanstd: write hu_mean"),
        (
            {"args": argparse.Namespace(data_norm="minmax")},
            r"normalisation minmax: write hu_mean: -1024 and hu_std: 4095 in model$",
        ),
    ],
)
def test_a_recipe_that_forgets_the_scale_is_told_it(changes, said, tmp_path):
    saved(tmp_path / "w.pt", **changes)
    with pytest.raises(UsageError, match=said):
        built(tmp_path / "w.pt")


def test_half_a_scale_is_refused(tmp_path):
    saved(tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"model.hu_std: expected a number, got None"):
        built(tmp_path / "w.pt", hu_mean=0)
    with pytest.raises(UsageError, match=r"model.hu_std: must be positive, got 0"):
        built(tmp_path / "w.pt", hu_mean=0, hu_std=0)


def test_other_weights_are_refused(tmp_path):
    other = {"model_state_dict": {"conv9.weight": torch.zeros(1)}}
    saved(tmp_path / "w.pt", **other)
    with pytest.raises(UsageError, match="do not fit the network"):
        built(tmp_path / "w.pt", **SCALE)
    torch.save({"state_dict": {}}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="no safetensors file: it is a PyTorch archive"):
        built(tmp_path / "w.pt", **SCALE)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_file_is_never_run(tmp_path):
    saved(tmp_path / "w.pt", args=Evil(tmp_path / "ran"))
    with pytest.raises(UsageError, match="no safetensors file"):
        built(tmp_path / "w.pt", **SCALE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(importlib.util.find_spec("ldctbench") is None, reason="not installed")
@pytest.mark.parametrize("method", ["cnn10", "redcnn", "resnet", "wganvgg", "dugan"])
@pytest.mark.filterwarnings("ignore")
def test_its_own_classes(method, tmp_path):
    module = importlib.import_module(f"ldctbench.methods.{method}.network")
    net = module.Model(argparse.Namespace()).eval()
    saved(tmp_path / "w.pt", model_state_dict=net.state_dict())
    name = f"ldctbench.methods.{method}.network:Model"
    weights = str(tmp_path / "w.pt")
    again = (
        ModelOptions(import_=name, weights=weights, options={"args": None, **SCALE}).build().eval()
    )
    z = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.net(z), net(z))
