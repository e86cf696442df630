#!/usr/bin/env bash
# What both sbatch files do: start `compress WORDS...` on every node, and put the job back in the
# queue where a signal stopped it after saving.
set -uo pipefail
trap '' USR1 # the steps of the job hear it; this shell must outlive them
home=${COMPRESS_HOME:-$SLURM_SUBMIT_DIR}
cd "$home" || exit 2

export COMPRESS_STOPPED="$home/.stopped-$SLURM_JOB_ID"
rm -f "$COMPRESS_STOPPED"
MASTER_ADDR=$(scontrol show hostnames "${SLURM_JOB_NODELIST:-localhost}" | head -n 1)
export MASTER_ADDR
inside=()
if [ -n "${SIF:-}" ]; then
    inside=(apptainer exec --nv --bind "$home" --pwd "$home" "$SIF")
fi

srun --kill-on-bad-exit=1 ${inside[@]+"${inside[@]}"} bash docker/slurm/task.sh "$@"
code=$?
if [ -e "$COMPRESS_STOPPED" ]; then
    code=$(<"$COMPRESS_STOPPED")
    rm -f "$COMPRESS_STOPPED"
    echo "stopped after saving; the job goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
