//! The switch's requirements to the host, from a configuration file or a running switch.
//!
//! Parts of a file with errors are left out; the errors are findings of their own.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use api::{AddressKind, Gate, PortKind, State, UplinkMode};
use config::{Config, FramingKind, GateMode, Publish};
use packet::udp::UDP_LEN;

/// An IPv4 network, given by an address in it and a prefix length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_len: u8,
}

/// Requirements to the host.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Process ID of the running switch.
    pub(crate) running: Option<u32>,
    /// Whether TAP or TUN devices are needed; assumed without a configuration.
    pub(crate) has_taps: bool,
    /// Network namespaces of ports.
    pub(crate) namespaces: Vec<String>,
    pub(crate) packet_ports: Vec<String>,
    pub(crate) has_dgram: bool,
    /// Ports with their MTU.
    pub(crate) mtus: Vec<(String, u32)>,
    pub(crate) uplink: Option<Uplink>,
    /// The guests' networks.
    pub(crate) gateways: Vec<Network>,
    /// Published ports of the host's address; true for TCP.
    pub(crate) published: Vec<(bool, u16)>,
    pub(crate) tunnels: Vec<Tunnel>,
    /// Problems that the switch or the configuration parser reports.
    pub(crate) complaints: Vec<String>,
    /// Allowed settings that may be mistakes.
    pub(crate) warnings: Vec<String>,
    /// Ports that are down or gone.
    pub(crate) idle_ports: Vec<IdlePort>,
    /// Interfaces of the host that are ports, in the switch's own namespace: by them the host is a guest.
    pub(crate) own_links: Vec<String>,
    /// Frames that the kernel dropped because they were not read in time, by port.
    pub(crate) unread: Vec<(String, u64)>,
}

/// A port that carries nothing, because its device is down or gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IdlePort {
    /// As it is printed.
    pub(crate) name: String,
    pub(crate) kind: PortKind,
    pub(crate) is_gone: bool,
    pub(crate) namespace: Option<String>,
}

impl IdlePort {
    fn of(port: &api::Port) -> Option<IdlePort> {
        let is_gone = match port.state {
            State::Gone => true,
            State::Down => false,
            State::Up | State::Waiting => return None,
        };
        Some(IdlePort { name: port.name.clone(), kind: port.kind, is_gone, namespace: port.namespace.clone() })
    }

    /// The name of its interface.
    pub(crate) fn link(&self) -> &str {
        bare(&self.name, self.namespace.as_deref())
    }
}

/// A port's name without its namespace.
fn bare<'a>(name: &'a str, namespace: Option<&str>) -> &'a str {
    name.strip_suffix(namespace.unwrap_or_default()).and_then(|name| name.strip_suffix('@')).unwrap_or(name)
}

/// The uplink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Uplink {
    pub(crate) interface: String,
    pub(crate) is_nat: bool,
    /// Addresses of the switch; empty if it shares the host's.
    pub(crate) own: Vec<Ipv4Addr>,
    /// Outside ports that NAT may use.
    pub(crate) ports: RangeInclusive<u16>,
    /// What keeps the host silent about guests' packets to its own address; of a configuration only if it is named there.
    pub(crate) gate: Option<Gate>,
}

/// A tunnel to other hosts.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) name: String,
    /// Number of bytes between the end of the outer IP header and the inner packet.
    pub(crate) inner_len: u32,
    pub(crate) local: Option<IpAddr>,
    pub(crate) device: Option<String>,
    pub(crate) remotes: Vec<IpAddr>,
    /// MTU of the inner packets, if set.
    pub(crate) mtu: Option<u32>,
    pub(crate) is_bridged: bool,
}

impl Network {
    pub(crate) fn overlaps(self, other: Network) -> bool {
        let bits = self.prefix_len.min(other.prefix_len).min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        (self.address.to_bits() ^ other.address.to_bits()) & mask == 0
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
            warnings: Vec::new(),
            idle_ports: Vec::new(),
            own_links: Vec::new(),
            unread: Vec::new(),
        }
    }
}

/// The published ports of a running switch, as far as programs of the host can use them beside it: where sockets are bound to
/// them, they cannot.
fn published_by(show: &api::Show, nat: Option<&api::Nat>) -> Vec<(bool, u16)> {
    let is_bound = show.uplink.as_ref().is_none_or(|uplink| uplink.gate.is_none_or(|gate| gate == Gate::Sockets));
    let rules = nat.iter().filter(|_| !is_bound).flat_map(|nat| &nat.mappings).filter(|mapping| mapping.published);
    rules.filter_map(|rule| Some((rule.protocol.to_string() == "tcp", rule.outside.rsplit_once(':')?.1.parse().ok()?))).collect()
}

/// Default outside ports.
const USUAL_PORTS: RangeInclusive<u16> = 1024..=65_535;

/// Length of the UDP header, with tunnel and Ethernet headers where the framing has them.
fn inner_len(framing: FramingKind) -> u32 {
    (UDP_LEN + framing.overhead()) as u32
}

impl Plan {
    /// The plan of a running switch.
    pub(crate) fn of_running(show: &api::Show, stats: &api::Stats, nat: Option<&api::Nat>) -> Plan {
        let of_kind = |kind: PortKind| show.ports.iter().filter(move |port| port.kind == kind).collect::<Vec<_>>();
        let own = nat.iter().flat_map(|nat| &nat.addresses).filter(|address| address.kind != AddressKind::Shared);
        let uplink = show.uplink.as_ref().map(|uplink| Uplink {
            interface: uplink.interface.clone(),
            is_nat: uplink.mode == UplinkMode::Nat,
            own: own.filter_map(|address| address.address.parse().ok()).collect(),
            ports: USUAL_PORTS,
            gate: uplink.gate,
        });
        let gateway = |gateway: &api::Gateway| {
            Some(Network { address: gateway.address.parse().ok()?, prefix_len: gateway.prefix_len.min(32) })
        };
        let tunnel = |tunnel: &api::Tunnel| Tunnel {
            name: tunnel.name.clone(),
            inner_len: FramingKind::named(tunnel.kind.name()).map_or(0, inner_len),
            local: tunnel.local.as_ref().and_then(|local| local.parse().ok()),
            device: tunnel.device.clone(),
            remotes: tunnel.peers.iter().filter_map(|peer| peer.address.parse().ok()).collect(),
            mtu: tunnel.peers.iter().map(|peer| peer.mtu).min(),
            is_bridged: tunnel.bridge.is_some(),
        };
        let bridged = show.ports.iter().filter(|port| !matches!(port.kind, PortKind::Tun | PortKind::Uplink | PortKind::Host));
        Plan {
            running: Some(show.pid),
            has_taps: show.ports.iter().any(|port| matches!(port.kind, PortKind::Tap | PortKind::Tun | PortKind::Host)),
            namespaces: show.ports.iter().filter_map(|port| port.namespace.clone()).collect(),
            packet_ports: of_kind(PortKind::Packet).iter().map(|port| port.name.clone()).collect(),
            has_dgram: !of_kind(PortKind::Dgram).is_empty(),
            mtus: bridged.filter_map(|port| Some((port.name.clone(), port.mtu?))).collect(),
            uplink,
            gateways: show.gateways.iter().filter_map(gateway).collect(),
            published: published_by(show, nat),
            tunnels: show.tunnels.iter().map(tunnel).collect(),
            complaints: others(show),
            warnings: Vec::new(),
            idle_ports: show
                .ports
                .iter()
                .filter(|port| !matches!(port.kind, PortKind::Uplink | PortKind::Host))
                .filter_map(IdlePort::of)
                .collect(),
            own_links: show.ports.iter().filter(|port| port.namespace.is_none()).map(|port| port.name.clone()).collect(),
            unread: stats.ports.iter().map(|port| (port.name.clone(), port.kernel_dropped)).filter(|(_, n)| *n > 0).collect(),
        }
    }

    /// The plan of a configuration.
    pub(crate) fn of_config(config: &Config) -> Plan {
        let bridged = || config.ports.iter().filter(|port| port.is_bridged());
        let nat = config.router.as_ref().and_then(|router| Some((router.uplink.as_ref()?, &router.nat)));
        let nat = nat.map(|(uplink, nat)| Uplink {
            interface: uplink.interface.clone(),
            is_nat: true,
            own: uplink.addresses.clone(),
            ports: nat.ports.clone(),
            gate: match uplink.gate {
                GateMode::Auto => None,
                GateMode::Tcx => Some(Gate::Tcx),
                GateMode::Filter => Some(Gate::Filter),
                GateMode::Sockets => Some(Gate::Sockets),
            },
        });
        let bridge = config.bridge_uplink.as_ref().map(|uplink| Uplink {
            interface: uplink.interface.clone(),
            is_nat: false,
            own: Vec::new(),
            ports: USUAL_PORTS,
            gate: None,
        });
        let gateways = config.router.iter().flat_map(|router| &router.gateways);
        let published = config.router.iter().flat_map(|router| &router.publish);
        let bridged_tunnels = config.tunnels.iter().map(|tunnel| Tunnel {
            name: tunnel.name.clone(),
            inner_len: inner_len(tunnel.framing.kind()),
            local: tunnel.local,
            device: tunnel.device.clone(),
            remotes: tunnel.remotes.clone(),
            mtu: tunnel.mtu,
            is_bridged: true,
        });
        let ip_tunnels = config.ip_tunnels.iter().map(|tunnel| Tunnel {
            name: tunnel.name.clone(),
            inner_len: inner_len(FramingKind::Ip),
            local: tunnel.local.map(IpAddr::V4),
            device: tunnel.device.clone(),
            remotes: tunnel.remotes().into_iter().map(IpAddr::V4).collect(),
            mtu: tunnel.mtu,
            is_bridged: false,
        });
        Plan {
            running: None,
            has_taps: config.ports.iter().any(|port| port.kind.is_tuntap()) || gateways.clone().any(config::Gateway::has_host),
            namespaces: config.ports.iter().filter_map(|port| Some(port.link()?.1?.to_string())).collect(),
            packet_ports: bridged().filter_map(|port| port.shared_interface()).map(str::to_owned).collect(),
            has_dgram: bridged().any(|port| matches!(port.kind, config::PortKind::Dgram(_))),
            mtus: bridged().filter(|port| has_written_mtu(port)).filter_map(|port| Some((port.title()?, port.mtu?))).collect(),
            uplink: bridge.or(nat),
            gateways: gateways
                .map(|gateway| Network { address: gateway.address.address, prefix_len: gateway.address.prefix_len })
                .collect(),
            published: published.flat_map(ports_of).collect(),
            tunnels: bridged_tunnels.chain(ip_tunnels).collect(),
            complaints: Vec::new(),
            warnings: config.warnings.clone(),
            idle_ports: Vec::new(),
            own_links: config
                .ports
                .iter()
                .filter_map(|port| Some(port.link().filter(|(_, netns)| netns.is_none())?.0.to_owned()))
                .collect(),
            unread: Vec::new(),
        }
    }

    /// Does NAT go by the host's own address?
    pub(crate) fn shares_an_address(&self) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| uplink.is_nat && uplink.own.is_empty())
    }
}

/// The problems of a running switch that are not about ports and the uplink, which are examined by themselves.
fn others(show: &api::Show) -> Vec<String> {
    let of_port = |port: &api::Port| format!("port {} is {}", port.name, port.state);
    let of_uplink = |uplink: &api::Uplink| format!("uplink {} is {}", uplink.interface, uplink.state);
    let own: Vec<String> = show.ports.iter().map(of_port).chain(show.uplink.iter().map(of_uplink)).collect();
    show.problems.iter().filter(|problem| !own.contains(problem)).cloned().collect()
}

/// Whether a port's MTU is not just the default of a guest's network card.
fn has_written_mtu(port: &config::Port) -> bool {
    !port.kind.is_guest_socket() || port.mtu != Some(config::port::DEFAULT_GUEST_MTU)
}

/// The published ports of the host, with whether they are TCP's. Of a whole address there are none: it is one of the switch's own.
fn ports_of(rule: &Publish) -> Vec<(bool, u16)> {
    let Publish::Ports { ports, tcp, udp, .. } = rule else { return Vec::new() };
    let protocols = [(true, *tcp), (false, *udp)].into_iter().filter(|(_, is_of_it)| *is_of_it);
    protocols.flat_map(|(is_tcp, _)| ports.clone().map(move |port| (is_tcp, port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(text: &str) -> Plan {
        Plan::of_config(&Config::of_text("v.toml", text).0)
    }

    #[test]
    fn networks_that_overlap() {
        let network = |text: &str| {
            let (address, prefix_len) = text.split_once('/').unwrap();
            Network { address: address.parse().unwrap(), prefix_len: prefix_len.parse().unwrap() }
        };
        assert!(
            network("10.0.0.1/24").overlaps(network("10.0.0.128/25")) && network("0.0.0.0/0").overlaps(network("1.2.3.4/32"))
        );
        assert!(!network("10.0.0.1/24").overlaps(network("10.0.1.0/24")));
    }

    /// The example has every key, so that what is read here is what is written there.
    #[test]
    fn the_example_is_understood() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vswitchd.example.toml")).unwrap();
        let plan = of_file(&text);
        assert!(plan.has_taps && plan.has_dgram && !plan.shares_an_address());
        assert_eq!((plan.namespaces.len(), plan.packet_ports.as_slice()), (2, &["veth0".to_owned()][..]));
        assert_eq!(plan.uplink.unwrap().own.len(), 2);
        assert_eq!(
            plan.gateways.iter().map(Network::to_string).collect::<Vec<_>>(),
            ["10.77.0.1/24", "10.0.10.1/24", "10.78.0.1/24"]
        );
        assert_eq!(plan.published, [(true, 8080), (true, 5432)]);
        let tunnels: Vec<_> = plan.tunnels.iter().map(|tunnel| (tunnel.name.as_str(), tunnel.inner_len)).collect();
        assert_eq!(tunnels, [("vxlan42", 30), ("vxlan43", 30), ("udp7000", 22), ("flannel0", 8)]);
        assert_eq!((plan.tunnels[3].remotes.len(), plan.tunnels[0].mtu), (2, Some(1450)));
    }

    #[test]
    fn what_is_left_out_is_as_usual() {
        let plan = of_file("uplink.interface = 'eth0'\n[[publish]]\nlisten = '53'\nto = '10.77.0.2:53'\nprotocol = 'tcp+udp'");
        assert!(plan.shares_an_address() && !plan.has_taps);
        assert_eq!(
            (plan.gateways.as_slice(), plan.published.as_slice()),
            (&[Network { address: Ipv4Addr::new(10, 77, 0, 1), prefix_len: 24 }][..], &[(true, 53), (false, 53)][..])
        );
    }
}
