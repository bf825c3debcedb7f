//! Checks between tunnels: each received datagram belongs to one of them, and no remote host is in a guests' network.

use std::net::IpAddr;

use packet::Ipv4Prefix;

use super::{IpTunnel, Tunnel};
use crate::address::Cidr;
use crate::problem::{Origin, Problems};
use crate::router::Gateway;

/// A socket that datagrams come in through.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SocketKey<'a> {
    local: Option<IpAddr>,
    port: u16,
    device: Option<&'a str>,
    is_ipv6: bool,
}

impl SocketKey<'_> {
    /// Whether a datagram could be for both. An address or device that is not named is any.
    fn meets(&self, other: &SocketKey) -> bool {
        let address = self.local.is_none() || other.local.is_none() || self.local == other.local;
        let device = self.device.is_none() || other.device.is_none() || self.device == other.device;
        self.port == other.port && self.is_ipv6 == other.is_ipv6 && address && device
    }
}

impl Tunnel {
    fn socket_key(&self) -> SocketKey<'_> {
        SocketKey { local: self.local, port: self.port, device: self.device.as_deref(), is_ipv6: self.is_ipv6() }
    }

    /// The address of the socket that it receives by: a group's datagrams come to the group's address.
    fn bound_to(&self) -> Option<IpAddr> {
        self.local.filter(|_| self.group.is_none())
    }
}

impl IpTunnel {
    fn socket_key(&self) -> SocketKey<'_> {
        let local = self.local.map(IpAddr::V4);
        SocketKey { local, port: self.port, device: self.device.as_deref(), is_ipv6: false }
    }
}

/// Reports tunnels whose datagrams cannot be told apart.
pub(crate) fn check_apart(tunnels: &[Tunnel], ip_tunnels: &[IpTunnel], problems: &mut Problems) {
    let mut is_apart = true;
    for (at, tunnel) in tunnels.iter().enumerate() {
        let conflict = tunnels[..at].iter().find_map(|other| Some((&other.name, conflict(tunnel, other)?)));
        if let Some((other, problem)) = conflict {
            problems.add_clash(&tunnel.origin, problem, other);
            is_apart = false;
        }
    }
    if let Some((one, other)) = clash(tunnels).filter(|_| is_apart) {
        let names = format!("{} and {}", one.name, other.name);
        let problem = format!("{names} share a socket, and nothing tells their datagrams apart: give them different ports");
        problems.add_clash(&other.origin, problem, &one.name);
    }
    for (at, ip) in ip_tunnels.iter().enumerate() {
        let twin = ip_tunnels[..at].iter().find(|other| other.socket_key().meets(&ip.socket_key())).map(|other| &other.name);
        let bridged = || tunnels.iter().find(|other| other.socket_key().meets(&ip.socket_key())).map(|other| &other.name);
        if let Some(other) = twin.or_else(bridged) {
            let problem = format!("port {} of {} is taken by tunnel {other}: use another port", ip.port, ip.name);
            problems.add_clash(&ip.origin, problem, other);
        }
    }
}

/// Why two tunnels of bridges cannot be together, if that is so. A socket gives away its datagrams whatever is in them, so those that
/// could come to one socket have the same header; their VNI and sender distinguish them.
fn conflict(tunnel: &Tunnel, other: &Tunnel) -> Option<String> {
    if !tunnel.socket_key().meets(&other.socket_key()) {
        return None;
    }
    let shared = tunnel.remotes.iter().find(|remote| other.remotes.contains(remote));
    let (name, port) = (&other.name, tunnel.port);
    Some(match (tunnel.framing.vni(), other.framing.vni(), shared) {
        _ if tunnel.framing.kind() != other.framing.kind() => {
            format!("port {port} is that of {name}, whose datagrams have another header: use another port")
        }
        _ if tunnel.device != other.device => {
            let key = tunnel.origin.say("dev", "dev=");
            format!("tunnel {name} on port {port} has another {key}: give both the same, or each a local address of its own")
        }
        (Some(vni), Some(other), Some(remote)) if vni == other => {
            format!("VNI {vni} to {remote} is tunnel {name} already: leave one of both out")
        }
        (Some(vni), Some(other), None) if vni == other => {
            let all = tunnel.origin.say("remotes = [\"A\", \"B\"]", "remote=A+B");
            format!("VNI {vni} on port {port} is tunnel {name} already: name all its hosts there, as {all}")
        }
        (None, None, Some(remote)) => {
            format!("port {port} to {remote} is tunnel {name} already: leave one of both out, or use another port")
        }
        _ => return None,
    })
}

/// Two tunnels of one VNI that come to share a socket because of a third one: a socket for any address leaves no room for one of a
/// single address beside it, so all that meet it are received by it.
fn clash(tunnels: &[Tunnel]) -> Option<(&Tunnel, &Tunnel)> {
    let sockets = sockets(tunnels);
    for (at, one) in tunnels.iter().enumerate() {
        for (behind, other) in tunnels.iter().enumerate().skip(at + 1) {
            let hosts_meet =
                one.group.is_some() || other.group.is_some() || one.remotes.iter().any(|remote| other.remotes.contains(remote));
            if sockets[at] == sockets[behind] && one.framing == other.framing && hosts_meet {
                return Some((one, other));
            }
        }
    }
    None
}

/// For each tunnel the first one that receives by the same socket.
fn sockets(tunnels: &[Tunnel]) -> Vec<usize> {
    let share = |one: &Tunnel, other: &Tunnel| {
        let (here, there) = (one.bound_to(), other.bound_to());
        let address = here.is_none() || there.is_none() || here == there;
        let kind = |tunnel: &Tunnel| (tunnel.port, tunnel.device.clone(), tunnel.is_ipv6(), tunnel.framing.kind());
        address && kind(one) == kind(other)
    };
    let mut first: Vec<usize> = (0..tunnels.len()).collect();
    for at in 0..tunnels.len() {
        for before in 0..at {
            if share(&tunnels[at], &tunnels[before]) && first[at] != first[before] {
                let (from, to) = (first[at].max(first[before]), first[at].min(first[before]));
                first.iter_mut().filter(|socket| **socket == from).for_each(|socket| *socket = to);
            }
        }
    }
    first
}

/// Reports ends of tunnels that are among the guests: an address of the guests' networks is reached through the bridge, which would
/// send a tunnel's datagrams into the tunnel.
pub(crate) fn check_against_gateways(tunnels: &[Tunnel], ip_tunnels: &[IpTunnel], gateways: &[Gateway], problems: &mut Problems) {
    for tunnel in tunnels {
        let ends = tunnel.remotes.iter().copied().chain(tunnel.local);
        let ends = ends.filter_map(|end| if let IpAddr::V4(end) = end { Some(Ipv4Prefix::new(end, 32)) } else { None });
        check_outside(&tunnel.origin, &tunnel.name, ends, gateways, problems);
    }
    for tunnel in ip_tunnels {
        let ends = tunnel.routes.iter().map(|(_, remote)| *remote).chain(tunnel.local).map(|end| Ipv4Prefix::new(end, 32));
        let networks = ends.chain(tunnel.routes.iter().map(|(network, _)| *network)).chain(tunnel.address.map(Cidr::network));
        check_outside(&tunnel.origin, &tunnel.name, networks, gateways, problems);
    }
}

fn check_outside(
    origin: &Origin,
    name: &str,
    mut networks: impl Iterator<Item = Ipv4Prefix>,
    gateways: &[Gateway],
    problems: &mut Problems,
) {
    let inside =
        |network: Ipv4Prefix| Some((network, gateways.iter().find(|gateway| gateway.address.network().overlaps(network))?));
    let Some((network, gateway)) = networks.find_map(inside) else { return };
    let guests = gateway.address.network();
    let problem = if network.prefix_len() == 32 {
        let address = network.network();
        format!("{address} of tunnel {name} is in {guests} of gateway {gateway}: the guests need another network than the tunnel")
    } else {
        format!("{network} of tunnel {name} overlaps with {guests} of gateway {gateway}: give each network addresses of its own")
    };
    problems.add(origin, problem);
}
