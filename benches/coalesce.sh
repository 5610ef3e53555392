#!/usr/bin/env bash
# Measures the values behind `coalesce = "auto"` (src/shard/coalesce.rs): CPU per delivery and latency, at once and with
# `auto` and several `coalesce_max`, at 50 to 5000 events/s to 1000 clients; then the same of a market,
# 2000 clients with 20 of 500 channels and 2000 events/s. Server on core 0, load tool on core 1. Prints Markdown tables; the
# load tool's reports stay in target/coalesce.
# Usage: benches/coalesce.sh [seconds per measurement, default 5] [rates...]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}; shift || true
rates=${*:-50 200 500 1000 2000 5000}
out=target/coalesce
mkdir -p "$out"
cargo build --profile dist --quiet --bin tickgate
cargo build --profile dist --quiet -p tickgate-loadtest
source loadtest/servers.sh
figure() { grep -o "\"$2\":[0-9.e+-]*" "$1" | head -1 | cut -d: -f2; }

# row LABEL WAIT SCENARIO [arguments]: one row of a table. WAIT is a fixed time, or `auto:` and the longest wait.
row() {
  local label=$1 wait=$2 scenario=$3; shift 3
  local report=$out/$label-${wait/:/-}.json
  rm -f "$report"
  export TICKGATE_SERVER__COALESCE=${wait%%:*}
  case $wait in auto:*) export TICKGATE_SERVER__COALESCE_MAX=${wait#auto:} ;; *) unset TICKGATE_SERVER__COALESCE_MAX ;; esac
  start_tickgate 2>/dev/null
  taskset -c 1 target/dist/tickgate-loadtest "$scenario" --url ws://127.0.0.1:18080 --secret-env TICKGATE_JWT_SECRET \
    --publish-url http://127.0.0.1:18081 --name "$wait" --pid "$server" --seconds "$seconds" --json "$report" "$@" >/dev/null || true
  stop
  if [ -e "$report" ]; then
    printf '| %s | %s | %.2f µs | %.0f %% | %.1f / %.1f ms | %.0f |\n' "$label" "$wait" "$(figure "$report" server_cpu_us_per_delivery)" \
      "$(awk "BEGIN { print 100 * $(figure "$report" server_cores) }")" "$(figure "$report" latency_ms_p50)" \
      "$(figure "$report" latency_ms_p99)" "$(figure "$report" missing)"
  else
    echo "| $label | $wait | fell behind | | | |"
  fi
}

waits="0ms auto:10ms auto:15ms auto:20ms"
head() { echo "| $1 | wait | CPU per delivery | core | p50 / p99 | missing |"; echo "|---|---|---|---|---|---|"; }
head events/s
for rate in $rates; do
  for wait in $waits; do row "$rate" "$wait" fanout --clients 1000 --rate "$rate"; done
done
echo; head market
for wait in $waits; do
  row market "$wait" market --adapter tickgate-market --clients 2000 --channels 500 --subscriptions 20 --rate 2000 --connect-window 16
done
