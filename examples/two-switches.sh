#!/usr/bin/env bash
# Two hosts with one switch each, and a VXLAN tunnel that joins their guests to one network.
#
#     guest-a              host-a                         host-b              guest-b
#   +-----------+      +------------+   192.0.2.0/24   +------------+      +-----------+
#   | tap0      |------| vswitchd   |                  | vswitchd   |------| tap0      |
#   | 10.0.0.1  |      |       eth0 |------------------| eth0       |      | 10.0.0.2  |
#   +-----------+      +------------+   VXLAN, VNI 42  +------------+      +-----------+
#
# All four are network namespaces that only this script and its children see. The script does not change this machine
# and leaves nothing behind. It needs root, /dev/net/tun, iproute2 and ping.
#
#     examples/two-switches.sh [PATH OF VSWITCHD]
set -euo pipefail

if [ "${1-}" != --inside ]; then
    cd "$(dirname "$0")/.."
    vswitchd=${1-}
    if [ -z "$vswitchd" ]; then
        cargo build --release --locked
        vswitchd=${CARGO_TARGET_DIR:-target}/release/vswitchd
    fi
    # In a mount namespace of its own, so that the names of the network namespaces disappear with it.
    exec unshare --net --mount --propagation private "$0" --inside "$(realpath "$vswitchd")"
fi

vswitchd=$2
# Nothing outlives the switches.
export STATE_DIRECTORY=
logs=$(mktemp -d)
switches=()

clean_up() {
    for switch in "${switches[@]}"; do
        kill "$switch" 2>/dev/null || true
        wait "$switch" 2>/dev/null || true
    done
    rm -rf "$logs"
}
trap clean_up EXIT

say() { printf '\n$ %s\n' "$*"; }

# Waits up to five seconds for a command to succeed.
until_true() {
    for _ in $(seq 50); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "gave up after 5 seconds: $*" >&2
    cat "$logs"/* >&2
    exit 1
}

mount -t tmpfs none /run
for name in host-a host-b guest-a guest-b; do
    ip netns add "$name"
    ip -n "$name" link set lo up
done

ip link add eth0 netns host-a type veth peer name eth0 netns host-b
ip -n host-a addr add 192.0.2.1/24 dev eth0
ip -n host-b addr add 192.0.2.2/24 dev eth0
ip -n host-a link set eth0 up
ip -n host-b link set eth0 up

start() {
    local host=$1
    shift
    say "ip netns exec $host vswitchd $*"
    ip netns exec "$host" "$vswitchd" "$@" >"$logs/$host" 2>&1 &
    switches+=($!)
}
start host-a --tap tap0@guest-a --vxlan vni=42,remote=192.0.2.2
start host-b --tap tap0@guest-b --vxlan vni=42,remote=192.0.2.1

for guest in guest-a guest-b; do
    until_true ip -n "$guest" link show dev tap0
done
ip -n guest-a addr add 10.0.0.1/24 dev tap0
ip -n guest-b addr add 10.0.0.2/24 dev tap0
ip -n guest-a link set tap0 up
ip -n guest-b link set tap0 up
until_true ip netns exec guest-a ping -c 1 -W 1 10.0.0.2

say "ip netns exec guest-a ping -c 3 10.0.0.2"
ip netns exec guest-a ping -c 3 -i 0.2 10.0.0.2

# 1422 bytes of data, 8 of ICMP and 20 of IP make 1450, the largest packet that the tunnel carries over an MTU of 1500.
say "ip netns exec guest-a ping -c 1 -M do -s 1422 10.0.0.2"
ip netns exec guest-a ping -c 1 -M do -s 1422 10.0.0.2

say "ip -n guest-a link show tap0"
ip -n guest-a link show tap0

# Each switch prints its counters when it ends.
for switch in "${switches[@]}"; do
    kill -TERM "$switch"
done
for switch in "${switches[@]}"; do
    wait "$switch"
done
switches=()
for host in host-a host-b; do
    say "output of vswitchd on $host"
    cat "$logs/$host"
done
