//! What is imagined is what happens: before each frame of a random world the same frame is rehearsed. Nothing changes by
//! that, and then the real one takes the very same steps.

use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{Connection, Endpoint, Filtering, NatConfig, NatStats, Protocol, Published};
use packet::{MacAddr, VnetHeader};
use proptest::prelude::*;
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, Lab, NEXT_HOP, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, UPLINK_PORT, VLAN_GATEWAY, VLAN_GATEWAY_MAC,
    ethernet, guest, mac, request, routing, ten, uplink,
};
use testkit::packets::{ACK, FIN, RST, SYN, Tcp};
use vswitch::{
    Live, MacEntry, NeighbourEntry, NeighbourStats, Port, PortId, PortKind, PortVlan, Rehearsal, Router, Step, Story, Verdict,
    Watch,
};

use testkit::bridge::port;
use testkit::packets;

const PORTS: u16 = 5;

/// A lab whose real frames tell their stories, and a rehearsal of it.
struct Theatre {
    lab: Lab,
    live: Arc<Live>,
    rehearsal: Rehearsal,
    published: Vec<Endpoint>,
}

/// All that is shared.
#[derive(PartialEq, Debug)]
struct Tables {
    macs: Vec<MacEntry>,
    mac_stats: String,
    connections: Vec<Connection>,
    nat: NatStats,
    fragments: (usize, usize),
    free: [u32; 2],
    neighbours: Vec<NeighbourEntry>,
    neighbour_stats: NeighbourStats,
}

impl Theatre {
    fn new(config: NatConfig, mtu: u32) -> Theatre {
        let lab = Lab::new(config, mtu);
        Theatre::of(lab, mtu)
    }

    fn of(mut lab: Lab, mtu: u32) -> Theatre {
        let live = Arc::new(Live::new(u32::MAX, None, None));
        lab.bridge.pipeline.set_watch(Some(Box::new(Watch::new([Arc::clone(&live)]))));
        let mut rehearsal = Rehearsal::new(Arc::clone(&lab.bridge.table), usize::from(PORTS));
        let pipeline = rehearsal.pipeline_mut();
        for id in 0..PORTS {
            let kind = if id == UPLINK_PORT { PortKind::Uplink } else { PortKind::Link };
            let vlan = if id == 3 { PortVlan::access(ten()) } else { PortVlan::default() };
            pipeline.set_port(PortId(id), Some(Port { kind, ..port(vlan) }));
        }
        let router = Router::new(routing(Some(uplink(mtu))), Some(Arc::clone(&lab.nat)), Arc::clone(&lab.neighbours));
        pipeline.set_router(router);
        Theatre { lab, live, rehearsal, published: Vec::new() }
    }

    fn tables(&self) -> Tables {
        let (bridge, nat, now) = (&self.lab.bridge, &self.lab.nat, self.lab.bridge.now);
        Tables {
            macs: bridge.table.entries(now),
            mac_stats: format!("{:?}", bridge.table.stats()),
            connections: nat.connections(now),
            nat: nat.stats(),
            fragments: nat.fragments_now(),
            free: [Protocol::TCP, Protocol::UDP].map(|protocol| nat.free_ports(OUTSIDE, protocol)),
            neighbours: self.lab.neighbours.entries(now),
            neighbour_stats: self.lab.neighbours.stats(),
        }
    }

    fn publish(&mut self, port: u16, guest: Endpoint) {
        let rule = Published { protocol: Protocol::TCP, address: OUTSIDE, port, guest };
        self.lab.nat.publish(&rule, self.lab.bridge.now).unwrap();
        self.published.push(guest);
    }

    /// Imagines a frame, then sends it. Both stories.
    fn play(&mut self, ingress: u16, frame: &[u8]) -> (Story, Story) {
        let now = self.lab.bridge.now;
        // What a first packet would do on the way, as `nat::Nat::decide` says.
        while self.lab.nat.expire(now, 256) {}
        let before = self.tables();
        let imagined = self.rehearsal.walk(PortId(ingress), VnetHeader::default(), frame, now).unwrap();
        assert_eq!(self.tables(), before, "a rehearsal changed something");
        let again = self.rehearsal.walk(PortId(ingress), VnetHeader::default(), frame, now).unwrap();
        assert_eq!(imagined.steps(), again.steps(), "asked twice");
        self.lab.run(ingress, &[frame.to_vec()]);
        let real = self.live.next_story().unwrap();
        // Packets that had waited tell stories of their own.
        while self.live.next_story().is_some() {}
        assert_eq!(self.live.lost(), 0);
        (imagined, real)
    }
}

/// What the rehearsal cannot know: how many senders were told of errors just now.
fn is_over_the_limit(imagined: &Story, real: &Story) -> bool {
    real.steps().contains(&Step::NotTold) && !imagined.steps().contains(&Step::NotTold)
}

#[derive(Clone, Debug)]
enum Kind {
    Arp { target: u8 },
    Tcp { flags: u8, port: u16, to: u8, sequence: u32 },
    Udp { port: u16, to: u8, len: usize },
    Echo { id: u16, to: u8 },
    Fragment { to: u8, id: u16, is_first: bool },
    Other,
}

#[derive(Clone, Debug)]
struct Event {
    ingress: u16,
    src: u8,
    dst_mac: u8,
    kind: Kind,
    ttl: u8,
    dont_fragment: bool,
    secs: u64,
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop::sample::select(vec![SYN, SYN | ACK, ACK, FIN | ACK, RST, 0, SYN | FIN]);
    let kind = prop_oneof![
        2 => (0..5u8).prop_map(|target| Kind::Arp { target }),
        6 => (flags, 0..4u16, 0..8u8, 0..3u32).prop_map(|(flags, port, to, sequence)| Kind::Tcp { flags, port, to, sequence }),
        4 => (0..4u16, 0..8u8, prop::sample::select(vec![3, 1200, 1472])).prop_map(|(port, to, len)| Kind::Udp { port, to, len }),
        2 => (0..3u16, 0..8u8).prop_map(|(id, to)| Kind::Echo { id, to }),
        2 => (0..8u8, 0..3u16, any::<bool>()).prop_map(|(to, id, is_first)| Kind::Fragment { to, id, is_first }),
        1 => Just(Kind::Other),
    ];
    let secs = prop_oneof![4 => Just(0), 2 => Just(1), 1 => 2..400u64];
    let ttl = prop_oneof![8 => Just(64u8), 1 => Just(1u8)];
    (0..PORTS, 2..6u8, 0..6u8, kind, ttl, any::<bool>(), secs).prop_map(
        |(ingress, src, dst_mac, kind, ttl, dont_fragment, secs)| Event { ingress, src, dst_mac, kind, ttl, dont_fragment, secs },
    )
}

impl Event {
    fn src(&self) -> Ipv4Addr {
        match self.ingress {
            UPLINK_PORT if self.src == 2 => NEXT_HOP,
            UPLINK_PORT => PEER,
            3 => Ipv4Addr::new(10, 0, 10, self.src),
            _ => guest(self.src),
        }
    }

    fn dst(to: u8) -> Ipv4Addr {
        match to {
            0 | 1 => PEER,
            2 => OUTSIDE,
            3 => guest(2),
            4 => GATEWAY,
            5 => Ipv4Addr::new(10, 0, 10, 5),
            6 => Ipv4Addr::new(10, 0, 0, 200),
            _ => Ipv4Addr::new(255, 255, 255, 255),
        }
    }

    fn frame(&self) -> Vec<u8> {
        let src_mac = if self.ingress == UPLINK_PORT { NEXT_HOP_MAC } else { mac(self.src) };
        let dst_mac = match (self.ingress, self.dst_mac) {
            (UPLINK_PORT, 0..=3) => UPLINK_MAC,
            (3, 0..=3) => VLAN_GATEWAY_MAC,
            (_, 0..=3) => GATEWAY_MAC,
            (_, 4) => mac(3),
            _ => MacAddr::BROADCAST,
        };
        let end = |port| Endpoint::new(self.src(), 1000 + port);
        let to = |to, port| Endpoint::new(Event::dst(to), port);
        let mut packet = match self.kind {
            Kind::Arp { target } => {
                let target = [GATEWAY, VLAN_GATEWAY, OUTSIDE, guest(3), NEXT_HOP][usize::from(target)];
                return request(src_mac, self.src(), target);
            }
            Kind::Other => return [&dst_mac.0[..], &src_mac.0, &[0x86, 0xdd], &[0; 46]].concat(),
            Kind::Tcp { flags, port, to: dst, sequence } => {
                // What comes from outside is for a published port, or answers a guest.
                let dst_port = if self.ingress == UPLINK_PORT { 1000 + port } else { 80 };
                let src = if self.ingress == UPLINK_PORT { Endpoint::new(self.src(), 80) } else { end(port) };
                packets::tcp(src, to(dst, dst_port), &Tcp::new(flags, sequence, sequence), &[])
            }
            Kind::Udp { port, to: dst, len } => {
                let (src, dst) = match self.ingress {
                    UPLINK_PORT => (Endpoint::new(self.src(), 53), to(dst, 1000 + port)),
                    _ => (end(port), to(dst, 53)),
                };
                packets::udp(src, dst, &vec![7; len])
            }
            Kind::Echo { id, to } => packets::query(8, id, self.src(), Event::dst(to), b"abc"),
            Kind::Fragment { to: dst, id, is_first } => {
                let whole = packets::udp(end(0), to(dst, 53), &[9; 72]);
                if is_first { packets::fragment(&whole, 0..40, id, true) } else { packets::fragment(&whole, 40..80, id, false) }
            }
        };
        packet[8] = self.ttl;
        if self.dont_fragment && packet[6] & 0x3f == 0 && packet[7] == 0 {
            packet[6] |= 0x40;
        }
        packets::set_ip_checksum(&mut packet);
        ethernet(dst_mac, src_mac, &packet)
    }
}

fn world() -> impl Strategy<Value = (NatConfig, u32)> {
    let config = (any::<bool>(), prop::sample::select(vec![4, 262_144]), prop::sample::select(vec![2, 32_768])).prop_map(
        |(everybody, connections, guest_ports)| NatConfig {
            filtering: if everybody { Filtering::EndpointIndependent } else { Filtering::default() },
            max_connections: connections,
            max_ports_per_guest: guest_ports,
            ports: if guest_ports == 2 { 1000..=1005 } else { 1024..=65_535 },
            ..NatConfig::default()
        },
    );
    (config, prop::sample::select(vec![1500, 1000]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: testkit::cases(48), ..ProptestConfig::default() })]

    #[test]
    fn the_real_frame_takes_the_imagined_steps((config, mtu) in world(), events in prop::collection::vec(event(), 1..60)) {
        let mut theatre = Theatre::new(config, mtu);
        theatre.publish(1003, Endpoint::new(guest(2), 80));
        for event in events {
            theatre.lab.wait(event.secs);
            let frame = event.frame();
            let (imagined, real) = theatre.play(event.ingress, &frame);
            if !is_over_the_limit(&imagined, &real) {
                prop_assert_eq!(imagined.steps(), real.steps());
            }
            prop_assert_eq!(imagined.verdict(), real.verdict());
            prop_assert_eq!(imagined.head(), &frame[..frame.len().min(128)]);
        }
    }
}

#[test]
fn a_first_packet_says_what_it_would_be_outside() {
    let mut theatre = Theatre::of(Lab::ready(), 1500);
    let syn = packets::tcp(Endpoint::new(guest(2), 4000), Endpoint::new(PEER, 80), &Tcp::new(SYN, 1, 0), &[]);
    let (imagined, _) = theatre.play(0, &ethernet(GATEWAY_MAC, mac(2), &syn));
    assert_eq!(imagined.verdict(), Verdict::Sent(1));
    let translated = imagined.steps().iter().find_map(|step| match step {
        Step::Translated { basis, src, .. } => Some((*basis, *src)),
        _ => None,
    });
    assert_eq!(translated, Some((nat::Basis::NewMapping, Endpoint::new(OUTSIDE, 4000))));
    assert!(imagined.steps().contains(&Step::RouteOutside { dst: PEER, hop: NEXT_HOP }));
    assert!(imagined.steps().contains(&Step::Neighbour { address: NEXT_HOP, mac: NEXT_HOP_MAC }));
    // The second one is of a connection.
    let (_, real) = theatre.play(0, &ethernet(GATEWAY_MAC, mac(2), &syn));
    let known = real.steps().iter().filter(|step| matches!(step, Step::Translated { basis: nat::Basis::Known, .. }));
    assert_eq!(known.count(), 1);
}

/// A message between guests teaches nothing about stations that the router does not know.
#[test]
fn a_neighbour_is_told_of_where_one_is_learned() {
    let mut theatre = Theatre::new(NatConfig::default(), 1500);
    let mut learns = |target| {
        let (imagined, real) = theatre.play(0, &request(mac(2), guest(2), target));
        assert_eq!(imagined.steps(), real.steps());
        real.steps().iter().any(|step| matches!(step, Step::NeighbourLearned { .. }))
    };
    assert_eq!([guest(3), GATEWAY, guest(3)].map(&mut learns), [false, true, true], "known from then on");
}

#[test]
fn a_packet_about_which_no_error_is_allowed_tells_nobody() {
    let mut theatre = Theatre::new(NatConfig::default(), 1500);
    let whole = packets::udp(Endpoint::new(guest(2), 1000), Endpoint::new(PEER, 53), &[9; 72]);
    for (mut packet, is_told) in [(whole.clone(), true), (packets::fragment(&whole, 40..80, 7, false), false)] {
        packet[8] = 1;
        packets::set_ip_checksum(&mut packet);
        let (imagined, real) = theatre.play(0, &ethernet(GATEWAY_MAC, mac(2), &packet));
        for story in [imagined, real] {
            let steps = story.steps();
            assert_eq!(steps.contains(&Step::NotTold), !is_told, "{steps:?}");
            assert_eq!(steps.iter().any(|step| matches!(step, Step::Told { .. })), is_told, "{steps:?}");
        }
    }
}
