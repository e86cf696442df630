#!/usr/bin/env bash
# PyTorch 2.11 does not tag leaky_relu as pointwise, though it tags relu, elu and gelu; 2.13 does.
#
# torch.Tag.pointwise is what an operator carries that computes each value from the values at the same
# place alone. A pass over an ATen graph that trusts the tag treats LeakyReLU as an operator that may
# mix channels, and so the forms in place of ELU, CELU, SELU, Hardtanh (ReLU6) and Hardsigmoid, whose
# other forms are tagged. A list of these names beside the tag helps.
#
# Versions: Python 3.11, torch 2.11.0 and 2.13.0. 2026-11-28.
# Output seen: "2.11 lacks the tag of: celu_ elu_ hardsigmoid_ hardtanh_ leaky_relu leaky_relu_ selu_;
#               2.13 has all of them; both tag: celu elu gelu hardsigmoid hardtanh relu relu_ silu_"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/tags.py" <<'PYTHON'
import sys

import torch


def tagged(name):
    packet = getattr(torch.ops.aten, name)
    return any(torch.Tag.pointwise in getattr(packet, one).tags for one in packet.overloads())


print(" ".join(name for name in sys.argv[1:] if tagged(name)))
PYTHON
late="celu_ elu_ hardsigmoid_ hardtanh_ leaky_relu leaky_relu_ selu_"
always="celu elu gelu hardsigmoid hardtanh relu relu_ silu_"
has() {  # version, names: those that it tags
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet "torch==$1" numpy
    "$folder/$1/bin/python" -W ignore "$folder/tags.py" $late $always
}
old=$(has 2.11.0)
new=$(has 2.13.0)
echo "2.11 tags of these: $old"
echo "2.13 tags of these: $new"
[ "$old" = "$always" ] && [ "$new" = "$late $always" ]
