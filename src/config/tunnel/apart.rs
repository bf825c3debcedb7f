//! What keeps tunnels apart: each datagram that comes in belongs to one of them, and none of their hosts
//! is among the guests.

use std::net::IpAddr;

use super::TunnelConfig;
use super::ip::IpTunnelConfig;
use crate::config::ConfigError;
use crate::config::address::Cidr;
use crate::config::router::Gateway;

/// A socket that datagrams come in through.
struct Endpoint<'a> {
    local: Option<IpAddr>,
    port: u16,
    device: Option<&'a str>,
    is_ipv6: bool,
}

impl Endpoint<'_> {
    /// Could a datagram be for both? An address or device that is not named is any.
    fn meets(&self, other: &Endpoint) -> bool {
        let address = self.local.is_none() || other.local.is_none() || self.local == other.local;
        let device = self.device.is_none() || other.device.is_none() || self.device == other.device;
        self.port == other.port && self.is_ipv6 == other.is_ipv6 && address && device
    }
}

impl TunnelConfig {
    fn endpoint(&self) -> Endpoint<'_> {
        Endpoint { local: self.local, port: self.port, device: self.device.as_deref(), is_ipv6: self.is_ipv6() }
    }
}

impl IpTunnelConfig {
    fn endpoint(&self) -> Endpoint<'_> {
        let local = self.local.map(IpAddr::V4);
        Endpoint { local, port: self.port, device: self.device.as_deref(), is_ipv6: false }
    }
}

/// Two tunnels of the bridge. A socket gives away its datagrams whatever is in them, so those that could
/// come to one socket have the same header, and are told apart by their VNI and sender.
pub(super) fn check_apart(place: &str, tunnel: &TunnelConfig, other: &TunnelConfig) -> Result<(), ConfigError> {
    if !tunnel.endpoint().meets(&other.endpoint()) {
        return Ok(());
    }
    let shared = tunnel.remotes.iter().find(|remote| other.remotes.contains(remote));
    let (name, port) = (&other.name, tunnel.port);
    let problem = match (tunnel.vni, other.vni, shared) {
        _ if tunnel.vni.is_some() != other.vni.is_some() => {
            format!("port {port} is that of {name}, whose datagrams have another header: use another port")
        }
        _ if tunnel.device != other.device => {
            format!("tunnel {name} on port {port} has another dev=: give both the same, or each a local= of its own")
        }
        (Some(vni), Some(other), Some(remote)) if vni == other => {
            format!("VNI {vni} to {remote} is tunnel {name} already: leave one of both out")
        }
        (Some(vni), Some(other), None) if vni == other => {
            format!("VNI {vni} on port {port} is tunnel {name} already: name all its hosts there, as remote=A+B")
        }
        (None, None, Some(remote)) => {
            format!("port {port} to {remote} is tunnel {name} already: leave one of both out, or use another port")
        }
        _ => return Ok(()),
    };
    Err(ConfigError::new(place, problem))
}

/// Packets without Ethernet have a socket to themselves.
pub(in crate::config) fn check_ip_against_others(
    ip_tunnels: &[IpTunnelConfig],
    tunnels: &[TunnelConfig],
) -> Result<(), ConfigError> {
    for (at, ip) in ip_tunnels.iter().enumerate() {
        let twin = ip_tunnels[..at].iter().find(|other| other.endpoint().meets(&ip.endpoint())).map(|other| &other.name);
        let bridged = || tunnels.iter().find(|other| other.endpoint().meets(&ip.endpoint())).map(|other| &other.name);
        if let Some(other) = twin.or_else(bridged) {
            let problem = format!("port {} of {} is taken by tunnel {other}: use another port", ip.port, ip.name);
            return Err(ConfigError::new("--udp-ip", problem));
        }
    }
    Ok(())
}

/// A tunnel's ends are outside: an address of the guests' networks is reached through the bridge, which
/// would send a tunnel's datagrams into the tunnel.
pub(in crate::config) fn check_against_gateways(
    tunnels: &[TunnelConfig],
    ip_tunnels: &[IpTunnelConfig],
    gateways: &[Gateway],
) -> Result<(), ConfigError> {
    for tunnel in tunnels {
        for address in tunnel.remotes.iter().copied().chain(tunnel.local) {
            let IpAddr::V4(address) = address else { continue };
            check_outside(tunnel.flag(), &tunnel.name, Cidr::new(address, 32), gateways)?;
        }
    }
    for tunnel in ip_tunnels {
        let ends = tunnel.routes.iter().map(|(_, remote)| *remote).chain(tunnel.local).map(|end| Cidr::new(end, 32));
        for network in ends.chain(tunnel.routes.iter().map(|(network, _)| *network)).chain(tunnel.address) {
            check_outside("--udp-ip", &tunnel.name, network, gateways)?;
        }
    }
    Ok(())
}

fn check_outside(flag: &str, name: &str, network: Cidr, gateways: &[Gateway]) -> Result<(), ConfigError> {
    let Some(gateway) = gateways.iter().find(|gateway| gateway.address.overlaps(network)) else { return Ok(()) };
    let guests = gateway.address.block();
    let problem = if network.prefix_len == 32 {
        let address = network.address;
        format!("{address} of tunnel {name} is in {guests} of gateway {gateway}: the guests need another network than the tunnel")
    } else {
        let network = network.block();
        format!("{network} of tunnel {name} overlaps with {guests} of gateway {gateway}: give each network addresses of its own")
    };
    Err(ConfigError::new(flag, problem))
}
