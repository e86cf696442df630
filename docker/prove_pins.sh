#!/usr/bin/env bash
# Proves the pip step of the Dockerfile without Docker, then runs the whole test suite there.
#
#     docker/prove_pins.sh DIR [PYTEST ARGUMENT...]
#
# Makes a virtual environment in DIR with the Python and the torch release of the image (3.12 and
# 2.8.0; the image's own torch is an alpha of it), an image-like PIP_CONSTRAINT that pins an older
# ModelOpt, and runs docker/install.sh. Takes gigabytes and most of an hour, so it is run by hand.
# PYTHON names the interpreter, TORCH and MODELOPT the versions.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=${1:?usage: docker/prove_pins.sh DIR [PYTEST ARGUMENT...]}
shift

[ -x "$venv/bin/python" ] || "${PYTHON:-python3.12}" -m venv "$venv"
# shellcheck disable=SC1091
source "$venv/bin/activate"
python -m pip install "torch==${TORCH:-2.8.0}"
printf 'nvidia-modelopt==0.29.0\nsetuptools==70.3.0\n' >"$venv/image-constraint.txt"
PIP_CONSTRAINT="$venv/image-constraint.txt" "$root/docker/install.sh" "${MODELOPT:-0.43.0}"
python -m pip install --no-deps -e "$root"
python -c 'import modelopt, sys, torch; print(sys.version, torch.__version__, modelopt.__version__)'
cd "$root"
exec python -m pytest -q "$@"
