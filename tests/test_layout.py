"""Which dimension of a weight is which, found by what each output of a layer depends on."""

from pathlib import Path

import pytest
import torch
from torch import nn

import compress
from compress.graph import layout
from compress.sparsity.layers import layers

KINDS = [
    nn.Linear(4, 6),
    nn.Conv1d(4, 6, 3),
    nn.Conv2d(4, 6, 3),
    nn.ConvTranspose2d(4, 6, 3),
    nn.ConvTranspose3d(4, 6, 1),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.ConvTranspose2d(4, 4, 3, groups=4),
]


@pytest.mark.parametrize("layer", KINDS, ids=str)
def test_an_output_depends_on_its_own_slice_of_the_weight(layer: nn.Module) -> None:
    rank = layer.weight.dim() - 2
    x = torch.rand(1, 4, *[5] * rank)
    made = layer(x if rank else x[:, :4])
    out, into = layout.axes(layer)
    outputs = made.shape[1]
    for index in range(outputs):
        (grad,) = torch.autograd.grad(made[:, index].sum(), layer.weight, retain_graph=True)
        used = {place[out] for place in grad.nonzero().tolist()}
        assert used == {index * layer.weight.shape[out] // outputs}
    assert layout.by_output(layer).shape[0] == layer.weight.shape[out]
    assert into is None or layer.weight.shape[into] == 4


def test_no_other_file_knows_how_a_deconvolution_stores_its_weight() -> None:
    package = Path(compress.__file__).parent
    files = {path.name for path in package.rglob("*.py") if "_ConvTransposeNd" in path.read_text()}
    assert files == {"layout.py"}


def test_inputs_of_a_depthwise_deconvolution_are_no_four_of_2to4() -> None:
    """Its weight was shown turned round, and its channels counted as inputs of one output."""
    up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)
    net = nn.Sequential(nn.Conv2d(1, 8, 2, stride=2), up, nn.Conv2d(8, 1, 1))
    row = layers(net)[1]
    assert row["shape"] == [8, 1, 2, 2]
    assert (row["failing"], row["sparse24"]) == (None, False)
