//! `--udp-ip`: IP packets in UDP datagrams, without Ethernet: a TUN device of the host whose routes lead to other hosts. It is not part
//! of a bridge.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use packet::Ipv4Prefix;
use tunnel::FramingKind;

use super::outer::Outer;
use super::{Position, SocketKeys, TunnelType};
use crate::address::{Cidr, HostAddress, HostNetwork, Network};
use crate::keys::keys;
use crate::name::{InterfaceName, Netns};
use crate::problem::{At, Origin, Problems};
use crate::value::Pairs;

/// One TUN device and where its packets go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpTunnel {
    /// Where it was written.
    pub origin: Origin,
    pub(crate) place: Position,
    /// The name of the TUN device.
    pub name: String,
    /// Where the device is, if not in vswitchd's own namespace.
    pub netns: Option<Netns>,
    /// The device's MTU; `None` for the path MTU minus the tunnel's headers.
    pub mtu: Option<u32>,
    /// The device's address with the network of all of the tunnel's hosts; `None` leaves it to others.
    pub address: Option<Cidr>,
    /// Networks, each once, and the host that each is behind; at least one. The longest prefix wins.
    pub routes: Vec<(Ipv4Prefix, Ipv4Addr)>,
    /// Where datagrams are sent from and received; `None` for any address of the host.
    pub local: Option<Ipv4Addr>,
    /// The UDP port that datagrams are received on, here and there.
    pub port: u16,
    /// The host's interface that datagrams go through; `None` leaves it to the host's routes.
    pub device: Option<String>,
    /// The headers around a datagram.
    pub outer: Outer,
}

keys! {
    /// A tunnel of IP packets.
    struct UdpIpKeys {
        /// vxlan; udp: bare Ethernet in UDP; udp-ip: the IPv4 packets of a TUN device in UDP, as flannel's.
        "type" => kind: TunnelType,
        /// The name of the TUN device, of udp-ip.
        "tun" => tun: InterfaceName,
        /// Where the TUN device is made, as of a port.
        "netns" => netns: Netns,
        /// Networks that are behind other hosts, of udp-ip: network to host.
        "routes" / "route" => routes: Pairs<Network, HostAddress>,
        /// The TUN device's address with the network of all of the tunnel's hosts. Default: left to others.
        "address" => address: HostNetwork,
        ..socket: SocketKeys,
    }
}

impl UdpIpKeys {
    pub(super) fn tunnel(&self, table: &Origin, problems: &mut Problems) -> Option<IpTunnel> {
        if self.is_faulty {
            return None;
        }
        if self.routes.is_none() {
            let as_flag = "where to? Add route=, a network and its host, such as route=10.244.2.0/24@192.0.2.2";
            let in_file = "where to? Add routes, such as routes = { \"10.244.2.0/24\" = \"192.0.2.2\" }";
            problems.add(table, table.say(in_file, as_flag));
        }
        let Some(tun) = &self.tun else {
            let as_flag = "which device? Add tun=, the name that it gets, such as tun=tun0";
            problems.add(table, table.say("which device? Add tun, the name that it gets, such as tun = \"tun0\"", as_flag));
            return None;
        };
        let local = match self.socket.local.as_ref().map(|local| (local.value.0, &local.origin)) {
            None => None,
            Some((IpAddr::V4(local), _)) => Some(local),
            Some((IpAddr::V6(_), origin)) => {
                problems.add(origin, "these tunnels are carried over IPv4 only: use an IPv4 address");
                return None;
            }
        };
        let address = self.address.as_ref().map(|address| address.value.0);
        let routes = routes(&self.routes.as_ref()?.value, local, address, problems)?;
        Some(IpTunnel {
            origin: table.clone(),
            place: Position::default(),
            name: tun.value.0.clone(),
            netns: self.netns.as_ref().map(|netns| netns.value.clone()),
            mtu: self.socket.mtu(),
            address,
            routes,
            local,
            port: self.socket.port().or(FramingKind::Ip.default_port())?,
            device: self.socket.device(),
            outer: self.socket.outer.outer(),
        })
    }
}

/// Networks, each once, and their hosts, which are others than this one and are reached without the tunnel.
fn routes(
    pairs: &Pairs<Network, HostAddress>,
    local: Option<Ipv4Addr>,
    address: Option<Cidr>,
    problems: &mut Problems,
) -> Option<Vec<(Ipv4Prefix, Ipv4Addr)>> {
    let inside: Vec<Ipv4Prefix> = pairs.0.iter().map(|(network, _)| network.value.0).chain(address.map(Cidr::network)).collect();
    let mut routes: Vec<(Ipv4Prefix, Ipv4Addr)> = Vec::new();
    for (At { value: Network(network), origin, .. }, host) in &pairs.0 {
        let host = host.value.0;
        let problem = if routes.iter().any(|(other, _)| other == network) {
            format!("{network} is named twice: a network is behind one host")
        } else if local == Some(host) {
            format!("{host} is both this host and the other one: name the other host's address")
        } else if let Some(network) = inside.iter().find(|network| network.contains(host)) {
            format!("the way to {host} would lead into the tunnel, to {network}: use its address outside")
        } else {
            routes.push((*network, host));
            continue;
        };
        problems.add(origin, problem);
        return None;
    }
    Some(routes)
}

impl IpTunnel {
    /// The other hosts, each once and in their order.
    #[must_use]
    pub fn remotes(&self) -> Vec<Ipv4Addr> {
        let mut remotes: Vec<Ipv4Addr> = self.routes.iter().map(|(_, remote)| *remote).collect();
        remotes.sort_unstable();
        remotes.dedup();
        remotes
    }
}

/// `tunnel flannel0: IP in UDP, port 8285, address 10.244.1.0/16, 1 route: 10.244.2.0/24 to 192.0.2.2`.
impl fmt::Display for IpTunnel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "tunnel {}", self.name)?;
        if let Some(netns) = &self.netns {
            write!(out, " in namespace {netns}")?;
        }
        write!(out, ": {}, port {}", FramingKind::Ip.title(), self.port)?;
        if let Some(local) = self.local {
            write!(out, ", local {local}")?;
        }
        if let Some(device) = &self.device {
            write!(out, ", device {device}")?;
        }
        if let Some(address) = self.address {
            write!(out, ", address {address}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(out, ", mtu {mtu}")?;
        }
        let plural = if self.routes.len() == 1 { "" } else { "s" };
        write!(out, "{}, {} route{plural}:", self.outer, self.routes.len())?;
        let routes: Vec<String> = self.routes.iter().map(|(network, host)| format!(" {network} to {host}")).collect();
        out.write_str(&routes.join(","))
    }
}
