#!/usr/bin/env bash
# Fuzzes each target for a time of a processor's, from its committed corpus, and says how many inputs were executed and
# what they covered. The canary must crash within that time.
# Needs nightly Rust and cargo-fuzz (cargo install cargo-fuzz --locked).
#
#   fuzz/run.sh               600 seconds each
#   fuzz/run.sh 60 decoder    60 seconds, these targets only
#   KEEP=found fuzz/run.sh    what is new is kept in found/TARGET and read again by the next run, so that it goes on
#
# What made a target crash is in fuzz/artifacts/TARGET. What was kept enters the committed corpus by hand:
# `fuzz/merge.sh found`.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    targets=(canary decoder round_trip deflate messages patterns door http config engine engine_io)
fi

# Built once, and run from copies: what is built meanwhile changes nothing of what is under way.
cargo +nightly fuzz build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
for target in "${targets[@]}"; do
    cp "fuzz/target/$host/release/$target" "$work/"
done

# The last number behind this word in the log.
last() { grep -aoE "(^|\s)$1 *[0-9]+" "$work/log" | tail -1 | grep -oE '[0-9]+$' || echo 0; }

# As cargo-fuzz runs them.
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_odr_violation=0
# The configuration's target writes a file for each input: into memory, where that can be.
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
TIMEFORMAT='%U %S'
for target in "${targets[@]}"; do
    # What is found on the way does not enter the committed corpus by itself.
    new=${KEEP:-$work/new}/$target
    crashed=fuzz/artifacts/$target
    if [ "$target" = canary ]; then crashed=$work/canary-crash; fi
    mkdir -p "$new" "$crashed"
    outcome=passed executions=0 cpu=0
    # Beside other work it goes on until it has had the time.
    while [ "$outcome" = passed ] && [ "$cpu" -lt "$seconds" ]; do
        { time "$work/$target" "$new" "fuzz/corpus/$target" -max_total_time=$((seconds - cpu)) -max_len=4096 \
            -timeout=60 -print_final_stats=1 -artifact_prefix="$crashed/" > "$work/log" 2>&1; } 2> "$work/cpu" \
            || outcome=crashed
        executions=$((executions + $(last stat::number_of_executed_units:)))
        cpu=$(awk -v before="$cpu" 'END { printf "%d", before + $1 + $2 + 0.5 }' "$work/cpu")
    done
    echo "$target: $outcome, $executions executions in $cpu s of the processor's time," \
        "$(last cov:) edges, $(last ft:) features"
    if [ "$target" = canary ]; then
        [ "$outcome" = crashed ] && grep -q 'the canary was found' "$work/log" && continue
        echo "the canary lives: fuzzing finds nothing here" >&2
        exit 1
    fi
    [ "$outcome" = passed ] || { tail -60 "$work/log" >&2; exit 1; }
done
