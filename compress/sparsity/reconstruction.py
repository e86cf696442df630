"""2:4 masks and weights that keep a layer's output: what is removed is made up for by the rest.

A layer's outputs are w x for the inputs x of calibration slices, so that changing a row w by d
costs d H d^T with H the mean of x x^T. The optimal brain surgeon (Hassibi, Stork, NeurIPS 1993)
removes the weight for which w^2 / [H^-1]_qq is least and moves its error into the others by -w_q
[H^-1]_q: / [H^-1]_qq; SparseGPT (Frantar, Alistarh, ICML 2023, arXiv:2301.00774) does that column
by column, with the inverse of the columns that are left from one Cholesky factor. Here the columns
are ordered by kernel position and then by input channel, so that four columns in a row are the four
input channels of which two stay. The bias is a column of ones, behind all others, that always
stays.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.graph.layout import by_output
from compress.sparsity import layer_inputs
from compress.sparsity.pattern import mask_2to4

DAMPING = 0.01
"""Added to the diagonal of H, as a share of its mean, so that it can be inverted (SparseGPT)."""


@dataclass(frozen=True)
class Reconstructed:
    """A network with 2:4 weights, and what they do to the outputs of its layers."""

    net: nn.Module
    masks: dict[str, Tensor]
    """Module name -> bool mask of its weight's shape, True = kept."""
    loss: float
    """Mean over the layers of the squared error of a layer's output, as a share of its square."""
    loss_magnitude: float
    """The same, had the two largest of every four weights stayed as they are."""


def reconstruct(net: nn.Module, names: Iterable[str], inputs: Sequence[Tensor]) -> Reconstructed:
    """Make layers 2:4 one after another, each on what the layers before it give now.

    Args:
        net: an (N, 1, H, W) network on any device; it is copied.
        names: convolutions of one group and linear layers with a multiple of 4 inputs.
        inputs: calibration slices, (N, 1, H, W) in network range each, on the network's device.

    Returns:
        The copy, in eval mode, with its masks. A layer that is not used gets the magnitude mask.

    Raises:
        ValueError: there are no slices.
    """
    if not inputs:
        raise ValueError("weights are reconstructed on slices, and there are none")
    net, wanted = copy.deepcopy(net).eval(), list(names)
    uses = layer_inputs.uses(net, wanted, inputs[0])
    masks = {name: mask_2to4(by_output(net.get_submodule(name))).cpu() for name in wanted}
    losses, plain = [], []
    for name, count in uses.items():
        module = net.get_submodule(name)
        square = second_moment(net, name, inputs, count)
        rows, taps = _rows(module), _taps(module)
        found, kept = sparse_rows(rows, square, taps * by_output(module).shape[1])
        losses.append(_lost(rows, found, square))
        plain.append(_lost(rows, _magnitude(rows, kept.shape[1]), square))
        masks[name] = _as_weight(kept, module).cpu()
        _fill(module, found)
    return Reconstructed(net, masks, _mean(losses), _mean(plain))


def sparse_rows(rows: Tensor, square: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """2:4 rows that lose no more than the magnitude mask does.

    Args:
        rows: (out, n) float64, fours of columns that compete in a row, perhaps a bias at the end.
        square: (n, n) float64, H, the mean of x x^T over the inputs x.
        width: columns of weights, a multiple of 4: `n`, or one less with a bias.

    Returns:
        (out, n) rows, 0 where a weight goes, and (out, width) bool, True = stays, two of every
        four. Of each row, whichever is better on H: what the optimal brain surgeon makes of it,
        or the two largest of every four as they are.
    """
    found, kept = _surgery(rows, square, width)
    plain = _magnitude(rows, width)
    worse = (errors(rows - found, square) > errors(rows - plain, square))[:, None]
    mask = mask_2to4(rows[:, :width])
    return torch.where(worse, plain, found), torch.where(worse, mask, kept)


def second_moment(net: nn.Module, name: str, inputs: Sequence[Tensor], uses: int = 1) -> Tensor:
    """H of a layer: the mean of x x^T over slices and places, x its unfolded input, 1 for a bias.

    Args:
        net: the network, in eval mode.
        name: of the layer, a convolution of one group or a linear layer.
        inputs: slices, (N, 1, H, W) each.
        uses: how often the layer runs for a slice.

    Returns:
        (n, n) float64 on the inputs' device, columns by kernel position, then by input channel.
    """
    total: Tensor | None = None
    count = 0
    for x in inputs:
        for seen in layer_inputs.seen(net, name, x, uses):
            for part in layer_inputs.columns(net.get_submodule(name), seen):
                count += part.shape[1]
                product = (part @ part.T).double()
                total = product if total is None else total + product
    assert total is not None
    return total / count


def _surgery(rows: Tensor, square: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Column by column: the two of every four that cost least go, the columns behind make up."""
    rows, kept = rows.clone(), torch.ones(len(rows), width, dtype=torch.bool, device=rows.device)
    factor = inverse_factor(square, DAMPING)
    own = factor.diagonal()
    for first in range(0, width, 4):
        quad = slice(first, first + 4)
        cost = (rows[:, quad] / own[quad]).square()
        order = cost.argsort(dim=1, descending=True, stable=True)
        kept[:, quad] = torch.zeros_like(kept[:, quad]).scatter_(1, order[:, :2], True)
        for column in range(first, first + 4):
            gone = ~kept[:, column]
            error = torch.where(gone, rows[:, column] / own[column], 0.0)
            rows[:, column:] -= error[:, None] * factor[column, column:]
            rows[gone, column] = 0.0
    return rows, kept


def inverse_factor(square: Tensor, damping: float) -> Tensor:
    """What makes up for a change of column q is in proportion to row q of this, behind q.

    Args:
        square: (n, n), the mean of x x^T over inputs x.
        damping: see `DAMPING`.

    Returns:
        Upper triangular U with U^T U = H^-1, H the damped `square`; row q is that of the inverse
        for the columns from q on, over the root of its first element.
    """
    mean = float(square.diagonal().mean()) or 1.0
    damped = square + damping * mean * torch.eye(len(square), dtype=square.dtype).to(square.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def errors(change: Tensor, square: Tensor) -> Tensor:
    """(out,) d H d^T of every row d of (out, n): the mean square by which an output changes."""
    return ((change @ square) * change).sum(1)


def _lost(rows: Tensor, found: Tensor, square: Tensor) -> float:
    """Squared error of a layer's output as a share of its square."""
    whole = float(errors(rows, square).sum())
    return float(errors(rows - found, square).sum()) / whole if whole else 0.0


def _magnitude(rows: Tensor, width: int) -> Tensor:
    """The rows with the two largest of every four as they are."""
    mask = torch.ones_like(rows, dtype=torch.bool)
    mask[:, :width] = mask_2to4(rows[:, :width])
    return rows * mask


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _taps(module: nn.Module) -> int:
    """Kernel positions of a layer."""
    return by_output(module)[0, 0].numel()


def _rows(module: nn.Module) -> Tensor:
    """(out, n) float64: weights by kernel position, then by input channel, then the bias."""
    rows = by_output(module).detach().double().movedim(1, -1).flatten(1)
    bias = module.bias
    if not isinstance(bias, Tensor):
        return rows
    return torch.cat((rows, bias.detach().double()[:, None]), dim=1)


def _as_weight(columns: Tensor, module: nn.Module) -> Tensor:
    """(out, taps * in) in the weight's shape."""
    shape = by_output(module).shape
    return columns.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _fill(module: nn.Module, rows: Tensor) -> None:
    """Give a layer the weights and the bias of `rows`, in place."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        width = weight[0].numel()
        weight.copy_(_as_weight(rows[:, :width], module))
        if isinstance(bias, Tensor):
            bias.copy_(rows[:, width])
