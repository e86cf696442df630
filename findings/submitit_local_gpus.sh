#!/usr/bin/env bash
# submitit's local executor gives every job the same first GPUs, and not those that its own process was given.
#
# A job with gpus_per_node=1 gets CUDA_VISIBLE_DEVICES=0, whatever runs beside it: three such jobs, submitted at once, share GPU 0
# and leave the others idle. Where the submitting process itself was given GPUs 2 and 3, its jobs leave them and take GPU 0, which may
# be somebody else's. And the tasks of one job all see all of its GPUs, as in Slurm. So one executor does not spread a sweep
# over a host: each job has to choose a GPU itself, from what CUDA_VISIBLE_DEVICES said in the submitting process.
#
# Versions: Python 3.11, submitit 1.5.4, cloudpickle 3.1.2. No GPU is needed. 2026-11-30.
# Output seen: "given 2,3: three jobs of one GPU got 0, 0, 0; two tasks of a job of two GPUs got 0,1 and 0,1"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet submitit==1.5.4 cloudpickle==3.1.2
cat >"$folder/jobs.py" <<'PYTHON'
import os
import sys

import submitit


def seen():
    """What a job is given."""
    import os

    return os.environ.get("CUDA_VISIBLE_DEVICES")


executor = submitit.LocalExecutor(sys.argv[1])
executor.update_parameters(gpus_per_node=1, timeout_min=5)
jobs = [executor.submit(seen) for _ in range(3)]
single = [job.result() for job in jobs]
executor.update_parameters(gpus_per_node=2, tasks_per_node=2, timeout_min=5)
double = executor.submit(seen).results()
print(
    f"given {os.environ['CUDA_VISIBLE_DEVICES']}: three jobs of one GPU got {', '.join(single)}; "
    f"two tasks of a job of two GPUs got {' and '.join(double)}"
)
sys.exit(single != ["0", "0", "0"] or double != ["0,1", "0,1"])
PYTHON
CUDA_VISIBLE_DEVICES=2,3 "$folder/venv/bin/python" "$folder/jobs.py" "$folder/logs"
