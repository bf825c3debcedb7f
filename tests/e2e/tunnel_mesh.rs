//! Three daemons in a full mesh of tunnels: no frame loops, and none arrives twice.

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::frames::{frame, is_ours, station};
use crate::host::{Host, Ip};
use crate::raw::RawSocket;
use crate::switch::Switch;
use crate::trial;
use crate::tunnel_site::{Underlay, arrives};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("tunnel_mesh/a_broadcast_arrives_once_at_each_ipv4", || a_broadcast_arrives_once_at_each(Ip::V4)),
        trial("tunnel_mesh/a_broadcast_arrives_once_at_each_ipv6", || a_broadcast_arrives_once_at_each(Ip::V6)),
    ]
}

/// Broadcasts of each host.
const CALLS: u8 = 50;

fn call(from: usize, n: u8) -> Vec<u8> {
    frame(MacAddr::BROADCAST, station(1 + from as u32), &[from as u8, n, 0xca, 0x11])
}

fn a_broadcast_arrives_once_at_each(ip: Ip) {
    let underlay = Underlay::three(ip);
    let hosts = ["h1", "h2", "h3"].map(Host::quiet);
    let others: [&[u8]; 3] = [&[2, 3], &[1, 3], &[1, 2]];
    let switches: Vec<Switch> =
        (1..).zip(others).zip(&hosts).map(|((number, others), host)| underlay.daemon_for(number, others, host)).collect();
    let sockets = hosts.each_ref().map(Host::raw);
    for n in 0..CALLS {
        for (from, socket) in sockets.iter().enumerate() {
            socket.send(&call(from, n)).expect("sent");
        }
    }
    let expected = |at: usize| {
        let from_others = (0..3).filter(|from| *from != at).flat_map(|from| (0..CALLS).map(move |n| call(from, n)));
        let mut frames: Vec<Vec<u8>> = from_others.collect();
        frames.sort_unstable();
        frames
    };
    for (switch, host) in switches.iter().zip(&hosts) {
        switch.settle("all calls", |report| report.sent_by(host.name()) == 2 * u64::from(CALLS));
    }
    for (at, socket) in sockets.iter().enumerate() {
        assert!(ours(socket) == expected(at), "host {} heard each call once", at + 1);
    }
    // All are known now: a frame to a host goes to its machine only.
    for (from, socket) in sockets.iter().enumerate() {
        for to in (0..3).filter(|to| *to != from) {
            let told = frame(station(1 + to as u32), station(1 + from as u32), b"for you alone");
            socket.send(&told).expect("sent");
            arrives(&sockets[to], "a frame for it", &told);
        }
    }
    for (switch, host) in switches.into_iter().zip(&hosts) {
        let report = switch.finish();
        let received = u64::from(CALLS) + 2;
        assert_eq!((report.received_by(host.name()), report.all_dropped()), (received, 0), "{report:?}");
        // Two datagrams for each broadcast and one for each other frame, and as many received.
        assert_eq!(report.received(), received + 2 * u64::from(CALLS) + 2, "{report:?}");
    }
    for socket in &sockets {
        assert!(ours(socket).is_empty(), "nothing comes twice or astray");
    }
    underlay.finish();
}

/// The test's frames that arrived here, sorted.
fn ours(socket: &RawSocket) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = std::iter::from_fn(|| socket.recv()).filter(|bytes| is_ours(bytes)).collect();
    frames.sort_unstable();
    frames
}
