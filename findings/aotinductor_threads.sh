#!/usr/bin/env bash
# An AOTInductor package for CPUs keeps the number of threads of the process that built it, unless that was every core of the host.
#
# What Inductor generates (here a Softplus; convolutions are oneDNN's, which asks) says num_threads(N) with the N that torch had then.
# The process that loads the package is not asked: torch.set_num_threads(1), OMP_NUM_THREADS or a share of a cluster's node have no
# effect on it. Built with N = 1, the loops are never parallel. Only where N equals os.cpu_count(), which counts hardware threads,
# torch's own default on many hosts being cores, is the number left open. The setting cpp.dynamic_threads leaves it open always.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), g++. 2026-11-30.
# Output seen, on a host of 2 cores:
#   "built with 4 threads, loaded with 1: 3 new ones; with cpp.dynamic_threads: 0 new ones; built with 1, loaded with 4: 0 new ones"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
cat >"$folder/threads.py" <<'PYTHON'
import os
import subprocess
import sys

import torch


def build(path, threads, **settings):
    torch.set_num_threads(threads)
    program = torch.export.export(torch.nn.Softplus(), (torch.rand(1, 1, 512, 512),))
    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=settings)


def new_threads(path, threads):
    """Of a process that was told how many to use, while the package runs."""
    torch.set_num_threads(threads)
    package = torch._inductor.aoti_load_package(path)
    before = len(os.listdir("/proc/self/task"))
    package(torch.rand(1, 1, 512, 512))
    return len(os.listdir("/proc/self/task")) - before


def alone(path, threads):
    command = [sys.executable, "-W", "ignore", __file__, path, str(threads)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if sys.argv[1:]:
    print(new_threads(sys.argv[1], int(sys.argv[2])))
    sys.exit()
folder = os.path.dirname(__file__)
several = 4 if os.cpu_count() != 4 else 3
build(f"{folder}/several.pt2", several)
build(f"{folder}/open.pt2", several, **{"cpp.dynamic_threads": True})
build(f"{folder}/one.pt2", 1)
found = [alone(f"{folder}/{name}.pt2", n) for name, n in (("several", 1), ("open", 1), ("one", 4))]
print(
    f"built with {several} threads, loaded with 1: {found[0]} new ones; with cpp.dynamic_threads: {found[1]} new ones; "
    f"built with 1, loaded with 4: {found[2]} new ones"
)
sys.exit(os.cpu_count() > 1 and found != [several - 1, 0, 0])
PYTHON
TORCHINDUCTOR_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" -W ignore "$folder/threads.py" 2>/dev/null
