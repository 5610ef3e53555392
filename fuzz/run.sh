#!/usr/bin/env bash
# Fuzzes each target for a time, from its committed corpus, and says how many inputs were executed and what they covered.
# The canary must crash within that time. Needs nightly Rust and cargo-fuzz (cargo install cargo-fuzz --locked).
#
#   fuzz/run.sh               600 seconds each
#   fuzz/run.sh 60 decoder    60 seconds, these targets only
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    targets=(canary decoder round_trip deflate messages patterns door config engine engine_io)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
    new=$(mktemp -d)   # what is found on the way does not enter the committed corpus by itself
    if cargo +nightly fuzz run "$target" "$new" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 -verbosity=1 > "$log" 2>&1; then
        outcome=passed
    else
        outcome=crashed
    fi
    runs=$(grep -o 'stat::number_of_executed_units: *[0-9]*' "$log" | grep -o '[0-9]*$' || true)
    coverage=$(grep -o 'cov: [0-9]* ft: [0-9]*' "$log" | tail -1 || true)
    echo "$target: $outcome, ${runs:-unknown} executions, ${coverage:-no coverage known}"
    rm -rf "$new"
    if [ "$target" = canary ]; then
        [ "$outcome" = crashed ] && grep -q 'the canary was found' "$log" && continue
        echo "the canary lives: fuzzing finds nothing here" >&2
        exit 1
    fi
    [ "$outcome" = passed ] || { tail -60 "$log" >&2; exit 1; }
done
