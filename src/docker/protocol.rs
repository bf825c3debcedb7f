//! The messages of Docker's protocol for network drivers, as dockerd sends them: Go structures, where a list or map may be `null`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A map of options by name, each of a type of its own.
pub(super) type Options = BTreeMap<String, Value>;

/// Options of `docker network create -o`, all text.
pub(super) const GENERIC: &str = "com.docker.network.generic";
/// `--internal`.
pub(super) const INTERNAL: &str = "com.docker.network.internal";
/// Ports to publish.
pub(super) const PORT_MAP: &str = "com.docker.network.portmap";

/// IANA's numbers of the protocols in a [`PortBinding`].
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// What the plugin is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Activate {
    implements: [&'static str; 1],
}

impl Default for Activate {
    fn default() -> Activate {
        Activate { implements: ["NetworkDriver"] }
    }
}

/// Networks are this host's, and reach other networks by its uplink.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Capabilities {
    scope: &'static str,
    connectivity_scope: &'static str,
}

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities { scope: "local", connectivity_scope: "global" }
    }
}

/// The answer to a call that says nothing but that it was made.
#[derive(Debug, Serialize)]
pub(super) struct Nothing {}

/// The answer to a call that failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Failure {
    err: String,
}

impl Failure {
    pub(super) fn new(err: String) -> Failure {
        Failure { err }
    }
}

/// A network to make.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Options,
    #[serde(default, rename = "IPv4Data", deserialize_with = "or_default")]
    pub(super) ipv4: Vec<IpamData>,
}

/// Addresses of a network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IpamData {
    /// The gateway with the network's prefix length; empty or absent without one.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) gateway: String,
}

/// A call about a network.
#[derive(Debug, Deserialize)]
pub(super) struct OfNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
}

/// A call about an endpoint: a container in a network.
#[derive(Debug, Deserialize)]
pub(super) struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
    #[serde(default, rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Options,
}

/// An endpoint to make.
#[derive(Debug, Deserialize)]
pub(super) struct CreateEndpoint {
    #[serde(flatten)]
    pub(super) of: OfEndpoint,
    #[serde(default, rename = "Interface", deserialize_with = "or_default")]
    pub(super) interface: Interface,
}

/// The addresses of an endpoint; empty where dockerd leaves the choice.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    #[serde(deserialize_with = "or_default")]
    pub(super) address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "or_default")]
    pub(super) address_ipv6: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) mac_address: String,
}

/// The endpoint, as far as dockerd did not choose it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointMade {
    pub(super) interface: InterfaceMade,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceMade {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mac_address: Option<String>,
}

/// What `docker network inspect` may show of an endpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointInfo {
    pub(super) value: BTreeMap<&'static str, String>,
}

/// What the container gets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<Ipv4Addr>,
    /// dockerd adds no default route either.
    pub(super) disable_gateway_service: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    /// Its name now, in dockerd's namespace.
    pub(super) src_name: String,
    /// How its name begins in the container.
    pub(super) dst_prefix: &'static str,
}

/// A port of a container to publish: `-p`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PortBinding {
    pub(super) proto: u8,
    /// The container's port.
    pub(super) port: u16,
    /// Address of the host; empty for all.
    #[serde(default, rename = "HostIP", deserialize_with = "or_default")]
    pub(super) host_ip: String,
    /// Port of the host; 0 for any.
    #[serde(default)]
    pub(super) host_port: u16,
    /// The last of a range to choose from.
    #[serde(default)]
    pub(super) host_port_end: u16,
}

/// `null` is the same as nothing.
fn or_default<'d, T: Deserialize<'d> + Default, D: Deserializer<'d>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
