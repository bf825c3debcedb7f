//! Malformed and forged frames from inside and outside: the daemon survives, counts each and lets none through that it
//! must drop.

use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::datagrams::{ACK, Datagram, ECHO_REQUEST, SYN, TCP, UDP, checksum};
use crate::frames::{DOT1AD, DOT1Q, tagged};
use crate::nat_tcp::Pair;
use crate::random::Random;
use crate::site::{FAR, GATEWAY, MACHINE, Mode, OWN, Plan, Site, guest_address};
use crate::station::{ArpMessage, Station, flush};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("hostile/cut_off_anywhere", cut_off_anywhere),
        trial("hostile/any_byte_changed", any_byte_changed),
        trial("hostile/lengths_that_lie", lengths_that_lie),
        trial("hostile/wrong_checksums_open_nothing", wrong_checksums_open_nothing),
        trial("hostile/martians", martians),
        trial("hostile/private_destinations_from_outside", private_destinations_from_outside),
        trial("hostile/options", options),
        trial("hostile/tags_on_the_uplink", tags_on_the_uplink),
        trial("hostile/no_gateway_is_opened_from_within", no_gateway_is_opened_from_within),
        trial("hostile/noise", noise),
    ]
}

/// A site with one connection and one mapping of a guest.
struct Stage {
    site: Site,
    guest: Station,
    peer: Station,
    outer: SocketAddrV4,
}

impl Stage {
    fn new(mode: Mode) -> Stage {
        let site = Plan::new(mode, 1).silent().start();
        let (guest, peer) = (site.guest_station(1), site.stranger(50));
        guest.send_udp(5000, peer.at(53), b"open");
        let outer = peer.next_udp(53).from();
        // In an open flow the receiver judges them.
        guest.expects_wrong_checksums.set(true);
        peer.expects_wrong_checksums.set(true);
        Stage { site, guest, peer, outer }
    }

    /// One packet of each kind that the router parses, from the guest and to it.
    fn kinds(&self) -> Vec<(&Station, Vec<u8>)> {
        let Stage { guest, peer, outer, .. } = self;
        let about_out = Datagram::udp(*outer, peer.at(53), b"open");
        let about_in = Datagram::udp(peer.at(53), guest.at(5000), b"answer");
        let padding = [1, 1, 1, 1];
        let from_guest = [
            Datagram::udp(guest.at(5000), peer.at(53), b"data"),
            Datagram::tcp_with_options(guest.at(6000), peer.at(80), SYN, [1, 0], &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1], b""),
            Datagram::echo(guest.ip, peer.ip, ECHO_REQUEST, 7, b"ping"),
            Datagram::echo(guest.ip, GATEWAY, ECHO_REQUEST, 7, b"ping"),
            Datagram::error(guest.ip, peer.ip, [3, 3], 0, &about_in.bytes()),
            Datagram { options: padding.to_vec(), ..Datagram::udp(guest.at(5000), peer.at(53), b"options") },
            Datagram { more_fragments: true, ..Datagram::udp(guest.at(5000), peer.at(53), &[0; 24]) },
            Datagram::new(guest.ip, peer.ip, 47, vec![0; 24]),
        ];
        let from_outside = [
            Datagram::udp(peer.at(53), *outer, b"answer"),
            Datagram::tcp(peer.at(80), *outer, SYN | ACK, [1, 1], b""),
            Datagram::echo(peer.ip, *outer.ip(), ECHO_REQUEST, 7, b"ping"),
            Datagram::error(peer.ip, *outer.ip(), [3, 4], 1400, &about_out.bytes()),
            Datagram { offset: 800, ..Datagram::udp(peer.at(53), *outer, b"a later fragment") },
        ];
        let arp =
            |station: &Station, whom| ArpMessage::request((station.mac, station.ip), whom).frame(MacAddr::BROADCAST, station.mac);
        let mut kinds: Vec<(&Station, Vec<u8>)> = vec![(guest, arp(guest, GATEWAY)), (peer, arp(peer, *outer.ip()))];
        kinds.extend(from_guest.iter().map(|datagram| (guest, datagram.frame(guest.via, guest.mac))));
        kinds.extend(from_outside.iter().map(|datagram| (peer, datagram.frame(peer.via, peer.mac))));
        kinds
    }

    /// Asserts that the mapping still exists and that every frame is accounted for.
    fn end_well(self) {
        let Stage { site, guest, peer, outer } = self;
        flush(&guest, &peer, 1, peer.at(1));
        flush(&peer, &guest, 53, outer);
        Pair::open(&guest, 7777, &peer, 7777).is_alive();
        guest.send_udp(5000, peer.at(53), b"all is well");
        let seen = peer.expect("the datagram", |seen| seen.protocol == UDP && seen.data() == b"all is well");
        assert_eq!(seen.from(), outer);
        peer.send_udp(53, outer, b"here, too");
        guest.expect("the answer", |seen| seen.protocol == UDP && seen.data() == b"here, too");
        site.finish();
    }
}

/// Sends what the kernel accepts: nothing shorter than a header.
fn send(station: &Station, frame: &[u8]) {
    if frame.len() >= 14 {
        let _ = station.socket.send(frame);
    }
}

fn cut_off_anywhere() {
    for mode in Mode::BOTH {
        let stage = Stage::new(mode);
        for (station, frame) in stage.kinds() {
            for len in 14..frame.len() {
                send(station, &frame[..len]);
                // The same frame padded, as short frames arrive from a wire.
                let mut padded = frame[..len].to_vec();
                padded.resize(60.max(len), 0);
                send(station, &padded);
            }
        }
        stage.end_well();
    }
}

/// Each byte after the addresses set to several values, with a matching header checksum and without.
fn any_byte_changed() {
    let stage = Stage::new(Mode::Own);
    for (station, frame) in stage.kinds() {
        for at in 12..frame.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = frame.clone();
                changed[at] ^= value;
                send(station, &changed);
                let header = usize::from(changed[14] & 15) * 4;
                if changed[12..14] == [8, 0] && (20..=changed.len() - 14).contains(&header) {
                    changed[24..26].fill(0);
                    let check = checksum(&[&changed[14..14 + header]]);
                    changed[24..26].copy_from_slice(&check.to_be_bytes());
                    send(station, &changed);
                }
            }
        }
        stage.guest.socket.recv();
    }
    drain(&stage);
    stage.end_well();
}

/// The stations may receive any of the changed packets; they are not checked.
fn drain(stage: &Stage) {
    for station in [&stage.guest, &stage.peer] {
        while station.socket.recv().is_some() {}
    }
    // A changed source address may have taken the station's neighbour entry.
    stage.guest.greet(GATEWAY);
    stage.peer.greet(OWN);
}

/// Total length, header length, UDP length, data offset, ICMP quote.
fn lengths_that_lie() {
    let stage = Stage::new(Mode::Own);
    let (guest, peer) = (&stage.guest, &stage.peer);
    let good = Datagram::udp(guest.at(5000), peer.at(53), &[7; 100]).bytes();
    let fixed = |mut bytes: Vec<u8>| {
        let header = (usize::from(bytes[0] & 15) * 4).clamp(20, bytes.len());
        bytes[10..12].fill(0);
        let check = checksum(&[&bytes[..header]]);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
        [&guest.via.0[..], &guest.mac.0, &[8, 0], &bytes].concat()
    };
    for total in [0, 1, 19, 20, 27, 129, 1000, 0xffff_u16] {
        let mut bytes = good.clone();
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        guest.send_frame(&fixed(bytes));
    }
    for first in [0x40, 0x44, 0x4f, 0x55, 0x65, 0x05, 0xff] {
        let mut bytes = good.clone();
        bytes[0] = first;
        guest.send_frame(&fixed(bytes));
    }
    guest.send_udp(5001, peer.at(99), b"mark");
    peer.expect("the mark", |seen| seen.ports() == [5001, 99]);
    assert_eq!(peer.seen(), []);
    // A data offset beyond the segment, and one within the fixed header.
    for offset in [0, 1, 4, 6, 15] {
        let mut syn = Datagram::tcp(guest.at(6001), peer.at(80), SYN, [1, 0], b"");
        syn.payload[12] = offset << 4;
        guest.send(&syn.with_checksum());
    }
    guest.send_udp(5001, peer.at(99), b"mark");
    peer.expect("the mark", |seen| seen.ports() == [5001, 99]);
    assert_eq!(peer.seen(), []);
    stage.end_well();
}

/// A packet with a wrong checksum opens no mapping; in an open flow the receiver judges it.
fn wrong_checksums_open_nothing() {
    let stage = Stage::new(Mode::Own);
    let (guest, peer) = (&stage.guest, &stage.peer);
    let opened = stage.site.switch().report().nat("opened");
    for good in [
        Datagram::udp(guest.at(5002), peer.at(53), b"data"),
        Datagram::tcp(guest.at(5002), peer.at(80), SYN, [1, 0], b""),
        Datagram::echo(guest.ip, peer.ip, ECHO_REQUEST, 9, b"ping"),
    ] {
        let mut bad = good.clone();
        let last = bad.payload.len() - 1;
        bad.payload[last] ^= 1;
        guest.send(&bad);
    }
    let mut bad_header = Datagram::udp(guest.at(5003), peer.at(53), b"x").frame(guest.via, guest.mac);
    bad_header[24] ^= 1;
    guest.send_frame(&bad_header);
    let report = stage.site.switch().settle("the drops", |report| {
        report.dropped("g1", "nat_bad_checksum") == 3 && report.dropped("g1", "bad_ip_header") == 1
    });
    assert_eq!(report.nat("opened"), opened);
    assert_eq!(peer.seen(), []);
    stage.end_well();
}

/// Source and destination addresses that are not valid for a host.
fn martians() {
    let stage = Stage::new(Mode::Own);
    let (guest, peer, outer) = (&stage.guest, &stage.peer, stage.outer);
    let nobody = [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [239, 255, 255, 250], [240, 0, 0, 1], [255, 255, 255, 255]];
    for src in nobody.map(Ipv4Addr::from) {
        guest.send(&Datagram::udp(SocketAddrV4::new(src, 5000), peer.at(53), b"x"));
        peer.send(&Datagram::udp(SocketAddrV4::new(src, 53), outer, b"x"));
        peer.send(&Datagram::error(src, *outer.ip(), [3, 3], 0, &Datagram::udp(outer, peer.at(53), b"x").bytes()));
    }
    // Land attack: source and destination are the same, inside and outside; and inside source addresses from outside.
    guest.send(&Datagram::udp(guest.at(5000), guest.at(5000), b"x"));
    guest.send(&Datagram::tcp(SocketAddrV4::new(GATEWAY, 80), SocketAddrV4::new(GATEWAY, 80), SYN, [1, 0], b""));
    for src in [*outer.ip(), guest.ip, GATEWAY] {
        peer.send(&Datagram::tcp(SocketAddrV4::new(src, 5000), outer, SYN, [1, 0], b""));
        peer.send(&Datagram::udp(SocketAddrV4::new(src, 5000), outer, b"x"));
    }
    // To the network and broadcast addresses.
    for last in [0, 255] {
        guest.send_udp(5000, SocketAddrV4::new([10, 77, 0, last].into(), 7), b"x");
    }
    guest.send_udp(5000, peer.at(53), b"mark");
    peer.expect("the mark", |seen| seen.data() == b"mark");
    assert_eq!(peer.seen(), []);
    peer.send_udp(53, outer, b"mark");
    let seen = guest.expect("the mark", |seen| seen.data() == b"mark");
    assert_eq!(seen.src, peer.ip);
    // Its own packet to itself may come back; nothing else.
    assert!(guest.seen().iter().all(|seen| seen.src == guest.ip && seen.dst == guest.ip));
    stage.end_well();
}

/// A neighbour on the uplink's link sends to any IP address by way of the router's MAC address.
fn private_destinations_from_outside() {
    for mode in Mode::BOTH {
        let stage = Stage::new(mode);
        let (guest, peer) = (&stage.guest, &stage.peer);
        for dst in [guest.ip, GATEWAY, guest_address(9), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::BROADCAST] {
            peer.send_udp(53, SocketAddrV4::new(dst, 5000), b"straight in");
            peer.send(&Datagram::tcp(peer.at(80), SocketAddrV4::new(dst, 80), SYN, [1, 0], b""));
            peer.send(&Datagram::echo(peer.ip, dst, ECHO_REQUEST, 1, b"ping"));
        }
        peer.send_udp(53, stage.outer, b"mark");
        guest.expect("the mark", |seen| seen.data() == b"mark");
        assert_eq!(guest.seen(), [], "{mode:?}");
        stage.end_well();
    }
}

/// Packets with source routes (RFC 6274 section 3.13) or malformed option lists are dropped; others pass or are
/// dropped without harm.
fn options() {
    let stage = Stage::new(Mode::Own);
    let (guest, peer) = (&stage.guest, &stage.peer);
    for kind in [131, 137] {
        let options = [kind, 7, 4, 203, 0, 113, 9, 0].to_vec();
        guest.send(&Datagram { options: options.clone(), ..Datagram::udp(guest.at(5000), peer.at(53), b"source route") });
        peer.send(&Datagram { options, ..Datagram::udp(peer.at(53), stage.outer, b"source route") });
    }
    for options in [vec![7, 0, 0, 0], vec![7, 1, 0, 0], vec![7, 255, 4, 0], vec![1, 1, 1, 130]] {
        guest.send(&Datagram { options, ..Datagram::udp(guest.at(5000), peer.at(53), b"malformed") });
    }
    for kind in 0..=255 {
        let options = vec![kind, 4, 0, 0];
        guest.send(&Datagram { options, ..Datagram::udp(guest.at(5000), peer.at(53), b"any") });
    }
    guest.send_udp(5000, peer.at(53), b"mark");
    peer.expect("the mark", |seen| seen.data() == b"mark");
    assert!(peer.seen().iter().all(|seen| seen.data() == b"any"));
    stage.end_well();
}

/// The uplink carries untagged frames; tagged frames are dropped.
fn tags_on_the_uplink() {
    let stage = Stage::new(Mode::Own);
    let (guest, peer) = (&stage.guest, &stage.peer);
    let answer = Datagram::udp(peer.at(53), stage.outer, b"tagged").frame(peer.via, peer.mac);
    for vid in [1, 10, 4095] {
        for protocol in [DOT1Q, DOT1AD] {
            peer.send_frame(&tagged(&answer, protocol, vid));
            peer.send_frame(&tagged(&tagged(&answer, DOT1Q, 5), protocol, vid));
        }
    }
    let question = Datagram::udp(guest.at(5000), peer.at(53), b"two tags").frame(guest.via, guest.mac);
    guest.send_frame(&tagged(&tagged(&question, DOT1Q, 5), DOT1Q, 0));
    guest.send_frame(&tagged(&question, DOT1Q, 77));
    peer.send_udp(53, stage.outer, b"mark");
    guest.expect("the mark", |seen| seen.data() == b"mark");
    assert_eq!(guest.seen(), []);
    assert_eq!(peer.seen(), []);
    stage.end_well();
}

/// NAT slipstreaming: payload that resembles a protocol with a NAT helper opens nothing.
fn no_gateway_is_opened_from_within() {
    let stage = Stage::new(Mode::Own);
    let (guest, peer) = (&stage.guest, &stage.peer);
    let pair = Pair::open(guest, 6000, peer, 21);
    let [ours, theirs] = pair.numbers();
    let opened = stage.site.switch().report().nat("opened");
    let texts: [&[u8]; 4] = [
        b"PORT 10,77,0,11,31,144\r\n",
        b"REGISTER sip:x SIP/2.0\r\nContact: <sip:x@10.77.0.11:8080;transport=tcp>\r\n\r\n",
        b"PRIVMSG x :\x01DCC SEND x 172818443 8080 1\x01\r\n",
        b"EPRT |1|10.77.0.11|8080|\r\n",
    ];
    let mut at = ours;
    for text in texts {
        pair.out(ACK, [at, theirs], text);
        at = at.wrapping_add(text.len() as u32);
        assert_eq!(peer.expect("the text", |seen| seen.protocol == TCP).data(), text, "as it was");
        guest.send_udp(5060, peer.at(5060), text);
        peer.next_udp(5060);
    }
    for port in [8080, 31 * 256 + 144, 5060] {
        peer.send(&Datagram::tcp(peer.at(20), SocketAddrV4::new(OWN, port), SYN, [1, 0], b""));
        peer.send_udp(20, SocketAddrV4::new(OWN, port), b"x");
    }
    peer.send_udp(53, stage.outer, b"mark");
    guest.expect("the mark", |seen| seen.data() == b"mark");
    assert_eq!(guest.seen(), []);
    assert_eq!(stage.site.switch().report().nat("opened"), opened + 1);
    let Stage { site, .. } = stage;
    site.finish();
}

/// Random bytes after headers that lead into the router.
fn noise() {
    let stage = Stage::new(Mode::Own);
    let mut random = Random::new(9);
    for round in 0..20_000_usize {
        let station = if round % 2 == 0 { &stage.guest } else { &stage.peer };
        let dst = [FAR, GATEWAY, OWN, MACHINE, stage.peer.ip, stage.guest.ip][random.below(6)];
        let protocol = [1, 6, 17, 2, 47, 50, 132, random.next() as u8][random.below(8)];
        let len = if random.chance(4) { random.below(1400) } else { random.below(64) };
        let payload = random.bytes(len);
        let mut datagram =
            Datagram { ttl: random.next() as u8, id: round as u16, ..Datagram::new(station.ip, dst, protocol, payload) };
        if random.chance(3) {
            datagram = datagram.with_checksum();
        }
        if random.chance(4) {
            datagram.offset = random.below(8192) * 8;
            datagram.more_fragments = random.chance(2);
        }
        if random.chance(4) {
            let len = random.below(11) * 4;
            datagram.options = random.bytes(len);
        }
        send(station, &datagram.frame(station.via, station.mac));
        if round % 256 == 0 {
            drain(&stage);
        }
    }
    drain(&stage);
    stage.end_well();
}
