//! TCP through NAT, segment by segment: how connections open, what does not belong to them, and when they end.

use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::datagrams::{ACK, Datagram, FIN, RST, SYN, TCP};
use crate::raw::make_persistent_tap;
use crate::site::{FAR, Mode, OWN, Plan, Site, connect, listen_on};
use crate::station::{Station, flush};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("nat_tcp/simultaneous_open_{word}"), move || simultaneous_open(mode)),
            trial(format!("nat_tcp/unsolicited_syn_is_not_answered_{word}"), move || unsolicited_syn_is_not_answered(mode)),
            trial(format!("nat_tcp/out_of_window_is_dropped_{word}"), move || out_of_window_is_dropped(mode)),
            trial(format!("nat_tcp/blind_resets_are_harmless_{word}"), move || blind_resets_are_harmless(mode)),
            trial(format!("nat_tcp/reset_does_not_end_at_once_{word}"), move || reset_does_not_end_at_once(mode)),
        ]);
    }
    trials.extend([
        trial("nat_tcp/one_outside_port_for_all_peers", one_outside_port_for_all_peers),
        trial("nat_tcp/half_closed_goes_on", half_closed_goes_on),
        trial("nat_tcp/a_syn_is_answered_by_an_error", a_syn_is_answered_by_an_error),
        trial("nat_tcp/ends_after_its_time", ends_after_its_time),
        trial("nat_tcp/opens_anew_from_the_same_port", opens_anew_from_the_same_port),
        trial("nat_tcp/scans_open_nothing", scans_open_nothing),
        trial("nat_tcp/picked_up_after_a_restart", picked_up_after_a_restart),
        trial("nat_tcp/not_picked_up_if_disabled", not_picked_up_if_disabled),
        trial("nat_tcp/liberal_lets_pass", liberal_lets_pass),
    ]);
    trials
}

/// Initial sequence numbers of guest and peer.
const GUEST: u32 = 0xffff_fff0;
const PEER: u32 = 0x7fff_fff8;

/// A connection between stations.
pub(crate) struct Pair<'a> {
    pub(crate) guest: &'a Station,
    pub(crate) peer: &'a Station,
    pub(crate) inner: SocketAddrV4,
    pub(crate) outer: SocketAddrV4,
    pub(crate) server: SocketAddrV4,
}

impl Pair<'_> {
    pub(crate) fn open<'a>(guest: &'a Station, port: u16, peer: &'a Station, server: u16) -> Pair<'a> {
        let (inner, server) = (guest.at(port), peer.at(server));
        guest.send(&Datagram::tcp(inner, server, SYN, [GUEST, 0], b""));
        let syn = peer.expect("the SYN", |segment| segment.protocol == TCP);
        assert_eq!((syn.flags(), syn.to()), (SYN, server));
        let pair = Pair { guest, peer, inner, outer: syn.from(), server };
        pair.back(SYN | ACK, [PEER, GUEST.wrapping_add(1)], b"");
        assert_eq!(guest.next("the SYN-ACK").flags(), SYN | ACK);
        pair.out(ACK, [GUEST.wrapping_add(1), PEER.wrapping_add(1)], b"");
        assert_eq!(peer.next("the ACK").from(), pair.outer);
        pair
    }

    /// Sends from the guest.
    pub(crate) fn out(&self, flags: u8, numbers: [u32; 2], data: &[u8]) {
        self.guest.send(&Datagram::tcp(self.inner, self.server, flags, numbers, data));
    }

    /// Sends from the peer.
    pub(crate) fn back(&self, flags: u8, numbers: [u32; 2], data: &[u8]) {
        self.peer.send(&Datagram::tcp(self.server, self.outer, flags, numbers, data));
    }

    /// The next sequence numbers of both sides, before any data.
    pub(crate) fn numbers(&self) -> [u32; 2] {
        [GUEST.wrapping_add(1), PEER.wrapping_add(1)]
    }

    /// Sends the same byte in each direction, and asserts that it passes as part of the connection.
    pub(crate) fn is_alive(&self) {
        let [guest, peer] = self.numbers();
        self.out(ACK, [guest, peer], b"?");
        let seen = self.peer.expect("a byte", |segment| segment.protocol == TCP && segment.data() == b"?");
        assert_eq!(seen.from(), self.outer);
        self.back(ACK, [peer, guest.wrapping_add(1)], b"!");
        let seen = self.guest.expect("a byte", |segment| segment.protocol == TCP && segment.data() == b"!");
        assert_eq!((seen.from(), seen.to()), (self.server, self.inner));
    }
}

/// RFC 5382 REQ-2: simultaneous open; the SYN from outside passes.
fn simultaneous_open(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let (inner, server) = (guest.at(5000), peer.at(80));
    guest.send(&Datagram::tcp(inner, server, SYN, [100, 0], b""));
    let outer = peer.next("the SYN").from();
    peer.send(&Datagram::tcp(server, outer, SYN, [900, 0], b""));
    assert_eq!(guest.next("the other SYN").flags(), SYN);
    guest.send(&Datagram::tcp(inner, server, SYN | ACK, [100, 901], b""));
    peer.send(&Datagram::tcp(server, outer, SYN | ACK, [900, 101], b""));
    assert_eq!((peer.next("a SYN-ACK").flags(), guest.next("a SYN-ACK").flags()), (SYN | ACK, SYN | ACK));
    guest.send(&Datagram::tcp(inner, server, ACK, [101, 901], b"open"));
    assert_eq!(peer.next("data").data(), b"open");
    peer.send(&Datagram::tcp(server, outer, ACK, [901, 105], b"open, too"));
    assert_eq!(guest.next("data").data(), b"open, too");
    assert_eq!(site.finish().nat("connections"), 1);
}

/// RFC 5382 REQ-1, REQ-7: one mapping for all peers, and another for each guest.
fn one_outside_port_for_all_peers() {
    for mode in Mode::BOTH {
        let site = Plan::new(mode, 2).silent().start();
        let (one, two) = (site.guest_station(1), site.guest_station(2));
        let (peer, other) = (site.stranger(50), site.stranger(51));
        let mut outer = Vec::new();
        for guest in [&one, &two] {
            let pairs = [(&peer, 80), (&peer, 81), (&other, 80)].map(|(peer, port)| Pair::open(guest, 5000, peer, port));
            assert!(pairs.iter().all(|pair| pair.outer == pairs[0].outer), "{mode:?}");
            pairs.iter().for_each(Pair::is_alive);
            outer.push(pairs[0].outer);
        }
        assert_ne!(outer[0], outer[1]);
        site.finish();
    }
}

/// RFC 5382 REQ-4: no reply to an unsolicited SYN for six seconds, since a SYN of the guest would make it a
/// simultaneous open. To a port that is mapped for another connection, and to an unmapped one.
fn unsolicited_syn_is_not_answered(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer, stranger) = (site.guest_station(1), site.stranger(50), site.stranger(51));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    stranger.send(&Datagram::tcp(stranger.at(80), pair.outer, SYN, [1, 0], b""));
    if mode == Mode::Own {
        stranger.send(&Datagram::tcp(stranger.at(80), SocketAddrV4::new(OWN, 9), SYN, [1, 0], b""));
    }
    let dropped = if mode == Mode::Own { 2 } else { 1 };
    site.switch().settle("the SYNs to be dropped", |report| report.dropped("up0", "nat_no_mapping") >= dropped);
    sleep(Duration::from_secs(7));
    assert_eq!((stranger.seen(), guest.seen()), (Vec::new(), Vec::new()));
    pair.is_alive();
    site.finish();
}

/// Bytes that neither side can have sent, and acknowledgments of bytes never sent.
fn out_of_window_is_dropped(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    let [ours, theirs] = pair.numbers();
    let wrong =
        [[theirs.wrapping_add(1 << 30), ours], [theirs.wrapping_sub(1 << 30), ours], [theirs, ours.wrapping_add(1 << 30)]];
    for numbers in wrong {
        pair.back(ACK, numbers, b"forged");
        pair.out(ACK, [numbers[1].wrapping_add(1 << 29), numbers[0]], b"forged");
    }
    for flags in [0, FIN, SYN | FIN, SYN | RST, FIN | RST | ACK, 0x29] {
        pair.back(flags, [theirs, ours], b"");
    }
    pair.is_alive();
    assert_eq!((guest.seen(), peer.seen()), (Vec::new(), Vec::new()));
    let report = site.finish();
    assert_eq!((report.dropped("up0", "nat_out_of_window"), report.dropped("g1", "nat_out_of_window")), (9, 3));
}

/// RFC 5961: a reset with a guessed sequence number closes nothing, wherever in the window it is.
fn blind_resets_are_harmless(mode: Mode) {
    let site = Plan::new(mode, 1).args(&["--nat", "tcp-transitory=1"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    pair.is_alive();
    let [ours, theirs] = pair.numbers();
    let next = theirs.wrapping_add(1);
    for step in 1..1024_u32 {
        pair.back(RST, [next.wrapping_add(step << 22), 0], b"");
        pair.back(RST | ACK, [next.wrapping_add(step << 4), ours], b"");
    }
    flush(&guest, &peer, 1, peer.at(1));
    // If one of them had counted, the connection would have expired by now.
    sleep(Duration::from_secs(4));
    pair.is_alive();
    let inside = guest.seen();
    assert!(inside.iter().all(|segment| segment.flags() & RST != 0 && segment.numbers()[0].wrapping_sub(next) < 1 << 16));
    let report = site.finish();
    assert!(report.dropped("up0", "nat_out_of_window") >= 1000, "{report:?}");
    assert_eq!(report.nat("expired"), 0, "{report:?}");
}

/// RFC 7857 section 2.2: a reset passes, and the mapping stays for the transitory timeout, in which further segments
/// pass.
fn reset_does_not_end_at_once(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    let [ours, theirs] = pair.numbers();
    pair.back(RST, [theirs, 0], b"");
    assert_eq!(guest.next("the RST").flags(), RST);
    assert_eq!(site.switch().report().nat("connections"), 1);
    // The reset was forged: the connection goes on.
    pair.is_alive();
    pair.out(RST | ACK, [ours.wrapping_add(1), theirs.wrapping_add(1)], b"");
    assert_eq!(peer.next("the RST").flags(), RST | ACK);
    assert_eq!(site.finish().nat("connections"), 1);
}

fn half_closed_goes_on() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "tcp-transitory=1"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    let [ours, theirs] = pair.numbers();
    pair.out(FIN | ACK, [ours, theirs], b"");
    peer.next("the FIN");
    pair.back(ACK, [theirs, ours.wrapping_add(1)], b"");
    guest.next("its ACK");
    sleep(Duration::from_secs(4));
    pair.back(ACK, [theirs, ours.wrapping_add(1)], b"more");
    assert_eq!(guest.next("what the other side still sends").data(), b"more");
    pair.back(FIN | ACK, [theirs.wrapping_add(4), ours.wrapping_add(1)], b"");
    guest.next("the other FIN");
    site.switch().settle("the connection to end", |report| report.nat("connections") == 0);
    site.finish();
}

/// A RST in reply to a SYN; the port is free for the next attempt.
fn a_syn_is_answered_by_an_error() {
    let site = Site::start_with(Mode::Shared, 1);
    let refused = site.guest(1).try_inside(|| std::net::TcpStream::connect_timeout(&(FAR, 81).into(), crate::wait::NEVER));
    assert_eq!(refused.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused);
    let listener = listen_on(&site.outside, FAR, 81);
    connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 81));
    site.finish();
}

/// Connections that are opening or closing expire; an established one stays.
fn ends_after_its_time() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "tcp-transitory=1,tcp-opening=1"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let alive = Pair::open(&guest, 5000, &peer, 80);
    let closing = Pair::open(&guest, 5001, &peer, 80);
    let [ours, theirs] = closing.numbers();
    closing.out(FIN | ACK, [ours, theirs], b"");
    peer.next("a FIN");
    closing.back(FIN | ACK, [theirs, ours.wrapping_add(1)], b"");
    guest.next("a FIN");
    guest.send(&Datagram::tcp(guest.at(5002), peer.at(80), SYN, [1, 0], b""));
    peer.next("a SYN that stays without answer");
    let reset = Pair::open(&guest, 5003, &peer, 80);
    reset.out(RST, [ours, 0], b"");
    peer.next("a RST");
    assert_eq!(site.switch().report().nat("opened"), 4);
    site.switch().settle("three to end", |report| report.nat("connections") == 1);
    alive.is_alive();
    closing.back(ACK, [theirs, ours], b"too late");
    alive.is_alive();
    assert_eq!(guest.seen(), []);
    let report = site.finish();
    assert_eq!((report.nat("expired"), report.dropped("up0", "nat_no_mapping")), (3, 1));
}

/// A client that reuses its port within the transitory timeout.
fn opens_anew_from_the_same_port() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    let [ours, theirs] = pair.numbers();
    pair.out(FIN | ACK, [ours, theirs], b"");
    peer.next("a FIN");
    pair.back(FIN | ACK, [theirs, ours.wrapping_add(1)], b"");
    guest.next("the other FIN");
    pair.out(ACK, [ours.wrapping_add(1), theirs.wrapping_add(1)], b"");
    let (inner, server) = (pair.inner, pair.server);
    guest.send(&Datagram::tcp(inner, server, SYN, [ours.wrapping_add(100_000), 0], b""));
    let syn = peer.expect("the new SYN", |segment| segment.flags() == SYN);
    assert_eq!(syn.from(), pair.outer);
    peer.send(&Datagram::tcp(server, pair.outer, SYN | ACK, [77, ours.wrapping_add(100_001)], b""));
    assert_eq!(guest.next("the new SYN-ACK").numbers()[0], 77);
    guest.send(&Datagram::tcp(inner, server, ACK, [ours.wrapping_add(100_001), 78], b"anew"));
    peer.expect("the new data", |segment| segment.data() == b"anew");
    assert_eq!(site.finish().nat("opened"), 1);
}

/// Segments of a port scanner open no connection, from inside or outside.
fn scans_open_nothing() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "tcp-loose=off"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    for flags in 0..64 {
        if flags & (SYN | ACK | RST | FIN) != SYN {
            guest.send(&Datagram::tcp(guest.at(5000), peer.at(80), flags, [1, 1], b""));
        }
        for port in [80, 5000, 40_000] {
            peer.send(&Datagram::tcp(peer.at(80), SocketAddrV4::new(OWN, port), flags, [1, 1], b""));
        }
    }
    peer.send_udp(53, SocketAddrV4::new(OWN, 5000), b"and UDP");
    flush(&guest, &peer, 1, peer.at(1));
    assert_eq!((peer.seen(), guest.seen()), (Vec::new(), Vec::new()));
    let report = site.switch().settle("all drops", |report| report.dropped("up0", "nat_no_mapping") > 3 * 64);
    assert_eq!(report.nat("opened"), 1, "the mark behind it all");
    site.finish();
}

/// The daemon restarts while two kernels have an open connection.
fn picked_up_after_a_restart() {
    let stay = |site: &Site| site.guest(1).inside(|| make_persistent_tap("g1"));
    let mut site = Plan::new(Mode::Own, 1).first(stay).start();
    let listener = listen_on(&site.outside, FAR, 80);
    let (mut near, mut far, peer) = connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 80));
    for round in 0..3_u8 {
        near.write_all(&[round; 5000]).expect("sent");
        let mut bytes = [0; 5000];
        far.read_exact(&mut bytes).expect("received in time");
        far.write_all(&bytes).expect("sent");
        near.read_exact(&mut bytes).expect("received in time");
        assert_eq!(bytes, [round; 5000]);
        site.restart();
    }
    near.write_all(b"still the same").expect("sent");
    let mut bytes = [0; 14];
    far.read_exact(&mut bytes).expect("received in time");
    assert_eq!((&bytes, *peer.ip()), (b"still the same", OWN));
    site.finish();
}

fn not_picked_up_if_disabled() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "tcp-loose=off"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send(&Datagram::tcp(guest.at(5000), peer.at(80), ACK, [1, 1], b"in the middle"));
    flush(&guest, &peer, 1, peer.at(1));
    assert_eq!(peer.seen(), []);
    let report = site.finish();
    assert_eq!(report.dropped("g1", "nat_not_opening"), 1);
}

fn liberal_lets_pass() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "tcp-liberal=on"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 5000, &peer, 80);
    let [ours, theirs] = pair.numbers();
    pair.back(ACK, [theirs.wrapping_add(1 << 30), ours], b"far off");
    assert_eq!(guest.next("a segment out of the window").data(), b"far off");
    pair.back(RST, [theirs.wrapping_add(1 << 29), 0], b"");
    pair.is_alive();
    assert!(guest.seen().is_empty(), "resets never");
    site.finish();
}
