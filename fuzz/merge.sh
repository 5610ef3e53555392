#!/usr/bin/env bash
# Adds the inputs that fuzz/run.sh kept to the committed corpora, and reduces each corpus to the fewest inputs with the same
# coverage. Handwritten inputs, which have names, are kept. Run `fuzz/run.sh` first, which builds the targets.
#
#   fuzz/merge.sh found             every target with kept inputs
#   fuzz/merge.sh found decoder     only these targets
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
    # By edges alone. Counting how often each edge is passed would keep thousands of inputs.
    "fuzz/target/$host/release/$target" -set_cover_merge=1 -use_counters=0 "$merged" "$corpus" "$found/$target" \
        > "$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
    find "$corpus" -type f -regextype posix-extended ! -regex '.*/[0-9a-f]{40}' -exec cp {} "$merged/" \;
    echo "$target: $(find "$corpus" -type f | wc -l) inputs before, $(find "$merged" -type f | wc -l) now"
    find "$corpus" -type f -delete
    cp "$merged"/* "$corpus/"
done
