#!/usr/bin/env bash
# What srun starts on each node: `compress WORDS...`, under torchrun where there are several GPUs.
#
# Slurm signals every process of a step. To ignore SIGUSR1 is inherited, so only compress, which
# installs a handler, hears it; torchrun and the shells do not die of it.
set -uo pipefail
trap '' USR1

# One process of compress. Status STOPPED of compress/base/exit_codes.py becomes a mark on the disk and 0:
# torchrun ends the other processes, in the midst of their saving, when one fails.
stopped=$(sed -n 's/^STOPPED[^=]*= *//p' "$(dirname "$0")/../../compress/base/exit_codes.py")
work() {
    python -m compress "$@"
    local code=$?
    [ "$code" = "$stopped" ] || return "$code"
    echo "$code" >"$COMPRESS_STOPPED"
}

if [ "${1:-}" = --work ]; then
    shift
    work "$@"
    exit
fi
nodes=${SLURM_NNODES:-1} gpus=${SLURM_GPUS_ON_NODE:-1}
if [ "$1" != run ] || [ $((nodes * gpus)) = 1 ]; then
    work "$@"
    exit
fi
exec torchrun --nnodes="$nodes" --nproc-per-node="$gpus" --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d --rdzv-endpoint="$MASTER_ADDR:${MASTER_PORT:-29500}" \
    --no-python bash "$0" --work "$@"
