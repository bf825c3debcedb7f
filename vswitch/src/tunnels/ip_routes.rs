//! The routes of a tunnel of IP packets: which peer has a destination, and may a peer use a source?

use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::ops::Range;

use packet::Ipv4Prefix;

use crate::port::PortId;

/// One TUN device and where its packets go.
#[derive(Clone, Debug)]
pub struct IpTunnel {
    pub(crate) tun: PortId,
    /// The longest prefix first, and of one length by address.
    routes: Box<[(Ipv4Prefix, PortId)]>,
    /// Where in them each length is.
    lengths: Box<[Range<usize>]>,
}

impl IpTunnel {
    /// A tunnel of the device at port `tun`. Each route leads to a peer's port; of several that match, the
    /// longest prefix counts.
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

    /// A search for each length that there is.
    #[inline]
    pub(crate) fn route(&self, to: Ipv4Addr) -> Option<PortId> {
        self.lengths.iter().find_map(|range| {
            let routes = &self.routes[range.clone()];
            let after = routes.partition_point(|(network, _)| network.network() <= to);
            routes[..after].last().filter(|(network, _)| network.contains(to)).map(|(_, port)| *port)
        })
    }
}
