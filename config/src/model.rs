//! The meaning of a configuration as a whole, with defaults for missing keys: the switch that is to run.

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
    /// At least one; a port's bridge is its place here.
    pub bridges: Vec<Bridge>,
    /// Of each bridge its ports, TAPs first; behind all the TUN devices of `ip_tunnels`.
    pub ports: Vec<Port>,
    /// The host's interface that is one more port, behind those of `ports`: an uplink in `bridge` mode.
    pub bridge_uplink: Option<BridgeUplink>,
    /// Each of their hosts is one more port.
    pub tunnels: Vec<Tunnel>,
    /// Beside the bridges.
    pub ip_tunnels: Vec<IpTunnel>,
    /// `None` for a switch without gateways and uplink.
    pub router: Option<Router>,
    /// Threads that carry frames.
    pub workers: usize,
    /// How long a busy worker looks for more frames before it sleeps, in microseconds.
    pub busy_poll: u32,
    /// The control socket.
    pub control: Control,
    /// Where Prometheus may fetch the counters over TCP.
    pub metrics: Option<Metrics>,
    /// Allowed settings that may be mistakes, each with its origin.
    pub warnings: Vec<String>,
}

impl Config {
    /// The host's interface that is the uplink, whatever its mode.
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

    /// `, on br1`, if there are several bridges.
    pub(crate) fn on(&self, bridge: usize) -> String {
        self.name_among_several(bridge).map_or_else(String::new, |name| format!(", on {name}"))
    }

    /// The UDP ports that tunnels receive by, each once and in their order.
    #[must_use]
    pub fn tunnel_ports(&self) -> Vec<u16> {
        let bridged = self.tunnels.iter().map(|tunnel| tunnel.port);
        let mut ports: Vec<u16> = bridged.chain(self.ip_tunnels.iter().map(|tunnel| tunnel.port)).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The way out and the router: a line each for gateways, uplink, settings and rules.
    #[must_use]
    pub fn router_summary(&self) -> String {
        let port_of = |uplink: &BridgeUplink| {
            let bridge = self.name_among_several(uplink.bridge).unwrap_or("the bridge");
            format!("uplink {}: port of {bridge}\n", uplink.interface)
        };
        let uplink = self.bridge_uplink.as_ref().map_or_else(String::new, port_of);
        uplink + &self.router.as_ref().map_or_else(String::new, |router| router.summary(|bridge| self.name_among_several(bridge)))
    }

    /// A line for each tunnel.
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
