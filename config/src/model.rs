//! The model of a whole configuration, with defaults for missing keys.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use crate::bridge::Bridge;
use crate::control::Control;
use crate::metrics::Metrics;
use crate::port::Port;
use crate::router::Router;
use crate::tunnel::{IpTunnel, Tunnel};
use crate::uplink::BridgeUplink;

/// The bridges, their router, and the threads that carry their frames.
#[derive(Clone, Debug)]
pub struct Config {
    /// The bridges, at least one; ports refer to them by index.
    pub bridges: Vec<Bridge>,
    /// The ports, bridge by bridge, TAPs first; then the TUN devices of `ip_tunnels`.
    pub ports: Vec<Port>,
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
    /// The control socket.
    pub control: Control,
    /// The metrics server for Prometheus, over TCP.
    pub metrics: Option<Metrics>,
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
    /// of the devices.
    pub(crate) fn default_workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        cores.min(self.device_count().max(1))
    }

    /// A bridge's name, if there are several bridges.
    #[must_use]
    pub fn name_among_several(&self, bridge: usize) -> Option<&str> {
        self.bridges.get(bridge).filter(|_| self.bridges.len() > 1).map(|bridge| bridge.name.as_str())
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
