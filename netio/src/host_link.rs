//! What a TUN device carries by which the host is a neighbour of guests: for each network the gateway's address, and a route.
//!
//! ```text
//!   10.0.0.1/32 dev vswitch0
//!   10.0.0.0/24 dev vswitch0 scope link src 10.0.0.1
//! ```
//!
//! So the host's own packets for guests go into the device, and come from the gateway's address unless a program has bound another.
//! Addresses are single ones: the networks have no broadcast address there, and a network's route is not made twice.
//!
//! A link that is set down loses its routes, and anybody may remove some; [`Networks::read`] says what is still there.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use packet::Ipv4Prefix;

use crate::link::{self, dump, talk};
use crate::route::{self, own_address, undisturbed};

/// A network of guests or behind one of them, and the gateway's address, which is the host's there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostNetwork {
    /// The gateway's address.
    pub address: Ipv4Addr,
    /// The network.
    pub network: Ipv4Prefix,
}

/// The networks that a device leads to.
#[derive(Debug)]
pub struct Networks {
    index: u32,
    there: BTreeSet<HostNetwork>,
}

impl Networks {
    /// None yet, at the interface with this index.
    #[must_use]
    pub fn new(index: u32) -> Networks {
        Networks { index, there: BTreeSet::new() }
    }

    /// Adds and removes networks until these are there. Returns those that could not be added, each with the reason.
    pub fn set(&mut self, wanted: &BTreeSet<HostNetwork>) -> Vec<(HostNetwork, io::Error)> {
        let gone: Vec<HostNetwork> = self.there.difference(wanted).copied().collect();
        for network in gone {
            // What is not there any more cannot be removed.
            let _ = self.remove(network);
            self.there.remove(&network);
        }
        let missing: Vec<HostNetwork> = wanted.difference(&self.there).copied().collect();
        let mut failed = Vec::new();
        for network in missing {
            match self.add(network) {
                Ok(()) => drop(self.there.insert(network)),
                Err(error) => failed.push((network, error)),
            }
        }
        failed
    }

    /// Looks which of the networks are still there.
    pub fn read(&mut self) -> io::Result<()> {
        let addresses: BTreeSet<Ipv4Addr> = route::addresses(self.index)?.into_iter().map(|(address, _)| address).collect();
        let routes = routes(self.index)?;
        let is_whole = |one: &HostNetwork| addresses.contains(&one.address) && routes.contains(&one.network);
        let broken: Vec<HostNetwork> = self.there.iter().copied().filter(|one| !is_whole(one)).collect();
        for network in broken {
            // What is left of it would stay if it is not wanted any more.
            let _ = self.remove(network);
            self.there.remove(&network);
        }
        Ok(())
    }

    fn add(&self, HostNetwork { address, network }: HostNetwork) -> io::Result<()> {
        match link::add_address(self.index, address.into(), 32) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            added => added?,
        }
        let mut request = self.route(network);
        request.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(address)));
        let added = talk(RouteNetlinkMessage::NewRoute(request), NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop);
        if added.is_err() && !self.there.iter().any(|other| other.address == address) {
            let _ = link::delete_address(self.index, address.into(), 32);
        }
        added
    }

    /// Removes the route of a network, and its address unless another network has it.
    fn remove(&self, HostNetwork { address, network }: HostNetwork) -> io::Result<()> {
        let removed = talk(RouteNetlinkMessage::DelRoute(self.route(network)), NLM_F_REQUEST | NLM_F_ACK).map(drop);
        if self.there.iter().any(|other| other.address == address && other.network != network) {
            return removed;
        }
        link::delete_address(self.index, address.into(), 32).and(removed)
    }

    fn route(&self, network: Ipv4Prefix) -> RouteMessage {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.kind = RouteType::Unicast;
        request.header.protocol = RouteProtocol::Static;
        request.header.scope = RouteScope::Link;
        request.header.destination_prefix_length = network.prefix_len();
        request.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(network.network())));
        request.attributes.push(RouteAttribute::Oif(self.index));
        request
    }
}

/// The destinations of the routes of the main table through an interface.
fn routes(index: u32) -> io::Result<BTreeSet<Ipv4Prefix>> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.attributes.push(RouteAttribute::Oif(index));
    undisturbed(|| {
        let mut found = BTreeSet::new();
        dump(RouteNetlinkMessage::GetRoute(request.clone()), |answer| {
            let RouteNetlinkMessage::NewRoute(route) = answer else { return };
            let leads_here = route.attributes.contains(&RouteAttribute::Oif(index));
            let to = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(*to),
                _ => None,
            });
            if let Some(to) = to.filter(|_| leads_here) {
                found.insert(Ipv4Prefix::new(to, route.header.destination_prefix_length));
            }
        })?;
        Ok(found)
    })
}

/// All IPv4 addresses of the calling thread's namespace that it can send from to another host, sorted.
pub fn addresses_of_host() -> io::Result<Vec<Ipv4Addr>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    undisturbed(|| {
        let mut found = BTreeSet::new();
        dump(RouteNetlinkMessage::GetAddress(request.clone()), |answer| {
            if let RouteNetlinkMessage::NewAddress(address) = answer {
                found.extend(own_address(&address).filter(|address| !address.is_loopback()));
            }
        })?;
        Ok(found.into_iter().collect())
    })
}
