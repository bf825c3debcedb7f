//! The peers of a receiving socket: which bridge port a datagram belongs to, by tunnel and source address.
//!
//! Each remote host of each tunnel is a port. For each received datagram a worker looks up the port; frames of unknown
//! senders are dropped. The source address is the only credential of a datagram.
//!
//! *Threads.* The table is immutable. The control thread builds a new one when a peer is added, and passes it to the
//! workers.
//!
//! *Multicast.* A tunnel over a multicast group has peers that are not configured. A source in one of the group's
//! configured prefixes is accepted: until the control thread has created a port for it, its frames arrive on the port of
//! the group itself, and frames to addresses learned from them are sent to the group.
//!
//! *Limits.* A look-up consists of two or three binary searches: for the network, its peers, and its prefixes. It does
//! not use hashing, so no choice of addresses makes it slower. With 1,000 peers each search takes ten steps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::framing::Framing;

/// One remote host of one tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Peer {
    /// The tunnel's framing and network identifier.
    pub framing: Framing,
    /// The source address of its datagrams.
    pub address: IpAddr,
    /// Its port number.
    pub port: u16,
}

/// A prefix from which a multicast tunnel accepts unknown sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Believed {
    /// The tunnel's framing and network identifier.
    pub framing: Framing,
    /// Any address in the prefix.
    pub address: IpAddr,
    /// The length of the prefix in bits; a number above the address length means all bits.
    pub prefix_len: u8,
    /// The port number of the group.
    pub port: u16,
}

/// Two ports of one tunnel have the same source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The tunnel's framing and network identifier.
    pub framing: Framing,
    /// The source, or the first address of the prefix.
    pub address: IpAddr,
}

/// The port of a received datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The port number.
    pub port: u16,
    /// True if the source has no port yet, so that this is the port of the group.
    pub is_new_source: bool,
}

/// Why a sender is not a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// No tunnel of this socket has this framing and network identifier.
    Vni,
    /// The tunnel does not have this peer.
    Peer,
}

/// The peers of one receiving socket. [`Peers::default`] has none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peers {
    /// Sorted by identifier.
    networks: Box<[Network]>,
    /// Sorted by network, then address.
    peers: Box<[Peer]>,
    /// Sorted by network, then address; no two of a network overlap.
    sources: Box<[Sources]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Network {
    framing: Framing,
    peers: Range<usize>,
    sources: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Sources {
    framing: Framing,
    first: IpAddr,
    last: IpAddr,
    port: u16,
}

impl Peers {
    /// Builds the table. Duplicate peers and overlapping prefixes are permitted if they have the same port.
    pub fn new(peers: &[Peer], believed: &[Believed]) -> Result<Peers, Conflict> {
        let peers = sorted(peers)?;
        let sources = disjoint(believed)?;
        let mut framings: Vec<Framing> =
            peers.iter().map(|peer| peer.framing).chain(sources.iter().map(|range| range.framing)).collect();
        framings.sort_unstable();
        framings.dedup();
        let networks = framings.into_iter().map(|framing| Network {
            framing,
            peers: peers.partition_point(|peer| peer.framing < framing)..peers.partition_point(|peer| peer.framing <= framing),
            sources: sources.partition_point(|range| range.framing < framing)
                ..sources.partition_point(|range| range.framing <= framing),
        });
        Ok(Peers { networks: networks.collect(), peers: peers.into(), sources: sources.into() })
    }

    /// The port of a datagram with this framing and source address.
    #[inline]
    pub fn find(&self, framing: Framing, from: IpAddr) -> Result<Found, Unknown> {
        let network = self.networks.binary_search_by_key(&framing, |network| network.framing).map_err(|_| Unknown::Vni)?;
        let Network { peers, sources, .. } = &self.networks[network];
        let peers = &self.peers[peers.clone()];
        if let Ok(at) = peers.binary_search_by_key(&from, |peer| peer.address) {
            return Ok(Found { port: peers[at].port, is_new_source: false });
        }
        let sources = &self.sources[sources.clone()];
        let after = sources.partition_point(|range| range.first <= from);
        match sources[..after].last() {
            Some(range) if from <= range.last => Ok(Found { port: range.port, is_new_source: true }),
            _ => Err(Unknown::Peer),
        }
    }
}

fn sorted(peers: &[Peer]) -> Result<Vec<Peer>, Conflict> {
    let mut peers = peers.to_vec();
    peers.sort_unstable();
    peers.dedup();
    match peers.windows(2).find(|pair| (pair[0].framing, pair[0].address) == (pair[1].framing, pair[1].address)) {
        Some(pair) => Err(Conflict { framing: pair[0].framing, address: pair[0].address }),
        None => Ok(peers),
    }
}

/// Two prefixes are apart, or one is within the other; of these the outer one stays.
fn disjoint(believed: &[Believed]) -> Result<Vec<Sources>, Conflict> {
    let mut all: Vec<Sources> = believed.iter().map(Sources::of).collect();
    all.sort_unstable_by_key(|range| (range.framing, range.first, std::cmp::Reverse(range.last)));
    let mut disjoint: Vec<Sources> = Vec::with_capacity(all.len());
    for range in all {
        match disjoint.last() {
            Some(outer) if outer.framing == range.framing && range.first <= outer.last => {
                if outer.port != range.port {
                    return Err(Conflict { framing: range.framing, address: range.first });
                }
            }
            _ => disjoint.push(range),
        }
    }
    Ok(disjoint)
}

impl Sources {
    fn of(believed: &Believed) -> Sources {
        let Believed { framing, address, prefix_len, port } = *believed;
        let (first, last) = match address {
            IpAddr::V4(address) => {
                let hosts = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                let bits = u32::from(address);
                (IpAddr::from(Ipv4Addr::from(bits & !hosts)), IpAddr::from(Ipv4Addr::from(bits | hosts)))
            }
            IpAddr::V6(address) => {
                let hosts = u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                let bits = u128::from(address);
                (IpAddr::from(Ipv6Addr::from(bits & !hosts)), IpAddr::from(Ipv6Addr::from(bits | hosts)))
            }
        };
        Sources { framing, first, last, port }
    }
}

/// The addresses of a receiving socket, by which datagrams to it are recognized inside a tunnel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Locals {
    port: u16,
    /// Sorted.
    addresses: Box<[IpAddr]>,
}

impl Locals {
    /// The socket's UDP port, and the addresses to which its peers send.
    #[must_use]
    pub fn new(port: u16, addresses: impl IntoIterator<Item = IpAddr>) -> Locals {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        Locals { port, addresses: addresses.into() }
    }

    /// The socket's UDP port.
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True if a datagram to this address and port is delivered to the socket.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: IpAddr, port: u16) -> bool {
        port == self.port && self.addresses.binary_search(&address).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vni::Vni;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn vxlan(number: u32) -> Framing {
        Framing::Vxlan(Vni::new(number).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn peer(framing: Framing, address: &str, port: u16) -> Peer {
        Peer { framing, address: ip(address), port }
    }

    fn believed(framing: Framing, address: &str, prefix_len: u8, port: u16) -> Believed {
        Believed { framing, address: ip(address), prefix_len, port }
    }

    const fn known(port: u16) -> Result<Found, Unknown> {
        Ok(Found { port, is_new_source: false })
    }

    const fn by_group(port: u16) -> Result<Found, Unknown> {
        Ok(Found { port, is_new_source: true })
    }

    #[test]
    fn a_host_has_one_port_in_each_tunnel() {
        let peers = [
            peer(vxlan(7), "192.0.2.1", 10),
            peer(vxlan(8), "192.0.2.1", 11),
            peer(Framing::Ethernet, "192.0.2.1", 12),
            peer(vxlan(7), "2001:db8::1", 13),
        ];
        let peers = Peers::new(&peers, &[]).unwrap();
        assert_eq!(peers.find(vxlan(7), ip("192.0.2.1")), known(10));
        assert_eq!(peers.find(vxlan(8), ip("192.0.2.1")), known(11));
        assert_eq!(peers.find(Framing::Ethernet, ip("192.0.2.1")), known(12));
        assert_eq!(peers.find(vxlan(7), ip("2001:db8::1")), known(13));
        assert_eq!(peers.find(vxlan(8), ip("2001:db8::1")), Err(Unknown::Peer));
        assert_eq!(peers.find(vxlan(7), ip("192.0.2.2")), Err(Unknown::Peer));
        assert_eq!(peers.find(vxlan(9), ip("192.0.2.1")), Err(Unknown::Vni));
        assert_eq!(Peers::default().find(Framing::Ethernet, ip("192.0.2.1")), Err(Unknown::Vni));
    }

    #[test]
    fn a_group_accepts_unknown_sources_in_its_prefixes() {
        let group = [
            believed(vxlan(7), "192.0.2.77", 24, 20),
            believed(vxlan(7), "192.0.2.128", 25, 20),
            believed(vxlan(7), "203.0.113.9", 32, 20),
            believed(vxlan(7), "2001:db8::", 32, 21),
            believed(vxlan(8), "0.0.0.0", 0, 22),
        ];
        let peers = Peers::new(&[peer(vxlan(7), "192.0.2.5", 30)], &group).unwrap();
        let table = [
            (7, "192.0.2.0", by_group(20)),
            (7, "192.0.2.5", known(30)),
            (7, "192.0.2.255", by_group(20)),
            (7, "192.0.1.255", Err(Unknown::Peer)),
            (7, "192.0.3.0", Err(Unknown::Peer)),
            (7, "203.0.113.9", by_group(20)),
            (7, "203.0.113.10", Err(Unknown::Peer)),
            (7, "2001:db8:ffff::1", by_group(21)),
            (7, "2001:db9::", Err(Unknown::Peer)),
            (8, "255.255.255.255", by_group(22)),
            (8, "::", Err(Unknown::Peer)),
            (9, "192.0.2.5", Err(Unknown::Vni)),
        ];
        for (number, from, expected) in table {
            assert_eq!(peers.find(vxlan(number), ip(from)), expected, "{number} {from}");
        }
    }

    #[test]
    fn a_source_has_only_one_port_in_a_tunnel() {
        let twice = [peer(Framing::Ethernet, "192.0.2.1", 1), peer(Framing::Ethernet, "192.0.2.1", 1)];
        assert!(Peers::new(&twice, &[]).is_ok());
        let two = [peer(Framing::Ethernet, "192.0.2.1", 1), peer(Framing::Ethernet, "192.0.2.1", 2)];
        assert_eq!(Peers::new(&two, &[]), Err(Conflict { framing: Framing::Ethernet, address: ip("192.0.2.1") }));
        let within = [believed(Framing::Ethernet, "192.0.0.0", 8, 1), believed(Framing::Ethernet, "192.0.2.0", 24, 2)];
        assert_eq!(Peers::new(&[], &within), Err(Conflict { framing: Framing::Ethernet, address: ip("192.0.2.0") }));
    }

    #[test]
    fn local_addresses() {
        let locals = Locals::new(4789, [ip("2001:db8::1"), ip("192.0.2.1"), ip("239.1.1.1")]);
        for own in ["192.0.2.1", "2001:db8::1", "239.1.1.1"] {
            assert!(locals.contains(ip(own), 4789) && !locals.contains(ip(own), 8472), "{own}");
        }
        assert!(!locals.contains(ip("192.0.2.2"), 4789) && !Locals::default().contains(ip("192.0.2.1"), 0));
    }

    /// Few networks and hosts, so that they coincide often.
    fn source() -> impl Strategy<Value = (Framing, IpAddr)> {
        let framing = prop_oneof![Just(Framing::Ethernet), (0..3u32).prop_map(|number| vxlan(number * 0x7f_ffff))];
        let v4 = (0..2u8, 0..20u8).prop_map(|(network, host)| IpAddr::from([10, 0, network, host]));
        let v6 = (0..20u16).prop_map(|host| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host]));
        (framing, prop_oneof![v4, v6])
    }

    proptest! {
        #[test]
        fn look_ups_agree_with_a_map(
            members in prop::collection::hash_map(source(), any::<u16>(), 0..60),
            groups in prop::collection::vec((source(), 20..=32u8), 0..4),
            asked in prop::collection::vec(source(), 1..60),
        ) {
            const GROUP: u16 = 60_000;
            let peers: Vec<Peer> = members.iter().map(|((framing, address), port)| Peer { framing: *framing, address: *address, port: *port }).collect();
            let groups: Vec<Believed> =
                groups.into_iter().map(|((framing, address), prefix_len)| Believed { framing, address, prefix_len, port: GROUP }).collect();
            let built = Peers::new(&peers, &groups).unwrap();
            let is_in = |group: &Believed, from| match (group.address, from) {
                (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros() >= u32::from(group.prefix_len),
                (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros() >= u32::from(group.prefix_len),
                _ => false,
            };
            let model: HashMap<(Framing, IpAddr), u16> = members.clone();
            for (framing, from) in asked.into_iter().chain(members.into_keys()) {
                let expected = if let Some(port) = model.get(&(framing, from)) {
                    known(*port)
                } else if groups.iter().any(|group| group.framing == framing && is_in(group, from)) {
                    by_group(GROUP)
                } else if peers.iter().any(|peer| peer.framing == framing) || groups.iter().any(|group| group.framing == framing) {
                    Err(Unknown::Peer)
                } else {
                    Err(Unknown::Vni)
                };
                prop_assert_eq!(built.find(framing, from), expected);
            }
        }
    }
}
