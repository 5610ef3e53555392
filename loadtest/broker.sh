#!/usr/bin/env bash
# Measures from publication to delivery: through the embedded broker, and through NATS and Redis, where events are published to
# one gateway and the clients are connected to another one. Each at 1, 100, 1000 and 10,000 events/s with one client, for
# channels without state (plain) and with a history (log). Writes JSON and text to target/measure.
#
# loadtest/broker.sh [seconds per measurement, default 10] [brokers, default: embedded nats redis]
#
# BIN=target/release uses other binaries than those of the profile dist, which it builds. NATS=FILE and REDIS=FILE use other
# servers than those on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/measure
mkdir -p "$out"
bin=${BIN:-target/dist}
if [ -z "${BIN:-}" ]; then
    cargo build --profile dist --bin tickgate
    cargo build --profile dist -p tickgate-loadtest --bins
fi
seconds=${1:-10}
shift || true
brokers=("$@")
[ ${#brokers[@]} -gt 0 ] || brokers=(embedded nats redis)
PATH="$PATH:/usr/sbin"

source loadtest/servers.sh
work=$(mktemp -d)
end() { stop; rm -rf "$work/store"; }
trap 'end; rm -rf "$work"' EXIT

# gateway NAME PUBLIC ADMIN LANE BROKER: writes the configuration of a gateway. The lane of all channels is that of their class.
gateway() {
    sed "s/127.0.0.1:18080/127.0.0.1:$2/; s/127.0.0.1:18081/127.0.0.1:$3/; s/^shards = 1/shards = 1\nnode = \"$1\"/" loadtest/tickgate.toml
    [ "$4" = plain ] || printf '[[channel]]\nmatch = "load.*"\nhistory = { size = 5000, ttl = "1h" }\n'
    [ "$5" = embedded ] || broker_table "$5"
}

# start BROKER LANE: the clients' gateway is `server`, events are published to port `publish`.
start() {
    publish=18081
    if [ "$1" != embedded ]; then
        start_broker "$1"
        publish=18083
        gateway two 18082 18083 "$2" "$1" >"$work/two.toml"
        "$bin/tickgate" serve --config "$work/two.toml" &
        others+=($!)
    fi
    gateway one 18080 18081 "$2" "$1" >"$work/one.toml"
    "$bin/tickgate" serve --config "$work/one.toml" & server=$!
    await 18080
    # Until both have their link.
    for port in 18081 $publish; do
        for _ in $(seq 200); do curl -sf "http://127.0.0.1:$port/readyz" >/dev/null && break; sleep 0.05; done
    done
}

for lane in plain log; do
    for rate in 1 100 1000 10000; do
        for broker in "${brokers[@]}"; do
            label=$broker-$lane-$rate
            start "$broker" "$lane"
            "$bin/tickgate-loadtest" fanout --url ws://127.0.0.1:18080 --secret-env TICKGATE_JWT_SECRET \
                --publish-url "http://127.0.0.1:$publish" --name "$label" --pid "$server" \
                --clients 1 --channels 1 --rate "$rate" --seconds "$seconds" --json "$out/broker-$label.json" | tee "$out/broker-$label.txt"
            end
        done
    done
done
for lane in plain log; do
    for rate in 1 100 1000 10000; do
        for broker in "${brokers[@]}"; do
            printf '%-24s %s\n' "$broker $lane $rate/s" "$(grep -m1 -i 'latency' "$out/broker-$broker-$lane-$rate.txt" || true)"
        done
    done
done
