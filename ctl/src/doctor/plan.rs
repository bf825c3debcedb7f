//! What the switch is to be, as far as the host has to fit it: read from a configuration file, or asked of a running switch.
//!
//! A file is read leniently: `vswitchd --check` tells what is wrong with it, this only what it wants of the host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use api::{AddressKind, PortKind, TunnelKind, UplinkMode};
use serde::Deserialize;

/// An IPv4 network, by an address in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_len: u8,
}

/// What is asked of the host.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The number of the switch that runs.
    pub(crate) running: Option<u32>,
    /// Are there devices to be made or joined? Without a plan there may be.
    pub(crate) has_taps: bool,
    /// Namespaces that ports are made in.
    pub(crate) namespaces: Vec<String>,
    pub(crate) packet_ports: Vec<String>,
    pub(crate) has_dgram: bool,
    /// Ports and the longest packet that they carry.
    pub(crate) mtus: Vec<(String, u32)>,
    pub(crate) uplink: Option<Uplink>,
    /// The guests' networks.
    pub(crate) gateways: Vec<Network>,
    /// Ports of the host's address that are published, with whether they are TCP's.
    pub(crate) published: Vec<(bool, u16)>,
    pub(crate) tunnels: Vec<Tunnel>,
    /// What the switch itself finds wrong.
    pub(crate) complaints: Vec<String>,
    /// Frames that the kernel dropped as they were not read in time, by port.
    pub(crate) unread: Vec<(String, u64)>,
}

/// The way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Uplink {
    pub(crate) interface: String,
    pub(crate) is_nat: bool,
    /// Addresses of the switch's own; none: it shares the host's.
    pub(crate) own: Vec<Ipv4Addr>,
    /// Outside ports to choose from.
    pub(crate) ports: RangeInclusive<u16>,
}

/// A way to other hosts.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) name: String,
    /// Bytes between the outer IP header's end and the inner packet.
    pub(crate) inner_len: u32,
    pub(crate) local: Option<IpAddr>,
    pub(crate) device: Option<String>,
    pub(crate) remotes: Vec<IpAddr>,
    /// Of packets inside, if it is set.
    pub(crate) mtu: Option<u32>,
    pub(crate) is_bridged: bool,
}

impl Network {
    pub(crate) fn overlaps(self, other: Network) -> bool {
        let bits = self.prefix_len.min(other.prefix_len).min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        (self.address.to_bits() ^ other.address.to_bits()) & mask == 0
    }

    fn parse(text: &str) -> Option<Network> {
        let (address, prefix_len) = text.split_once('/')?;
        Some(Network { address: address.parse().ok()?, prefix_len: prefix_len.parse().ok().filter(|len| *len <= 32)? })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_len)
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            running: None,
            has_taps: true,
            namespaces: Vec::new(),
            packet_ports: Vec::new(),
            has_dgram: false,
            mtus: Vec::new(),
            uplink: None,
            gateways: Vec::new(),
            published: Vec::new(),
            tunnels: Vec::new(),
            complaints: Vec::new(),
            unread: Vec::new(),
        }
    }
}

/// The gateway of a NAT uplink that has none.
const USUAL_GATEWAY: Network = Network { address: Ipv4Addr::new(10, 77, 0, 1), prefix_len: 24 };
const USUAL_PORTS: RangeInclusive<u16> = 1024..=65_535;

/// VXLAN and Ethernet, Ethernet alone, nothing; each behind eight bytes of UDP (`tunnel/src/mtu.rs`).
fn inner_len(kind: TunnelKind) -> u32 {
    match kind {
        TunnelKind::Vxlan => 8 + 8 + 14,
        TunnelKind::Udp => 8 + 14,
        TunnelKind::UdpIp => 8,
    }
}

impl Plan {
    /// That of a switch that runs.
    pub(crate) fn of_running(show: &api::Show, stats: &api::Stats, nat: Option<&api::Nat>) -> Plan {
        let of_kind = |kind: PortKind| show.ports.iter().filter(move |port| port.kind == kind).collect::<Vec<_>>();
        let own = nat.iter().flat_map(|nat| &nat.addresses).filter(|address| address.kind != AddressKind::Shared);
        let uplink = show.uplink.as_ref().map(|uplink| Uplink {
            interface: uplink.interface.clone(),
            is_nat: uplink.mode == UplinkMode::Nat,
            own: own.filter_map(|address| address.address.parse().ok()).collect(),
            ports: USUAL_PORTS,
        });
        let gateway = |gateway: &api::Gateway| {
            Some(Network { address: gateway.address.parse().ok()?, prefix_len: gateway.prefix_len.min(32) })
        };
        let tunnel = |tunnel: &api::Tunnel| Tunnel {
            name: tunnel.name.clone(),
            inner_len: inner_len(tunnel.kind),
            local: tunnel.local.as_ref().and_then(|local| local.parse().ok()),
            device: tunnel.device.clone(),
            remotes: tunnel.peers.iter().filter_map(|peer| peer.address.parse().ok()).collect(),
            mtu: tunnel.peers.iter().map(|peer| peer.mtu).min(),
            is_bridged: tunnel.kind != TunnelKind::UdpIp,
        };
        let bridged = show.ports.iter().filter(|port| !matches!(port.kind, PortKind::Tun | PortKind::Uplink));
        Plan {
            running: Some(show.pid),
            has_taps: !of_kind(PortKind::Tap).is_empty() || !of_kind(PortKind::Tun).is_empty(),
            namespaces: show.ports.iter().filter_map(|port| port.namespace.clone()).collect(),
            packet_ports: of_kind(PortKind::Packet).iter().map(|port| port.name.clone()).collect(),
            has_dgram: !of_kind(PortKind::Dgram).is_empty(),
            mtus: bridged.filter_map(|port| Some((port.name.clone(), port.mtu?))).collect(),
            uplink,
            gateways: show.gateways.iter().filter_map(gateway).collect(),
            // It has them.
            published: Vec::new(),
            tunnels: show.tunnels.iter().map(tunnel).collect(),
            complaints: show.problems.clone(),
            unread: stats.ports.iter().map(|port| (port.name.clone(), port.kernel_dropped)).filter(|(_, n)| *n > 0).collect(),
        }
    }

    /// That of a configuration file.
    pub(crate) fn of_file(text: &str) -> Result<Plan, toml::de::Error> {
        let file: File = toml::from_str(text)?;
        let ports: Vec<&Port> = file.bridge.values().flat_map(|bridge| &bridge.port).collect();
        let is_nat = |uplink: &UplinkTable| uplink.mode.as_deref() != Some("bridge");
        let uplink = file.uplink.as_ref().and_then(|uplink| {
            let own = uplink.address.iter().flat_map(Words::words);
            Some(Uplink {
                interface: uplink.interface.clone()?,
                is_nat: is_nat(uplink),
                own: own.filter_map(|text| text.split('/').next()?.parse().ok()).collect(),
                ports: file.nat.ports.as_deref().and_then(ports_of).unwrap_or(USUAL_PORTS),
            })
        });
        let named = file.bridge.values().flat_map(|bridge| bridge.gateway.iter().chain(bridge.gateways.values()));
        let mut gateways: Vec<Network> = named.filter_map(|text| Network::parse(text)).collect();
        if gateways.is_empty() && uplink.as_ref().is_some_and(|uplink| uplink.is_nat) {
            gateways.push(USUAL_GATEWAY);
        }
        let taps = ports.iter().filter(|port| port.tap.is_some());
        Ok(Plan {
            running: None,
            has_taps: taps.clone().next().is_some() || file.tunnel.iter().any(|tunnel| tunnel.tun.is_some()),
            namespaces: taps
                .filter_map(|port| port.netns.clone())
                .chain(file.tunnel.iter().filter_map(|tunnel| tunnel.netns.clone()))
                .collect(),
            packet_ports: ports.iter().filter_map(|port| port.packet.clone()).collect(),
            has_dgram: ports.iter().any(|port| port.dgram.is_some()),
            mtus: ports.iter().filter_map(|port| Some((port.name()?.to_owned(), port.mtu?))).collect(),
            uplink,
            gateways,
            published: file.publish.iter().flat_map(Publish::ports).collect(),
            tunnels: file.tunnel.iter().map(TunnelTable::plan).collect(),
            complaints: Vec::new(),
            unread: Vec::new(),
        })
    }

    /// Does NAT go by the host's own address?
    pub(crate) fn shares_an_address(&self) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| uplink.is_nat && uplink.own.is_empty())
    }
}

/// `PORT` or `PORT-PORT`.
fn ports_of(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    bridge: BTreeMap<String, Bridge>,
    uplink: Option<UplinkTable>,
    nat: Nat,
    publish: Vec<Publish>,
    tunnel: Vec<TunnelTable>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Bridge {
    gateway: Option<String>,
    gateways: BTreeMap<String, String>,
    port: Vec<Port>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Port {
    tap: Option<String>,
    packet: Option<String>,
    stream: Option<String>,
    dgram: Option<String>,
    netns: Option<String>,
    mtu: Option<u32>,
}

impl Port {
    fn name(&self) -> Option<&str> {
        [&self.tap, &self.packet, &self.stream, &self.dgram].into_iter().find_map(Option::as_deref)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UplinkTable {
    interface: Option<String>,
    mode: Option<String>,
    address: Option<Words>,
}

/// A text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn words(&self) -> &[String] {
        match self {
            Words::One(word) => std::slice::from_ref(word),
            Words::Many(words) => words,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Nat {
    ports: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Publish {
    listen: String,
    protocol: Option<String>,
}

impl Publish {
    /// Of an address alone there are none: it is one of the switch's own.
    fn ports(&self) -> Vec<(bool, u16)> {
        let listen = self.listen.rsplit(':').next().unwrap_or_default();
        let Some(ports) = ports_of(listen) else { return Vec::new() };
        let protocol = self.protocol.as_deref().unwrap_or("tcp");
        let both = [true, false].into_iter().filter(|tcp| protocol.split('+').any(|word| (word == "tcp") == *tcp));
        both.flat_map(|tcp| ports.clone().map(move |port| (tcp, port))).collect()
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TunnelTable {
    #[serde(rename = "type")]
    kind: Option<TunnelKind>,
    vni: Option<u32>,
    local: Option<IpAddr>,
    dev: Option<String>,
    remotes: Vec<IpAddr>,
    routes: BTreeMap<String, IpAddr>,
    mtu: Option<u32>,
    tun: Option<String>,
    netns: Option<String>,
}

impl TunnelTable {
    fn plan(&self) -> Tunnel {
        let kind = self.kind.unwrap_or(TunnelKind::Udp);
        let vni = self.vni.map_or_else(String::new, |vni| vni.to_string());
        Tunnel {
            name: self.tun.clone().unwrap_or_else(|| format!("{kind}{vni}")),
            inner_len: inner_len(kind),
            local: self.local,
            device: self.dev.clone(),
            remotes: self.remotes.iter().chain(self.routes.values()).copied().collect(),
            mtu: self.mtu,
            is_bridged: self.tun.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_overlap() {
        let network = |text| Network::parse(text).unwrap();
        assert!(
            network("10.0.0.1/24").overlaps(network("10.0.0.128/25")) && network("0.0.0.0/0").overlaps(network("1.2.3.4/32"))
        );
        assert!(!network("10.0.0.1/24").overlaps(network("10.0.1.0/24")));
        assert!(Network::parse("10.0.0.1/33").is_none() && Network::parse("10.0.0.1").is_none());
    }

    /// The example has every key, so that what is read here is what is written there.
    #[test]
    fn the_example_is_understood() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vswitchd.example.toml")).unwrap();
        let plan = Plan::of_file(&text).unwrap();
        assert!(plan.has_taps && plan.has_dgram && !plan.shares_an_address());
        assert_eq!((plan.namespaces.len(), plan.packet_ports.as_slice()), (2, &["veth0".to_owned()][..]));
        assert_eq!(plan.uplink.unwrap().own.len(), 2);
        assert_eq!(
            plan.gateways.iter().map(Network::to_string).collect::<Vec<_>>(),
            ["10.77.0.1/24", "10.0.10.1/24", "10.78.0.1/24"]
        );
        assert_eq!(plan.published, [(true, 8080)]);
        let tunnels: Vec<_> = plan.tunnels.iter().map(|tunnel| (tunnel.name.as_str(), tunnel.inner_len)).collect();
        assert_eq!(tunnels, [("vxlan42", 30), ("vxlan43", 30), ("udp", 22), ("flannel0", 8)]);
        assert_eq!((plan.tunnels[3].remotes.len(), plan.tunnels[0].mtu), (2, Some(1450)));
    }

    #[test]
    fn what_is_left_out_is_as_usual() {
        let plan = Plan::of_file("uplink.interface = 'eth0'\n[[publish]]\nlisten = '53'\nprotocol = 'tcp+udp'").unwrap();
        assert!(plan.shares_an_address() && !plan.has_taps);
        assert_eq!((plan.gateways.as_slice(), plan.published.as_slice()), (&[USUAL_GATEWAY][..], &[(true, 53), (false, 53)][..]));
        assert!(Plan::of_file("uplink = 1").is_err());
    }
}
