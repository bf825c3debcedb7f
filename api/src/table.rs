//! Entries of the MAC table and of the neighbour table.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An entry of a MAC table.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MacEntry {
    /// Name of the bridge.
    pub bridge: String,
    /// VLAN; 0 for untagged frames.
    pub vlan: u16,
    /// MAC address of the station.
    pub mac: String,
    /// Name of the port behind which it is.
    pub port: String,
    /// Seconds since the entry was last renewed; `null` if it is static.
    pub age: Option<u32>,
}

/// A host on a network of the router.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Neighbour {
    /// Name of its bridge; `null` if it is on the network of the uplink.
    pub bridge: Option<String>,
    /// VLAN; 0 for untagged frames, `null` on the network of the uplink.
    pub vlan: Option<u16>,
    /// IPv4 address.
    pub address: String,
    /// MAC address; `null` until its ARP reply has come.
    pub mac: Option<String>,
    /// Seconds since its last ARP message.
    pub age: u32,
}

/// How many entries a request removed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// Number of entries removed.
    pub flushed: usize,
}
