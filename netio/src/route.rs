//! The link, IPv4 addresses and IPv4 routes of an uplink (rtnetlink(7)), and notifications when they change.
//!
//! A router behind an uplink needs no routing protocol and no addresses of its own: it uses the address of the host and
//! forwards as the host would. This file reads what the administrator, a DHCP client or a routing daemon has configured
//! on the host, and reports when to read it again.
//!
//! *Routes* are the unicast routes of the main table that leave through the interface; of a multipath route, the next hops
//! on the interface. Left out and counted: next hops that are not plain IPv4 gateways (IPv6 gateways, encapsulations), and
//! routes beyond [`MAX_ROUTES`]. Of these the longest prefixes are left out, so that each destination still has a route,
//! if perhaps not the best one. Left out and not counted: routes for a type of service, dead routes, and policy routing.
//! As on the host, a link without a carrier keeps its routes and a link that is set down loses them. A gateway is resolved
//! by ARP, whether it is in a prefix of the interface or its route is marked `onlink`.
//!
//! *Changes* are reported without details: after the kernel has dropped one notification, a reader that applies them one
//! by one would have a wrong table.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use packet::MacAddr;

use crate::link::{self, dump, talk};

/// Maximum number of routes of one interface.
pub const MAX_ROUTES: usize = 1024;

/// Number of attempts to read a list that changes while it is read.
const DISTURBED: usize = 3;

/// Maximum number of messages that one call of [`Watch::drain`] reads.
const DRAINED: usize = 4096;

/// A route to a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// Length of the prefix in bits.
    pub prefix_len: u8,
    /// The prefix.
    pub prefix: Ipv4Addr,
    /// Metric: of several routes to a prefix, the one with the lowest is used.
    pub metric: u32,
    /// The gateway; `None` if destinations are on the link.
    pub gateway: Option<Ipv4Addr>,
    /// Limits that the administrator has set; those of the link apply anyway.
    pub limits: Limits,
}

/// Limits of packets along a route (`mtu`, `mtu lock` and `advmss` of ip-route(8)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Limits {
    /// MTU in bytes, locked or not.
    pub mtu: Option<u32>,
    /// The largest TCP segment that is announced, in bytes.
    pub max_segment_size: Option<u32>,
}

/// The properties of an interface that a router needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UplinkState {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up, and with a carrier.
    pub up: bool,
    /// Its IPv4 addresses with their prefix lengths, primary addresses first.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// Its IPv4 routes, shortest prefixes first, then by prefix and metric; at most [`MAX_ROUTES`].
    pub routes: Vec<Route>,
    /// Number of routes that were left out.
    pub routes_left_out: usize,
}

/// The state of an interface of the calling thread's namespace; `None` if it does not exist. The state is read in three
/// requests: if a [`Watch`] reports a change meanwhile, read it again.
pub fn uplink_state(name: &str) -> io::Result<Option<UplinkState>> {
    let link = match link::get(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        link => link?,
    };
    let (routes, routes_left_out) = routes(link.index)?;
    Ok(Some(UplinkState {
        index: link.index,
        name: link.name,
        mac: link.mac,
        mtu: link.mtu,
        up: link.up && link.carrier,
        addresses: addresses(link.index)?,
        routes,
        routes_left_out,
    }))
}

/// The IPv4 addresses of an interface with their prefix lengths, primary addresses first.
pub fn addresses(index: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    request.header.index = index;
    undisturbed(|| {
        let (mut primary, mut secondary) = (Vec::new(), Vec::new());
        dump(RouteNetlinkMessage::GetAddress(request.clone()), |answer| {
            if let RouteNetlinkMessage::NewAddress(address) = answer
                && address.header.index == index
                && let Some(found) = own_address(&address)
            {
                let is_secondary = address.header.flags.contains(AddressHeaderFlags::Secondary);
                if is_secondary { &mut secondary } else { &mut primary }.push((found, address.header.prefix_len));
            }
        })?;
        primary.append(&mut secondary);
        Ok(primary)
    })
}

/// Repeats `list` up to [`DISTURBED`] times if the list changed while it was read.
pub(crate) fn undisturbed<T>(mut list: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..DISTURBED {
        match list() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            listed => return listed,
        }
    }
    list()
}

/// The interface's own address. On a point-to-point link the attribute `Address` is that of the other end.
pub(crate) fn own_address(message: &AddressMessage) -> Option<Ipv4Addr> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) if local => Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) if !local => Some(*address),
            _ => None,
        })
    };
    find(true).or_else(|| find(false))
}

/// The IPv4 routes of the main table through an interface, sorted as in [`UplinkState`], and the number of routes that
/// were left out.
pub fn routes(index: u32) -> io::Result<(Vec<Route>, usize)> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.attributes.push(RouteAttribute::Oif(index));
    let (mut routes, mut left_out) = undisturbed(|| {
        let (mut routes, mut left_out) = (Vec::new(), 0);
        let listed = dump(RouteNetlinkMessage::GetRoute(request.clone()), |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                left_out += collect(&route, index, &mut routes);
            }
        });
        match listed {
            // A namespace that has never had a route has no main table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Vec::new(), 0)),
            listed => listed.map(|()| (routes, left_out)),
        }
    })?;
    routes.sort_unstable();
    left_out += routes.len().saturating_sub(MAX_ROUTES);
    routes.truncate(MAX_ROUTES);
    Ok((routes, left_out))
}

/// Appends the routes of a message that leave through the interface. Returns the number of next hops left out.
fn collect(message: &RouteMessage, index: u32, routes: &mut Vec<Route>) -> usize {
    let header = &message.header;
    let table = find(message, |attribute| if let RouteAttribute::Table(table) = attribute { Some(*table) } else { None });
    if header.kind != RouteType::Unicast
        || header.tos != 0
        || table.unwrap_or(header.table.into()) != u32::from(RouteHeader::RT_TABLE_MAIN)
        || header.flags.intersects(RouteFlags::Dead | RouteFlags::Cloned)
    {
        return 0;
    }
    let prefix = find(message, |attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(prefix)) => Some(*prefix),
        _ => None,
    });
    let metric = find(message, |attribute| if let RouteAttribute::Priority(metric) = attribute { Some(*metric) } else { None });
    let limits = limits(message);
    let mut left_out = 0;
    let mut add = |attributes: &[RouteAttribute]| match next_hop(attributes) {
        Some(gateway) => routes.push(Route {
            prefix: prefix.unwrap_or(Ipv4Addr::UNSPECIFIED),
            prefix_len: header.destination_prefix_length,
            gateway,
            metric: metric.unwrap_or(0),
            limits,
        }),
        None => left_out += 1,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(output) if *output == index => add(&message.attributes),
            RouteAttribute::MultiPath(hops) => hops
                .iter()
                .filter(|hop| hop.interface_index == index)
                .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead))
                .for_each(|hop| add(&hop.attributes)),
            _ => {}
        }
    }
    left_out
}

fn find<T>(message: &RouteMessage, pick: impl Fn(&RouteAttribute) -> Option<T>) -> Option<T> {
    message.attributes.iter().find_map(pick)
}

/// The limits of a route; the kernel leaves out those that are not set, or writes 0.
fn limits(message: &RouteMessage) -> Limits {
    let mut limits = Limits::default();
    for attribute in &message.attributes {
        let RouteAttribute::Metrics(metrics) = attribute else { continue };
        for metric in metrics {
            match *metric {
                RouteMetric::Mtu(mtu) if mtu > 0 => limits.mtu = Some(mtu),
                RouteMetric::Advmss(size) if size > 0 => limits.max_segment_size = Some(size),
                _ => {}
            }
        }
    }
    limits
}

/// The gateway of a next hop, if it has one. The outer `None`: the next hop needs more than plain IPv4.
fn next_hop(attributes: &[RouteAttribute]) -> Option<Option<Ipv4Addr>> {
    let mut gateway = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
                gateway = Some(*address);
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => {
                return None;
            }
            _ => {}
        }
    }
    Some(gateway)
}

/// Adds a route to the main table; `AlreadyExists` if there is one with that prefix and metric.
pub fn add(index: u32, route: Route) -> io::Result<()> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.header.kind = RouteType::Unicast;
    request.header.protocol = RouteProtocol::Static;
    request.header.scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    request.header.destination_prefix_length = route.prefix_len;
    request.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(route.prefix)));
    request.attributes.push(RouteAttribute::Oif(index));
    request.attributes.push(RouteAttribute::Priority(route.metric));
    let Limits { mtu, max_segment_size } = route.limits;
    let metrics: Vec<RouteMetric> =
        mtu.map(RouteMetric::Mtu).into_iter().chain(max_segment_size.map(RouteMetric::Advmss)).collect();
    if !metrics.is_empty() {
        request.attributes.push(RouteAttribute::Metrics(metrics));
    }
    request.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet(gateway))));
    talk(RouteNetlinkMessage::NewRoute(request), NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Reports that links, IPv4 addresses or IPv4 routes of a namespace have changed.
#[derive(Debug)]
pub struct Watch(Socket);

impl Watch {
    /// Starts to watch the calling thread's namespace.
    pub fn new() -> io::Result<Watch> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV4_ROUTE] {
            socket.add_membership(group)?;
        }
        Ok(Watch(socket))
    }

    /// Returns true if anything has changed since the last call, or if a notification was lost. Reads a bounded number of
    /// messages; further ones are left for the next call.
    pub fn drain(&self) -> io::Result<bool> {
        let mut changed = false;
        for _ in 0..DRAINED {
            // The content does not matter, so a cut message is as good as a whole one.
            match rustix::net::recv(&self.0, &mut [0; 64], rustix::net::RecvFlags::DONTWAIT) {
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => changed = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(changed),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(changed)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use netlink_packet_route::route::RouteNextHop;

    const OURS: u32 = 7;
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

    fn message(attributes: &[RouteAttribute]) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 8;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 0))));
        message.attributes.extend_from_slice(attributes);
        message
    }

    fn hop(index: u32, attributes: &[RouteAttribute]) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = index;
        hop.attributes.extend_from_slice(attributes);
        hop
    }

    /// The gateways found, and how many next hops were left out.
    fn gateways(message: &RouteMessage) -> (Vec<Option<Ipv4Addr>>, usize) {
        let mut routes = Vec::new();
        let left_out = collect(message, OURS, &mut routes);
        (routes.iter().map(|route| route.gateway).collect(), left_out)
    }

    #[test]
    fn next_hops_on_the_interface_are_used() {
        let gateway = |last| RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, last)));
        let six = RouteAttribute::Via(RouteVia::Inet6(std::net::Ipv6Addr::LOCALHOST));
        let mut dead = hop(OURS, &[gateway(5)]);
        dead.flags = RouteNextHopFlags::Dead;
        let hops = [hop(OURS, &[gateway(1)]), hop(8, &[gateway(2)]), hop(OURS, &[]), hop(OURS, &[six]), dead];
        let message = message(&[RouteAttribute::MultiPath(hops.into()), RouteAttribute::Priority(3)]);
        assert_eq!(gateways(&message), (vec![Some(Ipv4Addr::new(192, 0, 2, 1)), None], 1));
    }

    #[test]
    fn limits_are_read_locked_or_not() {
        let metrics = |metrics: &[RouteMetric]| {
            let mut routes = Vec::new();
            collect(&message(&[RouteAttribute::Oif(OURS), RouteAttribute::Metrics(metrics.to_vec())]), OURS, &mut routes);
            (routes[0].limits.mtu, routes[0].limits.max_segment_size)
        };
        assert_eq!(metrics(&[RouteMetric::Hoplimit(3)]), (None, None));
        assert_eq!(metrics(&[RouteMetric::Mtu(1400), RouteMetric::Advmss(1200)]), (Some(1400), Some(1200)));
        // `mtu lock 1400`: a bit set of the metrics that path MTU discovery must not change.
        assert_eq!(metrics(&[RouteMetric::Lock(1 << 2), RouteMetric::Mtu(1400)]), (Some(1400), None));
        assert_eq!(metrics(&[RouteMetric::Mtu(0)]), (None, None));
    }

    #[test]
    fn unusable_routes_are_left_out() {
        let plain = message(&[RouteAttribute::Oif(OURS), RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY))]);
        assert_eq!(gateways(&plain), (vec![Some(GATEWAY)], 0));
        let with = |change: fn(&mut RouteMessage)| {
            let mut changed = plain.clone();
            change(&mut changed);
            gateways(&changed)
        };
        assert_eq!(with(|route| route.header.kind = RouteType::Local), (vec![], 0));
        assert_eq!(with(|route| route.header.tos = 4), (vec![], 0));
        assert_eq!(with(|route| route.header.flags = RouteFlags::Dead), (vec![], 0));
        assert_eq!(with(|route| route.header.table = 255), (vec![], 0));
        assert_eq!(with(|route| route.attributes.push(RouteAttribute::Table(1000))), (vec![], 0), "the long form counts");
        assert_eq!(with(|route| route.attributes[1] = RouteAttribute::Oif(8)), (vec![], 0));
        let six = message(&[RouteAttribute::Oif(OURS), RouteAttribute::Via(RouteVia::Inet6(std::net::Ipv6Addr::LOCALHOST))]);
        assert_eq!(gateways(&six), (vec![], 1));
        assert_eq!(gateways(&message(&[RouteAttribute::Oif(OURS)])), (vec![None], 0));
    }
}
