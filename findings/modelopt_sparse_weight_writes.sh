#!/usr/bin/env bash
# What is written into the weight of a layer that ModelOpt has made sparse is lost without a word.
#
# After mts.sparsify, layer.weight is a new product of weight and mask at each access. zero_, copy_,
# an assignment to an index or to .data and torch.nn.init change that product and nothing else: the
# next forward pass computes as before. layer.reset_parameters() draws a new bias and leaves the
# weight. layer.weight.grad is None after backward(). The layer still is an nn.Conv2d, and
# named_parameters() still names "0.weight"; what is written there, counts. A layer that ModelOpt
# has quantised takes every write.
# It hurts whoever copies a teacher's weights, clips or resets a layer, or scores channels by
# layer.weight.grad after sparsifying.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), nvidia-modelopt 0.47.0. 2026-12-01.
# Output seen:
#   the output changes by a write to layer.weight  plain  quantised  sparse
#   zero_                                          True   True       False
#   copy_                                          True   True       False
#   index                                          True   True       False
#   data                                           True   True       False
#   init.orthogonal_                               True   True       False
#   reset_parameters, bias put back                True   True       False
#   named_parameters                               True   True       True
#   layer.weight.grad is there                     True   True       False
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# requests and huggingface_hub are imported by ModelOpt and not declared by it.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 \
    requests huggingface_hub
cat >"$folder/writes.py" <<'PYTHON'
import contextlib
import io
import sys

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import modelopt.torch.quantization as mtq
    import modelopt.torch.sparsity as mts

torch.manual_seed(0)
IMAGE, OTHER = torch.randn(1, 16, 8, 8), torch.randn(32, 16, 3, 3)


def network(kind):
    net = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1))
    with contextlib.redirect_stdout(io.StringIO()):
        if kind == "sparse":
            net = mts.sparsify(net, "sparse_magnitude")
        if kind == "quantised":
            net = mtq.quantize(net, mtq.INT8_DEFAULT_CFG, lambda model: model(IMAGE))
    assert isinstance(net[0], nn.Conv2d)
    return net


def index(layer):
    layer.weight[:4] = 0


def data(layer):
    layer.weight.data = OTHER.clone()


def reset(layer):
    bias = layer.bias.clone()
    layer.reset_parameters()
    layer.bias.copy_(bias)


WRITES = {
    "zero_": lambda layer: layer.weight.zero_(),
    "copy_": lambda layer: layer.weight.copy_(OTHER),
    "index": index,
    "data": data,
    "init.orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "reset_parameters, bias put back": reset,
    "named_parameters": lambda layer: dict(layer.named_parameters())["weight"].copy_(OTHER),
}
KINDS = ("plain", "quantised", "sparse")


def changes(kind, write):
    net = network(kind)
    with torch.no_grad():
        before = net(IMAGE)
        write(net[0])
        return not torch.equal(net(IMAGE), before)


def graded(kind):
    net = network(kind)
    net(IMAGE).square().sum().backward()
    return net[0].weight.grad is not None


rows = {name: [changes(kind, write) for kind in KINDS] for name, write in WRITES.items()}
rows["layer.weight.grad is there"] = [graded(kind) for kind in KINDS]
print("the output changes by a write to layer.weight  plain  quantised  sparse")
right = True
for name, row in rows.items():
    print(f"{name:45}  {row[0]!s:5}  {row[1]!s:9}  {row[2]}")
    right &= row == [True, True, name == "named_parameters"]
sys.exit(not right)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/writes.py" 2>/dev/null
