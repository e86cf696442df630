#!/usr/bin/env bash
# Everything that needs a GPU host, in one go: what a user with an A100 runs to prove the reference recipe.
#
#     docker/acceptance.sh OUT            an hour or so; OUT becomes a folder and OUT.tar.gz
#     docker/acceptance.sh OUT PART...    these parts only, named as in the summary
#     ACCEPTANCE_QUICK=1 docker/acceptance.sh OUT     minutes, on a CPU too: does the script work?
#
# With TENSORRT_RTX=FOLDER, where `lib` and `site` hold TensorRT-RTX, part `engines` builds for that.
# Every part has a log and a line in OUT/summary.md. A part that cannot run here is said to be
# missing, with the reason, and does not stop the rest. Exit status: 0 where no part failed, else 1.
# Run again with the same OUT, the recipe goes on where it was stopped.
# Parts are called by name, which shellcheck does not see.
# shellcheck disable=SC2329
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "${1:?usage: docker/acceptance.sh OUT [PART...]}")
shift
parts=(machine doctor reference eligible-picked bench-engines engines apex-masks precisions
    bench-training gpu-tests)
asked=("${@:-${parts[@]}}")
for name in "${asked[@]}"; do
    if [[ " ${parts[*]} " != *" $name "* ]]; then
        echo "there is no part $name; there are $(printf "%s, " "${parts[@]}" | sed "s|, $||")" >&2
        exit 2
    fi
done
quick=${ACCEPTANCE_QUICK:-}
mkdir -p "$out/logs" || exit 2
cd "$root" || exit 2

python=${PYTHON:-python}
summary="$out/summary.md"
failed=0
recipe=recipes/ddnet_struct60_gpu.yaml
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

compress() { "$python" -m compress "$@"; }

# wanted NAME: whether this part is to run.
wanted() { [[ " ${asked[*]} " == *" $1 "* ]]; }

gpu() { "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>&1; }

machine() {
    nvidia-smi
    nvidia-smi --query-gpu=name,uuid,driver_version,clocks.max.sm,power.limit --format=csv
}

# Doctor as a table for people and as JSON for programs.
doctor() { compress doctor --json >"$out/doctor.json" && compress doctor "$recipe"; }

# watched COMMAND...: run it; how busy the GPU was goes to OUT/gpu.csv, twice a second.
watched() {
    local watcher='' code device=${CUDA_VISIBLE_DEVICES:-0}
    if command -v nvidia-smi; then
        nvidia-smi -i "${device%%,*}" --format=csv,noheader,nounits -lms 500 \
            --query-gpu=timestamp,utilization.gpu,utilization.memory,power.draw,clocks.sm \
            >"$out/gpu.csv" &
        watcher=$!
        trap 'kill "$watcher"' EXIT
    fi
    "$@"
    code=$?
    [ -z "$watcher" ] || kill "$watcher"
    trap - EXIT
    return "$code"
}

# Trained under watch, then the rest; how busy the GPU was from its first kernel on is the last word.
reference() {
    local words=("$recipe" --out "$out/reference")
    [ -n "$quick" ] || words+=(--no-fallback)
    watched compress run "${words[@]}" --until 04-retrain && compress run "${words[@]}" || return
    [ ! -s "$out/gpu.csv" ] || awk -F', ' '$2 > 0 { begun = 1 } begun { busy += $2; watt += $4; n++ } END {
        if (n) printf "GPU busy %.1f %% while training, %.0f W, %d samples\n", busy / n, watt / n, n
    }' "$out/gpu.csv"
}

# Sidecars of the engines that were built: FILE.json beside FILE.
sidecars() {
    local side
    for side in "$out"/reference/*-export/*.json; do
        [ ! -e "${side%.json}" ] || echo "$side"
    done
}

# Layers of every engine: eligible for 2:4, and picked where the engine tells.
eligible_picked() {
    local side count=0
    for side in $(sidecars); do
        compress inspect --json "$side" >"$out/layers-$(basename "$side")" || return
        compress inspect "$side" || return
        count=$((count + 1))
    done
    echo "$count engines"
    [ "$count" -gt 0 ]
}

# Dense and final network and every engine in turns, in one run, beside a fused engine of the pruned network without 2:4: of
# equal widths, so the report tells what 2:4 alone is worth.
bench_engines() {
    local found=("$out"/reference/*-train "$out"/reference/*-retrain) paths side words=()
    paths=("${found[0]}" "${found[-1]}")
    for side in $(sidecars); do
        paths+=("${side%.json}")
    done
    if [ -z "$quick" ]; then
        words=(--mode "eager-fp32,eager-fp16,compiled")
        # Where there are no fused engines the log says why, and the others are timed.
        if compress export "${found[1]}" --format fused --batch 1,16 -o "$out/without-2to4"; then
            paths+=("$out"/without-2to4/*.safetensors)
        fi
    fi
    # Batches are those of the engines.
    compress bench --json ${words[@]+"${words[@]}"} "${paths[@]}" >"$out/reference/bench.json" &&
        compress report "$out/reference"
}

# AOTInductor, TensorRT and fused engines for the dense, the pruned and the 2:4 network of the reference recipe, beside PyTorch.
engines() {
    local pair words=(--out "$out/engines" --checkpoints "$out/networks" --data demo)
    mkdir -p "$out/networks"
    for pair in dense:00-train struct60:02-retrain struct60-24:04-retrain; do
        ln -sfn "$out/reference/${pair#*:}" "$out/networks/${pair%:*}" || return
    done
    [ -z "${TENSORRT_RTX:-}" ] || words+=(--rig "$TENSORRT_RTX")
    "$python" tests/gpu/engines.py "${words[@]}" >"$out/engines.json" && echo engines.json
}

# The dense network in every loop; the pruned and the 2:4 one in ours, which tells how much faster they train.
bench_training() {
    local words=(tests/bench/train_step.py --size 512 --steps 20 --rounds 3)
    "$python" "${words[@]}" --network dense --out "$out/train_step.json" || return
    words+=(--network pruned --network sparse --loop ours --loop ours_compiled)
    "$python" "${words[@]}" --out "$out/train_step_pruned.json" &&
        echo "train_step.json, train_step_pruned.json"
}

precisions() {
    PYTHONPATH="$root/tests${PYTHONPATH:+:$PYTHONPATH}" \
        "$python" tests/gpu/precisions.py --steps 200 >"$out/precisions.json" && echo precisions.json
}

apex_masks() {
    local words=(--seeds 3 --epochs 10 --jobs 4)
    if [ -n "$quick" ]; then
        words=(--seeds 1 --epochs 1 --crop 32 --size 64 --data phantom --device cpu)
        words+=(--precisions fp32 --backends modelopt)
    fi
    "$python" tests/gpu/apex_masks.py "${words[@]}" >"$out/apex_masks.json" && echo apex_masks.json
}

apex() { "$python" docker/check.py apex.amp "Apex ASP" >/dev/null 2>&1; }

# lacking PART: why it cannot run here; no word where it can.
lacking() {
    case "$1" in
    machine) command -v nvidia-smi >/dev/null || echo "no nvidia-smi on this machine" ;;
    apex-masks) [ -n "$quick" ] || apex || echo "apex.amp or ASP does not import" ;;
    engines | precisions | bench-training | gpu-tests) gpu >/dev/null || echo "no GPU" ;;
    esac
    case "$1" in
    eligible-picked | bench-engines | engines)
        compgen -G "$out/reference/*-report/report.html" >/dev/null || echo "the reference recipe has not ended in $out"
        ;;
    esac
}

# Versions that warn of what this one does not are no fault of the GPU.
gpu_tests() { "$python" -m pytest -q -W default -p no:cacheprovider tests/gpu; }

pack() {
    # Without what can be made again: training states, and the weights of all stages.
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

for name in "${parts[@]}"; do
    if ! wanted "$name"; then
        line "$name" "not asked" 0 ""
        continue
    fi
    why=$(lacking "$name" | paste -sd ';' | sed 's/;/; /')
    if [ -n "$why" ]; then
        line "$name" missing 0 "$why"
    else
        part "$name" "${name//-/_}"
    fi
done
pack || failed=1
exit "$failed"
