#!/usr/bin/env bash
# The state dict of a network that ModelOpt has made 2:4 sparse holds dense weights.
#
# After mts.sparsify half of layer.weight is zero, in training, too. But state_dict()["0.weight"] is the dense tensor under the mask,
# with no zero in it; the mask is an entry of its own, "0._weight_mask", which the class of the network does not know. Whoever keeps
# a state dict and loads its known keys gets the shapes right, no error, and a network without a zero, which computes something
# else. named_parameters() is dense in the same way, so norms and counts of zeros over parameters are those of the dense network.
# mts.export before state_dict(), or mto.save with mto.restore, keep the zeros.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), nvidia-modelopt 0.47.0. 2026-11-30.
# Output seen: "zeros: layer.weight 50 %, state dict 0 %, parameters 0 %, loaded 0 %, exported 50 %; loaded computes the same: False"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# requests and huggingface_hub are imported by ModelOpt and not declared by it.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub
cat >"$folder/zeros.py" <<'PYTHON'
import contextlib
import copy
import io
import sys

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import modelopt.torch.sparsity as mts


def network():
    return nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1))


def zeros(weight):
    """In percent."""
    return round(100 * float((weight == 0).float().mean()))


torch.manual_seed(0)
with contextlib.redirect_stdout(io.StringIO()):
    sparse = mts.sparsify(network(), "sparse_magnitude")
kept = sparse.state_dict()
loaded = network()
loaded.load_state_dict({key: kept[key] for key in loaded.state_dict()})
image = torch.randn(1, 16, 8, 8)
same = torch.allclose(loaded(image), sparse(image))
found = [
    zeros(sparse[0].weight),
    zeros(kept["0.weight"]),
    zeros(dict(sparse.named_parameters())["0.weight"]),
    zeros(loaded[0].weight),
    zeros(mts.export(copy.deepcopy(sparse)).state_dict()["0.weight"]),
]
print(
    "zeros: layer.weight {} %, state dict {} %, parameters {} %, loaded {} %, exported {} %; ".format(*found)
    + f"loaded computes the same: {same}"
)
sys.exit(found != [50, 0, 0, 0, 50] or same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/zeros.py" 2>/dev/null
