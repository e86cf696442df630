"""2:4 with weights that make up for those that go: never worse than the largest weights alone."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Plain, randomise, strided_unet
from pairs import data
from torch import Tensor, nn

from compress import checkpoint
from compress.base.errors import UsageError
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.sparsity import layer_inputs, masks, pattern
from compress.sparsity import reconstruction as obs
from compress.steps.sparsify import Sparsify

calm = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 2**31))


def problem(size: tuple[int, int, bool, int]) -> tuple[Tensor, Tensor, int]:
    """Rows, the second moment of correlated inputs, and columns without the bias."""
    out, quads, bias, seed = size
    generator = torch.Generator().manual_seed(seed)
    width = 4 * quads
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = mix @ torch.randn(width, 3 * width, generator=generator, dtype=torch.float64) + 0.5
    x = torch.cat((x, torch.ones(int(bias), x.shape[1], dtype=torch.float64)))
    rows = torch.randn(out, len(x), generator=generator, dtype=torch.float64)
    return rows, x @ x.T / x.shape[1], width


def loss(rows: Tensor, found: Tensor, square: Tensor) -> Tensor:
    change = rows - found
    return torch.einsum("oi,ij,oj->o", change, square, change)


@calm
@given(sizes)
def test_no_row_loses_more_than_by_magnitude_and_masks_are_2to4(
    size: tuple[int, int, bool, int],
) -> None:
    rows, square, width = problem(size)
    found, kept = obs.sparse_rows(rows, square, width)
    plain = rows.clone()
    plain[:, :width] *= pattern.mask_2to4(rows[:, :width])
    assert (loss(rows, found, square) <= loss(rows, plain, square) * (1 + 1e-9) + 1e-12).all()
    assert (kept.reshape(len(kept), -1, 4).sum(2) == 2).all()
    assert (found[:, :width][~kept] == 0).all()


@calm
@given(sizes)
def test_with_independent_inputs_it_is_the_best_of_all_masks(
    size: tuple[int, int, bool, int],
) -> None:
    rows, square, width = problem(size)
    own = square.diagonal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obs, "DAMPING", 0.0)
        found, kept = obs.sparse_rows(rows, torch.diag(own), width)
    best = pattern.mask_2to4(rows[:, :width].square() * own[:width])
    assert torch.equal(kept, best)
    torch.testing.assert_close(found, _masked(rows, best))


def _masked(rows: Tensor, mask: Tensor) -> Tensor:
    found = rows.clone()
    found[:, : mask.shape[1]] *= mask
    return found


@calm
@given(sizes)
def test_outputs_can_come_in_any_order(size: tuple[int, int, bool, int]) -> None:
    rows, square, width = problem(size)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(size[3]))
    found, kept = obs.sparse_rows(rows, square, width)
    again, mask = obs.sparse_rows(rows[order], square, width)
    assert torch.equal(mask, kept[order])
    torch.testing.assert_close(again, found[order])


def test_the_second_weight_takes_over_from_one_that_always_agrees_with_it() -> None:
    """Inputs 0 and 1 are equal, 2 and 3 nothing to the output: nothing need be lost."""
    x = torch.randn(3, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x[[0, 0, 1, 2]]
    rows = torch.tensor([[1.0, 1.1, 0.4, 0.0]], dtype=torch.float64)
    found, kept = obs.sparse_rows(rows, x @ x.T / 400, 4)
    assert kept.tolist() == [[False, True, True, False]]
    assert found[0, 1] == pytest.approx(2.1, rel=0.02)  # damping holds it back by a little
    plain = torch.tensor([[1.0, 1.1, 0.0, 0.0]], dtype=torch.float64)
    square = x @ x.T / 400
    assert loss(rows, found, square) < 0.02 * loss(rows, plain, square)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv2d(8, 4, (5, 3), padding=(2, 1), stride=2, bias=False),
        nn.Conv2d(4, 4, 3, padding="same", dilation=2, padding_mode="reflect"),
        nn.Conv2d(4, 4, 1),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 24, 500])
def test_columns_give_the_outputs_of_the_layer(
    layer: nn.Conv2d, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_inputs, "CHUNK", chunk)
    layer = copy.deepcopy(layer).double()
    x = torch.randn(2, layer.in_channels, 12, 14, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
    columns = torch.cat([*layer_inputs.columns(layer, x)], dim=1)
    got = (obs._rows(layer) @ columns).reshape(len(expected[0]), 2, *expected.shape[2:])
    torch.testing.assert_close(got.transpose(0, 1), expected)


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(2, 1, 32, 32, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_a_network_keeps_its_output_better_than_by_magnitude() -> None:
    torch.manual_seed(0)
    net = randomise(strided_unet(), 4)
    names = ["same", "down"]
    made = obs.reconstruct(net, names, crops())
    assert made.loss < 0.9 * made.loss_magnitude
    plain = copy.deepcopy(net)
    found = {n: pattern.mask_2to4(net.get_parameter(f"{n}.weight")) for n in names}
    masks.apply(plain, found)
    masks.check(made.net, made.masks)
    with torch.no_grad():
        errors = [
            sum(float((net(x) - one(x)).square().sum()) for x in crops())
            for one in (made.net, plain)
        ]
    assert errors[0] < errors[1]
    assert torch.equal(net.head.weight, made.net.head.weight)


class Twice(nn.Module):
    """A layer that runs twice for a slice, and one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 1)
        self.shared, self.spare = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.shared(torch.relu(self.shared(self.first(x))))))
        return out


def test_a_layer_counts_with_all_its_uses_and_an_unused_one_goes_by_magnitude() -> None:
    net = randomise(Twice(), 0)
    made = obs.reconstruct(net, ["shared", "spare"], crops())
    assert torch.equal(made.masks["spare"], pattern.mask_2to4(net.spare.weight))
    masks.check(made.net, {"shared": made.masks["shared"]})
    one = obs.second_moment(net, "shared", crops(), 1)
    both = obs.second_moment(net, "shared", crops(), 2)
    assert not torch.allclose(one, both)


def start() -> tuple[Model, Work]:
    torch.manual_seed(0)
    model = Model(net=Plain(16).eval(), origin=ModelOptions(import_="networks:Plain"))
    return model, Work(stage=Path(), device=torch.device("cpu"), data=data(), seed=0)


@pytest.mark.parametrize("permute", [False, True])
def test_the_step(permute: bool, tmp_path: Path) -> None:
    model, work = start()
    sparse = Sparsify(update="obs", batches=1, permute=permute).run(model, work)
    gain = work.facts["reconstruction"]
    assert (gain["slices"], work.facts["backend"], work.facts["done"]) == (4, "obs", 1)
    assert 0 < gain["loss"] <= gain["loss_magnitude"] < 1
    masks.check(sparse.net, sparse.masks)
    stays = sparse.masks["middle"]
    assert not permute or work.facts["permutation"]["kept"] >= 0
    assert not torch.equal(sparse.net.middle.weight[stays], model.net.middle.weight[stays])
    checkpoint.save(sparse, tmp_path)
    assert torch.equal(checkpoint.load(tmp_path).net.middle.weight, sparse.net.middle.weight)
    work.facts.clear()
    Sparsify(backend="modelopt").run(start()[0], work)
    assert "reconstruction" not in work.facts


def test_what_obs_does_not_go_with() -> None:
    with pytest.raises(
        ValueError, match="update obs computes its own masks; leave out backend asp"
    ):
        Sparsify(update="obs", backend="asp")
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        Sparsify(batches=0)
    model, _ = start()
    from compress.data.folder import NONE

    none = data().__class__(train=NONE, test=NONE, source="test", fingerprint="")
    work = Work(stage=Path(), device=torch.device("cpu"), data=none, seed=0)
    with pytest.raises(UsageError):
        Sparsify(update="obs").run(model, work)
