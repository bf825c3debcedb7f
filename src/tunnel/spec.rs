//! One tunnel as configured, whatever its kind.

use std::net::IpAddr;

use config::{Group, IpTunnel, Outer};
use tunnel::Framing;
use vswitch::{BridgeId, PortVlan};

use crate::model::{bridge_id, port_vlan};

/// One tunnel: where its datagrams go, and how frames are framed in them.
#[derive(Clone, Debug)]
pub(crate) struct TunnelSpec {
    /// Meaningless for a tunnel of IP packets.
    pub(crate) bridge: BridgeId,
    pub(crate) name: String,
    pub(crate) framing: Framing,
    pub(crate) local: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) device: Option<String>,
    /// Each once.
    pub(crate) remotes: Vec<IpAddr>,
    pub(crate) group: Option<Group>,
    pub(crate) outer: Outer,
    pub(crate) learning: bool,
    /// Isolated ports of its bridge do not reach it.
    pub(crate) isolated: bool,
    pub(crate) vlan: PortVlan,
    /// As configured.
    pub(crate) mtu: Option<u32>,
}

impl TunnelSpec {
    pub(super) fn of(config: &config::Tunnel) -> TunnelSpec {
        TunnelSpec {
            bridge: bridge_id(config.bridge),
            name: config.name.clone(),
            framing: config.framing,
            local: config.local,
            port: config.port,
            device: config.device.clone(),
            remotes: config.remotes.clone(),
            group: config.group.clone(),
            outer: config.outer,
            learning: config.learning,
            isolated: config.isolated,
            vlan: port_vlan(&config.vlans),
            mtu: config.mtu,
        }
    }

    pub(super) fn of_ip(config: &IpTunnel) -> TunnelSpec {
        TunnelSpec {
            bridge: BridgeId::default(),
            name: config.name.clone(),
            framing: Framing::Ip,
            local: config.local.map(IpAddr::V4),
            port: config.port,
            device: config.device.clone(),
            remotes: config.remotes().into_iter().map(IpAddr::V4).collect(),
            group: None,
            outer: config.outer,
            learning: false,
            isolated: false,
            vlan: PortVlan::default(),
            mtu: config.mtu,
        }
    }

    /// The bridge that its hosts are ports of.
    pub(crate) fn bridge(&self) -> Option<BridgeId> {
        self.framing.kind().carries_ethernet().then_some(self.bridge)
    }

    /// Are its datagrams sent over IPv6?
    pub(super) fn is_ipv6(&self) -> bool {
        self.remotes.first().copied().or(self.group.as_ref().map(|group| group.address)).is_some_and(|address| address.is_ipv6())
    }

    pub(super) fn ports(&self, group_ports: usize) -> usize {
        self.remotes.len() + self.group.as_ref().map_or(0, |_| 1 + group_ports)
    }
}
