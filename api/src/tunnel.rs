//! Tunnels and their peers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

/// A tunnel to other hosts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// Name of its bridge; `null` for udp-ip.
    pub bridge: Option<String>,
    /// Framing of what it carries.
    pub kind: TunnelKind,
    /// VXLAN network identifier; `null` for other kinds.
    pub vni: Option<u32>,
    /// Our address, if one is configured.
    pub local: Option<String>,
    /// UDP port.
    pub port: u16,
    /// Interface that its datagrams leave by, if one is configured.
    pub device: Option<String>,
    /// Hosts at its other ends.
    pub peers: Vec<Peer>,
}

words! {
    /// Framing of a tunnel.
    TunnelKind {
        /// VXLAN (RFC 7348).
        Vxlan = "vxlan",
        /// Ethernet frames in UDP.
        Udp = "udp",
        /// IP packets in UDP.
        UdpIp = "udp-ip",
    }
}

/// A host at the other end of a tunnel.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its address.
    pub address: String,
    /// Maximum length of a packet inside the tunnel, in bytes.
    pub mtu: u32,
    /// Our address on the route to it; `null` if there is no route.
    pub source: Option<String>,
    /// Why it cannot be reached; `null` if it can.
    pub problem: Option<String>,
    /// Seconds since it was last heard; `null` if it never was
    pub last_heard: Option<u64>,
    /// Frames received from it.
    pub rx_frames: u64,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Frames sent to it.
    pub tx_frames: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Frames dropped.
    pub dropped: u64,
}
