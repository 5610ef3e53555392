#!/usr/bin/env bash
# Measures the release binary beside the naive server: server on core 0, load tool on core 1, one after the other in
# the same run. Writes JSON and text to target/measure. Usage: loadtest/measure.sh [seconds per figure, default 10]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
out=target/measure
mkdir -p "$out"
cargo build --release --bin tickgate
cargo build --release -p tickgate-loadtest --bins --examples

TICKGATE_JWT_SECRET=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
TICKGATE_ADMIN_KEY=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export TICKGATE_JWT_SECRET TICKGATE_ADMIN_KEY
token=$(target/release/tickgate token --sub load --ttl 24h --config loadtest/tickgate.toml)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server" || true; } 2>/dev/null; server=; }
trap stop EXIT

# Waits until a port answers; a server that has ended is an error.
await() {
  for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
    kill -0 "$server" || return 1
    sleep 0.05
  done
  return 1
}
start_tickgate() { taskset -c 0 target/release/tickgate serve --config loadtest/tickgate.toml & server=$!; await 18080; await 18081; }
start_naive() { taskset -c 0 target/release/examples/naive 127.0.0.1:18100 >/dev/null & server=$!; await 18100; }
tool() {
  local scenario=$1 name=$2 label=$3; shift 3
  local where=(--url ws://127.0.0.1:18080/ws --token "$token" --publish-url http://127.0.0.1:18081/api/publish
               --publish-key "$TICKGATE_ADMIN_KEY")
  [ "$name" = naive ] && where=(--url ws://127.0.0.1:18100/ws --publish-url http://127.0.0.1:18100/api/publish)
  taskset -c 1 target/release/tickgate-loadtest "$scenario" "${where[@]}" --name "$name" --pid "$server" \
    --json "$out/$name-$label.json" "$@" | tee "$out/$name-$label.txt"
}

for rate in 50 500 2000; do
  for name in naive tickgate; do
    # The naive server cannot keep up with 2000/s for long; there is nothing to compare.
    [ "$name-$rate" = naive-2000 ] && continue
    "start_$name"
    tool fanout "$name" "$rate" --clients 1000 --rate "$rate" --seconds "$seconds"
    stop
  done
done
for name in naive tickgate; do
  # Two descriptors per connection are not needed: each process has its own 10,000.
  "start_$name"
  tool idle "$name" idle --clients 10000 --seconds "$seconds"
  stop
done
start_tickgate
tool idle tickgate stalled --clients 10000 --seconds "$seconds" --stalled
