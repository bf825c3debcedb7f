//! IP packets in UDP datagrams, without Ethernet: a TUN device of the host whose routes lead to other
//! hosts, as `--udp-ip` says. It is not part of the bridge.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use netio::Netns;

use super::{Outer, SocketKeys};
use crate::config::ConfigError;
use crate::config::address::{Cidr, parse_address, parse_cidr, parse_network};
use crate::config::words::{check_name, check_once, split_pair, unknown};

/// Of flannel's udp backend.
const IP_PORT: u16 = 8285;

const KEYS: [&str; 11] = ["tun", "route", "address", "local", "port", "mtu", "dev", "ttl", "tos", "df", "csum"];

/// One TUN device and where its packets go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IpTunnelConfig {
    /// The TUN device's.
    pub(crate) name: String,
    /// Where the device is, if not in our own namespace.
    pub(crate) netns: Option<Netns>,
    /// The device's MTU, if not what the way to the other hosts leaves.
    pub(crate) mtu: Option<u32>,
    /// The device's address with the network of all of the tunnel's hosts; `None` leaves it to others.
    pub(crate) address: Option<Cidr>,
    /// Each network, and the host that it is behind; one at least, no network twice. The longest prefix wins.
    pub(crate) routes: Vec<(Cidr, Ipv4Addr)>,
    /// Where datagrams are sent from and received; `None` for any address of the host.
    pub(crate) local: Option<Ipv4Addr>,
    /// The UDP port that is received on, here and there.
    pub(crate) port: u16,
    /// The host's interface that they go through; `None` leaves it to the host's routes.
    pub(crate) device: Option<String>,
    pub(crate) outer: Outer,
}

/// `tunnel flannel0: IP in UDP, port 8285, address 10.244.1.0/16, 1 route: 10.244.2.0/24 to 192.0.2.2`.
impl fmt::Display for IpTunnelConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "tunnel {}", self.name)?;
        if let Some(netns) = &self.netns {
            write!(out, " in namespace {netns}")?;
        }
        write!(out, ": IP in UDP, port {}", self.port)?;
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

/// `--udp-ip`, as often as it is given.
pub(in crate::config) fn parse_ip_tunnels(
    texts: &[String],
    warnings: &mut Vec<String>,
) -> Result<Vec<IpTunnelConfig>, ConfigError> {
    let mut tunnels: Vec<IpTunnelConfig> = Vec::with_capacity(texts.len());
    for text in texts {
        let place = format!("--udp-ip {text}");
        let mut settings = Settings::default();
        for pair in text.split(',') {
            settings.read(&place, pair)?;
        }
        let tunnel = settings.finish(&place, warnings)?;
        if tunnels.iter().any(|other| other.name == tunnel.name && other.netns == tunnel.netns) {
            return Err(ConfigError::new(place, format!("{} is named twice", tunnel.name)));
        }
        tunnels.push(tunnel);
    }
    Ok(tunnels)
}

/// The keys of one tunnel as they were given.
#[derive(Debug, Default)]
struct Settings {
    tun: Option<(String, Option<Netns>)>,
    address: Option<Cidr>,
    routes: Option<Vec<(Cidr, Ipv4Addr)>>,
    socket: SocketKeys,
}

impl Settings {
    fn read(&mut self, place: &str, pair: &str) -> Result<(), ConfigError> {
        let (key, value) = split_pair(place, pair)?;
        let twice = match key {
            "tun" => self.tun.replace(parse_tun(place, value)?).is_some(),
            "route" => self.routes.replace(parse_routes(place, value)?).is_some(),
            "address" => self.address.replace(parse_cidr(place, value, 1..=32)?).is_some(),
            _ => match self.socket.read(place, key, value)? {
                Some(twice) => twice,
                None => return Err(ConfigError::new(place, unknown("key", key, &KEYS))),
            },
        };
        check_once(place, key, twice)
    }

    fn finish(self, place: &str, warnings: &mut Vec<String>) -> Result<IpTunnelConfig, ConfigError> {
        let Some((name, netns)) = self.tun else {
            return Err(ConfigError::new(place, "which device? Add tun=, the name that it gets, such as tun=tun0"));
        };
        let Some(routes) = self.routes else {
            let problem = "where to? Add route=, a network and its host, such as route=10.244.2.0/24@192.0.2.2";
            return Err(ConfigError::new(place, problem));
        };
        let local = match self.socket.local {
            None => None,
            Some(IpAddr::V4(local)) => Some(local),
            Some(IpAddr::V6(_)) => return Err(ConfigError::new(place, "these tunnels are carried over IPv4 alone")),
        };
        let tunnel = IpTunnelConfig {
            name,
            netns,
            mtu: self.socket.mtu,
            address: self.address,
            routes,
            local,
            port: self.socket.port.unwrap_or(IP_PORT),
            device: self.socket.device,
            outer: self.socket.outer.setting(place, false, warnings),
        };
        check_routes(place, &tunnel)?;
        Ok(tunnel)
    }
}

/// `NAME[@NETNS]`.
fn parse_tun(place: &str, text: &str) -> Result<(String, Option<Netns>), ConfigError> {
    let (name, netns) = text.split_once('@').map_or((text, None), |(name, netns)| (name, Some(netns)));
    check_name(place, "a TUN", name)?;
    if netns.is_some_and(str::is_empty) {
        return Err(ConfigError::new(place, "no namespace after '@': a name under /run/netns, a path, or pid:N"));
    }
    Ok((name.to_owned(), netns.map(Netns::new)))
}

/// `CIDR@ADDR[+CIDR@ADDR...]`, no network twice.
fn parse_routes(place: &str, list: &str) -> Result<Vec<(Cidr, Ipv4Addr)>, ConfigError> {
    let mut routes: Vec<(Cidr, Ipv4Addr)> = Vec::new();
    for text in list.split('+') {
        let Some((network, host)) = text.split_once('@') else {
            return Err(ConfigError::new(place, format!("'{text}' is not CIDR@ADDR, such as route=10.244.2.0/24@192.0.2.2")));
        };
        let network = parse_network(place, network)?;
        if routes.iter().any(|(other, _)| *other == network) {
            return Err(ConfigError::new(place, format!("{network} is named twice: a network is behind one host")));
        }
        routes.push((network, parse_address(place, host)?));
    }
    Ok(routes)
}

/// The hosts are reached without the tunnel, and are others than this one.
fn check_routes(place: &str, tunnel: &IpTunnelConfig) -> Result<(), ConfigError> {
    for (_, host) in &tunnel.routes {
        let problem = if tunnel.local == Some(*host) {
            format!("{host} is this host and the other one: name the other host's address behind '@'")
        } else if let Some(network) = inside(tunnel).find(|network| network.contains(*host)) {
            format!("the way to {host} would lead into the tunnel, to {}: name its address outside", network.block())
        } else {
            continue;
        };
        return Err(ConfigError::new(place, problem));
    }
    Ok(())
}

/// The networks that are reached through the tunnel.
fn inside(tunnel: &IpTunnelConfig) -> impl Iterator<Item = Cidr> + '_ {
    tunnel.routes.iter().map(|(network, _)| *network).chain(tunnel.address)
}
