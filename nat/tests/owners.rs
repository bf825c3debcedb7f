//! Changes while packets flow: bridge ports whose numbers are reused, and timeouts.

use std::net::Ipv4Addr;

use nat::{Endpoint, External, ExternalKind, Nat, NatConfig, Refused, Side, Timeouts};
use packet::Timestamp;
use packet::checksum::Checksum;
use testkit::packets::{self, ipv4_mut, word};

const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// A datagram and its answer, so that the connection is complete.
fn send(nat: &Nat, port: u16, owner: u16, millis: u64) -> Result<(), Refused> {
    let (peer, now) = (Endpoint::new(PEER, 53), Timestamp::from_millis(millis));
    let mut packet = packets::udp(Endpoint::new(Ipv4Addr::new(10, 0, 0, 2), port), peer, b"hello");
    nat.translate(Side::Inside, &mut ipv4_mut(&mut packet), Checksum::Complete, owner, now)?;
    let mut answer = packets::udp(peer, Endpoint::new(OWN, word(&packet, 20)), b"hello");
    nat.translate(Side::Outside, &mut ipv4_mut(&mut answer), Checksum::Complete, 0, now).map(drop)
}

#[test]
fn a_new_port_has_the_whole_share_and_old_connections_live_on() {
    let config = NatConfig { max_connections: 1024, max_connections_per_port: 4, port_numbers: 8, ..NatConfig::default() };
    let nat = Nat::new(config, [1, 2]).unwrap();
    nat.set_externals(&[External { address: OWN, kind: ExternalKind::Own }], Timestamp::default()).unwrap();
    for port in 0..4 {
        assert_eq!(send(&nat, 1000 + port, 7, 0), Ok(()));
    }
    assert_eq!(send(&nat, 2000, 7, 0), Err(Refused::PortShare));
    nat.disown(7);
    assert_eq!(nat.stats().connections, 4);
    for port in 0..4 {
        assert_eq!(send(&nat, 2000 + port, 7, 0), Ok(()), "the new port's share");
        assert_eq!(send(&nat, 1000 + port, 7, 200_000), Ok(()), "an old connection");
    }
    assert_eq!(send(&nat, 3000, 7, 0), Err(Refused::PortShare));
    // The new port's connections have ended, the old port's have not: nothing is counted twice.
    assert!(!nat.expire(Timestamp::from_millis(400_000), 100));
    assert_eq!(nat.stats().connections, 4);
    nat.disown(7);
    assert!(!nat.expire(Timestamp::from_millis(900_000), 100));
    assert_eq!(nat.stats().connections, 0);
    for port in 0..4 {
        assert_eq!(send(&nat, 4000 + port, 7, 900_000), Ok(()));
    }
    assert_eq!(send(&nat, 5000, 7, 900_000), Err(Refused::PortShare));
    assert_eq!(send(&nat, 5000, 8, 900_000), Err(Refused::PortShare), "no such number");
}

#[test]
fn timeouts_hold_for_connections_that_are_there() {
    let nat = Nat::new(NatConfig { port_numbers: 8, ..NatConfig::default() }, [1, 2]).unwrap();
    nat.set_externals(&[External { address: OWN, kind: ExternalKind::Own }], Timestamp::default()).unwrap();
    let connections = |secs: u64| {
        while nat.expire(Timestamp::from_millis(secs * 1000), 100) {}
        nat.stats().connections
    };
    assert_eq!(send(&nat, 1000, 7, 0), Ok(()));
    assert_eq!(connections(299), 1);
    // Shorter: the connection ends at once.
    nat.set_timeouts(Timeouts { udp: 100, ..Timeouts::default() }, Timestamp::from_millis(299_000));
    assert_eq!(connections(301), 0);
    // Longer: it outlives its first timeout.
    assert_eq!(send(&nat, 1000, 7, 400_000), Ok(()));
    nat.set_timeouts(Timeouts { udp: 1000, ..Timeouts::default() }, Timestamp::from_millis(401_000));
    assert_eq!((connections(1399), connections(1402)), (1, 0));
}
