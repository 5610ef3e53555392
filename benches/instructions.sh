#!/usr/bin/env bash
# Counts the instructions of the hot paths (benches/instructions.rs, under callgrind) and compares them with
# benches/instructions.txt. An increase of more than 3 % is an error; a decrease of more than 3 % is noted.
# Five tenants may cost at most 3 % more than five groups of channels of one tenant.
# The counts are those of the release profile and depend on the compiler. Usage: benches/instructions.sh [--write]
#
# Needs valgrind, and the harness's runner in the version of Cargo.lock:
#   cargo install gungraun-runner --version "$(cargo metadata --format-version 1 | grep -o 'gungraun@[0-9.]*' | head -1 | cut -d@ -f2)"
set -euo pipefail
cd "$(dirname "$0")/.."
reference=benches/instructions.txt
counts=$(cargo bench --locked --bench instructions -- --color=never 2>/dev/null | awk '
  /^instructions::/ { name = $1 " " $2; sub(/^instructions::paths::/, "", name); sub(/:.*/, "", name) }
  /Instructions:/ { sub(/\|.*/, "", $2); print name, $2 }')
[ -n "$counts" ] || { echo "nothing was counted: are valgrind and gungraun-runner installed?" >&2; exit 1; }
if [ "${1:-}" = --write ]; then
  { echo "# Instructions on $(uname -m) with $(rustc --version), written by benches/instructions.sh --write"; echo "$counts"; } > "$reference"
fi
echo "$counts" | awk -v reference="$reference" '
  BEGIN { while ((getline line < reference) > 0) if (line !~ /^#/) { split(line, part, " "); before[part[1] " " part[2]] = part[3] } }
  {
    name = $1 " " $2; was = before[name]; delete before[name]; count[name] = $3
    if (!was) { printf "%-40s %12d  not in %s\n", name, $3, reference; bad = 1; next }
    change = ($3 / was - 1) * 100
    note = change > 3 ? "  MORE" : change < -3 ? "  less: --write?" : ""
    printf "%-40s %12d %+7.1f %%%s\n", name, $3, change, note
    bad = bad || change > 3
  }
  END {
    for (name in count) {
      base = name
      if (!sub(/_five_tenants$/, "_five_channels", base) || !(base in count)) continue
      change = (count[name] / count[base] - 1) * 100
      printf "%-40s %+20.1f %% over one tenant%s\n", name, change, (change > 3 ? "  MORE" : "")
      bad = bad || change > 3
    }
    for (name in before) { print name " was not counted"; bad = 1 }
    exit bad
  }'
