#!/usr/bin/env bash
# Measures the release binary and the naive server one after the other, with the server on core 0 and the load tool on
# core 1. Writes JSON, pages and text to target/measure.
#
# loadtest/measure.sh [seconds per measurement, default 10]   every scenario
# loadtest/measure.sh soak [minutes, default 20]              1000 clients, 1000 events/s: memory must stay flat, no event
#                                                             may be lost; 1440 is a day
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/measure
mkdir -p "$out"
cargo build --profile dist --bin tickgate
cargo build --profile dist -p tickgate-loadtest --bins --examples

source loadtest/servers.sh
start_naive() { taskset -c 0 target/dist/examples/naive 127.0.0.1:18100 >/dev/null & server=$!; await 18100; }
# tool SCENARIO SERVER LABEL [more arguments]; with the gateway, each client is a user of its own.
tool() {
  local scenario=$1 name=$2 label=$3; shift 3
  local where=(--url ws://127.0.0.1:18080 --secret-env TICKGATE_JWT_SECRET --publish-url http://127.0.0.1:18081)
  [ "$name" = naive ] && where=(--url ws://127.0.0.1:18100/ws --publish-url http://127.0.0.1:18100/api/publish)
  taskset -c 1 target/dist/tickgate-loadtest "$scenario" "${where[@]}" --name "$name" --pid "$server" \
    --json "$out/$name-$label.json" --html "$out/$name-$label.html" "$@" | tee "$out/$name-$label.txt"
}

if [ "${1:-}" = soak ]; then
  start_tickgate
  tool soak tickgate soak --clients 1000 --rate 1000 --seconds $((60 * ${2:-20}))
  exit
fi

seconds=${1:-10}
for rate in 50 500 2000; do
  for name in naive tickgate; do
    # The naive server cannot sustain 2000 events/s, so there is nothing to compare.
    [ "$name-$rate" = naive-2000 ] && continue
    "start_$name"
    tool fanout "$name" "$rate" --clients 1000 --rate "$rate" --seconds "$seconds"
    stop
  done
  [ "$rate" = 2000 ] || target/dist/tickgate-loadtest compare "$out/naive-$rate.json" "$out/tickgate-$rate.json" \
    --html "$out/compare-$rate.html" | tee "$out/compare-$rate.txt"
done
for name in naive tickgate; do
  # Server and tool are separate processes, so each needs only 10,000 descriptors. All clients share one token.
  "start_$name"
  tool idle "$name" idle --clients 10000 --seconds "$seconds" $([ "$name" = naive ] || echo --users 1)
  stop
done
start_tickgate; tool idle tickgate stalled --clients 10000 --seconds "$seconds" --stalled --users 1; stop
start_tickgate; tool storm tickgate storm --clients 15000 --others 1000 --rate 50 --seconds "$seconds" --rounds 2 --connect-window 15000; stop
start_tickgate; tool churn tickgate churn --clients 1000 --others 1000 --requests-per-second 5000 --seconds "$seconds"; stop
start_tickgate; tool commands tickgate commands --clients 100 --requests-per-second 2000 --seconds "$seconds"; stop
start_tickgate; tool slow tickgate slow --clients 1000 --stalled 50 --rate 200 --seconds "$seconds"; stop
for adapter in tickgate-typed tickgate-socketio; do
  start_tickgate; tool fanout tickgate "$adapter-500" --adapter "$adapter" --clients 1000 --rate 500 --seconds "$seconds"; stop
done
