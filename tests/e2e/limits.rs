//! Limits: what is refused, how the sender learns of it, and that others are not affected.

use std::net::SocketAddrV4;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::datagrams::{ACK, Datagram, SYN};
use crate::nat_tcp::Pair;
use crate::site::{FAR, GATEWAY, Mode, OWN, Plan, connect, error_of, guest_address, hears_all, listen_on, recv_from, udp_on};
use crate::station::{Station, flush};
use crate::transfer::transfer_through;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("limits/all_ports_taken_{word}"), move || all_ports_taken(mode)),
            trial(format!("limits/a_syn_flood_from_a_guest_{word}"), move || a_syn_flood_from_a_guest(mode)),
        ]);
    }
    trials.extend([
        trial("limits/all_connections_taken", all_connections_taken),
        trial("limits/ports_of_one_guest", ports_of_one_guest),
        trial("limits/ports_of_one_port", ports_of_one_port),
        trial("limits/connections_of_one_port", connections_of_one_port),
        trial("limits/a_scan_from_outside", a_scan_from_outside),
        trial("limits/a_flood_at_a_published_port", a_flood_at_a_published_port),
    ]);
    trials
}

/// RFC 5508 REQ-8: the guest gets "administratively prohibited"; RFC 6888 REQ-11: no mapping that was answered is evicted.
fn all_ports_taken(mode: Mode) {
    let site = Plan::new(mode, 1).args(&["--nat", "ports=40000-40063"]).start();
    let server = udp_on(&site.outside, FAR, 53);
    let mut clients = Vec::new();
    let mut outer = Vec::new();
    for n in 0..64_u8 {
        let client = udp_on(site.guest(1), guest_address(1), 0);
        client.connect((FAR, 53)).expect("connected");
        client.send(&[n]).expect("sent");
        let (bytes, from) = recv_from(&server);
        assert!(bytes == [n] && (40_000..40_064).contains(&from.port()), "{from}");
        server.send_to(&[n], from).expect("sent");
        assert_eq!(recv_from(&client).0, [n]);
        clients.push(client);
        outer.push(from);
    }
    let one_more = hears_all(udp_on(site.guest(1), guest_address(1), 0));
    one_more.connect((FAR, 53)).expect("connected");
    one_more.send(b"one too many").expect("sent");
    let error = error_of(&one_more);
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
    for (n, (client, from)) in clients.iter().zip(&outer).enumerate() {
        server.send_to(&[n as u8], from).expect("sent");
        assert_eq!(recv_from(client).0, [n as u8], "all others go on");
    }
    // TCP has ports of its own.
    let listener = listen_on(&site.outside, FAR, 80);
    connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 80));
    let report = site.finish();
    assert_eq!(report.dropped("g1", "nat_ports_exhausted"), 1, "{report:?}");
    assert_eq!(report.nat("mappings"), 65);
}

/// The limit on the number of connections.
fn all_connections_taken() {
    let args = ["--nat", "max-connections=1024,max-connections-per-port=1024"];
    let site = Plan::new(Mode::Own, 2).args(&args).silent().start();
    let (guest, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    for port in 2000..3024 {
        exchange(&guest, port, &peer);
    }
    for from in [&guest, &other] {
        from.send_udp(5000, peer.at(53), b"one too many");
        let error = from.next("the error");
        assert!(error.is_icmp(3, 13) && error.src == GATEWAY && error.quote().from() == from.at(5000), "{error:?}");
    }
    for port in [2000, 3023] {
        guest.send_udp(port, peer.at(53), b"still there");
        assert_eq!(peer.next_udp(53).ports()[0], port);
    }
    let report = site.finish();
    assert_eq!((report.dropped_for("nat_table_full"), report.nat("connections")), (2, 1024), "{report:?}");
}

/// A datagram and its answer: a connection that gives way to no other.
fn exchange(guest: &Station, port: u16, peer: &Station) {
    guest.send_udp(port, peer.at(53), b"x");
    let from = peer.next_udp(53).from();
    peer.send_udp(53, from, b"y");
    guest.next_udp(port);
}

/// RFC 6888 REQ-4: a limit for each guest and protocol.
fn ports_of_one_guest() {
    let site = Plan::new(Mode::Own, 2).args(&["--nat", "max-ports-per-guest=10"]).silent().start();
    let (guest, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    for port in 2000..2010 {
        exchange(&guest, port, &peer);
    }
    guest.send_udp(2010, peer.at(53), b"one too many");
    assert!(guest.next("the error").is_icmp(3, 13));
    // Further peers take no further ports.
    for port in 54..60 {
        guest.send_udp(2000, peer.at(port), b"x");
        peer.next_udp(port);
    }
    Pair::open(&guest, 2010, &peer, 80).is_alive();
    other.send_udp(2010, peer.at(53), b"x");
    peer.next_udp(53);
    let report = site.finish();
    assert_eq!(report.dropped("g1", "nat_guest_share"), 1, "{report:?}");
}

/// A guest that invents addresses takes at most three quarters of the outside ports, and others have what is left.
fn ports_of_one_port() {
    let site = Plan::new(Mode::Own, 2).args(&["--nat", "ports=40000-40063"]).silent().start();
    let (guest, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    other.send_udp(2000, peer.at(99), b"known");
    peer.next_udp(99);
    for n in 0..100 {
        let forged = SocketAddrV4::new([10, 77, 0, 100 + n].into(), 2000);
        guest.send(&Datagram::udp(forged, peer.at(53), b"x"));
    }
    site.switch().settle("all verdicts", |report| report.nat("opened") == 101);
    for port in 2001..2010 {
        other.send_udp(port, peer.at(99), b"x");
        peer.next_udp(99);
    }
    let report = site.finish();
    let numbers = ["mappings", "evicted"].map(|word| report.nat(word));
    assert_eq!((numbers, report.dropped_for("nat_port_share")), ([48 + 10, 100 - 48], 0), "{report:?}");
}

/// A port of the bridge takes no more than its share, from however many addresses.
fn connections_of_one_port() {
    let args = ["--nat", "max-connections=1024,max-connections-per-port=100"];
    let site = Plan::new(Mode::Own, 2).args(&args).silent().start();
    let (guest, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    // Only a few packets wait for an unresolved neighbour.
    other.send_udp(2000, peer.at(99), b"known");
    peer.next_udp(99);
    for n in 0..300_u16 {
        let forged = SocketAddrV4::new([10, 77, 0, 100 + (n % 100) as u8].into(), 2000 + n);
        guest.send(&Datagram::udp(forged, peer.at(53), b"x"));
    }
    for port in 2001..2100 {
        other.send_udp(port, peer.at(99), b"x");
        peer.next_udp(99);
    }
    let report = site.finish();
    let dropped = ["g1", "g2"].map(|port| report.dropped(port, "nat_port_share"));
    assert_eq!((dropped, report.nat("evicted")), ([0, 0], 200), "{report:?}");
}

/// A hundred thousand SYNs from one guest, during transfers of another.
fn a_syn_flood_from_a_guest(mode: Mode) {
    const SYNS: u32 = 100_000;
    let site = Plan::new(mode, 2).args(&["--nat", "max-connections=20000"]).start();
    let listener = listen_on(&site.outside, FAR, 80);
    let far = SocketAddrV4::new(FAR, 80);
    let (near, back, _) = connect(site.guest(2), &listener, far);
    let flooder = site.guest(1);
    let (socket, mac) = (flooder.raw(), flooder.mac());
    let flood = std::thread::spawn(move || {
        for n in 0..SYNS {
            let from = SocketAddrV4::new(guest_address(1), 1024 + (n % 60_000) as u16);
            let to = SocketAddrV4::new(FAR, 1000 + (n / 60_000) as u16);
            let syn = Datagram::tcp(from, to, SYN, [n, 0], b"").frame(crate::site::GATEWAY_MAC, mac);
            // The kernel had no room; the frame is sent again.
            while socket.send(&syn).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    transfer_through(near, back, true);
    let (near, back, _) = connect(site.guest(2), &listener, far);
    transfer_through(near, back, true);
    flood.join().expect("the flood ends");
    let (near, back, _) = connect(site.guest(2), &listener, far);
    transfer_through(near, back, true);
    let report = site.switch().settle("all to be carried", |_| true);
    assert!(report.nat("connections") <= 10_010, "{report:?}");
    assert!(report.nat("evicted") > 1000, "{report:?}");
    site.finish();
}

/// A port scan from outside opens no connection and gets no reply.
fn a_scan_from_outside() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer, stranger) = (site.guest_station(1), site.stranger(50), site.stranger(51));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    for (n, port) in (0..=u16::MAX).step_by(3).enumerate() {
        if n % 2000 == 0 {
            site.switch().settle("them to be read", |report| report.received_by("up0") >= 2 * n as u64);
        }
        stranger.send(&Datagram::tcp(stranger.at(1), SocketAddrV4::new(OWN, port), SYN, [1, 0], b""));
        stranger.send_udp(1, SocketAddrV4::new(OWN, port), b"?");
    }
    pair.is_alive();
    flush(&guest, &stranger, 1, stranger.at(1));
    assert_eq!((stranger.seen(), guest.seen()), (Vec::new(), Vec::new()));
    assert_eq!(site.finish().nat("opened"), 2, "the connection and the mark");
}

/// Connections to a published port take at most half of the uplink's share; clients still get in, and guests out.
fn a_flood_at_a_published_port() {
    let args = ["--nat", "max-connections=2048,max-connections-per-port=1024", "--publish", "80:10.77.0.11:80"];
    let site = Plan::new(Mode::Own, 1).args(&args).silent().start();
    let (guest, peer, stranger) = (site.guest_station(1), site.stranger(50), site.stranger(51));
    for port in 1..=5000 {
        stranger.send(&Datagram::tcp(stranger.at(port), SocketAddrV4::new(OWN, 80), SYN, [1, 0], b""));
        if port % 256 == 0 {
            site.switch().settle("them to be read", |report| report.received_by("up0") >= port.into());
        }
    }
    site.switch().settle("them to be read", |report| report.received_by("up0") >= 5000);
    guest.seen();
    for port in 6000..6010 {
        let (client, web) = (peer.at(port), SocketAddrV4::new(OWN, 80));
        peer.send(&Datagram::tcp(client, web, SYN, [1, 0], b""));
        guest.expect("the SYN", |segment| segment.from() == client);
        guest.send(&Datagram::tcp(guest.at(80), client, SYN | ACK, [7, 2], b""));
        peer.expect("the SYN-ACK", |segment| segment.from() == web);
        peer.send(&Datagram::tcp(client, web, ACK, [2, 8], b"?"));
        guest.expect("the data", |segment| segment.data() == b"?" && segment.from() == client);
    }
    Pair::open(&guest, 6000, &peer, 99).is_alive();
    let report = site.finish();
    let numbers = ["connections", "evicted"].map(|word| report.nat(word));
    assert_eq!((report.dropped("up0", "nat_port_share"), numbers), (0, [512 + 1, 5000 - 512 + 10]), "{report:?}");
}
