//! Parameters and bodies of requests.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Protocol;

/// A path and these parameters, as the target of a request (RFC 3986 section 3.4).
pub fn target(path: &str, parameters: &impl Serialize) -> Result<String, serde_urlencoded::ser::Error> {
    let text = serde_urlencoded::to_string(parameters)?;
    Ok(if text.is_empty() { path.to_owned() } else { format!("{path}?{text}") })
}

/// Which program goes on
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Absolute path of a vswitchd; without it, that of the running one, whose file may have been replaced
    #[serde(default)]
    pub path: Option<String>,
}

/// Whose MAC table
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OfBridge {
    /// Only the table of this bridge
    pub bridge: Option<String>,
}

/// Which MAC entries; all given parameters have to match
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MacFilter {
    /// Behind this port
    pub port: Option<String>,
    /// In this VLAN; 0 for untagged frames
    #[param(maximum = 4094)]
    pub vlan: Option<u16>,
    /// On this bridge
    pub bridge: Option<String>,
}

/// Where a static MAC entry leads
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Name of the port behind which the station is
    pub port: String,
}

/// In which VLAN
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InVlan {
    /// VLAN; 0 or left out for untagged frames
    #[serde(default)]
    #[param(maximum = 4094)]
    pub vlan: u16,
}

/// In which VLAN of which bridge
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InDomain {
    /// VLAN; 0 or left out for untagged frames
    #[serde(default)]
    #[param(maximum = 4094)]
    pub vlan: u16,
    /// Name of the bridge; required if there are several
    pub bridge: Option<String>,
}

/// Which neighbours
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NeighbourFilter {
    /// Only the neighbour with this address
    #[param(value_type = Option<String>, format = "ipv4")]
    pub address: Option<Ipv4Addr>,
}

/// Which connections; all given parameters have to match
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConnectionFilter {
    /// Address of either end, inside or outside
    #[param(value_type = Option<String>, format = "ipv4")]
    pub address: Option<Ipv4Addr>,
    /// Port of either end
    #[param(maximum = 65535)]
    pub port: Option<u16>,
    /// tcp, udp, icmp, or the number of an IP protocol
    #[param(value_type = Option<String>, pattern = "^(tcp|udp|icmp|[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$")]
    pub protocol: Option<Protocol>,
}

// The filter's fields are repeated here: `flatten` would keep the values as text, and numbers could not be read from it.
/// Which connections, and how many of them
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConnectionList {
    /// Address of either end, inside or outside
    #[param(value_type = Option<String>, format = "ipv4")]
    pub address: Option<Ipv4Addr>,
    /// Port of either end
    #[param(maximum = 65535)]
    pub port: Option<u16>,
    /// tcp, udp, icmp, or the number of an IP protocol
    #[param(value_type = Option<String>, pattern = "^(tcp|udp|icmp|[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$")]
    pub protocol: Option<Protocol>,
    /// Maximum number of connections [default: 10,000]; at most 100,000, or 10,000 with read-only access
    #[param(value_type = Option<u64>, maximum = 4294967295u32)]
    pub limit: Option<u32>,
}

/// How many mappings
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MappingList {
    /// Maximum number of mappings [default: 10,000]; at most 100,000, or 10,000 with read-only access
    #[param(value_type = Option<u64>, maximum = 4294967295u32)]
    pub limit: Option<u32>,
}

/// How a configuration is applied
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub struct Apply {
    /// Change nothing, only answer with the difference
    #[serde(default)]
    pub dry_run: bool,
    /// Also remove what verbs own: bridges, guests, and ports with an id
    #[serde(default)]
    pub prune: bool,
    /// Name of the configuration in errors [default: the request]
    pub file: Option<String>,
}

/// A bridge to add
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBridge {
    /// `NAME[:KEY=VALUE...]`, such as `blue:gateway=10.71.0.1/24`
    pub bridge: String,
}

/// New values for keys of a bridge
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeKeys {
    /// `KEY=VALUE[:KEY=VALUE...]`, such as `mac-aging-time=60`; the value `none` takes a key other than `routing` away
    pub keys: String,
}

/// A port to add
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPort {
    /// In the words of `--tap` or `--port`, such as `tap3:vlan=10` or `packet:veth0`
    pub port: String,
}

/// New values for keys of a port
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortKeys {
    /// `KEY=VALUE[:KEY=VALUE...]`, such as `vlan=20:mtu=1400`; the value `none` takes a key away
    pub keys: String,
}

/// A rule that publishes ports
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Rule {
    /// In the words of `--publish`, such as `8080:10.77.0.2:80/tcp`
    pub rule: String,
}

/// A route to add
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRoute {
    /// In the words of `--route`, such as `10.9.0.0/16:via=10.71.0.9:bridge=blue`
    pub route: String,
}

/// A route to remove
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RouteTo {
    /// Its network, such as `10.9.0.0/16`, or all of it in the words of `--route`
    pub to: String,
}

/// A tunnel to add
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTunnel {
    /// In the words of `--vxlan` (with `vni=`) or `--udp`
    pub tunnel: String,
}

/// An imaginary packet
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Imagined {
    /// Its fields, such as `port=tap0,src=10.0.0.2,dst=198.51.100.7,tcp,dport=80`
    pub packet: String,
}

/// Which packets a live trace follows
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Followed {
    /// Number of packets, 1 to 1,000,000
    pub count: u32,
    /// Only packets received on this port
    pub port: Option<String>,
    /// Only packets that match this filter, in the words of tcpdump
    pub filter: Option<String>,
}

/// Which frames are captured
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct Captured {
    /// Only frames of this port [default: any]
    pub port: Option<String>,
    /// Only frames that match this filter, in the words of tcpdump; see docs/capture.md
    pub filter: Option<String>,
    /// Only dropped frames
    pub drops: bool,
    /// Maximum number of bytes captured of each frame [default: all]
    pub snaplen: Option<u32>,
    /// Capture one frame of this many on average, chosen at random [default: 1]
    pub sample: Option<u32>,
    /// End after this many frames
    pub count: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_what_was_given() {
        assert_eq!(target("/v1/fdb", &MacFilter::default()).unwrap(), "/v1/fdb");
        let filter = MacFilter { port: Some("/run/a b&c\u{e9}".to_owned()), vlan: Some(7), bridge: None };
        let target = target("/v1/fdb", &filter).unwrap();
        assert_eq!(target, "/v1/fdb?port=%2Frun%2Fa+b%26c%C3%A9&vlan=7");
        let text = target.split_once('?').unwrap().1;
        assert_eq!(serde_urlencoded::from_str::<MacFilter>(text).unwrap().port, filter.port);
    }
}
