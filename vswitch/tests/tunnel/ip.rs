//! IP in UDP: between a TUN device and routes to other hosts.
//!
//! ```text
//!  10.42.1.0/24 --- TUN at port 0 --- 192.0.2.1       192.0.2.2 --- TUN at port 0 --- 10.42.2.0/24
//!                                         |
//!                                     192.0.2.3 --- TUN at port 0 --- 10.42.2.128/25
//! ```

use std::net::Ipv4Addr;
use std::sync::Arc;

use packet::icmpv4::IcmpView;
use packet::ipv4::Ipv4View;
use packet::{Datagram, Ipv4Prefix, VnetHeader};
use tunnel::{Framing, FramingKind, Locals, Peers, peers};
use vswitch::{DropReason, Encapsulation, IpTunnel, Live, Port, PortId, PortKind, PortVlan, ReceivingSocket, Watch};

use testkit::bridge::{Bridge, Write, port};
use testkit::checksum::sum;
use testkit::frames::noise;
use testkit::overlay::{ENDPOINT, PEER, address};

const TUN: u16 = 0;
const UDP_PORT: u16 = 8285;

/// 1500 without IPv4 and UDP headers.
const IP_MTU: u32 = 1472;

/// Guest networks by host.
const NETWORKS: [([u8; 4], u8); 3] = [([10, 42, 1, 0], 24), ([10, 42, 2, 0], 24), ([10, 42, 2, 128], 25)];

fn encapsulation() -> Encapsulation {
    Encapsulation {
        framing: Framing::Ip,
        tos: Some(0),
        ttl: Some(64),
        dont_fragment: Some(true),
        is_flooded: false,
        learns: false,
    }
}

fn host(own: usize) -> Bridge {
    let others: Vec<usize> = (0..3).filter(|host| *host != own).collect();
    let peer = || Port { mtu: IP_MTU, kind: PortKind::IpPeer(encapsulation()), ..port(PortVlan::default()) };
    let tun = Port { mtu: IP_MTU, kind: PortKind::Tun, ..port(PortVlan::default()) };
    let mut bridge = Bridge::new([tun, port(PortVlan::default()), peer(), peer(), peer()]);
    bridge.pipeline.set_port(PortId(ENDPOINT), None);
    let ports = || (PEER..).zip(&others);
    let known: Vec<_> = ports().map(|(port, host)| peers::Peer { framing: Framing::Ip, address: address(*host), port }).collect();
    let socket = ReceivingSocket {
        framing: FramingKind::Ip,
        peers: Arc::new(Peers::new(&known, &[]).unwrap()),
        locals: Arc::new(Locals::new(UDP_PORT, [address(own)])),
        strangers: Arc::default(),
    };
    bridge.pipeline.set_receiving_socket(PortId(ENDPOINT), Some(socket));
    let network = |host: usize| Ipv4Prefix::new(NETWORKS[host].0.into(), NETWORKS[host].1);
    let routes = ports().map(|(port, host)| (network(*host), PortId(port))).collect();
    let tunnel = Arc::new(IpTunnel::new(PortId(TUN), routes));
    for port in [TUN, PEER, PEER + 1] {
        bridge.pipeline.set_ip_tunnel(PortId(port), Some(Arc::clone(&tunnel)));
    }
    bridge
}

/// A UDP packet without a checksum.
fn packet(src: [u8; 4], dst: [u8; 4], ttl: u8, len: usize, dont_fragment: bool) -> Vec<u8> {
    let [high, low] = (len as u16).to_be_bytes();
    let [udp_high, udp_low] = (len as u16 - 20).to_be_bytes();
    let flags = if dont_fragment { 0x40 } else { 0 };
    let mut packet = vec![0x45, 0, high, low, 0, 7, flags, 0, ttl, 17, 0, 0];
    packet.extend([src, dst].concat());
    let check = !sum(&packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend([0x9c, 0x40, 0, 53, udp_high, udp_low, 0, 0]);
    packet.extend(noise(1, len - 28));
    packet
}

/// A packet with a source route (RFC 791 section 3.1): loose, and already at its end.
fn source_routed(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut packet = packet(src, dst, 64, 100, true);
    packet.splice(20..20, [131, 3, 4, 0]);
    (packet[0], packet[3]) = (0x46, 104);
    packet[10..12].fill(0);
    let check = !sum(&packet[..24]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

const GUEST: [u8; 4] = [10, 42, 1, 7];
const FAR: [u8; 4] = [10, 42, 2, 7];
const FARTHER: [u8; 4] = [10, 42, 2, 200];

fn arrive(host: &mut Bridge, from: usize, payload: &[u8]) -> Vec<Write> {
    let datagram = Datagram { from: address(from), tos: 0, segment_size: 0, payload };
    host.receive(ENDPOINT, FramingKind::Ip, IP_MTU, &[datagram])
}

/// The one packet that comes back out of the TUN device, and why.
#[track_caller]
fn told(bridge: &mut Bridge, about: &[u8], reason: DropReason) -> (u8, u8, Option<u16>) {
    let writes = bridge.run(TUN, &[about.to_vec()]);
    assert_eq!((writes.len(), bridge.counts(TUN).dropped(reason)), (1, 1), "{}", reason.name());
    let (port, vnet, error) = &writes[0];
    assert_eq!((port.0, *vnet), (TUN, VnetHeader::default()));
    let (ip, of) = (Ipv4View::new(error).unwrap(), Ipv4View::new(about).unwrap());
    assert_eq!((ip.src(), ip.dst(), ip.total_len()), (of.dst(), of.src(), error.len()));
    assert_eq!((sum(&error[..20]), sum(&error[20..])), (0xffff, 0xffff));
    let icmp = IcmpView::new(ip.payload()).unwrap();
    assert_eq!(icmp.quote(), &about[..icmp.quote().len()], "as it came");
    (icmp.kind(), icmp.code(), icmp.next_hop_mtu())
}

#[test]
fn the_longest_prefix_leads_the_way_and_each_end_takes_a_hop() {
    let (mut near, mut far) = (host(0), host(1));
    for (dst, port) in [(FAR, PEER), (FARTHER, PEER + 1), ([10, 42, 2, 127], PEER), ([10, 42, 2, 128], PEER + 1)] {
        near.run(TUN, &[packet(GUEST, dst, 64, 100, true)]);
        let sent = std::mem::take(&mut near.sent);
        assert_eq!((sent.len(), sent[0].outer.port), (1, port), "{dst:?}");
        assert_eq!(sent[0].datagrams, [packet(GUEST, dst, 63, 100, true)]);
        if port == PEER {
            let writes = arrive(&mut far, 0, &sent[0].datagrams[0]);
            assert_eq!(writes, [(PortId(TUN), VnetHeader::default(), packet(GUEST, dst, 62, 100, true))]);
        }
    }
    assert_eq!((near.counts(TUN).rx_frames.load(), near.counts(PEER).tx_frames.load()), (4, 2));
    assert_eq!((far.counts(PEER).rx_frames.load(), far.counts(TUN).tx_frames.load()), (2, 2));
}

#[test]
fn who_sent_what_goes_nowhere_is_told() {
    let cases = [
        (packet(GUEST, [10, 43, 0, 1], 64, 100, true), DropReason::NoRoute, (3, 0)),
        (packet(GUEST, FAR, 1, 100, true), DropReason::TtlExceeded, (11, 0)),
        (packet(GUEST, FAR, 0, 100, true), DropReason::TtlExceeded, (11, 0)),
        (packet(GUEST, FAR, 64, 1473, true), DropReason::FragmentationNeeded, (3, 4)),
    ];
    for (about, reason, expected) in cases {
        let (kind, code, mtu) = told(&mut host(0), &about, reason);
        assert_eq!((kind, code), expected);
        assert_eq!(mtu.filter(|_| code == 4), (code == 4).then_some(1472));
    }
    let mut near = host(0);
    near.run(TUN, &[packet(GUEST, FAR, 64, 1472, true)]);
    assert_eq!(near.sent[0].datagrams[0].len(), 1472, "what fits exactly");
    let forged = packet([224, 0, 0, 1], [10, 43, 0, 1], 64, 100, true);
    assert!(near.run(TUN, &[forged]).is_empty());
    assert!(near.run(TUN, &[source_routed(GUEST, FAR)]).is_empty());
    assert_eq!(near.counts(TUN).dropped(DropReason::IpOptions), 1);
    let many = vec![packet(GUEST, [10, 43, 0, 1], 64, 100, true); 40];
    assert_eq!(near.run(TUN, &many).len(), 10, "not more often than that");
    assert_eq!(near.counts(TUN).dropped(DropReason::NoRoute), 41);
}

#[test]
fn what_may_be_cut_is() {
    let mut near = host(0);
    let whole = packet(GUEST, FAR, 64, 1500, false);
    near.run(TUN, std::slice::from_ref(&whole));
    let fragments: Vec<Vec<u8>> = near.sent.iter().flat_map(|sent| sent.datagrams.clone()).collect();
    assert_eq!(fragments.iter().map(Vec::len).collect::<Vec<_>>(), [1468, 52]);
    let payload: Vec<u8> = fragments.iter().flat_map(|fragment| fragment[20..].to_vec()).collect();
    assert_eq!(payload, whole[20..]);
    for (fragment, offset) in fragments.iter().zip([0, 1448]) {
        let ip = Ipv4View::new(fragment).unwrap();
        assert!(ip.has_valid_checksum());
        assert_eq!((ip.fragment_offset(), ip.more_fragments(), ip.ttl(), ip.id()), (offset, offset == 0, 63, 7));
    }
    assert_eq!((near.counts(PEER).tx_frames.load(), near.counts(PEER).tx_bytes.load()), (1, 1500));
}

#[test]
fn a_peer_speaks_for_its_own_network_only() {
    let strangers = [([10, 42, 1, 9], 0), (FARTHER, 0), ([192, 0, 2, 9], 0), (FAR, 1)];
    for (src, from_farther) in strangers {
        let mut near = host(0);
        let from = 1 + from_farther;
        assert!(arrive(&mut near, from, &packet(src, GUEST, 64, 100, true)).is_empty(), "{src:?} from {from}");
        assert_eq!(near.counts(PEER + from_farther as u16).dropped(DropReason::MartianSource), 1);
    }
    let mut near = host(0);
    assert_eq!(arrive(&mut near, 2, &packet(FARTHER, GUEST, 64, 100, true)).len(), 1);
}

#[test]
fn drops_of_what_arrives() {
    let good = packet(FAR, GUEST, 64, 100, true);
    let mut bad_checksum = good.clone();
    bad_checksum[10] ^= 1;
    let mut version_6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    version_6.resize(48, 0);
    version_6[45] = 8;
    let own = {
        let mut inner = packet(FAR, [192, 0, 2, 1], 64, 100, true);
        inner[22..24].copy_from_slice(&UDP_PORT.to_be_bytes());
        inner
    };
    let cases = [
        (DropReason::BadIpHeader, ENDPOINT, 1, vec![]),
        (DropReason::BadIpHeader, ENDPOINT, 1, good[..19].to_vec()),
        (DropReason::BadIpHeader, ENDPOINT, 1, noise(1, 60)),
        (DropReason::BadIpHeader, PEER, 1, bad_checksum),
        (DropReason::NotRouted, PEER, 1, version_6),
        (DropReason::IpOptions, PEER, 1, source_routed(FAR, GUEST)),
        (DropReason::TtlExceeded, PEER, 1, packet(FAR, GUEST, 1, 100, true)),
        (DropReason::TunnelNested, PEER, 1, own),
        (DropReason::TunnelUnknownPeer, ENDPOINT, 7, good.clone()),
    ];
    for (reason, port, from, payload) in cases {
        let mut near = host(0);
        assert!(arrive(&mut near, from, &payload).is_empty(), "{}", reason.name());
        assert_eq!((near.dropped(reason), near.counts(port).dropped(reason)), (1, 1), "{}", reason.name());
    }
    let mut near = host(0);
    let padded = [&good[..], &[0xee; 6]].concat();
    assert_eq!(arrive(&mut near, 1, &padded)[0].2, packet(FAR, GUEST, 63, 100, true), "what stands behind it goes");
}

#[test]
fn bridge_and_tunnel_of_packets_do_not_meet() {
    let mut near = host(0);
    let frame = crate::between(1, 2).bytes();
    assert!(near.run(1, &[frame]).is_empty());
    assert_eq!(near.counts(1).dropped(DropReason::NoDestination), 1);
    assert!(near.sent.is_empty());
    near.pipeline.set_ip_tunnel(PortId(TUN), None);
    near.run(TUN, &[packet(GUEST, FAR, 64, 100, true)]);
    assert_eq!(near.counts(TUN).dropped(DropReason::NotRouted), 1);
    near.pipeline.set_ip_tunnel(PortId(PEER), None);
    assert!(arrive(&mut near, 1, &packet(FAR, GUEST, 64, 100, true)).is_empty());
    assert_eq!(near.counts(PEER).dropped(DropReason::PortGone), 1);
    assert_eq!(near.run(TUN, &[packet([10, 42, 1, 8], Ipv4Addr::BROADCAST.octets(), 64, 100, true)]).len(), 0);
}

/// Packets without Ethernet header, as a capture's filter sees them.
#[test]
fn the_filter_of_a_trace_sees_the_packets_of_a_tun_device() {
    let mut near = host(0);
    let live = Arc::new(Live::new(10, None, format!("src host {}", Ipv4Addr::from(GUEST)).parse().ok()));
    near.pipeline.set_watch(Some(Box::new(Watch::new([Arc::clone(&live)]))));
    near.run(TUN, &[packet(GUEST, FAR, 64, 100, true)]);
    assert_eq!(live.remaining(), 9);
}
