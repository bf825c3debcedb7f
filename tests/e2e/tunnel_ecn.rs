//! Congestion marks of the outer header are copied to the inner one and vice versa: the table of RFC 6040 with Linux's
//! exceptions; Linux's own `vxlan` device is held to the same table.

use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;

use crate::datagrams::Datagram;
use crate::frames::station;
use crate::host::{Host, Ip};
use crate::raw::RawSocket;
use crate::tunnel_site::{PORT, Peer, Underlay, arrives, kernel_is_missing};
use crate::{trial, trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (ip, word) in [(Ip::V4, "ipv4"), (Ip::V6, "ipv6")] {
        trials.extend([
            trial(format!("tunnel_ecn/every_pair_coming_out_{word}"), move || every_pair_coming_out(ip)),
            trial(format!("tunnel_ecn/every_mark_going_in_{word}"), move || every_mark_going_in(ip)),
        ]);
    }
    trials.push(trial_with("tunnel_ecn/the_kernel_agrees", kernel_is_missing, the_kernel_agrees));
    trials
}

/// Type of service of inner packets without the mark; it must not change.
const INNER: u8 = 0x48;

/// By outer mark (Not-ECT, ECT(1), ECT(0), CE) and then by inner mark in the same order: the mark after decapsulation
/// (RFC 6040 section 4.2; Linux: `INET_ECN_decapsulate`).
const COMING_OUT: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(1), Some(2), Some(3)],
    [Some(0), Some(1), Some(1), Some(3)],
    [Some(0), Some(1), Some(2), Some(3)],
    [None, Some(3), Some(3), Some(3)],
];

/// By inner mark: the outer mark. CE becomes ECT(0) (Linux: `INET_ECN_encapsulate`).
const GOING_IN: [u8; 4] = [0, 1, 2, 2];

/// An IPv4 or IPv6 packet with this mark.
fn packet(inner: Ip, tos: u8, data: &[u8]) -> Vec<u8> {
    let [from, to] = [2, 1].map(|last| SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, last), 53));
    if inner == Ip::V4 {
        return Datagram { tos, ..Datagram::udp(from, to, data) }.frame(station(1), station(2));
    }
    // No next header (RFC 8200 section 4.7), so the payload is not parsed.
    let len = (data.len() as u16).to_be_bytes();
    let addresses = [[0xfd, 2], [0xfd, 1]].map(|first| [&first[..], &[0; 14]].concat()).concat();
    let header = [0x60 | tos >> 4, tos << 4, 0, 0, len[0], len[1], 59, 64];
    [&station(1).0[..], &station(2).0, &[0x86, 0xdd], &header, &addresses, data].concat()
}

/// Sends every pair into a tunnel, and expects the table. Returns the number of drops.
fn expect_the_table(peer: &Peer, raw: &RawSocket) -> u64 {
    let mut dropped = 0;
    for inner in [Ip::V4, Ip::V6] {
        for outside in 0..4 {
            // The rest of the outer byte is not copied.
            peer.set_tos(0x28 | outside);
            for inside in 0..4 {
                let data = [b'e', b'c', b'n', outside, inside];
                peer.send_frame(42, &packet(inner, INNER | inside, &data));
                match COMING_OUT[usize::from(outside)][usize::from(inside)] {
                    Some(mark) => {
                        arrives(raw, &format!("{inside} inside of {outside} as {mark}"), &packet(inner, INNER | mark, &data));
                    }
                    None => dropped += 1,
                }
            }
        }
    }
    dropped
}

fn every_pair_coming_out(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let peer = Peer::on(&underlay, 2, 2);
    let host = Host::quiet("h1");
    let switch = underlay.daemon_for(1, &[2], &host);
    let dropped = expect_the_table(&peer, &host.raw());
    // Packets other than IP have no mark and are not dropped for an outer one.
    let other = crate::frames::frame(station(1), station(2), b"no IP");
    let raw = host.raw();
    peer.set_tos(3);
    peer.send_frame(42, &other);
    arrives(&raw, "a frame that is no IP", &other);
    let report = switch.finish();
    assert_eq!((report.dropped_for("tunnel_ecn"), report.all_dropped()), (dropped, dropped), "{report:?}");
}

fn the_kernel_agrees() {
    for ip in [Ip::V4, Ip::V6] {
        let underlay = Underlay::pair(ip);
        let peer = Peer::on(&underlay, 2, 2);
        let host = Host::quiet("h1");
        underlay.kernel(1, 2, &host);
        let raw = host.raw();
        expect_the_table(&peer, &raw);
        expect_marks(&underlay, &raw, [0, 0]);
    }
}

fn every_mark_going_in(ip: Ip) {
    for (keys, dscp) in [("", [0, 0]), (",tos=184", [184, 184]), (",tos=inherit", [INNER, INNER])] {
        let underlay = Underlay::pair(ip);
        let _peer = Peer::on(&underlay, 2, 2);
        let host = Host::quiet("h1");
        let switch = underlay.daemon(1, &[host.port("")], &underlay.vxlan(42, 1, &[2], keys));
        expect_marks(&underlay, &host.raw(), dscp);
        switch.finish();
    }
}

/// Sends every inner mark from the host in this family, and expects the table on the wire, together with this outer
/// type of service.
fn expect_marks(underlay: &Underlay, raw: &RawSocket, dscp: [u8; 2]) {
    let wire = underlay.machine(2).raw();
    for (inner, dscp) in [Ip::V4, Ip::V6].into_iter().zip(dscp) {
        for inside in 0..4 {
            let marked = packet(inner, INNER | inside, b"a mark");
            raw.send(&marked).expect("sent");
            // The kernel's bridge sends frames of its own.
            let tos = wait::until("a datagram", || {
                outer_tos(&std::iter::from_fn(|| wire.recv()).find(|frame| frame.ends_with(&marked))?)
            });
            assert_eq!(tos, dscp | GOING_IN[usize::from(inside)], "{inside} inside of {inner:?}");
        }
    }
}

fn outer_tos(frame: &[u8]) -> Option<u8> {
    let (tos, udp) = match frame.get(12..14)? {
        [8, 0] => (frame[15], &frame[34..]),
        [0x86, 0xdd] => (frame[14] << 4 | frame[15] >> 4, &frame[54..]),
        _ => return None,
    };
    (udp.get(2..4)? == PORT.to_be_bytes()).then_some(tos)
}
