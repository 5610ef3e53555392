#!/usr/bin/env bash
# Builds the Debian package, installs it into a new Debian root, and uses it there: check, serve, health, drain, upgrade,
# removal and purge. Nothing outside of the root changes. Needs root, debootstrap and cargo-deb
# (cargo install cargo-deb --locked); takes a minute or two besides the build.
#
#   tests/packages/debian.sh                    builds the binary with the profile dist
#   TICKGATE_BIN=FILE tests/packages/debian.sh  packs a binary that is built already
#   DEBIAN_ROOT=/var/cache/debian-root …        keeps a bare root there and begins with a copy of it the next time
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
root=$work/root
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf "$work"' EXIT

binary=${TICKGATE_BIN-}
if [ -z "$binary" ]; then
    cargo build --profile dist --locked --quiet --bin tickgate
    binary=${CARGO_TARGET_DIR:-target}/dist/tickgate
fi
# In a target folder of its own, which holds nothing else.
mkdir -p "$work/target/dist"
cp "$binary" "$work/target/dist/tickgate"
CARGO_TARGET_DIR=$work/target cargo deb --no-build --profile dist --quiet --output "$work/" > /dev/null
package=$(echo "$work"/*.deb)

base=${DEBIAN_ROOT:-$work/base}
if [ ! -e "$base/etc/debian_version" ]; then
    # With systemd, so that installing the package below fetches nothing.
    debootstrap --variant=minbase --include=systemd bookworm "$base" > "$work/debootstrap.log" 2>&1 \
        || { tail -20 "$work/debootstrap.log" >&2; exit 1; }
fi
cp -a "$base" "$root"
mount -t proc proc "$root/proc"

enter=(chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive)
inside() { "${enter[@]}" "$@"; }
expect() { # expect WHAT WANTED FOUND
    [ "$2" = "$3" ] || { printf '%s: wanted %s, found %s\n' "$1" "$2" "$3" >&2; exit 1; }
}
owner() { inside stat --format='%U:%G %a' "$1"; }

cp "$package" "$root/tickgate.deb"
inside dpkg --force-unsafe-io --install /tickgate.deb > "$work/install" 2>&1 || { cat "$work/install" >&2; exit 1; }
expect "the service's user" /usr/sbin/nologin "$(inside getent passwd tickgate | cut -d: -f7)"
expect "the folder of secrets" "root:tickgate 750" "$(owner /etc/tickgate/secrets)"
expect "the folder of the state" "tickgate:tickgate 700" "$(owner /var/lib/tickgate)"
expect "the configuration file" "/etc/tickgate/tickgate.toml" \
    "$(inside dpkg-query --show --showformat='${Conffiles}' tickgate | awk '{print $1}' | xargs)"
inside systemd-analyze verify tickgate.service tickgate.socket

# As an administrator does after the installation.
for secret in jwt-secret admin-key command-secret; do
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$root/etc/tickgate/secrets/$secret"
    inside chown root:tickgate "/etc/tickgate/secrets/$secret"
    inside chmod 640 "/etc/tickgate/secrets/$secret"
done
inside install -d -o tickgate -g tickgate /run/tickgate

# Free ports and the root's own socket; the namespace of the network is the machine's.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# The command of the unit, as its user. Each word is replaced by the next one, so the process keeps its number.
service=("${enter[@]}" setpriv --reuid=tickgate --regid=tickgate --clear-groups
    env TICKGATE_SERVER__ADMIN_LISTEN="127.0.0.1:$port" TICKGATE_CONFIG=/etc/tickgate/tickgate.toml tickgate)
"${service[@]}" check > /dev/null 2> "$work/check"
expect "tickgate check" "/etc/tickgate/tickgate.toml: valid" "$(cat "$work/check")"

(umask 077; exec "${service[@]}" serve) 2> "$work/log" &   # UMask= of the unit
serve=$!
for _ in $(seq 100); do
    "${service[@]}" health --ready > /dev/null 2>&1 && break
    kill -0 "$serve" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
"${service[@]}" health --ready > /dev/null
expect "the mode of the public socket" "tickgate:tickgate 660" "$(owner /run/tickgate/public.sock)"
kill -TERM "$serve"
wait "$serve" || { cat "$work/log" >&2; exit 1; }
grep -q '"message":"drained"' "$work/log" || { cat "$work/log" >&2; exit 1; }
expect "the snapshot" "tickgate:tickgate 600" "$(owner /var/lib/tickgate/state)"

# An upgrade keeps a changed configuration, a removal too; a purge removes what is the package's.
echo '# changed by the administrator' >> "$root/etc/tickgate/tickgate.toml"
inside dpkg --force-unsafe-io --install /tickgate.deb > "$work/install" 2>&1 || { cat "$work/install" >&2; exit 1; }
inside dpkg --remove tickgate > /dev/null 2>&1
expect "a changed configuration" '# changed by the administrator' "$(tail -1 "$root/etc/tickgate/tickgate.toml")"
inside dpkg --purge tickgate > /dev/null 2>&1
for path in /etc/tickgate /var/lib/tickgate /usr/bin/tickgate; do
    [ ! -e "$root$path" ] || { echo "$path is left after a purge" >&2; exit 1; }
done
echo "debian: $(basename "$package") was installed, served, drained, upgraded, removed and purged"
