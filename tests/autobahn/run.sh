#!/usr/bin/env bash
# Runs all 517 cases of the Autobahn|Testsuite's fuzzing client against the echo endpoint of the release binary, and
# compares the results with expected.txt. Takes minutes, mostly for the cases with many or large messages.
#
#   tests/autobahn/run.sh             runs and compares; exits with 1 if a case differs
#   tests/autobahn/run.sh --write     runs and writes expected.txt
#   tests/autobahn/run.sh 1.* 13.*    runs only these cases
#
# Needs wstest, in the variable AUTOBAHN_WSTEST or on the PATH. Otherwise it needs docker (or podman, with DOCKER=podman)
# and the public image crossbario/autobahn-testsuite. TICKGATE_BIN names a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/../.."

write=no
if [ "${1-}" = --write ]; then write=yes; shift; fi
cases=("${@:-*}")

binary=${TICKGATE_BIN-}
if [ -z "$binary" ]; then
    cargo build --profile dist --locked
    binary=${CARGO_TARGET_DIR:-target}/dist/tickgate
fi
binary=$(realpath "$binary")

work=$(mktemp -d)
gateway=
end() {
    [ -z "$gateway" ] || kill "$gateway" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

cat > "$work/tickgate.toml" <<TOML
[server]
listen = ["127.0.0.1:0"]
admin_listen = "127.0.0.1:0"
[[endpoint]]
path = "/echo"
dialect = "echo"
anonymous = true
message_bytes = 33554432
[compression]
threshold = 1
[log]
format = "json"
TOML
TICKGATE_JWT_SECRET=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n') \
    TICKGATE_ADMIN_KEY=autobahn-admin-key "$binary" serve --config "$work/tickgate.toml" 2> "$work/log" &
gateway=$!

address=
while [ -z "$address" ]; do
    kill -0 "$gateway" 2>/dev/null || { cat "$work/log" >&2; exit 2; }
    address=$(python3 - "$work/log" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    if not line.endswith("\n"):
        break
    entry = json.loads(line)
    if entry.get("message") == "listening":
        print(entry["address"])
PY
)
    sleep 0.05
done

python3 - "$address" "$work" "${cases[@]}" > "$work/spec.json" <<'PY'
import json, sys
address, work, cases = sys.argv[1], sys.argv[2], sys.argv[3:]
server = {"agent": "tickgate", "url": f"ws://{address}/echo"}
print(json.dumps({"outdir": f"{work}/reports", "servers": [server], "cases": cases,
                  "exclude-cases": [], "exclude-agent-cases": {}}))
PY

if [ -n "${AUTOBAHN_WSTEST-}" ] || command -v wstest >/dev/null 2>&1; then
    PYTHONWARNINGS=ignore "${AUTOBAHN_WSTEST:-wstest}" -m fuzzingclient -s "$work/spec.json" > "$work/out" 2>&1 \
        || { tail -20 "$work/out" >&2; exit 2; }
else
    "${DOCKER:-docker}" run --rm --network host -v "$work:$work" crossbario/autobahn-testsuite \
        wstest -m fuzzingclient -s "$work/spec.json" > "$work/out" 2>&1 || { tail -20 "$work/out" >&2; exit 2; }
fi

python3 tests/autobahn/compare.py "$work/reports/index.json" tests/autobahn/expected.txt "$write" "${cases[@]}"
