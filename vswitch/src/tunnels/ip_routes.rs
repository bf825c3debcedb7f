//! The routes of a tunnel of IP packets: the peer of a destination, and the check of a peer's source addresses.

use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::ops::Range;

use packet::Ipv4Prefix;

use crate::port::PortId;

/// One TUN device and the routes of its packets.
#[derive(Clone, Debug)]
pub struct IpTunnel {
    pub(crate) tun: PortId,
    /// Sorted by length, longest first, and then by address.
    routes: Box<[(Ipv4Prefix, PortId)]>,
    /// The range of each prefix length in `routes`.
    lengths: Box<[Range<usize>]>,
}

impl IpTunnel {
    /// A tunnel of the device at port `tun`. Each route leads to a peer's port; the longest matching prefix counts.
    #[must_use]
    pub fn new(tun: PortId, mut routes: Vec<(Ipv4Prefix, PortId)>) -> IpTunnel {
        routes.sort_by_key(|(network, _)| (Reverse(network.prefix_len()), network.network()));
        let mut lengths: Vec<Range<usize>> = Vec::new();
        for (at, (network, _)) in routes.iter().enumerate() {
            match lengths.last_mut().filter(|range| routes[range.start].0.prefix_len() == network.prefix_len()) {
                Some(range) => range.end = at + 1,
                None => lengths.push(at..at + 1),
            }
        }
        IpTunnel { tun, routes: routes.into(), lengths: lengths.into() }
    }

    /// Finds the peer's port for a destination, by one search per prefix length.
    #[inline]
    pub(crate) fn route(&self, to: Ipv4Addr) -> Option<PortId> {
        self.lengths.iter().find_map(|range| {
            let routes = &self.routes[range.clone()];
            let after = routes.partition_point(|(network, _)| network.network() <= to);
            routes[..after].last().filter(|(network, _)| network.contains(to)).map(|(_, port)| *port)
        })
    }
}
