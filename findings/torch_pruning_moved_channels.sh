#!/usr/bin/env bash
# Torch-Pruning removes other channels from a layer than those it removed before it, where the network moves channels between.
#
# A channel shuffle (ShuffleNet), flip, roll, or padding along the channels (the parameter-free shortcut of ResNet) gives channels
# other places. Torch-Pruning follows a channel through concatenation, splitting and flattening; through these it takes the place in
# front for the place behind. Shapes agree and nothing is said, but the next layer loses the inputs of channels that stay. Here the
# pruned channels are zero in every weight and bias, so that removing them rightly changes nothing but rounding. Retraining hides it.
#
# Versions: Python 3.11, torch-pruning 1.6.1, torch 2.13.0 (CPU), numpy 2.4.6. 2026-11-30.
# Output seen: "largest change of the output by the removal of channels that are zero, relative: plain 0.00, shuffle 0.66,
#               flip 0.77, roll 1.55, pad 1.18"
# Ends with status 0 as long as the plain one stays below 0.0001 and the others are above 0.1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torch-pruning==1.6.1 numpy==2.4.6
cat >"$folder/moved.py" <<'PYTHON'
import sys

import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

ZERO = (1, 5)  # one channel of each half


def shuffle(y):
    n, channels, height, width = y.shape
    return y.view(n, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


class Net(nn.Module):
    def __init__(self, move):
        super().__init__()
        self.move, width = move, move(torch.zeros(1, 8, 1, 1)).shape[1]
        self.first, self.last = nn.Conv2d(1, 8, 3), nn.Conv2d(width, 1, 3)

    def forward(self, x):
        return self.last(self.move(self.first(x)))


def change(move):
    torch.manual_seed(0)
    net, x = Net(move).eval(), torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        net.first.weight[[*ZERO]] = 0
        net.first.bias[[*ZERO]] = 0
        before = net(x)
    norm = tp.importance.MagnitudeImportance(group_reduction="first")
    pruner = tp.pruner.MagnitudePruner(
        net, x, importance=norm, pruning_ratio=len(ZERO) / 8, ignored_layers=[net.last]
    )
    pruner.step()
    assert net.first.weight.flatten(1).norm(dim=1).min() > 0  # these two went, no others
    with torch.no_grad():
        return float((net(x) - before).abs().max() / before.abs().max())


found = {
    "plain": change(lambda y: y),
    "shuffle": change(shuffle),
    "flip": change(lambda y: y.flip(1)),
    "roll": change(lambda y: y.roll(3, 1)),
    "pad": change(lambda y: F.pad(y, (0, 0, 0, 0, 2, 2))),
}
said = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
print(f"largest change of the output by the removal of channels that are zero, relative: {said}")
plain = found.pop("plain")
sys.exit(not (plain < 1e-4 and min(found.values()) > 0.1))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/moved.py"
