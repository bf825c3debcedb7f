//! An address that is shared with the host behind a gate: which ports mappings get, and what is marked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use nat::{Endpoint, External, ExternalKind, Nat, NatConfig, PortMarks, PortOwner, Protocol, Published, Refused, Side};
use packet::checksum::Checksum;
use packet::{PortSet, Timestamp};
use testkit::packets::{self, ipv4_mut};

const SHARED: External = External { address: Ipv4Addr::new(203, 0, 113, 1), kind: ExternalKind::Shared };
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NOW: Timestamp = Timestamp::from_millis(1000);

#[derive(Debug, Default)]
struct Marks(Mutex<BTreeMap<(u8, u16), PortOwner>>);

impl Marks {
    fn all(&self) -> Vec<(u8, u16, PortOwner)> {
        self.0.lock().unwrap().iter().map(|((protocol, port), owner)| (*protocol, *port, *owner)).collect()
    }
}

impl PortMarks for Marks {
    fn mark(&self, protocol: Protocol, port: u16, owner: PortOwner) {
        let mut marks = self.0.lock().unwrap();
        match owner {
            PortOwner::Host => marks.remove(&(protocol.0, port)),
            owner => marks.insert((protocol.0, port), owner),
        };
    }
}

fn gated(config: NatConfig) -> (Nat, Arc<Marks>) {
    let nat = Nat::new(config, [1, 2]).unwrap();
    let marks = Arc::new(Marks::default());
    nat.set_gate(Arc::clone(&marks) as Arc<dyn PortMarks>, PortSet::from(32_768..=60_999));
    nat.set_externals(&[SHARED], NOW).unwrap();
    (nat, marks)
}

/// Sends a datagram of a guest. Returns its outside port.
fn send(nat: &Nat, guest: u8, port: u16) -> Result<u16, Refused> {
    let mut packet = packets::udp(Endpoint::new(Ipv4Addr::new(10, 0, 0, guest), port), Endpoint::new(PEER, 53), b"hello");
    nat.translate(Side::Inside, &mut ipv4_mut(&mut packet), Checksum::Complete, 7, NOW)?;
    Ok(packets::word(&packet, 20))
}

#[test]
fn every_port_is_kept_from_the_first_packet_on() {
    let (nat, marks) = gated(NatConfig::default());
    for port in (1024..=65_535).step_by(997) {
        assert_eq!(send(&nat, 2, port), Ok(port));
    }
    assert!(!nat.wants_ports(), "no port has to be asked for");
    assert!(marks.all().iter().all(|(protocol, _, owner)| *protocol == 17 && *owner == PortOwner::Mapping));
    assert_eq!(marks.all().len(), nat.stats().mappings);
    // A port chosen for the second guest lies outside the host's ephemeral range.
    for port in (32_768..=60_999).step_by(997) {
        let other = send(&nat, 3, port).unwrap();
        assert!(other == port || !(32_768..=60_999).contains(&other), "{port} {other}");
    }
    let usage = nat.port_usage();
    assert_eq!(usage.iter().find(|usage| usage.protocol == Protocol::TCP).map(|usage| usage.free), Some(64_512));
}

/// The port of a guest's datagram, which the peer answers.
fn exchange(nat: &Nat, guest: u8, port: u16) -> Result<u16, Refused> {
    let outside = send(nat, guest, port)?;
    let mut answer = packets::udp(Endpoint::new(PEER, 53), Endpoint::new(SHARED.address, outside), b"hello");
    nat.translate(Side::Outside, &mut ipv4_mut(&mut answer), Checksum::Complete, 0, NOW)?;
    Ok(outside)
}

/// The host has nine tenths of the range. One bridge port, with two addresses and connections that are complete, leaves some of
/// the rest.
#[test]
fn the_share_is_one_of_the_ports_that_can_be_had() {
    let (nat, _) = gated(NatConfig { ports: 2000..=2999, ports_of_bridge: 8, ..NatConfig::default() });
    nat.set_host_ports(Protocol::UDP, &PortSet::default(), &PortSet::from(2100..=2999), NOW);
    let opened = (0..200u16).filter(|n| exchange(&nat, 2 + (n % 2) as u8, 5000 + n).is_ok()).count();
    assert!((70..=80).contains(&opened), "{opened} of 100");
}

#[test]
fn marks_go_with_the_mapping() {
    let (nat, marks) = gated(NatConfig::default());
    send(&nat, 2, 5000).unwrap();
    let rule = Published {
        protocol: Protocol::TCP,
        address: SHARED.address,
        port: 8080,
        guest: Endpoint::new(Ipv4Addr::new(10, 0, 0, 2), 80),
    };
    nat.publish(&rule, NOW).unwrap();
    assert_eq!(marks.all(), [(6, 8080, PortOwner::Published), (17, 5000, PortOwner::Mapping)]);
    // A rule takes over the port of a mapping.
    let taken = Published { protocol: Protocol::UDP, port: 5000, ..rule };
    nat.publish(&taken, NOW).unwrap();
    assert_eq!(marks.all()[1], (17, 5000, PortOwner::Published));
    nat.unpublish(SHARED.address, Protocol::UDP, 5000, NOW);
    assert_eq!(marks.all().len(), 1);
    send(&nat, 2, 6000).unwrap();
    while nat.expire(Timestamp::from_millis(400_000), 100) {}
    assert_eq!(marks.all(), [(6, 8080, PortOwner::Published)]);
    send(&nat, 2, 7000).unwrap();
    nat.set_externals(&[], NOW).unwrap();
    assert_eq!(marks.all(), []);
}

#[test]
fn ports_of_the_host_are_left_alone() {
    let (nat, marks) = gated(NatConfig::default());
    let (none, waiting, busy) = (PortSet::default(), PortSet::from(5353..=5353), PortSet::from(40_000..=40_000));
    assert_eq!(nat.set_host_ports(Protocol::UDP, &waiting, &busy, NOW), []);
    assert_ne!(send(&nat, 2, 5353), Ok(5353));
    assert_ne!(send(&nat, 2, 40_000), Ok(40_000));
    assert_eq!(send(&nat, 2, 5000), Ok(5000));
    assert_eq!(send(&nat, 2, 6000), Ok(6000));
    // A connection of the host beside a mapping does no harm; a program that waits gets the port.
    assert_eq!(nat.set_host_ports(Protocol::UDP, &none, &PortSet::from(5000..=5000), NOW), []);
    assert_eq!(nat.set_host_ports(Protocol::UDP, &PortSet::from(5000..=5000), &none, NOW), [5000]);
    assert!(!marks.all().contains(&(17, 5000, PortOwner::Mapping)));
    assert_ne!(send(&nat, 2, 5000), Ok(5000), "the guest goes on from another port");
    assert_eq!(send(&nat, 2, 6000), Ok(6000));
    // Published ports stay.
    let rule = Published {
        protocol: Protocol::UDP,
        address: SHARED.address,
        port: 53,
        guest: Endpoint::new(Ipv4Addr::new(10, 0, 0, 2), 53),
    };
    nat.publish(&rule, NOW).unwrap();
    assert_eq!(nat.set_host_ports(Protocol::UDP, &PortSet::from(53..=53), &none, NOW), []);
    assert!(marks.all().contains(&(17, 53, PortOwner::Published)));
    // An address that comes later has the same ports left alone.
    let other = External { address: Ipv4Addr::new(203, 0, 113, 2), ..SHARED };
    nat.set_host_ports(Protocol::UDP, &PortSet::from(7000..=7000), &none, NOW);
    nat.set_externals(&[other], NOW).unwrap();
    assert_ne!(send(&nat, 2, 7000), Ok(7000));
}

#[test]
fn ports_beyond_the_range_are_not_used() {
    let (nat, _) = gated(NatConfig { ports: 2000..=2001, ports_of_bridge: 2, ..NatConfig::default() });
    assert_eq!((send(&nat, 2, 2001), send(&nat, 2, 5000)), (Ok(2001), Ok(2000)));
    // The oldest, which was never answered, gives its port to the next.
    assert_eq!((send(&nat, 2, 5001), send(&nat, 2, 5003)), (Ok(2001), Ok(2000)));
    nat.set_host_ports(Protocol::UDP, &PortSet::from(1..=10), &PortSet::default(), NOW);
    assert_eq!((send(&nat, 2, 5005), nat.stats().mappings), (Ok(2001), 2));
    // One that a program of the host has now is not passed on.
    nat.set_host_ports(Protocol::UDP, &PortSet::default(), &PortSet::from(2000..=2001), NOW);
    assert_eq!(send(&nat, 2, 5007), Err(Refused::PortsExhausted));
}
