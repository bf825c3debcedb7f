//! Tunnels without a tunnel header: Ethernet in UDP between switches, IP in UDP as flannel has it.

use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::datagrams::Datagram;
use crate::frames::{frame, station};
use crate::host::{Host, Ip};
use crate::raw::set_option;
use crate::site::{assert_empty, error_of, hears_all, recv_from, udp_on};
use crate::switch::Switch;
use crate::transfer::{send_segmented, transfer};
use crate::trial;
use crate::tunnel_site::{Between, Peer, Underlay, arrives, ping};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("tunnel_udp/ethernet_between_daemons_ipv4", || ethernet_between_daemons(Ip::V4)),
        trial("tunnel_udp/ethernet_between_daemons_ipv6", || ethernet_between_daemons(Ip::V6)),
        trial("tunnel_udp/a_datagram_is_a_frame", a_datagram_is_a_frame),
        trial("tunnel_udp/ip_as_flannel", ip_as_flannel),
        trial("tunnel_udp/ip_between_daemons", ip_between_daemons),
        trial("tunnel_udp/ip_beside_a_bridge", ip_beside_a_bridge),
        trial("tunnel_udp/ip_that_does_not_fit", ip_that_does_not_fit),
    ]
}

fn ethernet_between_daemons(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let hosts = ["h1", "h2"].map(Host::new);
    let daemon = |number: u8, other, host: &Host| {
        let flags = ["--udp".to_owned(), format!("port=7000,{}", underlay.ends(number, &[other]))];
        underlay.daemon(number, &[host.port("")], &flags)
    };
    let switches = vec![daemon(1, 2, &hosts[0]), daemon(2, 1, &hosts[1])];
    for host in &hosts {
        assert_eq!(host.link().mtu, 1500 - if ip == Ip::V4 { 42 } else { 62 });
    }
    let between = Between::configured(underlay, hosts, switches);
    between.carries_everything();
    for report in between.finish() {
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

/// Datagrams from strangers and ones shorter than a header are not frames.
fn a_datagram_is_a_frame() {
    let underlay = Underlay::pair(Ip::V4);
    let [peer, other, stranger] = [2, 3, 9].map(|number| Peer::on_port(&underlay, 2, number, 7000));
    let host = Host::quiet("h1");
    let flags = ["--udp".to_owned(), format!("port=7000,{}", underlay.ends(1, &[2, 3]))];
    let switch = underlay.daemon(1, &[host.port("")], &flags);
    let raw = host.raw();
    let call = frame(MacAddr::BROADCAST, station(1), b"anybody?");
    raw.send(&call).expect("sent");
    assert_eq!([peer.recv().0, other.recv().0], [call.clone(), call]);
    let answer = frame(station(1), station(2), b"yes");
    stranger.send(&frame(station(1), station(9), b"no"));
    peer.send(&answer[..13]);
    peer.send(b"");
    peer.send(&answer);
    arrives(&raw, "the answer", &answer);
    let told = frame(station(2), station(1), b"for you alone");
    raw.send(&told).expect("sent");
    assert_eq!(peer.recv().0, told);
    assert!(other.drain().is_empty());
    let report = switch.finish();
    let dropped = ["tunnel_unknown_peer", "tunnel_truncated"].map(|reason| report.dropped_for(reason));
    assert_eq!((dropped, report.all_dropped(), report.sent_by("h1")), ([1, 2], 3, 1), "{report:?}");
}

/// The port of flannel's udp backend.
const FLANNEL: u16 = 8285;

/// A host of the tunnel's network, behind this machine and the others.
fn pod(machine: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, machine, 1)
}

/// Machine 1 with a TUN device in a host; the other machines are played by the test.
fn flannel(underlay: &Underlay, host: &Host) -> Switch {
    let tunnel = format!(
        "tun={},address={}/16,route=10.244.2.0/24@192.0.2.2+10.244.3.0/24@192.0.2.3,local=192.0.2.1",
        host.port(""),
        pod(1)
    );
    let netns = underlay.machine(1).netns().try_clone().expect("a clone");
    Switch::start_inside(netns, &["--udp-ip", &tunnel])
}

/// Packets go to the machine of their network without a further header, with the TTL lowered at each end; packets
/// without a route get the ICMP error of a router.
fn ip_as_flannel() {
    let underlay = Underlay::pair(Ip::V4);
    let peers = [2, 3].map(|number| Peer::on_port(&underlay, 2, number, FLANNEL));
    let host = Host::quiet("f0");
    let switch = flannel(&underlay, &host);
    assert_eq!(host.link().mtu, 1500 - 28);
    let client = udp_on(&host, pod(1), 5000);
    for (peer, number) in peers.iter().zip([2, 3]) {
        let [near, far] = [SocketAddrV4::new(pod(1), 5000), SocketAddrV4::new(pod(number), 53)];
        client.send_to(b"question", far).expect("sent");
        let asked = Datagram::read(&peer.recv().0).expect("a packet");
        assert_eq!((asked.from(), asked.to(), asked.data(), asked.ttl), (near, far, &b"question"[..], 63));
        assert!(asked.is_sound());
        let seen = host.raw();
        peer.send(&Datagram::udp(far, near, b"answer").bytes());
        assert_eq!(recv_from(&client), (b"answer".to_vec(), far));
        // A TUN device's frames are packets.
        let answer = Datagram::read(&seen.recv().expect("the answer")).expect("a packet");
        assert_eq!((answer.ttl, answer.is_sound()), (63, true));
        assert!(peers.iter().all(|peer| peer.drain().is_empty()));
    }
    // No machine has that network.
    let lost = hears_all(udp_on(&host, pod(1), 0));
    lost.connect((pod(9), 53)).expect("connected");
    lost.send(b"anybody?").expect("sent");
    assert_eq!(error_of(&lost).raw_os_error(), Some(libc::ENETUNREACH));
    // From a stranger, with an expired TTL, and with bytes that are not a packet.
    let stranger = Peer::on_port(&underlay, 2, 9, FLANNEL);
    stranger.send(&Datagram::udp(SocketAddrV4::new(pod(2), 53), SocketAddrV4::new(pod(1), 5000), b"strange").bytes());
    peers[0].send(
        &Datagram { ttl: 1, ..Datagram::udp(SocketAddrV4::new(pod(2), 53), SocketAddrV4::new(pod(1), 5000), b"late") }.bytes(),
    );
    for bytes in [&b""[..], b"E", &[0x45; 19], &[0x60; 60]] {
        peers[0].send(bytes);
    }
    peers[0].send(&Datagram::udp(SocketAddrV4::new(pod(2), 53), SocketAddrV4::new(pod(1), 5000), b"in time").bytes());
    assert_eq!(recv_from(&client).0, b"in time");
    assert_empty(&client);
    // A mark of the outer header is copied inside, or the packet is dropped (RFC 6040 section 4.2).
    peers[0].set_tos(3);
    let seen = host.raw();
    for tos in [0, 2] {
        let [from, to] = [SocketAddrV4::new(pod(2), 53), SocketAddrV4::new(pod(1), 5000)];
        peers[0].send(&Datagram { tos, ..Datagram::udp(from, to, b"slow down") }.bytes());
    }
    assert_eq!(recv_from(&client).0, b"slow down");
    assert_eq!(Datagram::read(&seen.recv().expect("the packet")).expect("a packet").tos, 3);
    assert_empty(&client);
    let report = switch.finish();
    let mut all = 0;
    for (reason, count) in
        [("no_route", 1), ("tunnel_unknown_peer", 1), ("ttl_exceeded", 1), ("bad_ip_header", 4), ("tunnel_ecn", 1)]
    {
        assert_eq!(report.dropped_for(reason), count, "{reason}: {report:?}");
        all += count;
    }
    assert_eq!(report.all_dropped(), all, "{report:?}");
}

/// A packet with "don't fragment" causes an error with the MTU; others are fragmented.
fn ip_that_does_not_fit() {
    let underlay = Underlay::pair(Ip::V4);
    let peer = Peer::on_port(&underlay, 2, 2, FLANNEL);
    let host = Host::quiet("f0");
    let switch = flannel(&underlay, &host);
    let client = udp_on(&host, pod(1), 0);
    client.connect((pod(2), 53)).expect("connected");
    set_option(&client, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO).expect("set");
    client.send(&[1; 1472 - 28]).expect("as long as the MTU of the path");
    assert_eq!(peer.recv().0.len(), 1472);
    let refused = client.send(&[1; 1472 - 27]).expect_err("too long for the link");
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    set_option(&client, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT).expect("set");
    client.send(&[2; 3000]).expect("sent");
    let pieces: Vec<Datagram> = (0..3).map(|_| Datagram::read(&peer.recv().0).expect("a packet")).collect();
    let whole = pieces.iter().flat_map(|piece| piece.payload.clone()).collect::<Vec<u8>>();
    assert!(pieces.iter().all(Datagram::is_fragment) && whole[8..] == [2; 3000], "{pieces:?}");
    switch.finish();
}

/// A daemon on this machine with a TUN device in a host, and a route to the other one.
fn ip_daemon(underlay: &Underlay, number: u8, other: u8, host: &Host, more: &[String]) -> Switch {
    let [here, there] = [number, other].map(|number| Host::address(Ip::V4, number));
    let (local, remote) = (underlay.address(number), underlay.address(other));
    let tunnel = format!("tun={},address={here}/24,route={there}/32@{remote},local={local}", host.port(""));
    let args: Vec<String> = ["--udp-ip".to_owned(), tunnel].iter().chain(more).cloned().collect();
    Switch::start_inside(underlay.machine(number).netns().try_clone().expect("a clone"), &args)
}

/// Streams and datagrams, with and without offloads of the hosts.
fn streams_cross(hosts: &[Host; 2]) {
    for (from, to) in [(0, 2), (1, 1)] {
        for size in [56, 1600, 3200] {
            ping(&hosts[from], Host::address(Ip::V4, to), size);
        }
        transfer(&hosts[from], (&hosts[1 - from], to), Ip::V4, true);
    }
    let (from, to) = (hosts[0].udp(Ip::V4, 1), hosts[1].udp(Ip::V4, 2));
    from.connect(to.local_addr().expect("its address")).expect("connected");
    for (size, count) in [(1000, 2), (1402, 44), (100, 128)] {
        send_segmented(&from, &to, size, count * size - size / 3);
    }
}

fn ip_between_daemons() {
    let underlay = Underlay::pair(Ip::V4);
    let hosts = ["f1", "f2"].map(Host::quiet);
    let switches = [ip_daemon(&underlay, 1, 2, &hosts[0], &[]), ip_daemon(&underlay, 2, 1, &hosts[1], &[])];
    streams_cross(&hosts);
    hosts[0].turn_offloads_off();
    streams_cross(&hosts);
    for switch in switches {
        let report = switch.finish();
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

/// One process and one underlay: a bridge with a VXLAN tunnel, and an independent TUN device.
fn ip_beside_a_bridge() {
    let underlay = Underlay::pair(Ip::V4);
    let (hosts, bridged) = (["f1", "f2"].map(Host::quiet), ["h1", "h2"].map(Host::new));
    let flags = |number, other, host: &Host| {
        let mut flags = underlay.vxlan(42, number, &[other], "").to_vec();
        flags.extend(["--tap".to_owned(), host.port("")]);
        flags
    };
    let switches = vec![
        ip_daemon(&underlay, 1, 2, &hosts[0], &flags(1, 2, &bridged[0])),
        ip_daemon(&underlay, 2, 1, &hosts[1], &flags(2, 1, &bridged[1])),
    ];
    let between = Between::configured(underlay, bridged, switches);
    // Broadcasts of the bridge's hosts do not reach the device.
    let raw = hosts[0].raw();
    between.hosts[1].raw().send(&frame(MacAddr::BROADCAST, station(1), b"anybody?")).expect("sent");
    between.carries_everything();
    assert_eq!(raw.recv(), None);
    streams_cross(&hosts);
    for report in between.finish() {
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}
