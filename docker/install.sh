#!/usr/bin/env bash
# The pip step of the Dockerfile, in a file of its own so that docker/prove_pins.sh runs the same.
#
#     docker/install.sh MODELOPT      MODELOPT: version of nvidia-modelopt
#
# Installs what pyproject.toml declares beside the torch that is there, and fails if pip moved
# anything of the stack around torch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python "$here/pins.py" keep >"$work/kept.txt"
python "$here/pins.py" requires >"$work/requires.txt"
{ cat "$work/kept.txt"; echo "nvidia-modelopt==$1"; } >"$work/constraints.txt"
# Replaces the image's PIP_CONSTRAINT for this step: see pins.py.
PIP_CONSTRAINT="$work/constraints.txt" python -m pip install --no-cache-dir -r "$work/requires.txt"
python "$here/pins.py" changed "$work/kept.txt"
