//! Floods through the whole router, in simulated time: others open connections as if there were none.

use std::net::Ipv4Addr;
use std::time::Duration;

use nat::{Endpoint, NatConfig, Protocol, Published};
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, Lab, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, UPLINK_PORT, ethernet, guest, mac, request,
};
use testkit::packets::{self, ACK, SYN, Tcp, address, word};

/// The bridge port of guest 4.
const THIRD: u16 = 4;

/// Frames in one batch.
const BATCH: usize = 64;

fn ready(config: NatConfig) -> Lab {
    let mut lab = Lab::ready_with(config, 1500);
    assert_eq!(lab.run(THIRD, &[request(mac(4), guest(4), GATEWAY)]).len(), 1);
    lab
}

/// A packet of a guest; what leaves the uplink.
fn out(lab: &mut Lab, port: u16, last: u8, packet: &[u8]) -> Option<Vec<u8>> {
    let writes = lab.run(port, &[ethernet(GATEWAY_MAC, mac(last), packet)]);
    writes.into_iter().find(|(port, ..)| port.0 == UPLINK_PORT).map(|(_, _, frame)| frame[14..].to_vec())
}

/// A packet from outside; what reaches a guest.
fn back(lab: &mut Lab, packet: &[u8]) -> Option<Vec<u8>> {
    let writes = lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, packet)]);
    writes.into_iter().find(|(port, ..)| port.0 != UPLINK_PORT).map(|(_, _, frame)| frame[14..].to_vec())
}

fn flood(lab: &mut Lab, port: u16, frames: impl Iterator<Item = Vec<u8>>) {
    let mut frames = frames.peekable();
    while frames.peek().is_some() {
        lab.run(port, &frames.by_ref().take(BATCH).collect::<Vec<_>>());
    }
}

/// A whole handshake of guest 4, and a byte each way.
fn connects(lab: &mut Lab, port: u16) -> bool {
    let (inside, peer) = (Endpoint::new(guest(4), port), Endpoint::new(PEER, 443));
    let Some(syn) = out(lab, THIRD, 4, &packets::tcp(inside, peer, &Tcp::new(SYN, 1000, 0), &[])) else { return false };
    let outside = Endpoint::new(OUTSIDE, word(&syn, 20));
    lab.bridge.now = lab.bridge.now.after(Duration::from_millis(50));
    back(lab, &packets::tcp(peer, outside, &Tcp::new(SYN | ACK, 5000, 1001), &[])).is_some()
        && out(lab, THIRD, 4, &packets::tcp(inside, peer, &Tcp::new(ACK, 1001, 5001), b"?")).is_some()
        && back(lab, &packets::tcp(peer, outside, &Tcp::new(ACK, 5001, 1002), b"!")).is_some()
}

#[test]
fn two_guests_scan_and_a_third_connects() {
    let config =
        NatConfig { ports: 40_000..=44_095, max_connections: 16_384, max_connections_per_port: 8192, ..NatConfig::default() };
    let mut lab = ready(config);
    for turn in 0..20_u16 {
        for (port, last) in [(0, 2), (1, 3)] {
            let syn = |n: u16| {
                let from = Endpoint::new(guest(last), 1024 + turn * 300 + n);
                ethernet(GATEWAY_MAC, mac(last), &packets::tcp(from, Endpoint::new(PEER, 443), &Tcp::new(SYN, 1, 0), &[]))
            };
            flood(&mut lab, port, (0..300).map(syn));
        }
        assert!(connects(&mut lab, 20_000 + turn), "connection {turn}");
    }
    let stats = lab.nat.stats();
    assert!(stats.evicted > 5000 && stats.connections <= 4096, "{stats:?}");
}

#[test]
fn a_neighbour_with_ones_own_address_uses_up_its_own_share() {
    let config =
        NatConfig { max_ports_per_guest: 100, max_connections: 4096, max_connections_per_port: 2048, ..NatConfig::default() };
    let mut lab = ready(config);
    let forged = |n: u16| {
        let from = Endpoint::new(guest(4), 1024 + n);
        ethernet(GATEWAY_MAC, mac(2), &packets::tcp(from, Endpoint::new(PEER, 443), &Tcp::new(SYN, 1, 0), &[]))
    };
    flood(&mut lab, 0, (0..5000).map(forged));
    assert_eq!((0..20).filter(|n| connects(&mut lab, 20_000 + n)).count(), 20);
}

#[test]
fn a_published_port_is_flooded_and_clients_come_in() {
    let config = NatConfig { max_connections: 8192, max_connections_per_port: 4096, ..NatConfig::default() };
    let mut lab = ready(config);
    let (server, web) = (Endpoint::new(guest(4), 80), Endpoint::new(OUTSIDE, 80));
    let rule = Published { protocol: Protocol::TCP, address: OUTSIDE, port: 80, guest: server };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    for turn in 0..30_u16 {
        let client = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), 5000 + turn);
        assert!(back(&mut lab, &packets::tcp(client, web, &Tcp::new(SYN, 1000, 0), &[])).is_some(), "client {turn}");
        let syn = |n: u16| {
            let from = Endpoint::new(Ipv4Addr::new(9, 0, (n >> 8) as u8, n as u8), 1024 + turn);
            ethernet(UPLINK_MAC, NEXT_HOP_MAC, &packets::tcp(from, web, &Tcp::new(SYN, 1, 0), &[]))
        };
        // Of all forged addresses, some are answered before the client.
        flood(&mut lab, UPLINK_PORT, (0..400).map(syn));
        let answer = out(&mut lab, THIRD, 4, &packets::tcp(server, client, &Tcp::new(SYN | ACK, 5000, 1001), &[]));
        assert_eq!(answer.map(|packet| address(&packet, 16)), Some(client.address), "client {turn}");
        flood(&mut lab, UPLINK_PORT, (400..800).map(syn));
        lab.bridge.now = lab.bridge.now.after(Duration::from_millis(100));
        assert!(back(&mut lab, &packets::tcp(client, web, &Tcp::new(ACK, 1001, 5001), b"?")).is_some(), "client {turn}");
    }
    assert!(connects(&mut lab, 20_000), "and the guest goes out");
    assert!(lab.nat.stats().evicted > 20_000);
}
