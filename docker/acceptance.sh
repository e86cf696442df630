#!/usr/bin/env bash
# Everything that needs a GPU host, in one go: what a user with an A100 runs to prove the flagship.
#
#     docker/acceptance.sh OUT            hours; OUT becomes a folder and OUT.tar.gz
#     ACCEPTANCE_QUICK=1 docker/acceptance.sh OUT     minutes, on a CPU too: does the script work?
#
# Every part has a log and a line in OUT/summary.md. A part that cannot run here is said to be
# missing, with the reason, and does not stop the rest. Exit status: 0 where no part failed, else 1.
# Run again with the same OUT, the recipe goes on where it was stopped.
# Parts are called by name, which shellcheck does not see.
# shellcheck disable=SC2329
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "${1:?usage: docker/acceptance.sh OUT}")
quick=${ACCEPTANCE_QUICK:-}
mkdir -p "$out/logs" || exit 2
cd "$root" || exit 2

python=${PYTHON:-python}
summary="$out/summary.md"
failed=0
recipe=recipes/ddnet_struct60_asp.yaml
[ -z "$quick" ] || recipe=recipes/smoke.yaml

# line NAME STATE SECONDS REMARK: one row of the summary, on the screen too.
line() {
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$3" "${4//|/\\|}" >>"$summary"
    printf '%-22s %-8s %s\n' "$1" "$2" "$4"
}

# part NAME COMMAND...: run it; its output goes to a log, its last words into the summary.
part() {
    local name=$1 start=$SECONDS code log="$out/logs/$1.log"
    shift
    "$@" >"$log" 2>&1
    code=$?
    if [ "$code" = 0 ]; then
        line "$name" "done" "$((SECONDS - start))" "$(tail -n 1 "$log")"
        return 0
    fi
    failed=1
    line "$name" FAILED "$((SECONDS - start))" "status $code: $(tail -n 1 "$log")"
    return "$code"
}

# needs NAME WHY COMMAND...: whether the part can run here; else a line that says why not.
needs() {
    local name=$1 why=$2
    shift 2
    "$@" >/dev/null 2>&1 && return 0
    line "$name" missing 0 "$why"
    return 1
}

compress() { "$python" -m compress "$@"; }

gpu() { "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

describe() {
    nvidia-smi
    nvidia-smi --query-gpu=name,uuid,driver_version,clocks.max.sm,power.limit --format=csv
}

# Doctor as a table for people and as JSON for programs.
doctor() { compress doctor --json >"$out/doctor.json" && compress doctor "$recipe"; }

flagship() {
    local words=()
    [ -n "$quick" ] || words=(--no-fallback)
    compress run "$recipe" --out "$out/flagship" ${words[@]+"${words[@]}"}
}

# Sidecars of the engines that were built: FILE.json beside FILE.
engines() {
    local side
    for side in "$out"/flagship/*-export/*.json; do
        [ ! -e "${side%.json}" ] || echo "$side"
    done
}

# Layers of every engine: eligible for 2:4, and picked where the engine tells.
inspect_engines() {
    local side count=0
    for side in $(engines); do
        compress inspect --json "$side" >"$out/layers-$(basename "$side")" || return
        compress inspect "$side" || return
        count=$((count + 1))
    done
    echo "$count engines"
    [ "$count" -gt 0 ]
}

# Dense and final network and every engine in turns, in one run; the report shows it.
bench_engines() {
    local paths=("$out"/flagship/*-train "$out"/flagship/*-retrain) side words=()
    paths=("${paths[0]}" "${paths[-1]}")
    [ -n "$quick" ] || words=(--mode "eager-fp32,eager-fp16,compiled")
    for side in $(engines); do
        paths+=("${side%.json}")
    done
    # Batches are those of the engines.
    compress bench --json ${words[@]+"${words[@]}"} "${paths[@]}" >"$out/flagship/bench.json" &&
        compress report "$out/flagship"
}

bench_training() {
    "$python" tests/bench/train_step.py --size 512 >"$out/train_step.json" && echo train_step.json
}

apex_masks() {
    local words=(--seeds 3 --epochs 20)
    if [ -n "$quick" ]; then
        words=(--seeds 1 --epochs 1 --crop 32 --size 64 --data phantom --device cpu)
        words+=(--precisions fp32 --backends modelopt)
    fi
    "$python" tests/gpu/apex_masks.py "${words[@]}" >"$out/apex_masks.json" && echo apex_masks.json
}

apex() { "$python" docker/check.py apex.amp "Apex ASP"; }

gpu_tests() { "$python" -m pytest -q -p no:cacheprovider tests/gpu; }

pack() {
    # Without what can be made again: training states, and checkpoints of the stages between.
    tar -czf "$out.tar.gz" -C "$(dirname "$out")" --exclude='state.*' --exclude='*.pt' \
        --exclude='[0-9][0-9]-*/model.safetensors' "$(basename "$out")" && du -h "$out.tar.gz"
}

{
    echo "# Acceptance"
    echo
    echo "$(date -u +%Y-%m-%dT%H:%MZ), recipe $recipe, commit $(git rev-parse HEAD 2>/dev/null || echo unknown)"
    echo
    echo "| part | state | seconds | last words |"
    echo "|---|---|---:|---|"
} >"$summary"

if needs machine "no nvidia-smi on this machine" command -v nvidia-smi; then part machine describe; fi
part doctor doctor
if part flagship flagship; then
    part eligible-picked inspect_engines
    part bench-engines bench_engines
fi
if [ -n "$quick" ] || needs apex-masks "apex.amp or ASP does not import" apex; then
    part apex-masks apex_masks
fi
if needs bench-training "no GPU" gpu; then part bench-training bench_training; fi
if needs gpu-tests "no GPU" gpu; then part gpu-tests gpu_tests; fi
pack || failed=1
exit "$failed"
