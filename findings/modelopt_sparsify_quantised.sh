#!/usr/bin/env bash
# ModelOpt's sparsify leaves a quantised network dense, and its state says that it is sparse.
#
# mtq.quantize makes each Conv2d a QuantConv2d, which mts.sparsify does not look for. It finds no
# layer, raises nothing, warns of nothing, and returns the network with "sparse_magnitude" in its
# ModelOpt state. mts.export accepts that, too, and no weight is zero. Mode "sparsegpt" runs its
# calibration loop and leaves the network dense as well. In the other order, sparsify and then
# quantize, half of the weights are zero. Counting the zeros is what shows it.
# It hurts whoever adds 2:4 sparsity to an INT8 network of CT: its training and its engine stay
# dense.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), nvidia-modelopt 0.47.0. 2026-12-01.
# Output seen:
#   sparse_magnitude: quantize first 0 % zeros, in the state True, warnings 0; sparsify first 50 %
#   sparsegpt: quantize first 0 % zeros, in the state True, warnings 0; sparsify first 50 %
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# requests and huggingface_hub are imported by ModelOpt and not declared by it.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 \
    requests huggingface_hub
cat >"$folder/order.py" <<'PYTHON'
import contextlib
import io
import sys
import warnings

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import modelopt.torch.opt as mto
    import modelopt.torch.quantization as mtq
    import modelopt.torch.sparsity as mts

torch.manual_seed(0)
IMAGE = torch.randn(4, 16, 8, 8)


def network():
    first, last = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
    return nn.Sequential(first, nn.LeakyReLU(), last)


def quantised(net):
    return mtq.quantize(net, mtq.INT8_DEFAULT_CFG, lambda model: model(IMAGE))


def sparse(net, mode):
    return mts.sparsify(net, mode, {"forward_loop": lambda model: model(IMAGE)})


def zeros(net):
    """In percent, of the weights that the forward pass takes."""
    weights = torch.cat([net[i].weight.flatten() for i in (0, 2)])
    return round(100 * float((weights == 0).float().mean()))


right = True
for mode in ("sparse_magnitude", "sparsegpt"):
    with contextlib.redirect_stdout(io.StringIO()):
        net = quantised(network())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            net = sparse(net, mode)
        modes = [name for name, _ in mto.modelopt_state(net)["modelopt_state_dict"]]
        after = zeros(mts.export(net))
        other = zeros(quantised(sparse(network(), mode)))
    print(
        f"{mode}: quantize first {after} % zeros, in the state {mode in modes}, "
        f"warnings {len(said)}; sparsify first {other} %"
    )
    right &= (after, mode in modes, len(said), other) == (0, True, 0, 50)
sys.exit(not right)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/order.py" 2>/dev/null
