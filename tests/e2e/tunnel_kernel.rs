//! Everything that hosts send crosses a tunnel, between two daemons and between a daemon and the kernel's
//! own `vxlan` device.

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::frames::{DOT1AD, DOT1Q, frame, station, tagged};
use crate::host::{Host, Ip};
use crate::tunnel_site::{Between, Underlay, arrives, kernel_is_missing};
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
    trials.push(trial("tunnel_kernel/daemons_over_a_plain_network", daemons_over_a_plain_network));
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

/// Frames with tags, and such as are no IP, arrive byte for byte.
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

/// A network that does nothing for its machines: each datagram is made, sent and received alone.
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
