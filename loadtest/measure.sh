#!/usr/bin/env bash
# Measures the release binary and the naive server one after the other, with the server on core 0 and the load tool on
# core 1. Writes JSON, pages and text to target/measure.
#
# loadtest/measure.sh [seconds per measurement, default 10]   every scenario
# loadtest/measure.sh tenants [seconds]                       the latency of a quiet tenant, alone and beside one that
#                                                             publishes as fast as it can; fails if the p99 grows by half
# loadtest/measure.sh shares [seconds]                        the latency of 500 clients, alone and beside 20 anonymous ones
#                                                             that subscribe to 100,000 channels and unsubscribe again all
#                                                             the time; fails if the p99 grows by half
# loadtest/measure.sh console [seconds]                       10,000 clients and channels, without and with the requests of
#                                                             the console's page; fails if the p99 grows by a twentieth
# loadtest/measure.sh soak [minutes, default 20]              1000 clients, 1000 events/s: memory must stay flat, no event
#                                                             may be lost; 1440 is a day
# loadtest/measure.sh market [seconds, default 10]            many channels, of which each client has some, in real time and
#                                                             with rates. UWS="command of a server": also that one, which gets
#                                                             a port as its argument and speaks the adapter `plain`
# loadtest/measure.sh nginx [seconds, default 10]             nginx between the clients and the gateway, over TCP and over a
#                                                             Unix socket, with small and large buffers: the CPU of both
#
# BIN=FOLDER loadtest/measure.sh …   uses the binaries in this folder instead of building those of the profile dist
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/measure
mkdir -p "$out"
if [ -z "${BIN:-}" ]; then
  cargo build --profile dist --bin tickgate
  cargo build --profile dist -p tickgate-loadtest --bins --examples
fi

source loadtest/servers.sh
start_naive() { taskset -c 0 "$bin/examples/naive" 127.0.0.1:18100 >/dev/null & server=$!; await 18100; }
# tool SCENARIO SERVER LABEL [more arguments]; with the gateway, each client is a user of its own.
tool() {
  local scenario=$1 name=$2 label=$3; shift 3
  local where=(--url ws://127.0.0.1:18080 --secret-env TICKGATE_JWT_SECRET --publish-url http://127.0.0.1:18081)
  [ "$name" = naive ] && where=(--url ws://127.0.0.1:18100/ws --publish-url http://127.0.0.1:18100/api/publish)
  taskset -c 1 "$bin/tickgate-loadtest" "$scenario" "${where[@]}" --name "$name" --pid "$server" \
    --json "$out/$name-$label.json" --html "$out/$name-$label.html" "$@" | tee "$out/$name-$label.txt"
}

# ratio NAME LIMIT: compares the p99 of two kinds of runs, NAME-alone and NAME-beside, by the medians of their rounds.
ratio() {
  node -e 'const [folder, name, limit] = process.argv.slice(1);
    const fs = require("fs");
    const p99 = (run) => {
      const reports = fs.readdirSync(folder).filter((file) => file.startsWith(run) && file.endsWith(".json"));
      const values = reports.map((file) => JSON.parse(fs.readFileSync(`${folder}/${file}`)).figures.latency_ms_p99);
      return values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
    };
    const [alone, beside] = [p99(`${name}-alone`), p99(`${name}-beside`)];
    console.log(`${name}: p99 ${alone} ms alone, ${beside} ms beside it: ${(beside / alone).toFixed(2)} times, at most ${limit}`);
    process.exit(beside > limit * alone ? 1 : 0)' "$out" "$1" "$2"
}

# figure REPORT NAME: a number of a report.
figure() { grep -o "\"$2\":[0-9.e+-]*" "$1" | head -1 | cut -d: -f2; }

start_uws() { taskset -c 0 $UWS 18100 >/dev/null & server=$!; await 18100; }
# market SERVER LABEL [arguments]: one line of the table.
market() {
  local name=$1 label=$2; shift 2
  "start_$name"
  local where=(--url ws://127.0.0.1:18080 --secret-env TICKGATE_JWT_SECRET --publish-url http://127.0.0.1:18081 --adapter tickgate-market)
  [ "$name" = uws ] && where=(--url ws://127.0.0.1:18100 --adapter plain)
  local report=$out/market-$name-$label.json
  rm -f "$report"
  taskset -c 1 "$bin/tickgate-loadtest" market "${where[@]}" --name "$name-$label" --pid "$server" --json "$report" \
    --html "${report%.json}.html" --seconds "$seconds" --connect-window 16 --publish-every-ms 2 "$@" >"${report%.json}.txt" || true
  stop
  if [ -e "$report" ]; then
    printf '| %s %s | %.3f | %.1f / %.1f ms | %.0f | %.0f | %.0f |\n' "$name" "$label" "$(figure "$report" server_cores)" \
      "$(figure "$report" latency_ms_p50)" "$(figure "$report" latency_ms_p99)" "$(figure "$report" deliveries_per_s)" \
      "$(figure "$report" missing || true)" "$(figure "$report" bytes_per_connection)"
  else
    echo "| $name $label | failed: $(tail -1 "${report%.json}.txt") | | | | |"
  fi
}

# start_nginx UPSTREAM BUFFER: one process on the gateway's core, without TLS, since the tool has none.
start_nginx() {
  cat >"$out/nginx.conf" <<END
daemon off; master_process off; pid $PWD/$out/nginx.pid; worker_rlimit_nofile 8192; error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path $PWD/$out/b; proxy_temp_path $PWD/$out/p; fastcgi_temp_path $PWD/$out/f;
  uwsgi_temp_path $PWD/$out/u; scgi_temp_path $PWD/$out/s;
  server {
    listen 127.0.0.1:18200 backlog=4096 sndbuf=64k;
    proxy_http_version 1.1; proxy_set_header Upgrade \$http_upgrade; proxy_set_header Connection upgrade;
    proxy_set_header X-Forwarded-For \$remote_addr; proxy_read_timeout 90s; proxy_buffer_size $2; proxy_buffers 4 $2;
    location / { proxy_pass http://$1; }
  }
}
END
  taskset -c 0 nginx -c "$PWD/$out/nginx.conf" -p "$PWD/$out" -e stderr & proxy=$!
  await 18200
}

if [ "${1:-}" = market ]; then
  seconds=${2:-10}
  echo "| server, rate | core | p50 / p99 | deliveries/s | missing | bytes per connection |"
  echo "|---|---|---|---|---|---|"
  many=(--clients 2000 --channels 500 --subscriptions 20 --rate 2000)
  [ -z "${UWS:-}" ] || market uws 2000-clients "${many[@]}"
  market tickgate 2000-clients "${many[@]}"
  market tickgate 2000-clients-4 "${many[@]}" --max-rate 4
  few=(--clients 1000 --channels 20 --subscriptions 20 --rate 2000)
  market tickgate 1000-clients "${few[@]}"
  market tickgate 1000-clients-2 "${few[@]}" --max-rate 2
  market tickgate 10000-clients-1 --clients 10000 --channels 500 --subscriptions 20 --rate 2000 --max-rate 1
  exit
fi

if [ "${1:-}" = nginx ]; then
  seconds=${2:-10}
  socket=$PWD/$out/public.sock
  config=$out/tickgate.toml
  sed "s|\"127.0.0.1:18080\"|\"127.0.0.1:18080\", \"unix:$socket\"|" loadtest/tickgate.toml >"$config"
  echo "| events/s | between | buffer | gateway | nginx | both | p50 / p99 |"
  echo "|---|---|---|---|---|---|---|"
  for rate in 50 200; do
    for between in none 127.0.0.1:18080 "unix:$socket"; do
      for buffer in 4k 16k; do
        [ "$between-$buffer" = none-16k ] && continue
        start_tickgate "$config"
        front=(--url ws://127.0.0.1:18080)
        if [ "$between" != none ]; then
          start_nginx "$between" "$buffer"
          front=(--url ws://127.0.0.1:18200 --proxy-pid "$proxy")
        fi
        label=${between%%:*}
        report=$out/nginx-$rate-$label-$buffer.json
        rm -f "$report"
        taskset -c 1 "$bin/tickgate-loadtest" fanout "${front[@]}" --secret-env TICKGATE_JWT_SECRET \
          --publish-url http://127.0.0.1:18081 --name "nginx-$label" --pid "$server" --clients 1000 --rate "$rate" \
          --seconds "$seconds" --json "$report" >"${report%.json}.txt" || true
        stop
        [ -e "$report" ] || { echo "| $rate | $label | $buffer | failed: $(tail -1 "${report%.json}.txt") | | | |"; continue; }
        own=$(figure "$report" server_cpu_us_per_delivery) its=$(figure "$report" proxy_cpu_us_per_delivery || echo 0)
        printf '| %d | %s | %s | %.2f µs | %.2f µs | %.2f µs | %.1f / %.1f ms |\n' "$rate" "$label" "$buffer" "$own" "${its:-0}" \
          "$(awk "BEGIN { print $own + ${its:-0} }")" "$(figure "$report" latency_ms_p50)" "$(figure "$report" latency_ms_p99)"
      done
    done
  done
  exit
fi

if [ "${1:-}" = soak ]; then
  start_tickgate
  tool soak tickgate soak --clients 1000 --rate 1000 --seconds $((60 * ${2:-20}))
  exit
fi

if [ "${1:-}" = tenants ]; then
  for name in QUIET LOUD; do
    for part in SECRET KEY; do export "${name}_$part=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')"; done
  done
  start_tickgate loadtest/tenants.toml
  # as NAME REPORT [more arguments]: a run with the clients and the publisher of a tenant. The tools share a core, which is
  # the quiet one's first: its clients are to be late because of the gateway only.
  as() {
    local key=${1^^}_KEY tenant=$1 report=$2; shift 2
    TICKGATE_ADMIN_KEY=${!key} nice -n "$([ "$tenant" = loud ] && echo 19 || echo 0)" taskset -c 1 \
      "$bin/tickgate-loadtest" fanout --url "ws://127.0.0.1:18080/$tenant" \
      --secret-env "${tenant^^}_SECRET" --publish-url http://127.0.0.1:18081 --name "$report" --json "$out/$report.json" "$@" > "$out/$report.txt"
  }
  seconds=${2:-30}
  as quiet tenants-alone --clients 200 --rate 100 --seconds "$seconds"
  # A rate that the gateway cannot reach: the publisher sends the next event when it has the answer to the last one.
  as loud tenants-loud --clients 1 --rate 1000000 --seconds $((seconds + 10)) & loud=$!
  sleep 3
  as quiet tenants-beside --clients 200 --rate 100 --seconds "$seconds"
  wait "$loud" || true
  stop
  ratio tenants 1.5
  exit
fi

if [ "${1:-}" = shares ]; then
  seconds=${2:-30}
  start_tickgate loadtest/shares.toml
  seq 100000 | awk '{ printf "{\"channel\":\"market.s%d.price\",\"event\":\"tick\",\"data\":{\"price\":\"%d.5\"}}\n", $1, $1 }' |
    curl -sf -o /dev/null -H "Authorization: Bearer $TICKGATE_ADMIN_KEY" -H 'Content-Type: application/x-ndjson' --data-binary @- \
      http://127.0.0.1:18081/api/publish
  others=(--clients 500 --rate 50 --seconds "$seconds")
  tool fanout tickgate alone "${others[@]}" && mv "$out/tickgate-alone.json" "$out/shares-alone.json"
  # The core of the tools is the others' first, so that their clients are late because of the gateway only. The channels to
  # which this tool publishes are not theirs.
  nice -n 19 taskset -c 1 "$bin/tickgate-loadtest" churn --url ws://127.0.0.1:18080 --publish-url http://127.0.0.1:18081 \
    --adapter tickgate-market --pattern 'market.*' --clients 20 --others 1 --rate 1 --requests-per-second 400 --seconds $((seconds + 10)) \
    >"$out/shares-churn.txt" 2>&1 & churn=$!
  # They connect, read all values, and begin after half of their time.
  sleep $((8 + (seconds + 10) / 2))
  tool fanout tickgate beside "${others[@]}" && mv "$out/tickgate-beside.json" "$out/shares-beside.json"
  kill "$churn" 2>/dev/null || true
  stop
  ratio shares 1.5
  exit
fi

if [ "${1:-}" = console ]; then
  rm -f "$out"/console-*.json
  start_tickgate
  api() { curl -sf -o /dev/null -H "Authorization: Bearer $TICKGATE_ADMIN_KEY" "http://127.0.0.1:18081/api/$1" "${@:2}"; }
  seq 10000 | awk '{ printf "{\"channel\":\"grid.g%d.order\",\"event\":\"filled\"}\n", $1 }' | api publish -H 'Content-Type: application/x-ndjson' --data-binary @-
  load=(--clients 10000 --channels 10000 --rate 5000 --seconds "${2:-30}")
  # One browser's share: a connection that is kept, on the core of the load tool. It asks once a second for what all views
  # together ask for every five seconds, and says how long the slowest answer took.
  page() {
    exec taskset -c 1 nice -n 19 node -e 'const paths = process.argv.slice(1);
      const headers = { authorization: `Bearer ${process.env.TICKGATE_ADMIN_KEY}` };
      let slowest = 0;
      process.on("SIGTERM", () => { console.log(`console: the slowest answer took ${slowest.toFixed(1)} ms`); process.exit(); });
      setInterval(async () => {
        for (const path of paths) {
          const begin = performance.now();
          const response = await fetch(`http://127.0.0.1:18081/api/${path}`, { headers });
          await response.arrayBuffer();
          slowest = Math.max(slowest, performance.now() - begin);
          if (!response.ok) console.error(`a request of the page failed: ${path}`);
        }
      }, 1000);' "$@"
  }
  # The rounds alternate, and their medians are compared: the p99 of one run differs by more than a twentieth from the next.
  for round in 1 2 3; do
    tool fanout tickgate alone "${load[@]}" && mv "$out/tickgate-alone.json" "$out/console-alone-$round.json"
    page overview endings load 'websocket/clients?limit=100' 'websocket/clients?search=load-9999' \
      'websocket/clients?sort=waiting&limit=50' 'channels?limit=100' users/load-9999 & page=$!
    sleep 2
    tool fanout tickgate beside "${load[@]}" && mv "$out/tickgate-beside.json" "$out/console-beside-$round.json"
    kill "$page"; wait "$page" || true
  done
  stop
  ratio console 1.05
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
  [ "$rate" = 2000 ] || "$bin/tickgate-loadtest" compare "$out/naive-$rate.json" "$out/tickgate-$rate.json" \
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
