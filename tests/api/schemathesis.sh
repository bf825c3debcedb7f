#!/usr/bin/env bash
# Tests the control socket's API against docs/openapi.json with schemathesis: it sends requests that the description allows
# and requests that it does not allow, and each response must be a documented one. Streaming responses and TOML bodies are left
# to the end-to-end tests.
#
#   tests/api/schemathesis.sh [VSWITCHD]       default: target/debug/vswitchd
#
# It runs in a network namespace of its own and takes about a minute. If a prerequisite is missing it is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=4.32.5
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
venv=$target/schemathesis-$version
skip() { echo "$*: the API is not tested against its description"; exit 0; }

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || skip "not root"
    [ -e /dev/net/tun ] || skip "no /dev/net/tun"
    for tool in unshare ip python3; do
        command -v "$tool" >/dev/null 2>&1 || skip "no $tool"
    done
    if [ ! -x "$venv/bin/schemathesis" ]; then
        python3 -m venv "$venv" >/dev/null 2>&1 || skip "no venv for python3"
        timeout 180 "$venv/bin/pip" install -q --disable-pip-version-check "schemathesis==$version" ||
            { rm -rf "$venv"; skip "no schemathesis from PyPI"; }
    fi
    exec unshare --net "$0" inside "${1:-$target/debug/vswitchd}"
fi

work=$(mktemp -d)
pids=()
end() {
    [ "${#pids[@]}" = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$work"
}
trap end EXIT

ip link set lo up
ip link add up0 type veth peer name wan0
ip addr add 203.0.113.1/24 dev up0
ip link set up0 up
ip link set wan0 up

"$2" --tap tap0,tap1:vlan=10 --uplink up0 --uplink-address 203.0.113.77/24 --uplink-gateway 203.0.113.254 \
    --publish 8080:10.77.0.11:80 --control "$work/control" >"$work/out" 2>"$work/log" &
pids+=($!)
for _ in $(seq 100); do
    grep -q '^ready$' "$work/out" && break
    sleep 0.1
done
grep -q '^ready$' "$work/out" || { cat "$work/log"; exit 1; }
python3 tests/api/forward.py 8000 "$work/control" &
pids+=($!)

# Methods that a path does not have are asked for as well, so what a path answers to them is checked, too.
here=$PWD
# It leaves what it found where it runs.
(cd "$work" && "$venv/bin/schemathesis" --config-file "$here/tests/api/schemathesis.toml" run "$here/docs/openapi.json" \
    --url http://127.0.0.1:8000 --wait-for-schema 10 --max-time 45 --max-examples 40 --seed 1 --request-timeout 10 --warnings off \
    --exclude-path-regex '/(events|live|capture|apply|stop)' --continue-on-failure --no-color)
kill -0 "${pids[0]}" || { cat "$work/log"; echo "the switch is gone"; exit 1; }
