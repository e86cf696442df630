"""DDnet and RED-CNN: the published counts, weights and outputs."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress import checkpoint
from compress.checkpoint import Model
from compress.graph.cost import cost
from compress.models.ddnet import DDnet, from_2dnet, widths
from compress.models.redcnn import RedCNN
from compress.recipe import load

REFERENCE = Path(
    os.environ.get(
        "COMPRESS_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference"
    )
)
published = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="needs the published weights: set COMPRESS_REFERENCE"
)


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameters_as_published() -> None:
    assert parameters(DDnet()) == 566_451
    assert parameters(DDnet(residual=True)) == 566_451
    assert parameters(RedCNN()) == 1_848_865
    assert len(widths(DDnet())) == 45


@published
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_reproduces_the_published_output(dtype: torch.dtype, limit: float) -> None:
    net = DDnet().to(dtype).eval()
    net.load_state_dict(from_2dnet(load_file(REFERENCE / "ddnet_2d-dect_50epochs.safetensors")))
    arrays = np.load(REFERENCE / "ddnet_reference.npz")
    x, expected = (torch.from_numpy(arrays[key]) for key in sorted(arrays, key=_input_first))
    with torch.no_grad():
        y = net(x.to(dtype)).double()
    assert (y - expected).abs().max() <= limit * expected.abs().max().clamp(min=1)


def _input_first(key: str) -> tuple[bool, str]:
    return (not key.startswith(("in", "x")), key)


@pytest.mark.parametrize("dynamic", ["static", "batch", "sides"])
def test_export_traces(dynamic: str) -> None:
    n, h, w = torch.export.Dim("n", min=1, max=8), *(torch.export.Dim(d, max=64) for d in "hw")
    shapes = {"static": {}, "batch": {0: n}, "sides": {2: 16 * h, 3: 16 * w}}[dynamic]
    net = DDnet(residual=True).eval()
    program = torch.export.export(
        net, (torch.rand(2, 1, 64, 64),), dynamic_shapes=({**shapes},) if shapes else None
    )
    size = {"static": (2, 1, 64, 64), "batch": (5, 1, 64, 64), "sides": (2, 1, 48, 80)}[dynamic]
    x = torch.rand(size)
    torch.testing.assert_close(program.module()(x), net(x))


def test_widths_build_the_same_class_narrower() -> None:
    table = widths(DDnet(trunk=8, bottleneck=16, decoder=8))
    table["blocks.2.1.bottleneck.conv"] = 3
    net = DDnet(widths=table).eval()
    assert widths(net) == table
    assert net(torch.rand(1, 1, 32, 48)).shape == (1, 1, 32, 48)


@pytest.mark.parametrize(
    ("kernels", "share"),
    [((3, 5, 5, 5, 5), 0.225), ((3, 3, 5, 5, 5), 0.506), ((3, 3, 3, 3, 3), 0.598)],
)
def test_small_kernels_take_macs_and_no_channels(kernels: tuple[int, ...], share: float) -> None:
    net = DDnet(kernels=kernels).eval()
    assert widths(net) == widths(DDnet())
    assert 1 - cost(net).macs / cost(DDnet()).macs == pytest.approx(share, abs=5e-4)
    sides = {net.get_submodule(f"blocks.{b}.1.growth.conv").kernel_size[0] for b in range(4)}
    assert sides == {*kernels[1:]}
    assert net.decoders[3].wide.conv.kernel_size == (kernels[0], kernels[0])
    assert net(torch.rand(1, 1, 32, 48)).shape == (1, 1, 32, 48)


@pytest.mark.parametrize("kernels", [(3, 3), (3, 3, 4, 5, 5), (3, 3, -1, 5, 5)])
def test_wrong_kernels(kernels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"kernels must be 5 odd sides, got \["):
        DDnet(kernels=kernels)


def test_a_pruned_network_of_small_kernels_is_kept_and_loaded(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "schema: 1\nmodel: {name: ddnet, trunk: 8, bottleneck: 8, decoder: 8, "
        "kernels: [3, 3, 5, 5, 5]}\nsteps: [prune: {amount: 0.3, round_to: 2}]\n"
    )
    recipe = load(tmp_path / "r.yaml")
    model = Model(net=recipe.model.build().eval(), origin=recipe.model)
    model, plan = recipe.steps[0][1].plan(model, 0)
    checkpoint.save(replace(model, net=plan.apply(model.net)), tmp_path)
    net = checkpoint.load(tmp_path).net
    assert net.decoders[3].wide.conv.kernel_size == (3, 3)
    assert cost(net).macs < 0.7 * cost(model.net).macs


def test_residual_starts_as_identity() -> None:
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(DDnet(residual=True).eval()(x), x)


@pytest.mark.parametrize(
    ("net", "table", "sentence"),
    [
        (DDnet, {"stem": 8}, "DDnet has no convolution 'stem'"),
        (DDnet, {"stem.conv": 0}, "stem.conv needs at least 1 output channel, got 0"),
        (RedCNN, {"encoder.9": 8}, "RED-CNN has no layer 'encoder.9'"),
        (RedCNN, {"encoder.1": 8}, "encoder.1 and decoder.2 are added and must be equally wide"),
    ],
)
def test_wrong_widths(
    net: type[DDnet] | type[RedCNN], table: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        net(widths=table)
