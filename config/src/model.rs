//! The model of a whole configuration, with defaults for missing keys.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;

use crate::bridge::Bridge;
use crate::control::Control;
use crate::docker::Docker;
use crate::guest::Guest;
use crate::metrics::Metrics;
use crate::port::Port;
use crate::router::Router;
use crate::state::StatePath;
use crate::tunnel::{IpTunnel, Tunnel};
use crate::uplink::BridgeUplink;

/// The bridges, their router, and the threads that carry their frames.
#[derive(Clone, Debug)]
pub struct Config {
    /// The bridges, at least one; ports refer to them by number.
    pub bridges: Vec<Bridge>,
    /// The ports, bridge by bridge, TAPs first; then the TUN devices of `ip_tunnels`.
    pub ports: Vec<Port>,
    /// The guests, whose ports and rules are among the others.
    pub guests: Vec<Guest>,
    /// An uplink in `bridge` mode: a host interface that is one more port, numbered after those of `ports`.
    pub bridge_uplink: Option<BridgeUplink>,
    /// The tunnels of bridges. Each of their hosts is one more port.
    pub tunnels: Vec<Tunnel>,
    /// The tunnels of IP packets, which bypass the bridges.
    pub ip_tunnels: Vec<IpTunnel>,
    /// The router; `None` without gateways and a NAT uplink.
    pub router: Option<Router>,
    /// Number of worker threads.
    pub workers: usize,
    /// How long a busy worker looks for more frames before it sleeps, in microseconds.
    pub busy_poll: u32,
    /// Maximum number of ports: those of all bridges, the uplink and the hosts of tunnels.
    pub max_ports: usize,
    /// The control socket.
    pub control: Control,
    /// Where the state of the switch is kept while no process runs.
    pub state: StatePath,
    /// The metrics server for Prometheus, over TCP.
    pub metrics: Option<Metrics>,
    /// The network driver for Docker.
    pub docker: Option<Docker>,
    /// Allowed settings that may be mistakes, each with its origin.
    pub warnings: Vec<String>,
}

impl Config {
    /// The host interface of the uplink, in either mode.
    #[must_use]
    pub fn uplink_interface(&self) -> Option<&str> {
        let nat = self.router.as_ref().and_then(|router| router.uplink.as_ref());
        let bridged = self.bridge_uplink.as_ref().map(|uplink| uplink.interface.as_str());
        bridged.or(nat.map(|uplink| uplink.interface.as_str()))
    }

    /// Devices that workers read: ports, TUN devices and the uplink. Sockets of tunnels, which are read too, are not among them.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.ports.len() + usize::from(self.uplink_interface().is_some())
    }

    /// Default number of threads: one per core, at most one per device. Sockets of tunnels do not count, as their datagrams are for one
    /// of the devices. A switch without ports gets one per core, because all of its ports come later.
    pub(crate) fn default_workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        if self.ports.is_empty() { cores } else { cores.min(self.device_count()) }
    }

    /// The bridge of this number.
    #[must_use]
    pub fn bridge(&self, number: usize) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.number == number)
    }

    /// Whether an address of a guest is in a network that is routed: that of a gateway of the guest's bridge.
    #[must_use]
    pub fn is_routed(&self, guest: &Guest, address: Ipv4Addr) -> bool {
        let is_its = |bridge: &&Bridge| bridge.name == guest.network;
        let bridge = self.bridges.iter().find(is_its).map(|bridge| bridge.number);
        let gateways = self.router.iter().flat_map(|router| &router.gateways);
        gateways.filter(|gateway| Some(gateway.bridge) == bridge).any(|gateway| gateway.address.network().contains(address))
    }

    /// A bridge's name, if there are several bridges.
    #[must_use]
    pub fn name_among_several(&self, bridge: usize) -> Option<&str> {
        self.bridge(bridge).filter(|_| self.bridges.len() > 1).map(|bridge| bridge.name.as_str())
    }

    /// What uses a bridge, by name: its ports, its uplink, its tunnels, and routes by its guests.
    pub(crate) fn on_bridge(&self, number: usize) -> impl Iterator<Item = String> {
        let ports = self.ports.iter().filter(move |port| port.is_bridged() && port.bridge == number);
        let ports = ports.filter_map(|port| Some(format!("port {}", port.title()?)));
        let uplink = self.bridge_uplink.iter().filter(move |uplink| uplink.bridge == number);
        let tunnels = self.tunnels.iter().filter(move |tunnel| tunnel.bridge == number);
        let routes = self.router.iter().flat_map(|router| &router.routes).filter(move |route| route.bridge == number);
        ports
            .chain(routes.map(|route| format!("route {}", route.to)))
            .chain(uplink.map(|uplink| format!("the uplink {}", uplink.interface)))
            .chain(tunnels.map(|tunnel| format!("tunnel {}", tunnel.name)))
    }

    /// Numbers of the bridges that have a port, a tunnel or an uplink.
    #[must_use]
    pub fn occupied_bridges(&self) -> HashSet<usize> {
        let ports = self.ports.iter().filter(|port| port.is_bridged()).map(|port| port.bridge);
        let tunnels = self.tunnels.iter().map(|tunnel| tunnel.bridge);
        ports.chain(tunnels).chain(self.bridge_uplink.iter().map(|uplink| uplink.bridge)).collect()
    }

    /// Numbers the bridges like those of the running configuration: a bridge of the same name has the same number, a new one the
    /// lowest that no bridge has in either.
    pub(crate) fn number_like(&mut self, running: &Config) {
        let kept: HashMap<&str, usize> = running.bridges.iter().map(|bridge| (bridge.name.as_str(), bridge.number)).collect();
        let taken: HashSet<usize> = kept.values().copied().collect();
        let mut free = (0..).filter(|number| !taken.contains(number));
        let new_number =
            |bridge: &Bridge| kept.get(bridge.name.as_str()).copied().or_else(|| free.next()).unwrap_or(bridge.number);
        let numbers: Vec<usize> = self.bridges.iter().map(new_number).collect();
        let renumbered: HashMap<usize, usize> = self.bridges.iter().map(|bridge| bridge.number).zip(numbers).collect();
        let renumber = |number: &mut usize| {
            if let Some(new) = renumbered.get(number) {
                *number = *new;
            }
        };
        self.bridges.iter_mut().for_each(|bridge| renumber(&mut bridge.number));
        self.ports.iter_mut().for_each(|port| renumber(&mut port.bridge));
        self.tunnels.iter_mut().for_each(|tunnel| renumber(&mut tunnel.bridge));
        self.bridge_uplink.iter_mut().for_each(|uplink| renumber(&mut uplink.bridge));
        let gateways = self.router.iter_mut().flat_map(|router| &mut router.gateways);
        gateways.for_each(|gateway| renumber(&mut gateway.bridge));
        self.router.iter_mut().flat_map(|router| &mut router.routes).for_each(|route| renumber(&mut route.bridge));
    }

    /// The text `, on br1`, if there are several bridges.
    pub(crate) fn on(&self, bridge: usize) -> String {
        self.name_among_several(bridge).map_or_else(String::new, |name| format!(", on {name}"))
    }

    /// The UDP ports on which tunnels receive, each once, in ascending order.
    #[must_use]
    pub fn tunnel_ports(&self) -> Vec<u16> {
        let bridged = self.tunnels.iter().map(|tunnel| tunnel.port);
        let mut ports: Vec<u16> = bridged.chain(self.ip_tunnels.iter().map(|tunnel| tunnel.port)).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Summary of router and uplink: one line each for gateways, uplink, settings and rules.
    #[must_use]
    pub fn router_summary(&self) -> String {
        let port_of = |uplink: &BridgeUplink| {
            let bridge = self.name_among_several(uplink.bridge).unwrap_or("the bridge");
            format!("uplink {}: port of {bridge}\n", uplink.interface)
        };
        let uplink = self.bridge_uplink.as_ref().map_or_else(String::new, port_of);
        uplink + &self.router.as_ref().map_or_else(String::new, |router| router.summary(|bridge| self.name_among_several(bridge)))
    }

    /// Summary of the tunnels, one line each.
    #[must_use]
    pub fn tunnel_summary(&self) -> String {
        let mut text = String::new();
        for tunnel in &self.tunnels {
            let _ = writeln!(text, "{tunnel}{}", self.on(tunnel.bridge));
        }
        for tunnel in &self.ip_tunnels {
            let _ = writeln!(text, "{tunnel}");
        }
        text
    }
}
