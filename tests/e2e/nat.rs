//! NAT as seen by guests and peers: transfers, addresses and ports, filtering, and lifetimes.

use std::net::SocketAddrV4;
use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::datagrams::Datagram;
use crate::site::{
    FAR, GATEWAY, MACHINE, Mode, NEIGHBOUR, NEXT_HOP, OWN, OWN_TOO, Plan, Site, assert_empty, connect, guest_address, listen_on,
    local, ping, recv_from, udp_on,
};
use crate::station::{Station, flush};
use crate::transfer::transfer_through;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("nat/tcp_both_ways_{word}"), move || tcp(&Site::start_with(mode, 2))),
            trial(format!("nat/tcp_frame_by_frame_{word}"), move || tcp_frame_by_frame(mode)),
            trial(format!("nat/udp_and_ping_{word}"), move || udp_and_ping(mode)),
            trial(format!("nat/one_outside_port_for_all_peers_{word}"), move || one_outside_port_for_all_peers(mode)),
            trial(format!("nat/no_port_for_two_{word}"), move || no_port_for_two(mode)),
            trial(format!("nat/strangers_are_not_let_in_{word}"), move || strangers_are_not_let_in(mode)),
            trial(format!("nat/strangers_are_let_in_if_asked_{word}"), move || strangers_are_let_in_if_asked(mode)),
            trial(format!("nat/hairpin_between_guests_{word}"), move || hairpin_between_guests(mode)),
            trial(format!("nat/no_checksum_stays_none_{word}"), move || no_checksum_stays_none(mode)),
        ]);
    }
    trials.extend([
        trial("nat/opened_all_at_once", opened_all_at_once),
        trial("nat/ports_are_kept", ports_are_kept),
        trial("nat/a_mapping_for_each_peer_if_asked", a_mapping_for_each_peer_if_asked),
        trial("nat/all_of_a_guest_by_one_address", all_of_a_guest_by_one_address),
        trial("nat/udp_ends_after_its_time", udp_ends_after_its_time),
        trial("nat/ping_ends_after_its_time", ping_ends_after_its_time),
        trial("nat/other_protocols", other_protocols),
        trial("nat/report_has_numbers", report_has_numbers),
    ]);
    trials
}

/// Ten megabytes each way at once, from two guests.
fn tcp(site: &Site) {
    let listener = listen_on(&site.outside, FAR, 80);
    for guest in [1, 2] {
        let (near, far, peer) = connect(site.guest(guest), &listener, SocketAddrV4::new(FAR, 80));
        assert_eq!(*peer.ip(), site.address(), "the outside address is all that is seen");
        transfer_through(near, far, true);
    }
    let report = site.switch().settle("all to be carried", |_| true);
    assert_eq!(report.kernel_dropped(), 0, "{report:?}");
}

/// The same with all offloads off: the stacks segment, and compute and verify every checksum.
fn tcp_frame_by_frame(mode: Mode) {
    let site = Plan::new(mode, 2).plain().start();
    site.outside.turn_offloads_off();
    for guest in &site.guests {
        guest.turn_offloads_off();
    }
    tcp(&site);
    site.finish();
}

fn udp_and_ping(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    client.connect((FAR, 53)).expect("connected");
    for size in [0, 1, 2, 1471, 1472] {
        client.send(&vec![7; size]).expect("sent");
        let (bytes, from) = recv_from(&server);
        assert_eq!((bytes, *from.ip()), (vec![7; size], site.address()));
        server.send_to(&vec![8; size], from).expect("sent");
        let (bytes, from) = recv_from(&client);
        assert_eq!((bytes, from), (vec![8; size], SocketAddrV4::new(FAR, 53)));
    }
    for (id, to) in [(1, NEXT_HOP), (2, FAR), (3, NEIGHBOUR)] {
        assert_eq!(ping(site.guest(1), to, id), (to, 63), "one hop less");
    }
    site.finish();
}

/// RFC 4787 REQ-1: endpoint-independent mapping.
fn one_outside_port_for_all_peers(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let client = udp_on(site.guest(1), guest_address(1), 5000);
    let servers = [(NEXT_HOP, 1000), (NEIGHBOUR, 1000), (FAR, 1000), (FAR, 2000)];
    let mut seen = Vec::new();
    for (address, port) in servers {
        let server = udp_on(&site.outside, address, port);
        client.send_to(b"who am I?", (address, port)).expect("sent");
        seen.push(recv_from(&server).1);
    }
    assert!(seen.iter().all(|from| *from == seen[0] && *from.ip() == site.address()), "{seen:?}");
    let report = site.finish();
    assert_eq!((report.nat("connections"), report.nat("mappings")), (4, 1));
}

/// RFC 4787 REQ-3: two guests that use the same port to the same peer are told apart.
fn no_port_for_two(mode: Mode) {
    let site = Site::start_with(mode, 3);
    let server = udp_on(&site.outside, FAR, 53);
    let clients: Vec<_> = (1..=3).map(|n| udp_on(site.guest(n.into()), guest_address(n), 5001)).collect();
    let mut seen = Vec::new();
    for client in &clients {
        client.send_to(b"I", (FAR, 53)).expect("sent");
        seen.push(recv_from(&server).1);
    }
    for (n, (client, from)) in clients.iter().zip(&seen).enumerate() {
        assert!(from.port() >= 1024 && from.port() % 2 == 1, "class and parity are kept: {from}");
        server.send_to(&[n as u8], from).expect("sent");
        assert_eq!(recv_from(client).0, [n as u8]);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
    site.finish();
}

/// RFC 4787 REQ-8: address- and port-dependent filtering.
fn strangers_are_not_let_in(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let guest = site.guest_station(1);
    let (peer, stranger) = (site.stranger(50), site.stranger(51));
    guest.send_udp(5000, peer.at(53), b"question");
    let outside = peer.next_udp(53).from();
    peer.send_udp(54, outside, b"from another port");
    stranger.send_udp(53, outside, b"from another address");
    stranger.send_udp(53, SocketAddrV4::new(*outside.ip(), outside.port() ^ 1), b"to another port");
    peer.send_udp(53, outside, b"answer");
    assert_eq!(guest.next("the answer").data(), b"answer");
    assert_eq!(flush(&peer, &guest, 53, outside), []);
    let report = site.finish();
    // The filter of the uplink's socket keeps out datagrams to ports without a mapping.
    assert!(report.dropped("up0", "nat_no_mapping") >= 2, "{report:?}");
    assert_eq!(report.nat("opened"), 1);
}

fn strangers_are_let_in_if_asked(mode: Mode) {
    let site = Plan::new(mode, 1).args(&["--nat", "filtering=endpoint-independent"]).silent().start();
    let guest = site.guest_station(1);
    let (peer, stranger) = (site.stranger(50), site.stranger(51));
    guest.send_udp(5000, peer.at(53), b"question");
    let outside = peer.next_udp(53).from();
    for (from, port) in [(&stranger, 99), (&peer, 54)] {
        from.send_udp(port, outside, b"hello");
        let hello = guest.next("a stranger's hello");
        assert_eq!((hello.from(), hello.to()), (from.at(port), guest.at(5000)));
        guest.send_udp(5000, from.at(port), b"hello to you");
        assert_eq!(from.next_udp(port).from(), outside, "the same mapping answers");
    }
    stranger.send_udp(99, SocketAddrV4::new(*outside.ip(), outside.port() ^ 1), b"to another port");
    assert_eq!(flush(&peer, &guest, 53, outside), []);
    site.finish();
}

/// RFC 4787 REQ-9: hairpinning, with the external address and port as source.
fn hairpin_between_guests(mode: Mode) {
    let site = Plan::new(mode, 2).args(&["--nat", "filtering=endpoint-independent"]).start();
    let server = udp_on(&site.outside, FAR, 3478);
    let guests: Vec<_> = (1..=2).map(|n| udp_on(site.guest(n.into()), guest_address(n), 6000)).collect();
    let mut outside = Vec::new();
    for guest in &guests {
        guest.send_to(b"who am I?", (FAR, 3478)).expect("sent");
        outside.push(recv_from(&server).1);
    }
    guests[0].send_to(b"from the first", outside[1]).expect("sent");
    assert_eq!(recv_from(&guests[1]), (b"from the first".to_vec(), outside[0]));
    guests[1].send_to(b"from the second", outside[0]).expect("sent");
    assert_eq!(recv_from(&guests[0]), (b"from the second".to_vec(), outside[1]));
    guests[0].send_to(b"to myself", outside[0]).expect("sent");
    assert_eq!(recv_from(&guests[0]), (b"to myself".to_vec(), outside[0]));
    site.finish();
}

/// A UDP checksum of 0 means no checksum (RFC 768); a checksum that is computed as 0 is sent as 0xffff.
fn no_checksum_stays_none(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let without = |mut datagram: Datagram| {
        datagram.payload[6..8].fill(0);
        datagram
    };
    guest.send(&without(Datagram::udp(guest.at(5000), peer.at(53), b"no checksum")));
    let question = peer.next_udp(53);
    assert_eq!((&question.payload[6..8], question.data()), (&[0, 0][..], &b"no checksum"[..]));
    peer.send(&without(Datagram::udp(peer.at(53), question.from(), b"none either")));
    assert_eq!(guest.next("an answer").payload[6..8], [0, 0]);
    // All 65,536 values in the same place: the checksum is always right and never 0.
    for word in (0..=u16::MAX).step_by(257).chain(0xff00..=0xffff) {
        guest.send_udp(5000, peer.at(53), &word.to_be_bytes());
        let seen = peer.next_udp(53);
        assert_ne!(seen.payload[6..8], [0, 0], "{seen:?}");
        assert_eq!(seen.data(), word.to_be_bytes());
    }
    site.finish();
}

/// Guests on several workers open flows at the same moment, from the same ports to the same peer, two packets each:
/// one mapping each, no packet lost, no port given twice.
fn opened_all_at_once() {
    const FLOWS: u16 = 150;
    let site = Plan::new(Mode::Own, 4).args(&["--workers", "8"]).start();
    let server = udp_on(&site.outside, FAR, 53);
    for n in 1..=4_u8 {
        // From here on its neighbours are known.
        ping(site.guest(n.into()), FAR, n.into());
    }
    let sockets: Vec<Vec<_>> =
        (1..=4).map(|n| (0..FLOWS).map(|port| udp_on(site.guest(n.into()), guest_address(n), 10_000 + port)).collect()).collect();
    std::thread::scope(|scope| {
        for (n, sockets) in sockets.iter().enumerate() {
            scope.spawn(move || {
                for (m, socket) in sockets.iter().enumerate() {
                    for twin in 0..2 {
                        socket.send_to(&[n as u8, m as u8, twin], (FAR, 53)).expect("sent");
                    }
                }
            });
        }
    });
    let mut owner = std::collections::HashMap::new();
    for _ in 0..4 * FLOWS * 2 {
        let (bytes, from) = recv_from(&server);
        let [n, m, _] = bytes[..] else { panic!("{bytes:?}") };
        assert_eq!(*owner.entry(from).or_insert((n, m)), (n, m), "{from} belongs to two");
        server.send_to(&[n, m], from).expect("sent");
    }
    assert_eq!(owner.len(), usize::from(4 * FLOWS));
    for (n, sockets) in sockets.iter().enumerate() {
        for (m, socket) in sockets.iter().enumerate() {
            assert_eq!([recv_from(socket).0, recv_from(socket).0], [[n as u8, m as u8], [n as u8, m as u8]]);
        }
    }
    assert_eq!(site.finish().nat("opened"), u64::from(4 * FLOWS) + 4);
}

/// With an outside address of the router's own, all ports are free and each guest keeps its port.
fn ports_are_kept() {
    let site = Plan::new(Mode::Own, 2).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let other = site.guest_station(2);
    for port in [1024, 5000, 5001, 40_000, 65_535] {
        guest.send_udp(port, peer.at(53), b"I");
        assert_eq!(peer.next_udp(53).from(), SocketAddrV4::new(OWN, port));
        other.send_udp(port, peer.at(53), b"I, too");
        let seen = peer.next_udp(53).from().port();
        assert!(seen != port && seen >= 1024 && seen % 2 == port % 2, "{port} became {seen}");
    }
    let report = site.finish();
    assert_eq!(report.nat("mappings"), 10);
}

fn a_mapping_for_each_peer_if_asked() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "mapping=address-and-port-dependent"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let mut seen: Vec<_> = [53, 54, 55]
        .map(|port| {
            guest.send_udp(5000, peer.at(port), b"I");
            let outside = peer.next_udp(port).from();
            peer.send_udp(port, outside, &port.to_be_bytes());
            assert_eq!(guest.next("an answer").data(), port.to_be_bytes());
            outside
        })
        .into();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
    site.finish();
}

/// RFC 4787 REQ-2: paired address pooling, for all protocols.
fn all_of_a_guest_by_one_address() {
    let pool = format!("{OWN}/24,{OWN_TOO}");
    let args = ["--uplink-address", pool.as_str(), "--uplink-gateway", "203.0.113.254"];
    // The flags of the mode would configure one address only.
    let site = Plan::new(Mode::Shared, 4).args(&args).silent().start();
    let via = packet::MacAddr([0x02, 0x76, 203, 0, 113, 77]);
    let peer = Station::new(site.wan(), 0x200, std::net::Ipv4Addr::new(203, 0, 113, 50), via);
    for n in 1..=4 {
        let guest = site.guest_station(n);
        let mut seen = Vec::new();
        for port in 7000..7016 {
            guest.send_udp(port, peer.at(port + 1), b"I");
            seen.push(peer.next_udp(port + 1).src);
        }
        guest.send(&Datagram::echo(guest.ip, peer.ip, 8, 7, b"ping"));
        seen.push(peer.next("a ping").src);
        assert!(seen.iter().all(|src| *src == seen[0] && [OWN, OWN_TOO].contains(src)), "guest {n}: {seen:?}");
    }
    site.finish();
}

/// A mapping in use stays; an unused one expires and its port closes.
fn udp_ends_after_its_time() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "udp=4"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    for _ in 0..6 {
        guest.send_udp(5000, peer.at(53), b"still here");
        peer.next_udp(53);
        sleep(Duration::from_secs(1));
    }
    peer.send_udp(53, SocketAddrV4::new(OWN, 5000), b"late");
    assert_eq!(guest.next("what came in time").data(), b"late");
    assert_eq!(site.switch().report().nat("opened"), 1, "one mapping all the time");
    site.switch().settle("the mapping to end", |report| report.nat("mappings") == 0);
    peer.send_udp(53, SocketAddrV4::new(OWN, 5000), b"too late");
    site.switch().settle("the drop", |report| report.dropped("up0", "nat_no_mapping") == 1);
    assert_eq!(guest.seen(), []);
    let report = site.finish();
    assert_eq!((report.nat("expired"), report.nat("connections")), (1, 0));
}

fn ping_ends_after_its_time() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "icmp=1"]).start();
    ping(site.guest(1), FAR, 77);
    assert_eq!(site.switch().report().nat("opened"), 1);
    site.switch().settle("the ping to end", |report| report.nat("connections") == 0);
    ping(site.guest(1), FAR, 77);
    assert_eq!(site.finish().nat("opened"), 2);
}

/// Protocols without ports are mapped by address alone: one guest at a time may use one with a peer.
fn other_protocols() {
    const GRE: u8 = 47;
    let site = Plan::new(Mode::Own, 2).silent().start();
    let (guest, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    guest.send(&Datagram::new(guest.ip, peer.ip, GRE, b"gre one".to_vec()));
    let seen = peer.next("the packet");
    assert_eq!((seen.src, seen.protocol, &seen.payload[..]), (OWN, GRE, &b"gre one"[..]));
    peer.send(&Datagram::new(peer.ip, OWN, GRE, b"gre two".to_vec()));
    assert_eq!(guest.next("the answer").payload, b"gre two");
    other.send(&Datagram::new(other.ip, peer.ip, GRE, b"gre too".to_vec()));
    let error = other.next("an error");
    assert!(error.is_icmp(3, 13) && error.src == GATEWAY && error.quote().protocol == GRE, "{error:?}");
    let report = site.finish();
    assert_eq!(report.dropped("g2", "nat_clash"), 1);
}

fn report_has_numbers() {
    let site = Site::start_with(Mode::Shared, 1);
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    client.send_to(b"one", (FAR, 53)).expect("sent");
    let (_, from) = recv_from(&server);
    assert_eq!((*from.ip(), local(&client).ip()), (MACHINE, &guest_address(1)));
    let report = site.switch().report();
    let numbers = ["connections", "mappings", "opened", "expired", "flushed", "evicted"].map(|word| report.nat(word));
    assert_eq!(numbers, [1, 1, 1, 0, 0, 0]);
    assert_empty(&client);
    assert!(report.sent_by("up0") >= 1 && report.received_by("up0") >= 1, "{report:?}");
    site.finish();
}
