#!/usr/bin/env bash
# Adds what runs of fuzz/run.sh kept to the committed corpora, and keeps of each the fewest inputs that cover the same
# edges. Inputs with names of their own stay. `fuzz/run.sh` has built the targets.
#
#   fuzz/merge.sh found             every target that something was kept of
#   fuzz/merge.sh found decoder     these only
set -euo pipefail
cd "$(dirname "$0")/.."

found=$1
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for folder in "$found"/*/; do targets+=("$(basename "$folder")"); done
fi

export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_odr_violation=0
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in "${targets[@]}"; do
    corpus=fuzz/corpus/$target
    merged=$work/$target
    mkdir "$merged"
    # Edges alone: with how often each is passed there would be thousands of inputs.
    "fuzz/target/$host/release/$target" -set_cover_merge=1 -use_counters=0 "$merged" "$corpus" "$found/$target" \
        > "$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
    find "$corpus" -type f -regextype posix-extended ! -regex '.*/[0-9a-f]{40}' -exec cp {} "$merged/" \;
    echo "$target: $(find "$corpus" -type f | wc -l) inputs before, $(find "$merged" -type f | wc -l) now"
    find "$corpus" -type f -delete
    cp "$merged"/* "$corpus/"
done
