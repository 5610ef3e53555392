# Functions for the scripts that measure; they source this file in the project's root. It creates secrets for one run and
# starts one server at a time on core 0. A script may start others beside it, whose process ids it adds to `others`.
TICKGATE_JWT_SECRET=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
TICKGATE_ADMIN_KEY=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export TICKGATE_JWT_SECRET TICKGATE_ADMIN_KEY
# The folder of the binaries.
bin=${BIN:-target/dist}
server=
proxy=
others=()
# Kills the server without a drain, since its clients have already ended, the proxy in front of it, and the others.
stop() {
  for process in $proxy $server "${others[@]}"; do { kill -KILL "$process" && wait "$process" || true; } 2>/dev/null; done
  server=; proxy=; others=()
}
trap stop EXIT

# Waits until a port accepts connections; fails if the server has ended.
await() {
  for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
    kill -0 "$server" || return 1
    sleep 0.05
  done
  return 1
}
# start_broker KIND: a server of NATS or Redis with files in $work/store, that lives until `stop`. Each answers before it syncs
# its files. NATS and REDIS name other programs than those on the PATH.
start_broker() {
  mkdir -p "$work/store"
  case $1 in
    nats) "${NATS:-nats-server}" -js -a 127.0.0.1 -p 18422 -sd "$work/store" >"$work/broker.log" 2>&1 & ;;
    redis) "${REDIS:-redis-server}" --bind 127.0.0.1 --port 18422 --dir "$work/store" --save '' --appendonly yes \
      --appendfsync everysec >"$work/broker.log" 2>&1 & ;;
    *) echo "no broker $1: nats, redis" >&2; return 1 ;;
  esac
  others+=($!)
  server=$! await 18422
}
# broker_table KIND: the configuration of gateways that share it.
broker_table() { printf '[broker]\nkind = "%s"\nurl = "%s://127.0.0.1:18422"\n' "$1" "$1"; }
# start_tickgate [CONFIGURATION]
start_tickgate() { taskset -c 0 "$bin/tickgate" serve --config "${1:-loadtest/tickgate.toml}" & server=$!; await 18080; await 18081; }
