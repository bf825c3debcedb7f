//! VXLAN tunnels to peers played by the test, datagram by datagram.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::datagrams::{Datagram, UDP, checksum};
use crate::frames::{DOT1Q, frame, station, tagged};
use crate::host::{Host, Ip};
use crate::raw::{RawSocket, set_option};
use crate::tunnel_site::{PORT, Peer, Underlay, arrives, vxlan};
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (ip, word) in [(Ip::V4, "ipv4"), (Ip::V6, "ipv6")] {
        trials.extend([
            trial(format!("tunnel/floods_once_to_each_and_learns_{word}"), move || floods_once_to_each_and_learns(ip)),
            trial(format!("tunnel/bad_datagrams_are_named_{word}"), move || bad_datagrams_are_named(ip)),
            trial(format!("tunnel/trains_come_apart_{word}"), move || trains_come_apart(ip)),
            trial(format!("tunnel/outer_headers_{word}"), move || outer_headers(ip)),
        ]);
    }
    trials.extend([
        trial("tunnel/static_addresses", static_addresses),
        trial("tunnel/stations_move", stations_move),
        trial("tunnel/networks_and_vlans", networks_and_vlans),
        trial("tunnel/outer_settings", outer_settings),
    ]);
    trials
}

fn call() -> Vec<u8> {
    frame(MacAddr::BROADCAST, station(1), b"can anybody hear me?")
}

/// A flood is one datagram to each remote; a frame to a learned station goes to its remote only.
fn floods_once_to_each_and_learns(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let peers = [2, 3].map(|number| Peer::on(&underlay, 2, number));
    let host = Host::quiet("h1");
    let switch = underlay.daemon_for(1, &[2, 3], &host);
    let raw = host.raw();
    raw.send(&call()).expect("sent");
    for peer in &peers {
        assert_eq!(peer.recv_frame(42), call());
    }
    let here = frame(station(1), station(2), b"here");
    peers[0].send_frame(42, &here);
    arrives(&raw, "the answer", &here);
    let told = frame(station(2), station(1), b"for you alone");
    for _ in 0..10 {
        raw.send(&told).expect("sent");
        assert_eq!(peers[0].recv_frame(42), told);
    }
    // A flood after it: a misdirected datagram would have arrived before that.
    raw.send(&call()).expect("sent");
    for peer in &peers {
        assert_eq!(peer.recv_frame(42), call());
        assert!(peer.drain().is_empty());
    }
    let report = switch.finish();
    assert_eq!((report.received_by("h1"), report.sent_by("h1"), report.all_dropped()), (12, 1, 0), "{report:?}");
}

/// Each fault of a datagram has a drop reason, and nothing of the datagram arrives.
fn bad_datagrams_are_named(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let [peer, other, stranger] = [2, 3, 9].map(|number| Peer::on(&underlay, 2, number));
    let host = Host::quiet("h1");
    let switch = underlay.daemon_for(1, &[2, 3], &host);
    let raw = host.raw();
    let good = frame(station(1), station(2), b"good");
    let bad = frame(station(1), station(2), b"bad");
    // Learned from the other remote: a tunnel never forwards between its remotes.
    other.send_frame(42, &frame(station(1), station(3), b"here"));
    peer.send_frame(42, &frame(station(3), station(2), b"round the corner"));
    stranger.send_frame(42, &bad);
    peer.send_frame(43, &bad);
    for len in [0, 1, 7, 8, 8 + 13] {
        peer.send(&vxlan(42, &bad)[..len]);
    }
    // No VNI flag; another header (VXLAN-GPE, with the flag for a next protocol).
    peer.send(&[&[0; 4], &vxlan(42, &bad)[4..]].concat());
    peer.send(&[&[0x0c, 0, 0, 1], &vxlan(42, &bad)[4..]].concat());
    // To the tunnel's own address: it would loop.
    if let (IpAddr::V4(here), IpAddr::V4(there)) = (underlay.address(1), underlay.address(2)) {
        let inner = Datagram::udp(SocketAddrV4::new(there, 50_000), SocketAddrV4::new(here, PORT), &vxlan(42, &bad));
        peer.send_frame(42, &inner.frame(station(1), station(2)));
    }
    let nested = u64::from(ip == Ip::V4);
    peer.send_frame(42, &good);
    // Reserved bits are ignored on receipt (RFC 7348 section 5).
    peer.send(&[&[0x88, 0x08, 0, 0x10, 0, 0, 42, 0xff][..], &good].concat());
    let (mut seen, mut wrong) = (0, Vec::new());
    wait::until("a valid frame", || {
        let frame = raw.recv()?;
        if frame == good {
            seen += 1;
        } else if frame != self::frame(station(1), station(3), b"here") {
            wrong.push(frame);
        }
        (seen == 2).then_some(())
    });
    assert!(wrong.is_empty(), "arrived: {wrong:02x?}");
    assert!(other.drain().is_empty());
    let report = switch.finish();
    let mut all = 0;
    for (reason, count) in [
        ("split_horizon", 1),
        ("tunnel_unknown_peer", 1),
        ("tunnel_unknown_vni", 1),
        ("tunnel_truncated", 5),
        ("tunnel_bad_flags", 2),
        ("tunnel_nested", nested),
    ] {
        assert_eq!(report.dropped_for(reason), count, "{reason}: {report:?}");
        all += count;
    }
    assert_eq!((report.all_dropped(), report.sent_by("h1")), (all, 3), "{report:?}");
}

/// Datagrams that the kernel merged are processed one by one.
fn trains_come_apart(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let peer = Peer::on(&underlay, 2, 2);
    let host = Host::quiet("h1");
    let switch = underlay.daemon_for(1, &[2], &host);
    let raw = host.raw();
    let (mut frames, mut sent) = (Vec::new(), 0);
    for round in 0..8_u8 {
        let frames_now = (0..40).map(|n| frame(station(1), station(2), &[round, n, 7]));
        let datagrams: Vec<Vec<u8>> = frames_now.map(|frame| vxlan(42, &frame)).collect();
        // The last one is truncated, and one belongs to another network.
        let mut train = datagrams.concat();
        train[3 * 68 + 6] = 99;
        train.extend([8, 0, 0, 0, 0]);
        peer.send_train(&train, 68);
        sent += 39;
        frames.extend(datagrams.iter().enumerate().filter(|(n, _)| *n != 3).map(|(_, bytes)| bytes[8..].to_vec()));
        let arrived: usize = wait::until("all but one of the train", || {
            let report = switch.report();
            (report.sent_by("h1") == sent).then_some(frames.len())
        });
        assert_eq!(arrived as u64, sent);
    }
    assert_eq!(std::iter::from_fn(|| raw.recv()).collect::<Vec<_>>(), frames, "all, in their order");
    let report = switch.finish();
    assert_eq!((report.dropped_for("tunnel_truncated"), report.dropped_for("tunnel_unknown_vni")), (8, 8), "{report:?}");
    assert_eq!((report.all_dropped(), report.datagrams_dropped()), (16, 0), "{report:?}");
}

/// The fields of a tunnel's datagram on the wire.
struct Outer {
    source_port: u16,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
    checksum: u16,
    /// Whether the checksum is right, if there is one.
    is_sound: bool,
    frame: Vec<u8>,
}

/// The next datagram of a tunnel on this wire.
fn next_outer(wire: &RawSocket, what: &str) -> Outer {
    wait::until(what, || std::iter::from_fn(|| wire.recv()).find_map(|frame| read_v4(&frame).or_else(|| read_v6(&frame))))
}

fn read_v4(frame: &[u8]) -> Option<Outer> {
    let outer = Datagram::of_frame(frame).filter(|outer| outer.protocol == UDP && outer.ports()[1] == PORT)?;
    Some(Outer {
        source_port: outer.ports()[0],
        ttl: outer.ttl,
        tos: outer.tos,
        dont_fragment: outer.dont_fragment,
        checksum: u16::from_be_bytes([outer.payload[6], outer.payload[7]]),
        is_sound: outer.is_sound(),
        frame: outer.data()[8..].to_vec(),
    })
}

fn read_v6(frame: &[u8]) -> Option<Outer> {
    let packet = frame.get(14..).filter(|packet| frame[12..14] == [0x86, 0xdd] && packet[6] == UDP)?;
    let udp = &packet[40..];
    let [len_high, len_low] = [udp[4], udp[5]];
    let pseudo = [&packet[8..40], &[0, 0, len_high, len_low, 0, 0, 0, UDP]].concat();
    (udp[2..4] == PORT.to_be_bytes()).then(|| Outer {
        source_port: u16::from_be_bytes([udp[0], udp[1]]),
        ttl: packet[7],
        tos: packet[0] << 4 | packet[1] >> 4,
        dont_fragment: true,
        checksum: u16::from_be_bytes([udp[6], udp[7]]),
        is_sound: checksum(&[&pseudo, udp]) == 0,
        frame: udp[16..].to_vec(),
    })
}

/// A datagram of flow `n` or of its reverse direction, with the stations' addresses swapped.
fn flow(n: u16, back: bool) -> Vec<u8> {
    let ends = [(1, 40_000 + n), (2, 53)].map(|(last, port)| SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, last), port));
    let [from, to] = if back { [ends[1], ends[0]] } else { ends };
    Datagram::udp(from, to, b"flow").frame(station(2), station(1))
}

/// The outer source port is a hash of the inner flow; other fields are as in RFC 7348 section 5.
fn outer_headers(ip: Ip) {
    let underlay = Underlay::pair(ip);
    underlay.machine(1).turn_offloads_off();
    let _peer = Peer::on(&underlay, 2, 2);
    let wire = underlay.machine(2).raw();
    let host = Host::quiet("h1");
    let switch = underlay.daemon_for(1, &[2], &host);
    let raw = host.raw();
    let mut ports = BTreeSet::new();
    for n in 0..64 {
        let seen = [false, true, false].map(|back| {
            let inner = flow(n, back);
            raw.send(&inner).expect("sent");
            let outer = next_outer(&wire, "a datagram");
            assert_eq!(outer.frame, inner);
            assert_eq!((outer.ttl, outer.tos, outer.dont_fragment), (64, 0, true));
            assert!(outer.source_port >= 49_152, "{}", outer.source_port);
            assert!(outer.checksum != 0 && outer.is_sound);
            outer.source_port
        });
        assert_eq!(seen, [seen[0]; 3], "a flow and its answers take one way");
        ports.insert(seen[0]);
    }
    assert!(ports.len() >= 16, "64 flows take {} ways", ports.len());
    switch.finish();
}

/// Each setting of the outer header takes effect.
fn outer_settings() {
    let inner = |tos, ttl, dont_fragment| {
        let [from, to] = [1, 2].map(|last| SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, last), 53));
        Datagram { tos, ttl, dont_fragment, ..Datagram::udp(from, to, b"inside") }.frame(station(2), station(1))
    };
    for (keys, [ttl, tos], expected_df) in [
        ("", [64, 0], [true, true]),
        (",ttl=7,tos=184,df=unset", [7, 184], [false, false]),
        (",ttl=inherit,tos=inherit,df=inherit", [33, 0x48], [false, true]),
        (",ttl=255,df=inherit", [255, 0], [false, true]),
    ] {
        for checksum in ["", ",csum=on", ",csum=off"] {
            let underlay = Underlay::pair(Ip::V4);
            underlay.machine(1).turn_offloads_off();
            let _peer = Peer::on(&underlay, 2, 2);
            let wire = underlay.machine(2).raw();
            let host = Host::quiet("h1");
            let flags = underlay.vxlan(42, 1, &[2], &format!("{keys}{checksum}"));
            let switch = underlay.daemon(1, &[host.port("")], &flags);
            let raw = host.raw();
            for (dont_fragment, expected_df) in [(false, expected_df[0]), (true, expected_df[1])] {
                raw.send(&inner(0x48, 33, dont_fragment)).expect("sent");
                let outer = next_outer(&wire, "a datagram");
                assert_eq!((outer.ttl, outer.tos, outer.dont_fragment), (ttl, tos, expected_df), "{keys}");
                assert_eq!(outer.checksum != 0, checksum != ",csum=off", "{checksum}");
                assert!(outer.is_sound);
            }
            switch.finish();
        }
    }
}

/// A frame to a configured station goes to its remote only, and without learning no frame changes that.
fn static_addresses() {
    let underlay = Underlay::pair(Ip::V4);
    let peers = [2, 3].map(|number| Peer::on(&underlay, 2, number));
    let host = Host::quiet("h1");
    let keys = format!(",learning=off,mac={}@{}", station(2), underlay.address(2));
    let switch = underlay.daemon(1, &[host.port("")], &underlay.vxlan(42, 1, &[2, 3], &keys));
    let raw = host.raw();
    let told = frame(station(2), station(1), b"for you alone");
    raw.send(&told).expect("sent");
    assert_eq!(peers[0].recv_frame(42), told);
    // Neither another location for it nor an unknown station is learned.
    for number in [2, 3] {
        let lie = frame(station(1), station(number), b"I am here");
        peers[1].send_frame(42, &lie);
        arrives(&raw, "what it says", &lie);
    }
    raw.send(&told).expect("sent");
    assert_eq!(peers[0].recv_frame(42), told);
    let unknown = frame(station(3), station(1), b"to whom it may concern");
    raw.send(&unknown).expect("sent");
    for peer in &peers {
        assert_eq!(peer.recv_frame(42), unknown);
        assert!(peer.drain().is_empty());
    }
    let report = switch.finish();
    assert_eq!((report.table("static"), report.all_dropped()), (1, 0), "{report:?}");
}

/// A station moves from one remote to another, to a local port and back: frames for it follow.
fn stations_move() {
    let underlay = Underlay::pair(Ip::V4);
    let peers = [2, 3].map(|number| Peer::on(&underlay, 2, number));
    let hosts = ["h1", "h2"].map(Host::quiet);
    let ports = [hosts[0].port(""), hosts[1].port("")];
    let switch = underlay.daemon(1, &ports, &underlay.vxlan(42, 1, &[2, 3], ""));
    let [raw, other] = [hosts[0].raw(), hosts[1].raw()];
    let told = frame(station(7), station(1), b"wherever you are");
    for round in 0..3 {
        let here = frame(station(1), station(7), &[b'h', round]);
        for peer in &peers {
            peer.send_frame(42, &here);
            arrives(&raw, "a message", &here);
            raw.send(&told).expect("sent");
            assert_eq!(peer.recv_frame(42), told);
        }
        other.send(&here).expect("sent");
        arrives(&raw, "a message", &here);
        raw.send(&told).expect("sent");
        arrives(&other, "a frame for it", &told);
        assert!(peers.iter().all(|peer| peer.drain().is_empty()));
    }
    let report = switch.finish();
    assert_eq!((report.table("moved"), report.all_dropped()), (8, 0), "{report:?}");
}

/// Each VLAN has a network of its own, and another tunnel carries both tagged. No frame changes VLAN.
fn networks_and_vlans() {
    let underlay = Underlay::pair(Ip::V4);
    let peer = Peer::on(&underlay, 2, 2);
    let hosts = ["a", "b"].map(Host::quiet);
    let ports = [hosts[0].port(":vlan=10"), hosts[1].port(":vlan=20")];
    let flags = [(10, ",vlan=10"), (20, ",vlan=20"), (30, ",trunks=10+20")];
    let flags: Vec<String> = flags.iter().flat_map(|(vni, more)| underlay.vxlan(*vni, 1, &[2], more)).collect();
    let switch = underlay.daemon(1, &ports, &flags);
    let [a, b] = [hosts[0].raw(), hosts[1].raw()];
    for (socket, vlan, n) in [(&a, 10, 1), (&b, 20, 2)] {
        let call = frame(MacAddr::BROADCAST, station(n), b"who is of my VLAN?");
        socket.send(&call).expect("sent");
        let mut seen = [peer.recv().0, peer.recv().0];
        seen.sort_unstable_by_key(|datagram| datagram[6]);
        assert_eq!(seen, [vxlan(vlan, &call), vxlan(30, &tagged(&call, DOT1Q, vlan as u16))]);
    }
    for (socket, other, vlan, n) in [(&a, &b, 10, 3), (&b, &a, 20, 4)] {
        let answer = frame(MacAddr::BROADCAST, station(n), b"a frame of your VLAN");
        peer.send_frame(vlan, &answer);
        arrives(socket, "an answer", &answer);
        let answer = frame(MacAddr::BROADCAST, station(n + 10), b"a frame with a tag");
        peer.send_frame(30, &tagged(&answer, DOT1Q, vlan as u16));
        arrives(socket, "an answer", &answer);
        assert_eq!(other.recv(), None, "the other VLAN");
    }
    // A tunnel of one VLAN carries no tags of another, and the trunk no untagged frames.
    peer.send_frame(10, &tagged(&call(), DOT1Q, 20));
    peer.send_frame(30, &call());
    let report = switch.settle("two strays", |report| report.dropped_for("vlan_not_allowed") == 2);
    assert!(a.recv().is_none() && b.recv().is_none() && peer.drain().is_empty(), "{report:?}");
    switch.finish();
}

impl Peer {
    /// Many datagrams of one size, except for the last, in one send (`UDP_SEGMENT`).
    fn send_train(&self, bytes: &[u8], size: i32) {
        set_option(self.socket(), libc::SOL_UDP, libc::UDP_SEGMENT, size).expect("UDP_SEGMENT");
        self.send(bytes);
        set_option(self.socket(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).expect("UDP_SEGMENT");
    }
}
