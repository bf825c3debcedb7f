//! Malformed and forged datagrams: the daemon goes on, and every one of them is accounted for.

use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::datagrams::{Datagram, ECHO_REQUEST, SYN};
use crate::exchange::{Background, Echo};
use crate::frames::{DOT1AD, DOT1Q, frame, station, tagged};
use crate::host::{Host, Ip};
use crate::random::Random;
use crate::raw::RawSocket;
use crate::switch::{Report, Switch};
use crate::trial;
use crate::tunnel_site::{Peer, Underlay, arrives, vxlan};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("tunnel_hostile/cut_off_anywhere", cut_off_anywhere),
        trial("tunnel_hostile/any_byte_changed", any_byte_changed),
        trial("tunnel_hostile/noise", noise),
        trial("tunnel_hostile/frames_of_any_length", frames_of_any_length),
        trial("tunnel_hostile/a_flood_harms_nobody_else", a_flood_harms_nobody_else),
    ]
}

struct Stage {
    _underlay: Underlay,
    peer: Peer,
    host: Host,
    raw: RawSocket,
    switch: Switch,
    sent: u64,
}

impl Stage {
    fn new() -> Stage {
        let underlay = Underlay::pair(Ip::V4);
        let peer = Peer::on(&underlay, 2, 2);
        let host = Host::quiet("h1");
        let switch = underlay.daemon_for(1, &[2], &host);
        let raw = host.raw();
        Stage { _underlay: underlay, peer, host, raw, switch, sent: 0 }
    }

    fn send(&mut self, datagram: &[u8]) {
        self.peer.send(datagram);
        self.sent += 1;
        // The receiver's buffer is limited.
        if self.sent.is_multiple_of(256) {
            self.settle();
        }
    }

    /// Waits until everything that was sent was read.
    fn settle(&self) -> Report {
        self.switch.settle("all of it", |report| report.received() == self.sent)
    }

    /// Asserts that valid frames still pass and that no frame is missing.
    fn end_well(mut self) -> Report {
        let good = frame(station(1), station(2), b"good");
        self.send(&vxlan(42, &good));
        arrives(&self.raw, "a valid frame", &good);
        let answer = frame(station(2), station(1), b"good");
        self.settle();
        self.peer.drain();
        self.raw.send(&answer).expect("sent");
        assert_eq!(self.peer.recv_frame(42), answer);
        let report = self.switch.finish();
        assert_eq!(report.received_by(self.host.name()), 1);
        report
    }
}

/// One packet of each known kind, from station 2 to station 1.
fn kinds() -> Vec<Vec<u8>> {
    let [from, to] = [2, 1].map(|last| SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, last), 4000));
    let datagrams = [
        Datagram::udp(from, to, b"datagram"),
        Datagram::tcp_with_options(from, to, SYN, [1, 0], &[2, 4, 5, 0xb4, 1, 3, 3, 7], b""),
        Datagram::echo(*from.ip(), *to.ip(), ECHO_REQUEST, 7, b"ping"),
        Datagram { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..Datagram::udp(from, to, b"options") },
        Datagram { more_fragments: true, ..Datagram::udp(from, to, &[0; 24]) },
        Datagram::udp(from, SocketAddrV4::new([192, 0, 2, 1].into(), 4789), &vxlan(42, &[0; 60])),
    ];
    let mut kinds: Vec<Vec<u8>> = datagrams.iter().map(|datagram| datagram.frame(station(1), station(2))).collect();
    let ipv6 = |next: u8, payload: &[u8]| {
        let header = [0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
        [&station(1).0[..], &station(2).0, &[0x86, 0xdd], &header, &[0xfd; 32], payload].concat()
    };
    kinds.push(ipv6(6, &Datagram::tcp(from, to, SYN, [1, 0], b"").payload));
    // Hop-by-hop options, a routing header and a fragment header before the datagram.
    kinds.push(ipv6(0, &[&[43, 0, 1, 4, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 1][..], &[0; 16]].concat()));
    kinds.push(tagged(&kinds[0], DOT1Q, 10));
    kinds.push(tagged(&tagged(&kinds[1], DOT1Q, 10), DOT1AD, 20));
    kinds.push(frame(MacAddr::BROADCAST, station(2), b"no IP"));
    kinds
}

fn cut_off_anywhere() {
    let mut stage = Stage::new();
    for kind in kinds() {
        let whole = vxlan(42, &kind);
        for len in 0..whole.len() {
            stage.send(&whole[..len]);
        }
    }
    let kinds = kinds().len() as u64;
    let report = stage.end_well();
    // In either header, and in three tags.
    assert_eq!(report.dropped_for("tunnel_truncated"), kinds * (8 + 14) + 3 * 4, "{report:?}");
}

fn any_byte_changed() {
    let mut stage = Stage::new();
    for kind in kinds() {
        let whole = vxlan(42, &kind);
        for at in 0..whole.len().min(100) {
            for change in [0x01, 0x80, 0xff] {
                let mut datagram = whole.clone();
                datagram[at] ^= change;
                // A changed source address may no longer be the host's.
                if datagram.get(14..20) != Some(&station(1).0) {
                    stage.send(&datagram);
                }
            }
        }
    }
    let report = stage.end_well();
    assert!(report.dropped_for("tunnel_unknown_vni") > 0 && report.dropped_for("tunnel_bad_flags") > 0, "{report:?}");
}

fn noise() {
    let mut stage = Stage::new();
    let mut random = Random::new(0x7e11);
    for round in 0..4000 {
        let len = random.next() as usize % 300;
        let noise = random.bytes(len);
        // Most would be dropped for the header.
        let datagram = if round % 8 == 0 { noise } else { vxlan(42, &[&station(1).0[..], &station(2).0, &noise].concat()) };
        stage.send(&datagram);
    }
    stage.end_well();
}

/// From the shortest to what the host's link takes, and longer ones, which are dropped.
fn frames_of_any_length() {
    let mut stage = Stage::new();
    let mtu = stage.host.link().mtu as usize;
    for len in (14..80).chain(mtu..mtu + 14) {
        let mut frame = frame(station(1), station(2), &[]);
        frame.resize(len, 0x5a);
        stage.send(&vxlan(42, &frame));
        arrives(&stage.raw, &format!("{len} bytes"), &frame);
    }
    for len in [mtu + 15, 2000, 9000, 65_000] {
        let mut frame = frame(station(1), station(2), &[]);
        frame.resize(len, 0x5a);
        stage.send(&vxlan(42, &frame));
    }
    stage.settle();
    assert!(stage.raw.recv().is_none());
    let report = stage.end_well();
    assert_eq!((report.dropped_for("too_long"), report.all_dropped()), (4, 4), "{report:?}");
}

/// Strangers and a peer that send at full speed: hosts on other ports lose nothing, and other tunnels go on.
fn a_flood_harms_nobody_else() {
    let underlay = Underlay::pair(Ip::V4);
    let hosts = ["h1", "h2", "h3"].map(Host::new);
    let ports: Vec<String> = hosts.iter().map(|host| host.port("")).collect();
    let flags = [underlay.vxlan(42, 1, &[2], ""), underlay.vxlan(43, 1, &[3], ",port=4790")].concat();
    let switch = underlay.daemon(1, &ports, &flags);
    hosts[0].configure(1);
    hosts[1].configure(2);
    let quiet = Peer::on_port(&underlay, 2, 3, 4790);
    let raw = hosts[2].raw();
    let echo = Echo::on(&hosts[1], Ip::V4, 2);
    let mut asker = echo.asked_from(&hosts[0], Ip::V4, 1);
    asker.ask();
    let flood = |peer: Peer, datagram: Vec<u8>| {
        Background::run(move || {
            // A full queue is not an error.
            let _ = peer.try_send(&datagram);
        })
    };
    let floods = [
        flood(Peer::on(&underlay, 2, 9), vxlan(42, &frame(MacAddr::BROADCAST, station(9), b"a stranger"))),
        flood(Peer::on(&underlay, 2, 2), vxlan(42, &frame(station(77), station(78), b"to nobody that is known"))),
    ];
    for n in 0..200_u8 {
        asker.ask();
        let told = frame(MacAddr::BROADCAST, station(3), &[n; 20]);
        quiet.send(&vxlan(43, &told));
        arrives(&raw, "what another tunnel brings", &told);
    }
    floods.into_iter().for_each(Background::end);
    let report = switch.finish();
    assert!(report.dropped_for("tunnel_unknown_peer") > 0, "{report:?}");
}
