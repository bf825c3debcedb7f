#!/usr/bin/env bash
# Everything that a change must pass, in one script. On a fresh machine with a Rust toolchain it
# installs the Debian packages that it needs, if it runs as root. Steps whose tools are still missing are
# skipped with a reason. The tests run last, so that the output ends with their result.
#
#     ./ci.sh           all of it, for a change
#     ./ci.sh --long    and what takes some two hours more, before a release: see "long" below
#     ./ci.sh --engines with Docker, which is installed for it; CI=true does the same
set -euo pipefail
cd "$(dirname "$0")"

long=
engines=
[ "${CI-}" != true ] || engines=1
for word in "$@"; do
    case "$word" in
    --long) long=1 ;;
    --engines) engines=1 ;;
    *)
        echo "usage: ./ci.sh [--long] [--engines]" >&2
        exit 2
        ;;
    esac
done

step() { printf '\n== %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# The lab needs traffic generators and network tools, the instruction counts valgrind, and the tests Open vSwitch
# as a tunnel peer, readers of captures, and an independent parser of metrics.
packages=(iproute2 iputils-ping nftables conntrack iperf3 sockperf netsniff-ng ethtool gcc libc6-dev valgrind openvswitch-switch tshark tcpdump
    python3-prometheus-client)
# Checks of the packaging: the systemd unit, manual pages and completions.
packages+=(systemd mandoc bash zsh fish)
# The Debian package, and a clean system to install it in.
packages+=(dpkg-dev debootstrap binutils)
# The commands of the documentation.
packages+=(curl procps)
# Containers; without systemd, runc runs where crun does not.
packages+=(podman containernetworking-plugins runc busybox-static)
# Docker, where it may be installed: dockerd must not appear on a user's machine.
if [ -n "$engines" ]; then
    packages+=(docker.io containerd runc)
fi
# The tests with real guests need QEMU, a kernel and a userland for the guests. On a machine with a boot loader this
# kernel would be booted next time, so there it is not installed.
if [ "$(uname -m)" = x86_64 ] && [ ! -e /boot/grub ] && [ ! -e /boot/loader ] && [ ! -e /boot/efi ]; then
    packages+=(qemu-system-x86 linux-image-cloud-amd64 busybox-static)
fi

# Sizes of the long steps.
FUZZ_SECS=300
PROPERTY_CASES=4096
RELOAD_ROUNDS=20
RESTART_ROUNDS=10
FLOWS=20000
NETWORKS=500

step "install"
if [ "$(id -u)" = 0 ] && have apt-get; then
    missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        apt-get update -qq
        # Services that are installed do not start: the tests run their own.
        policy=/usr/sbin/policy-rc.d
        own_policy=
        if [ ! -e "$policy" ]; then
            own_policy=1
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
        fi
        # The guests' kernel is not booted from disk, so it needs no initramfs, which takes a minute to build.
        installed=
        INITRD=No DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && installed=1
        [ -z "$own_policy" ] || rm -f "$policy"
        [ -n "$installed" ] || exit 1
    fi
    if [ ! -e /dev/net/tun ]; then
        mkdir -p /dev/net && mknod /dev/net/tun c 10 200 || true
    fi
else
    echo "not root, or no apt-get: nothing installed"
fi

step "format"
cargo fmt --all --check
# The fuzz entry points are a workspace of their own.
cargo fmt --manifest-path fuzz/Cargo.toml --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items

step "the demo, as the README runs it"
cargo run --release --locked -- demo

step "packaging"
if have dpkg-deb && have dpkg-shlibdeps; then
    # cargo-deb compiles for a minute and a half.
    cargo deb --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-deb
    packaging/deb target/vswitchd.deb
    tests/packaging/debian.sh target/vswitchd.deb
else
    echo "no dpkg-deb or dpkg-shlibdeps: the Debian package is not built"
fi

step "the example of two switches and a tunnel"
if [ "$(id -u)" = 0 ] && have ip && have ping && [ -e /dev/net/tun ]; then
    examples/two-switches.sh "${CARGO_TARGET_DIR:-target}/release/vswitchd"
else
    echo "not root, or no /dev/net/tun, ip or ping: the example is skipped"
fi

step "benches, once each"
cargo bench --workspace --locked --bench packet --bench mac_table --bench nat --bench pipeline -- --test
gungraun=$(cargo metadata --format-version 1 --locked | grep -o '"name":"gungraun","version":"[^"]*"' | head -n 1 | cut -d'"' -f8)
if have valgrind; then
    have gungraun-runner && gungraun-runner --version | grep -qF "$gungraun" ||
        cargo install --locked --quiet gungraun-runner --version "$gungraun"
    cargo bench -p vswitch --locked --bench instructions
else
    echo "no valgrind: instruction counts skipped"
fi

step "the lab, one short round"
if [ "$(id -u)" = 0 ] && have iperf3 && have trafgen && have ip && have gcc && [ -e /dev/net/tun ]; then
    benches/lab/lab l2 --sut wire-offload,vswitchd,v:again --rounds 1 --secs 1 --only tcp,pps,pps_4
    benches/lab/lab nat --sut vswitchd --rounds 1 --secs 1 --only tcp,pps,crr
    benches/lab/lab vxlan --sut vswitchd --rounds 1 --secs 1 --only tcp,pps,crr
    benches/lab/ports --ports 32 --secs 1 --settle 1 --asks 2
else
    echo "not root, or no /dev/net/tun, iperf3, trafgen, ip or gcc: the lab is skipped"
fi

step "the description of the API, by foreign validators"
tests/api/description.sh

step "the control socket against its description"
cargo build --locked --bin vswitchd
tests/api/schemathesis.sh "${CARGO_TARGET_DIR:-target}/debug/vswitchd"

if [ -n "$long" ]; then
    step "long: $FUZZ_SECS s of fuzzing for each target"
    # `cargo test` replays the corpus; this looks for inputs that it lacks.
    if cargo +nightly fuzz --version >/dev/null 2>&1; then
        for target in fuzz/fuzz_targets/*.rs; do
            (cd fuzz && cargo +nightly fuzz run "$(basename "$target" .rs)" -- -max_total_time="$FUZZ_SECS" -print_final_stats=1)
        done
    else
        echo "no cargo-fuzz, or no nightly toolchain: no fuzzing (cargo install cargo-fuzz; rustup toolchain install nightly)"
    fi

    step "long: properties with $PROPERTY_CASES cases each"
    PROPTEST_CASES=$PROPERTY_CASES cargo test --release --locked -p packet -p nat -p tunnel -p vswitch --tests

    if [ "$(id -u)" = 0 ] && have iperf3 && have trafgen && have ip && have gcc && [ -e /dev/net/tun ]; then
        step "long: $RELOAD_ROUNDS times 100 reloads under traffic"
        for _ in $(seq "$RELOAD_ROUNDS"); do
            cargo test --locked --test e2e -- change/nothing_is_lost_over_100_reloads
        done

        step "long: $RESTART_ROUNDS times two each of kill -9, restart and upgrade under traffic"
        for _ in $(seq "$RESTART_ROUNDS"); do
            cargo test --locked --test e2e -- outlives/connections
        done

        step "long: $NETWORKS networks with a guest each, made and deleted ten times"
        ENGINE_NETWORKS=$NETWORKS ENGINE_ROUNDS=10 cargo test --locked --test e2e -- engine/networks_and_guests_come_and_go

        step "long: the lab beside the kernel, with $FLOWS flows"
        for kind in l2 nat vxlan; do
            benches/lab/lab "$kind" --sut kernel,vswitchd --rounds 3 --secs 3 --flows "$FLOWS"
        done

        step "long: all attacks"
        benches/lab/attacks --sut kernel,vswitchd
    else
        echo "not root, or no /dev/net/tun, iperf3, trafgen, ip or gcc: no reloads, lab and attacks"
    fi
fi

step "tests"
cargo test --workspace --locked --doc
cargo test --workspace --locked --lib --bins --tests
