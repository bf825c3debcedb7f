//! Each reason for which a frame can be dropped: provoked, counted, captured and told by its name.

use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{Endpoint, External, ExternalKind, NatConfig};
use packet::vlan::VlanId;
use packet::{Datagram, Features, MacAddr, Prefix, VnetHeader};
use testkit::bridge::{Bridge, port};
use testkit::frames::{Spec, noise};
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, HOST_PORT, Lab, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, UPLINK_PORT, ethernet, guest, host_port, mac,
    request, routing, routing_of, routing_with_host, tagged, ten, uplink,
};
use testkit::overlay;
use testkit::overlay::{ENDPOINT, MTU, datagram, plain_peer, vni};
use testkit::packets;
use testkit::packets::{FIN, RST, SYN, Tcp};
use tunnel::{FramingKind, Vni};
use vswitch::{DropReason, Guard, Live, Port, PortId, PortVlan, Reach, SendError, Step, StormLimits, Story, Watch};

/// The place of a provocation, watched.
struct Stage {
    bridge: Bridge,
    live: Arc<Live>,
}

impl Stage {
    fn new(mut bridge: Bridge) -> Stage {
        let live = Arc::new(Live::new(1000, None, None));
        bridge.pipeline.set_watch(Some(Box::new(Watch::new([Arc::clone(&live)]))));
        Stage { bridge, live }
    }

    fn open() -> Stage {
        Stage::new(Bridge::open(3))
    }

    /// A port that may not flood anything.
    fn limited() -> Stage {
        let limits = StormLimits { broadcast: Some(0), multicast: Some(0), unknown: Some(0) };
        Stage::new(Bridge::new([Port { limits, ..port(PortVlan::default()) }, port(PortVlan::default())]))
    }

    /// Three ports, of which the first is that of guest 2 and has a guard.
    fn guarded() -> Stage {
        let mut stage = Stage::open();
        let addresses = [Prefix::new(guest(2).into(), 32)];
        *stage.bridge.port(0) = port(PortVlan::default()).guarded_by(Guard::new(Some(mac(2)), &addresses));
        stage
    }

    fn lab(config: NatConfig) -> Stage {
        Stage::new(Lab::ready_with(config, 1000).bridge)
    }

    /// Two stations, and a peer behind a tunnel.
    fn host() -> Stage {
        let links = [port(PortVlan::default()), port(PortVlan::default())];
        let peers = [1, 2].map(|peer| (plain_peer(), overlay::address(peer)));
        Stage::new(overlay::host_with(links, peers.to_vec(), overlay::address(0)))
    }

    fn run(mut self, ingress: u16, frames: &[Vec<u8>]) -> Stage {
        self.bridge.run(ingress, frames);
        self
    }

    /// These packets of guest 2 to the gateway.
    fn route(self, packets: &[Vec<u8>]) -> Stage {
        let frames: Vec<Vec<u8>> = packets.iter().map(|packet| ethernet(GATEWAY_MAC, mac(2), packet)).collect();
        self.run(0, &frames)
    }

    fn route_in(self, packet: &[u8]) -> Stage {
        self.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, packet)])
    }

    /// A flow of guest 2, an answer that completes it, and another flow.
    fn two_flows(self) -> Stage {
        let flow = |port| udp_from(port, guest(2), PEER);
        self.route(&[flow(4000)]).answer(4000).route(&[flow(4002)])
    }

    /// The answer to a flow, by its outside port.
    fn answer(self, port: u16) -> Stage {
        self.route_in(&packets::udp(Endpoint::new(PEER, 53), Endpoint::new(OUTSIDE, port), b"abc"))
    }

    /// One frame to a known station, of which the far side of its port says this.
    fn refuse(mut self, to: u16, error: SendError) -> Stage {
        self.bridge.table.learn(VlanId::NONE, mac(9), PortId(to), self.bridge.now);
        let frame = (VnetHeader::default(), between(8, 9));
        self.bridge.run_with(0, &[frame], |_, _, _| Err(error));
        self
    }

    fn arrive(mut self, from: usize, tos: u8, payload: &[u8]) -> Stage {
        let datagram = Datagram { from: overlay::address(from), tos, segment_size: 0, payload };
        self.bridge.receive(ENDPOINT, FramingKind::Vxlan, MTU, &[datagram]);
        self
    }

    fn stories(&self) -> Vec<Story> {
        std::iter::from_fn(|| self.live.next_story()).collect()
    }
}

/// A frame from one station to another.
fn between(src: u8, dst: u8) -> Vec<u8> {
    ethernet(mac(dst), mac(src), &udp(guest(src), guest(dst)))
}

fn udp(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    udp_from(4000, src, dst)
}

fn udp_from(port: u16, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    packets::udp(Endpoint::new(src, port), Endpoint::new(dst, 53), b"abc")
}

fn tcp(flags: u8) -> Vec<u8> {
    packets::tcp(Endpoint::new(guest(2), 4000), Endpoint::new(PEER, 80), &Tcp::new(flags, 1000, 0), &[])
}

fn broken(at: usize, mut packet: Vec<u8>) -> Vec<u8> {
    packet[at] ^= 0x55;
    packet
}

fn with_header(mut packet: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut packet);
    packets::set_ip_checksum(&mut packet);
    packet
}

/// A message of neighbour discovery from guest 2 by its link-local address, about all zeros.
fn icmpv6(kind: u8) -> Vec<u8> {
    let [a, b, c, d, e, f] = mac(2).0;
    let src = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let header = [0x60, 0, 0, 0, 0, 24, 58, 255];
    let message = [&[kind][..], &[0; 23]].concat();
    [&MacAddr::BROADCAST.0[..], &mac(2).0, &[0x86, 0xdd], &header, &src, &[0xff; 16], &message].concat()
}

/// A frame in VXLAN in UDP in IPv4 in Ethernet.
fn wrapped(frame: &[u8]) -> Vec<u8> {
    let [from, to] = [9, 8].map(|last| Ipv4Addr::new(192, 0, 2, last));
    let datagram = packets::udp(Endpoint::new(from, 50_000), Endpoint::new(to, tunnel::vxlan::PORT), &datagram(vni(), frame));
    ethernet(mac(1), mac(2), &datagram)
}

/// Whoever adds a reason says here how it is provoked.
fn provoke(reason: DropReason) -> Stage {
    let usual = NatConfig::default;
    match reason {
        DropReason::Runt => Stage::open().run(0, &[vec![0; 13]]),
        DropReason::TruncatedTag => Stage::open().run(0, &[[&[2; 12][..], &[0x81, 0, 0]].concat()]),
        DropReason::BadVnetHeader => {
            let mut stage = Stage::open();
            let vnet = VnetHeader { flags: 1, csum_start: 4000, csum_offset: 6, ..VnetHeader::default() };
            stage.bridge.run_with(0, &[(vnet, between(8, 9))], |_, _, _| Ok(()));
            stage
        }
        DropReason::MulticastSource => Stage::open().run(0, &[ethernet(mac(8), MacAddr([1, 0, 0x5e, 0, 0, 1]), &[0; 46])]),
        DropReason::LinkLocal => Stage::open().run(0, &[ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 2]), mac(8), &[0; 46])]),
        DropReason::VlanNotAllowed => {
            let ports = [port(PortVlan::access(ten())), port(PortVlan::default())];
            Stage::new(Bridge::new(ports)).run(0, &[tagged(mac(9), mac(8), 20, &[0; 46])])
        }
        DropReason::SamePort => Stage::open().run(0, &[between(9, 8), between(8, 9)]),
        DropReason::NoDestination => Stage::new(Bridge::open(1)).run(0, &[between(8, 9)]),
        DropReason::LoopBlocked => {
            let mut stage = Stage::open();
            while !stage.bridge.table.is_blocked(PortId(1), VlanId::NONE, stage.bridge.now) {
                stage = stage.run(0, &[between(8, 9)]).run(1, &[between(8, 9)]);
            }
            stage.run(1, &[between(8, 9)])
        }
        DropReason::GuardMac => Stage::guarded().run(0, &[between(9, 8)]),
        DropReason::GuardIp => Stage::guarded().run(0, &[ethernet(mac(9), mac(2), &udp(guest(3), guest(9)))]),
        DropReason::GuardArp => Stage::guarded().run(0, &[request(mac(2), guest(3), guest(9))]),
        DropReason::GuardNd => Stage::guarded().run(0, &[icmpv6(136)]),
        DropReason::GuardDhcp => {
            let server = Endpoint::new(guest(2), 67);
            let offer = packets::udp(server, Endpoint::new(Ipv4Addr::BROADCAST, 68), b"abc");
            Stage::guarded().run(0, &[ethernet(MacAddr::BROADCAST, mac(2), &offer)])
        }
        DropReason::GuardRa => Stage::guarded().run(0, &[icmpv6(134)]),
        DropReason::PortIsolated => {
            let isolated = || Port { isolated: true, ..port(PortVlan::default()) };
            Stage::new(Bridge::new([isolated(), isolated()])).run(0, &[between(8, 9)])
        }
        DropReason::StormBroadcast => Stage::limited().run(0, &[ethernet(MacAddr::BROADCAST, mac(8), &[0; 46])]),
        DropReason::StormMulticast => Stage::limited().run(0, &[ethernet(MacAddr([1, 0, 0x5e, 0, 0, 1]), mac(8), &[0; 46])]),
        DropReason::StormUnknown => Stage::limited().run(0, &[between(8, 9)]),
        DropReason::VlanNotCarried => {
            let stage = Stage::new(Bridge::new([port(PortVlan::default()), port(PortVlan::access(ten()))]));
            stage.bridge.table.learn(VlanId::NONE, mac(9), PortId(1), stage.bridge.now);
            stage.run(0, &[between(8, 9)])
        }
        DropReason::TooLong => {
            let stage = Stage::new(Bridge::new([port(PortVlan::default()), Port { mtu: 20, ..port(PortVlan::default()) }]));
            stage.bridge.table.learn(VlanId::NONE, mac(9), PortId(1), stage.bridge.now);
            stage.run(0, &[between(8, 9)])
        }
        DropReason::TooManySegments => {
            let plain = Port { features: Features::NONE, ..port(PortVlan::default()) };
            let mut stage = Stage::new(Bridge::new([port(PortVlan::default()), plain]));
            let frame = Spec { payload: noise(1, 65_000), ..Spec::default() }.super_frame(1000);
            stage.bridge.run_with(0, &[frame], |_, _, _| Ok(()));
            stage
        }
        DropReason::GatewaySpoofed => Stage::lab(usual()).run(0, &[ethernet(mac(3), GATEWAY_MAC, &udp(guest(2), guest(3)))]),
        DropReason::NotRouted => Stage::lab(usual()).run(0, &[[&GATEWAY_MAC.0[..], &mac(2).0, &[0x86, 0xdd], &[0; 46]].concat()]),
        DropReason::BadIpHeader => Stage::lab(usual()).route(&[broken(10, udp(guest(2), PEER))]),
        DropReason::IpOptions => {
            let payload = udp(guest(2), PEER)[20..].to_vec();
            Stage::lab(usual()).route(&[packets::ip_with(&[131, 7, 4, 10, 0, 0, 9, 0], packets::UDP, guest(2), PEER, &payload)])
        }
        DropReason::MartianSource => Stage::lab(usual()).route(&[udp(PEER, PEER)]),
        DropReason::MartianDestination => Stage::lab(usual()).route(&[udp(guest(2), Ipv4Addr::BROADCAST)]),
        DropReason::LinkLocalAddress => Stage::lab(usual()).route(&[udp(guest(2), Ipv4Addr::new(169, 254, 169, 254))]),
        DropReason::NotServed => Stage::lab(usual()).route(&[udp(guest(2), GATEWAY)]),
        DropReason::NotFromHost => {
            let mut stage = Stage::lab(usual());
            stage.bridge.pipeline.set_port(PortId(HOST_PORT), Some(host_port()));
            stage.bridge.pipeline.set_routing(routing_with_host(Some(uplink(1500))));
            stage.run(HOST_PORT, &[udp(PEER, guest(2))])
        }
        DropReason::NotAllowed => {
            let mut stage = Stage::lab(usual());
            stage.bridge.pipeline.set_routing(routing_of(Some(uplink(1500)), [Reach::Nothing, Reach::All]));
            stage.route(&[udp(guest(2), PEER)])
        }
        DropReason::NoRoute => {
            let mut stage = Stage::lab(usual());
            stage.bridge.pipeline.set_routing(routing(None));
            stage.route(&[udp(guest(2), PEER)])
        }
        DropReason::TtlExceeded => Stage::lab(usual()).route(&[with_header(udp(guest(2), PEER), |packet| packet[8] = 1)]),
        DropReason::FragmentationNeeded => {
            let long = packets::udp(Endpoint::new(guest(2), 4000), Endpoint::new(PEER, 53), &[0; 1200]);
            Stage::lab(usual()).route(&[with_header(long, |packet| packet[6] = 0x40)])
        }
        DropReason::NeighbourUnresolved => {
            let mut stage = Stage::lab(usual()).route(&[udp(guest(2), guest(77))]);
            for _ in 0..5 {
                stage.bridge.now = stage.bridge.now.after(std::time::Duration::from_secs(1));
                stage.bridge.poll();
            }
            stage
        }
        DropReason::NeighbourQueueFull => {
            // Too long to wait.
            let long = packets::udp(Endpoint::new(guest(2), 4000), Endpoint::new(guest(77), 53), &[0; 2100]);
            Stage::lab(usual()).route(&[long])
        }
        DropReason::NotForUs => Stage::lab(usual()).run(UPLINK_PORT, &[ethernet(mac(77), NEXT_HOP_MAC, &udp(PEER, OUTSIDE))]),
        DropReason::NatMalformed => Stage::lab(usual()).route(&[packets::ip(packets::TCP, guest(2), PEER, &[0; 10])]),
        DropReason::NatBadChecksum => Stage::lab(usual()).route(&[broken(28, udp(guest(2), PEER))]),
        DropReason::NatNotOpening => Stage::lab(usual()).route(&[tcp(RST)]),
        DropReason::NatOutOfWindow => Stage::lab(usual()).route(&[tcp(SYN), tcp(SYN | FIN)]),
        DropReason::NatNoMapping => Stage::lab(usual()).route_in(&udp(PEER, OUTSIDE)),
        DropReason::NatIcmpIgnored => Stage::lab(usual()).route(&[packets::query(5, 1, guest(2), PEER, b"redirect")]),
        DropReason::NatIcmpUnrelated => {
            Stage::lab(usual()).route_in(&packets::error([3, 1], 0, PEER, OUTSIDE, &udp(OUTSIDE, PEER)))
        }
        DropReason::NatTableFull => Stage::lab(NatConfig { max_connections: 1, ..usual() }).two_flows(),
        DropReason::NatPortShare => Stage::lab(NatConfig { max_connections_per_port: 1, ..usual() }).two_flows(),
        DropReason::NatGuestShare => Stage::lab(NatConfig { max_ports_per_guest: 1, ..usual() }).two_flows(),
        DropReason::NatPortsExhausted => {
            let stage = Stage::lab(NatConfig { ports: 2000..=2001, ..usual() }).route(&[udp(guest(2), PEER)]);
            let others = [udp(guest(3), PEER), udp_from(4001, guest(4), PEER)];
            let stage = stage.run(1, &[ethernet(GATEWAY_MAC, mac(3), &others[0])]).answer(2000).answer(2001);
            stage.run(4, &[ethernet(GATEWAY_MAC, mac(4), &others[1])])
        }
        DropReason::NatNoAddress => {
            let lab = Lab::ready();
            lab.nat.set_externals(&[], lab.bridge.now).unwrap();
            Stage::new(lab.bridge).route(&[udp(guest(2), PEER)])
        }
        DropReason::NatClash => {
            let gre = |last| packets::ip(47, guest(last), PEER, &[0; 8]);
            Stage::lab(usual()).route(&[gre(2)]).run(1, &[ethernet(GATEWAY_MAC, mac(3), &gre(3))])
        }
        DropReason::NatNotShared => {
            let lab = Lab::ready();
            lab.nat.set_externals(&[External { address: OUTSIDE, kind: ExternalKind::Shared }], lab.bridge.now).unwrap();
            Stage::new(lab.bridge).route(&[packets::ip(47, guest(2), PEER, &[0; 8])])
        }
        DropReason::FragmentRefused => {
            let whole = packets::udp(Endpoint::new(guest(2), 4000), Endpoint::new(PEER, 53), &[0; 72]);
            Stage::lab(usual()).route(&[packets::fragment(&whole, 40..53, 7, true)])
        }
        DropReason::TunnelTruncated => Stage::host().arrive(1, 0, &datagram(vni(), &[0; 5])),
        DropReason::TunnelBadFlags => Stage::host().arrive(1, 0, &broken(0, datagram(vni(), &between(8, 9)))),
        DropReason::TunnelUnknownVni => Stage::host().arrive(1, 0, &datagram(Vni::new(1).unwrap(), &between(8, 9))),
        DropReason::TunnelUnknownPeer => Stage::host().arrive(7, 0, &datagram(vni(), &between(8, 9))),
        DropReason::TunnelNested => Stage::host().arrive(1, 0, &datagram(vni(), &wrapped(&wrapped(&between(8, 9))))),
        DropReason::TunnelEcn => Stage::host().arrive(1, 3, &datagram(vni(), &between(8, 9))),
        DropReason::SplitHorizon => {
            let stage = Stage::host();
            stage.bridge.table.learn(VlanId::NONE, mac(9), PortId(overlay::PEER + 1), stage.bridge.now);
            stage.arrive(1, 0, &datagram(vni(), &between(8, 9)))
        }
        DropReason::PeerUnreachable => Stage::host().refuse(overlay::PEER, SendError::Drop(reason)),
        DropReason::PortGone => {
            let mut stage = Stage::open();
            stage.bridge.table.learn(VlanId::NONE, mac(9), PortId(1), stage.bridge.now);
            stage.bridge.pipeline.set_port(PortId(1), None);
            stage.run(0, &[between(8, 9)])
        }
        DropReason::PortDown | DropReason::QueueFull => Stage::open().refuse(1, SendError::Drop(reason)),
        DropReason::WriteFailed => Stage::open().refuse(1, SendError::Invalid),
    }
}

#[test]
fn each_reason_is_counted_captured_and_told() {
    for reason in DropReason::ALL {
        let stage = provoke(reason);
        let name = reason.name();
        assert!(stage.bridge.dropped(reason) > 0, "{name} is not counted");
        assert!(stage.bridge.captured(reason) > 0, "{name} is not captured");
        let stories = stage.stories();
        let is_told = |story: &Story| {
            story.steps().iter().any(|step| matches!(step, Step::Dropped { reason: told, .. } if *told == reason))
        };
        assert!(stories.iter().any(is_told), "{name} is not told: {:?}", stories.iter().map(Story::steps).collect::<Vec<_>>());
        assert_eq!(stage.live.lost(), 0);
    }
}

/// Not only from a link, but also from outside and out of a tunnel, and for a known station, a group or the gateway.
#[test]
fn a_group_address_sends_nothing() {
    let group = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let to = |dst| ethernet(dst, group, &udp(guest(2), PEER));
    let mut bridge = Stage::open().run(1, &[between(9, 8)]).bridge;
    assert_eq!(bridge.run(0, &[to(mac(9)), to(mac(7)), to(MacAddr::BROADCAST)]), []);
    assert_eq!(bridge.dropped(DropReason::MulticastSource), 3);
    let mut bridge = Stage::lab(NatConfig::default()).bridge;
    assert_eq!((bridge.run(0, &[to(GATEWAY_MAC)]), bridge.run(UPLINK_PORT, &[to(UPLINK_MAC)])), (vec![], vec![]));
    assert_eq!(bridge.dropped(DropReason::MulticastSource), 2);
    let mut bridge = Stage::host().bridge;
    let payload = datagram(vni(), &to(mac(9)));
    let arrived = Datagram { from: overlay::address(1), tos: 0, segment_size: 0, payload: &payload };
    assert_eq!(bridge.receive(ENDPOINT, FramingKind::Vxlan, MTU, &[arrived]), []);
    assert_eq!(bridge.dropped(DropReason::MulticastSource), 1);
}
