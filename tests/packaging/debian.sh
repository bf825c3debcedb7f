#!/usr/bin/env bash
# Installs the Debian package into a clean Debian 12, runs its service's command line with the user and the rights of the unit,
# upgrades, removes and purges it.
#
#   tests/packaging/debian.sh PACKAGE.deb
#
# The clean system is made by debootstrap, once, and kept as an archive in the target directory. No service manager runs in it: its
# command that starts and stops units is replaced by one that notes how it is called. If a prerequisite is missing it is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
base=$target/debian-12.tar
skip() { echo "$*: the package is not installed"; exit 0; }
fail() { echo "FAILED: $*" >&2; exit 1; }

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || skip "not root"
    for tool in unshare debootstrap dpkg-deb readelf; do
        command -v "$tool" >/dev/null 2>&1 || skip "no $tool"
    done
    [ -s "${1:-}" ] || { sed -n 's/^# \?//p' "$0" | sed -n '4,5p'; exit 2; }
    work=$(mktemp -d)
    trap 'rm -rf --one-file-system "$work"' EXIT
    if [ ! -s "$base" ]; then
        mkdir -p "$target"
        debootstrap --variant=minbase --include=procps,systemd bookworm "$work/base" >"$work/log" 2>&1 ||
            { tail -n 3 "$work/log"; skip "no Debian archive"; }
        tar -C "$work/base" -cf "$base.new" . && mv "$base.new" "$base"
        rm -rf --one-file-system "$work/base"
    fi
    mkdir "$work/root"
    tar -C "$work/root" -xf "$base"
    # All that is mounted, and all processes, end with the command.
    unshare --mount --net --ipc --uts --pid --fork --kill-child "$0" inside "$work/root" "$(realpath "$1")"
    exit
fi

root=$2 deb=$3
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/dev/net" "$root/run/systemd/system"
[ -e "$root/dev/net/tun" ] || mknod -m 666 "$root/dev/net/tun" c 10 200
rm "$root/usr/bin/deb-systemd-invoke"
printf '#!/bin/sh\necho "$*" >>/called\n' >"$root/usr/bin/deb-systemd-invoke"
# Links of units are made as without a service manager.
mv "$root/usr/bin/systemctl" "$root/usr/bin/systemctl.real"
printf '#!/bin/sh\nexec systemctl.real --root=/ "$@"\n' >"$root/usr/bin/systemctl"
chmod 755 "$root/usr/bin/deb-systemd-invoke" "$root/usr/bin/systemctl"
run() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
# What the maintainer scripts asked of the service manager since the last time.
asked() { tr '\n' ';' <"$root/called"; : >"$root/called"; }
expect() { [ "$2" = "$3" ] || fail "$1: '$2' instead of '$3'"; }
install() { cp "$1" "$root/package.deb"; run dpkg -i /package.deb >"$root/log" 2>&1 || { cat "$root/log"; fail "dpkg -i $1"; }; }

: >"$root/called"
install "$deb"
expect "state" "$(run dpkg-query -W -f '${db:Status-Status}' vswitchd)" installed
expect "at the first installation" "$(asked)" "start vswitchd.service;"
unit=$root/usr/lib/systemd/system/vswitchd.service
for file in usr/bin/vswitchd usr/bin/vswitchctl usr/lib/cni/vswitch etc/vswitchd/vswitchd.toml usr/share/man/man8/vswitchd.8.gz \
    usr/share/man/man1/vswitchctl.1.gz usr/share/bash-completion/completions/vswitchctl usr/share/doc/vswitchd/copyright \
    usr/share/doc/vswitchd/licenses-of-crates.gz usr/share/doc/vswitchd/docs/config.md usr/lib/sysusers.d/vswitchd.conf; do
    [ -s "$root/$file" ] || fail "no /$file"
done
for program in vswitchd vswitchctl; do
    ! readelf -SW "$root/usr/bin/$program" | grep -q '\.symtab\|\.debug_info' || fail "$program is not stripped"
    run "$program" --version >/dev/null || fail "$program does not run"
done
run dpkg-query -W -f '${Conffiles}' vswitchd | grep -q ' /etc/vswitchd/vswitchd.toml ' || fail "the configuration is no conffile"
run getent passwd vswitchd >/dev/null || fail "no user"
wanted=$root/etc/systemd/system/multi-user.target.wants/vswitchd.service
[ -L "$wanted" ] || fail "the unit is not enabled"
said=$(run systemd-analyze verify --man=no vswitchd.service 2>&1 | grep -i vswitchd || true)
expect "systemd-analyze verify" "$said" ""

# The service, as the unit starts it.
value() { sed -n "s/^$1=//p" "$unit"; }
rights=$(value AmbientCapabilities | tr ' ' '\n' | sed 's/^CAP_/+/' | tr '[:upper:]\n' '[:lower:],')
rights="-all,${rights%,}"
user=$(value User)
run install -d -m "$(value RuntimeDirectoryMode)" -o "$user" -g "$user" "/run/$(value RuntimeDirectory)"
read -r -a line <<<"$(value ExecStart)"
run setpriv --reuid="$user" --regid="$user" --init-groups --no-new-privs --inh-caps="$rights" --ambient-caps="$rights" \
    --bounding-set="$rights" "${line[@]}" >"$root/out" 2>"$root/err" &
daemon=$!
for _ in $(seq 100); do
    grep -q '^ready$' "$root/out" && break
    sleep 0.1
done
grep -q '^ready$' "$root/out" || { cat "$root/err"; fail "the service does not start"; }
! grep 'WARN\|ERROR' "$root/err" || fail "the service warns"
run vswitchctl show | grep -q '^health: good' || fail "vswitchctl show"
run setpriv --reuid=nobody --regid="$user" --clear-groups vswitchctl show >/dev/null || fail "a member of the group may not ask"
! run setpriv --reuid=nobody --regid=nogroup --clear-groups vswitchctl show >/dev/null 2>&1 || fail "everybody may ask"
pid=$(run vswitchctl show -o json | sed -n 's/^  "pid": \([0-9]*\),/\1/p')
run kill -HUP "$pid"
for _ in $(seq 50); do
    grep -q 'configuration unchanged' "$root/err" && break
    sleep 0.1
done
grep -q 'configuration unchanged' "$root/err" || { cat "$root/err"; fail "no reload"; }

# An upgrade keeps what the administrator wrote, and restarts. It never stops.
next=$(dirname "$root")/next
dpkg-deb -R "$deb" "$next"
sed -i 's/^Version: .*/&+next/' "$next/DEBIAN/control"
dpkg-deb -b "$next" "$next.deb" >/dev/null
echo "# by hand" >>"$root/etc/vswitchd/vswitchd.toml"
install "$next.deb"
expect "at an upgrade" "$(asked)" "restart vswitchd.service;"
kill -0 "$daemon" || fail "the upgrade ended the service"
tail -n 1 "$root/etc/vswitchd/vswitchd.toml" | grep -q 'by hand' || fail "the configuration was overwritten"
rm "$wanted"
sed -i 's/^Version: .*/&+next/' "$next/DEBIAN/control"
dpkg-deb -b "$next" "$next.deb" >/dev/null
install "$next.deb"
[ ! -L "$wanted" ] || fail "the upgrade enabled a unit that was disabled"
: >"$root/called"
kill -TERM "$pid"
wait "$daemon" || fail "the service ended with status $?"

run dpkg -r vswitchd >/dev/null
expect "at the removal" "$(asked)" "stop vswitchd.service;"
[ -e "$root/etc/vswitchd/vswitchd.toml" ] || fail "the removal took the configuration"
run dpkg -P vswitchd >"$root/log" 2>&1 || fail "dpkg -P"
! grep -q warning "$root/log" || { cat "$root/log"; fail "something is left"; }
left=$(find "$root" -xdev -name '*vswitch*' ! -path "$root/proc/*")
expect "after the purge" "$left" ""
echo "$(basename "$deb"): $(stat -c %s "$deb") bytes, installed $(sed -n 's/^Installed-Size: //p' "$next/DEBIAN/control") KiB: installed, started, upgraded, removed and purged"
