#!/usr/bin/env bash
# Measures the values behind `coalesce = "auto"` (src/shard/coalesce.rs): CPU per delivery and latency, with fixed waits of
# 0, 1, 2 and 5 ms and with `auto`, at 50 to 5000 events/s to 1000 clients. Server on core 0, load tool on core 1. Prints a
# Markdown table; the load tool's reports stay in target/coalesce.
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

echo "| events/s | wait | CPU per delivery | core | p50 / p99 | missing |"
echo "|---|---|---|---|---|---|"
for rate in $rates; do
  for wait in 0ms 1ms 2ms 5ms auto; do
    TICKGATE_SERVER__COALESCE=$wait start_tickgate 2>/dev/null
    report=$out/$rate-$wait.json
    rm -f "$report"
    taskset -c 1 target/dist/tickgate-loadtest fanout --url ws://127.0.0.1:18080 --secret-env TICKGATE_JWT_SECRET \
      --publish-url http://127.0.0.1:18081 --name "$wait" --pid "$server" --clients 1000 --rate "$rate" --seconds "$seconds" \
      --json "$report" >/dev/null || true
    stop
    if [ -e "$report" ]; then
      printf '| %d | %s | %.2f µs | %.0f %% | %.1f / %.1f ms | %.0f |\n' "$rate" "$wait" "$(figure "$report" server_cpu_us_per_delivery)" \
        "$(awk "BEGIN { print 100 * $(figure "$report" server_cores) }")" "$(figure "$report" latency_ms_p50)" \
        "$(figure "$report" latency_ms_p99)" "$(figure "$report" missing)"
    else
      echo "| $rate | $wait | fell behind | | | |"
    fi
  done
done
