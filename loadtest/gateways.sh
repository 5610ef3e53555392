#!/usr/bin/env bash
# Measures what several gateways over NATS or Redis cost, and what the fault of one does to the others. Writes to target/measure.
#
# loadtest/gateways.sh                              all of it
# loadtest/gateways.sh unwanted [seconds] [rate]    CPU and memory of a gateway that follows events which no client of it wants
# loadtest/gateways.sh stopped [seconds]            the p99 of a gateway's clients, alone, beside a gateway that is stopped
#                                                   (SIGSTOP), and beside one with clients that do not read; fails if it
#                                                   grows to more than 1.2 times
# loadtest/gateways.sh kill [clients]               a gateway with 5000 clients is killed: how long until all are live on
#                                                   another one, and whether something is lost; needs npm ci in tests/e2e
# loadtest/gateways.sh start [channels] [events]    start-up time and memory of a gateway that reads back a million channels,
#                                                   with so many events of 157 bytes each
#
# BROKER=redis measures over Redis, otherwise it is NATS. BIN=target/release uses other binaries than those of the profile
# dist, which it builds. NATS=FILE and REDIS=FILE use other servers than those on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/measure
mkdir -p "$out"
bin=${BIN:-target/dist}
if [ -z "${BIN:-}" ]; then
    cargo build --profile dist --bin tickgate
    cargo build --profile dist -p tickgate-loadtest --bins
fi
PATH="$PATH:/usr/sbin"
broker=${BROKER:-nats}

source loadtest/servers.sh
work=$(mktemp -d)
end() { stop; rm -rf "$work/store"; }
trap 'end; rm -rf "$work"' EXIT

# gateway NUMBER: gateway 1 listens on 18080 and 18081, gateway 2 on 18082 and 18083, and so on. Sets `pid`.
gateway() {
    local public=$((18078 + 2 * $1)) admin=$((18079 + 2 * $1))
    sed "s/127.0.0.1:18080/127.0.0.1:$public/; s/127.0.0.1:18081/127.0.0.1:$admin/; s/^shards = 1/shards = 1\nnode = \"g$1\"/" \
        loadtest/tickgate.toml > "$work/g$1.toml"
    cat >> "$work/g$1.toml" <<END
[[channel]]
match = "load.*"
history = { size = 5000, ttl = "1h" }
$(broker_table "$broker")
log_bytes = 8589934592
[state]
channels = 2000000
bytes = 8589934592
END
    "$bin/tickgate" serve --config "$work/g$1.toml" & pid=$!
    others+=($pid)
    server=$pid await "$public"
    until curl -sf "http://127.0.0.1:$admin/readyz" > /dev/null; do kill -0 "$pid"; sleep 0.02; done
}
# tool SCENARIO LABEL GATEWAY PID [arguments]: clients of a gateway, events published to gateway 2.
tool() {
    local scenario=$1 label=$2 public=$((18078 + 2 * $3)) process=$4; shift 4
    "$bin/tickgate-loadtest" "$scenario" --url "ws://127.0.0.1:$public" --secret-env TICKGATE_JWT_SECRET \
        --publish-url http://127.0.0.1:18083 --name "$label" --pid "$process" --json "$out/gateways-$broker-$label.json" "$@" > "$out/gateways-$broker-$label.txt"
}
# figure LABEL NAME: a number of a report.
figure() { grep -o "\"$2\":[0-9.e+-]*" "$out/gateways-$broker-$1.json" | head -1 | cut -d: -f2; }
memory_mib() { awk '/^VmRSS/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }

part_unwanted() {
    local seconds=${1:-10} rate=${2:-5000}
    start_broker "$broker"
    gateway 1; gateway 2
    gateway 3; local idle=$pid before
    before=$(memory_mib "$idle")
    # The process that is measured is the gateway without clients.
    tool fanout unwanted 1 "$idle" --clients 1 --rate "$rate" --seconds "$seconds"
    printf 'unwanted: %s events/s take %.3f of a core and %d MiB (%d before) of a gateway without clients\n' \
        "$rate" "$(figure unwanted server_cores)" "$(memory_mib "$idle")" "$before"
    end
}

part_stopped() {
    local seconds=${1:-20} failed=0 first third
    start_broker "$broker"
    gateway 1; first=$pid
    gateway 2
    gateway 3; third=$pid
    local load=(--clients 200 --rate 200 --seconds "$seconds")
    tool fanout alone 1 "$first" "${load[@]}"
    kill -STOP "$third"
    tool fanout beside-stopped 1 "$first" "${load[@]}"
    kill -CONT "$third"
    # Clients of the third gateway that do not read, with events of their own. They come after as many seconds as they stay.
    sed 's/load.{index}/load.slow.{index}/' loadtest/adapters/tickgate.toml > "$work/slow.toml"
    local stay=$((seconds + 10))
    "$bin/tickgate-loadtest" slow --adapter "$work/slow.toml" --url ws://127.0.0.1:18084 --secret-env TICKGATE_JWT_SECRET \
        --publish-url http://127.0.0.1:18085 --name stalled --clients 1 --stalled 20 --rate 20 --data-bytes 20000 \
        --seconds "$stay" > "$out/gateways-$broker-stalled.txt" & local stalled=$!
    sleep $((stay + 3))
    tool fanout beside-slow 1 "$first" "${load[@]}"
    wait "$stalled" || true
    for beside in stopped slow; do
        awk -v alone="$(figure alone latency_ms_p99)" -v beside="$(figure beside-$beside latency_ms_p99)" -v name="$beside" 'BEGIN {
            printf "stopped: p99 %.2f ms alone, %.2f ms beside a %s gateway: %.2f times\n", alone, beside, name, beside / alone
            exit beside > 1.2 * alone
        }' || failed=1
    done
    end
    return "$failed"
}

part_kill() {
    start_broker "$broker"
    gateway 2
    gateway 1
    ulimit -n "$(ulimit -Hn)"
    node loadtest/failover.mjs "${1:-5000}" ws://127.0.0.1:18080 "$pid" ws://127.0.0.1:18082 http://127.0.0.1:18083 | sed 's/^/kill: /'
    end
}

part_start() {
    local channels=${1:-1000000} events=${2:-1} data
    start_broker "$broker"
    gateway 2
    data=$(head -c 155 /dev/zero | tr '\0' x)
    for _ in $(seq "$events"); do
        seq "$channels" | awk -v data="$data" '{ printf "{\"channel\":\"load.%d.a\",\"event\":\"load\",\"data\":\"%s\"}\n", $1, data }' \
            | curl -sf -H "Authorization: Bearer $TICKGATE_ADMIN_KEY" -H 'Content-Type: application/x-ndjson' -T - -X POST \
                http://127.0.0.1:18083/api/publish > /dev/null
    done
    local begun log
    log=$(du -sm "$work/store" | cut -f1)
    begun=$(date +%s%N)
    gateway 3
    awk -v took="$(($(date +%s%N) - begun))" -v channels="$channels" -v events="$events" -v mib="$(memory_mib "$pid")" -v log_mib="$log" 'BEGIN {
        printf "start: %d channels with %d events each, %d MB of streams: ready after %.2f s, %d MiB\n", channels, events, log_mib, took / 1e9, mib }'
    end
}

case ${1:-all} in
    all) code=0; for part in unwanted stopped kill start; do "part_$part" || code=1; done; exit "$code" ;;
    unwanted | stopped | kill | start) "part_$1" "${@:2}" ;;
    *) echo "no part $1: unwanted, stopped, kill, start" >&2; exit 2 ;;
esac
