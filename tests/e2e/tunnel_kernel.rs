//! Every kind of host traffic through a tunnel, between two daemons and between a daemon and the kernel's own `vxlan`
//! device.

use libtest_mimic::Trial;
use netio::link;
use packet::MacAddr;

use crate::frames::{DOT1AD, DOT1Q, frame, station, tagged};
use crate::host::{Host, Ip};
use crate::transfer::{send_datagrams, send_segmented};
use crate::tunnel_site::{Between, Underlay, arrives, kernel_is_missing, ping};
use crate::{trial, trial_with};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (ip, word) in [(Ip::V4, "ipv4"), (Ip::V6, "ipv6")] {
        trials.extend([
            trial(format!("tunnel_kernel/daemons_over_{word}"), move || carries(Between::daemons(Underlay::pair(ip)))),
            trial_with(format!("tunnel_kernel/daemon_and_kernel_over_{word}"), kernel_is_missing, move || {
                carries(Between::daemon_and_kernel(Underlay::pair(ip)));
            }),
        ]);
    }
    trials.extend([
        trial("tunnel_kernel/daemons_over_a_plain_network", daemons_over_a_plain_network),
        trial("tunnel_kernel/many_workers", || workers(5)),
        trial("tunnel_kernel/one_worker", || workers(1)),
        trial("tunnel_kernel/link_local_addresses", link_local_addresses),
        trial("tunnel_kernel/daemons_on_one_machine_ipv4", || daemons_on_one_machine(Ip::V4)),
        trial("tunnel_kernel/daemons_on_one_machine_ipv6", || daemons_on_one_machine(Ip::V6)),
        trial("tunnel_kernel/datagrams_between_daemons", || datagrams(Between::daemons(Underlay::pair(Ip::V4)))),
        trial_with("tunnel_kernel/datagrams_to_the_kernel", kernel_is_missing, || {
            datagrams(Between::daemon_and_kernel(Underlay::pair(Ip::V6)));
        }),
    ]);
    trials
}

fn carries(between: Between) {
    for (host, mtu) in between.hosts.iter().zip([1, 2].map(|number| between.underlay.machine(number).link().mtu)) {
        let overhead = crate::tunnel_site::overhead(between.underlay.ip);
        assert_eq!(host.link().mtu, mtu - overhead, "as much as fits");
    }
    between.carries_everything();
    carries_tags(&between);
    for report in between.finish() {
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

/// Frames with tags, and frames other than IP, arrive byte for byte.
fn carries_tags(between: &Between) {
    let sockets = [between.hosts[0].raw(), between.hosts[1].raw()];
    for (from, to) in [(0, 1), (1, 0)] {
        for (dst, n) in [(MacAddr::BROADCAST, 1), (station(2 - from as u32), 2)] {
            let plain = frame(dst, station(1 + from as u32), &[n; 100]);
            for frame in [plain.clone(), tagged(&plain, DOT1Q, 0x600a), tagged(&tagged(&plain, DOT1Q, 7), DOT1AD, 0x2fff)] {
                sockets[from].send(&frame).expect("sent");
                arrives(&sockets[to], "a frame", &frame);
            }
        }
    }
}

/// Single datagrams, and many in one send, which kernels pass on whole where they can.
fn datagrams(between: Between) {
    for inner in [Ip::V4, Ip::V6] {
        let sockets = [between.hosts[0].udp(inner, 1), between.hosts[1].udp(inner, 2)];
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (&sockets[from], &sockets[to]);
            from.connect(to.local_addr().expect("its address")).expect("connected");
            // While a host resolves an address, its kernel may let later datagrams overtake those that wait.
            send_datagrams(from, to, 1, 1);
            for size in [1, 2, 511, 1000, 1382] {
                send_datagrams(from, to, size, 100);
            }
            for (size, count) in [(1000, 2), (1382, 44), (100, 128), (1, 100)] {
                send_segmented(from, to, size, count * size);
                send_segmented(from, to, size, count * size - size / 3);
            }
        }
    }
    for report in between.finish() {
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

/// More workers than ports: each socket and port has several queues, each read by a worker of its own.
fn workers(count: usize) {
    let underlay = Underlay::pair(Ip::V4);
    let hosts = ["h1", "h2"].map(Host::new);
    let daemon = |number: u8, other, host: &Host| {
        let mut flags = underlay.vxlan(42, number, &[other], "").to_vec();
        flags.extend(["--workers".to_owned(), count.to_string()]);
        underlay.daemon(number, &[host.port("")], &flags)
    };
    let switches = vec![daemon(1, 2, &hosts[0]), daemon(2, 1, &hosts[1])];
    assert!(switches[0].summary()[0].contains(&format!("{count} worker")), "{:?}", switches[0].summary());
    let between = Between::configured(underlay, hosts, switches);
    between.carries_everything();
    between.finish();
}

/// Without offloads on the underlay: each datagram is built, sent and received alone.
fn daemons_over_a_plain_network() {
    let underlay = Underlay::pair(Ip::V4);
    for number in [1, 2] {
        underlay.machine(number).turn_offloads_off();
    }
    let hosts = ["h1", "h2"].map(Host::new);
    let keys = ":offload=off:gro=off";
    let daemon = |number: u8, other, host: &Host| {
        underlay.daemon(number, &[host.port(keys)], &underlay.vxlan(42, number, &[other], ",csum=on"))
    };
    let switches = vec![daemon(1, 2, &hosts[0]), daemon(2, 1, &hosts[1])];
    carries(Between::configured(underlay, hosts, switches));
}

/// Link-local addresses, which need an interface.
fn link_local_addresses() {
    let underlay = Underlay::pair(Ip::V6);
    let hosts = ["h1", "h2"].map(Host::new);
    let addresses = ["fe80::a", "fe80::b"];
    for (number, address) in [1, 2].into_iter().zip(addresses) {
        let machine = underlay.machine(number);
        machine.inside(|| link::add_address(link::get(machine.name())?.index, address.parse().expect("an address"), 64));
    }
    let daemon = |number: u8, local, remote, host: &Host| {
        let flags = ["--vxlan".to_owned(), format!("vni=42,local={local},remote={remote},dev=u{number}")];
        underlay.daemon(number, &[host.port("")], &flags)
    };
    let switches = vec![daemon(1, addresses[0], addresses[1], &hosts[0]), daemon(2, addresses[1], addresses[0], &hosts[1])];
    carries(Between::configured(underlay, hosts, switches));
}

/// Between the daemons nothing is finished or segmented: what one kernel leaves undone the other does not need. The
/// underlay's MTU exceeds any frame.
fn daemons_on_one_machine(ip: Ip) {
    let underlay = Underlay::one(ip);
    let hosts = ["h1", "h2"].map(Host::new);
    let switches = vec![underlay.daemon_for(1, &[2], &hosts[0]), underlay.daemon_for(2, &[1], &hosts[1])];
    let between = Between::configured(underlay, hosts, switches);
    let longest = between.hosts[0].link().mtu as usize;
    assert!(longest > 60_000, "{longest}");
    for (from, to) in [(0, 2), (1, 1)] {
        for size in [longest - 28, 1, 20_000] {
            ping(&between.hosts[from], Host::address(Ip::V4, to), size);
        }
    }
    between.carries_everything();
    for report in between.finish() {
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}
