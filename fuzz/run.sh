#!/usr/bin/env bash
# Fuzzes each target for some processor time, starting from its committed corpus. Prints the number of executed inputs and
# the coverage. The canary must crash within its time.
# Needs nightly Rust and cargo-fuzz (cargo install cargo-fuzz --locked).
#
#   fuzz/run.sh               600 seconds for each target
#   fuzz/run.sh 60 decoder    60 seconds, only these targets; the gateway is built only if one of them needs it
#   KEEP=found fuzz/run.sh    keeps new inputs in found/TARGET; the next run with the same KEEP continues from them
#
# An input that crashes a target is saved in fuzz/artifacts/TARGET. To add new inputs to the committed corpus, run
# `fuzz/merge.sh found`.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    targets=(canary decoder round_trip deflate messages broker redis sources patterns engine_io ingress http selection config shard)
fi

# Built once and run from copies, so that a build in the meantime does not change a running target.
features=()
for target in "${targets[@]}"; do
    if grep -A 2 "^name = \"$target\"$" fuzz/Cargo.toml | grep -q gateway; then features=(--features gateway); fi
done
cargo +nightly fuzz build "${features[@]}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
for target in "${targets[@]}"; do
    cp "fuzz/target/$host/release/$target" "$work/"
done

# The last number after a word in the log.
last() { grep -aoE "(^|\s)$1 *[0-9]+" "$work/log" | tail -1 | grep -oE '[0-9]+$' || echo 0; }

# As cargo-fuzz sets it.
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_odr_violation=0
# The target `config` writes a file for each input, in memory if possible.
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
TIMEFORMAT='%U %S'
for target in "${targets[@]}"; do
    # New inputs go into a folder of their own, not into the committed corpus.
    new=${KEEP:-$work/new}/$target
    crashed=fuzz/artifacts/$target
    if [ "$target" = canary ]; then crashed=$work/canary-crash; fi
    mkdir -p "$new" "$crashed"
    outcome=passed executions=0 cpu=0
    # libFuzzer counts elapsed time. On a busy machine it is started again until it has had the processor time.
    while [ "$outcome" = passed ] && [ "$cpu" -lt "$seconds" ]; do
        { time "$work/$target" "$new" "fuzz/corpus/$target" -max_total_time=$((seconds - cpu)) -max_len=4096 \
            -timeout=60 -print_final_stats=1 -artifact_prefix="$crashed/" > "$work/log" 2>&1; } 2> "$work/cpu" \
            || outcome=crashed
        executions=$((executions + $(last stat::number_of_executed_units:)))
        cpu=$(awk -v before="$cpu" 'END { printf "%d", before + $1 + $2 + 0.5 }' "$work/cpu")
    done
    echo "$target: $outcome, $executions executions in $cpu s of processor time," \
        "$(last cov:) edges, $(last ft:) features"
    if [ "$target" = canary ]; then
        [ "$outcome" = crashed ] && grep -q 'the canary was found' "$work/log" && continue
        echo "the canary was not found: the fuzzer does not work" >&2
        exit 1
    fi
    [ "$outcome" = passed ] || { tail -60 "$work/log" >&2; exit 1; }
done
