//! What a runtime says: the network's configuration, and the environment.
//!
//! containerd sends the values of capabilities with the names of Go's fields (`HostPort`), others with those of the conventions
//! (`hostPort`); lists may be `null`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::result::Requested;
use super::{Failure, INVALID_CONFIG, INVALID_ENVIRONMENT, NOT_DECODED, REFUSED};

/// Begins the ids of guests that this plugin makes.
pub(super) const GUEST: &str = "cni:";

/// The type of IPAM that is the switch's.
pub(super) const OWN_IPAM: &str = "vswitch";

/// Longest name of an interface or a bridge, in bytes.
const LONGEST_NAME: usize = 15;

/// The configuration of a network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkConfig {
    #[serde(default = "usual_version", rename = "cniVersion")]
    pub(super) version: String,
    #[serde(default)]
    pub(super) name: String,
    /// The bridge; the network's name by default.
    network: Option<String>,
    /// The control socket of vswitchd.
    pub(super) socket: Option<PathBuf>,
    /// MTU of interfaces, in bytes; 0 for the device's own.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) mtu: u32,
    /// Containers of the network do not reach each other.
    #[serde(default, deserialize_with = "or_default")]
    port_isolation: bool,
    /// What the network reaches: all, outside or none.
    routing: Option<String>,
    /// The host is a neighbour of the containers.
    host: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ipam: Ipam,
    #[serde(default, deserialize_with = "or_default")]
    runtime_config: RuntimeConfig,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) dns: Dns,
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

/// How addresses are chosen.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Ipam {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    /// The network with its prefix length.
    subnet: Option<String>,
    /// The gateway's address; the first of the network by default.
    gateway: Option<Ipv4Addr>,
}

/// What the capabilities of the plugin bring.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    #[serde(deserialize_with = "or_default")]
    port_mappings: Vec<PortMapping>,
    #[serde(deserialize_with = "or_default")]
    bandwidth: BTreeMap<String, Value>,
    #[serde(deserialize_with = "or_default")]
    ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    mac: String,
    aliases: Value,
    dns: Option<Dns>,
}

/// How names are resolved in the container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Dns {
    #[serde(alias = "Servers", alias = "Nameservers", alias = "servers", deserialize_with = "or_default")]
    pub(super) nameservers: Vec<String>,
    #[serde(alias = "Domain", deserialize_with = "or_default")]
    pub(super) domain: String,
    #[serde(alias = "Searches", alias = "Search", alias = "searches", deserialize_with = "or_default")]
    pub(super) search: Vec<String>,
    #[serde(alias = "Options", deserialize_with = "or_default")]
    pub(super) options: Vec<String>,
}

impl Dns {
    pub(super) fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.domain.is_empty() && self.search.is_empty() && self.options.is_empty()
    }
}

/// A published port.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortMapping {
    #[serde(alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "ContainerPort")]
    container_port: u16,
    #[serde(default, alias = "Protocol", deserialize_with = "or_default")]
    protocol: String,
    #[serde(default, rename = "hostIP", alias = "HostIP", alias = "hostIp", deserialize_with = "or_default")]
    host_ip: String,
}

/// An interface of a container that is to stay.
#[derive(Debug, Deserialize)]
pub(super) struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    interface: String,
}

impl ValidAttachment {
    /// The id of its guest.
    pub(super) fn guest(&self, network: &str) -> String {
        format!("{}{}/{}", guests_of(network), self.container, self.interface)
    }
}

/// Begins the ids of the guests of a network.
pub(super) fn guests_of(network: &str) -> String {
    format!("{GUEST}{network}/")
}

/// A rule in the words of the switch: `[ADDR:]PORT:PORT/PROTOCOL`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    address: Option<Ipv4Addr>,
    host_port: u16,
    container_port: u16,
    protocol: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(out, "{address}:")?;
        }
        write!(out, "{}:{}/{}", self.host_port, self.container_port, self.protocol)
    }
}

impl Rule {
    /// Whether the switch shows a rule for the same port outside as this text: `tcp 8080 -> 10.71.0.2:80`.
    pub(super) fn is_shown_as(&self, text: &str) -> bool {
        let address = self.address.map_or_else(String::new, |address| format!("{address}:"));
        text.starts_with(&format!("{} {address}{} -> ", self.protocol, self.host_port))
    }
}

impl NetworkConfig {
    pub(super) fn parse(text: &str) -> Result<NetworkConfig, Failure> {
        serde_json::from_str(text)
            .map_err(|error| Failure::new(NOT_DECODED, format!("the network's configuration cannot be read: {error}")))
    }

    /// The name of the network's bridge.
    pub(super) fn bridge(&self) -> Result<String, Failure> {
        let name = self.network.as_deref().unwrap_or(&self.name);
        if is_name(name) && name.len() <= LONGEST_NAME {
            return Ok(name.to_owned());
        }
        let text = format!(
            "'{}' is no name of a bridge, which has 1 to {LONGEST_NAME} letters, digits, '_', '.' and '-': add \"network\": \"cni0\", or \
             whichever bridge it is",
            name.escape_debug()
        );
        Err(Failure::new(INVALID_CONFIG, text))
    }

    /// The keys of the bridge, if this network makes it: `:gateway=10.88.1.1/24:routing=all:host=on`.
    pub(super) fn bridge_keys(&self, requested: &Requested) -> Result<String, Failure> {
        let Some((gateway, prefix_len)) = self.gateway()?.or(requested.gateway()) else {
            let text =
                "which addresses has the network? Add \"subnet\": \"10.88.1.0/24\" to ipam, or name a bridge that is there";
            return Err(Failure::new(INVALID_CONFIG, text));
        };
        let mut keys = format!(":gateway={gateway}/{prefix_len}");
        if let Some(routing) = &self.routing {
            if !["all", "outside", "none"].contains(&routing.as_str()) {
                let text = format!("routing is \"all\", \"outside\" or \"none\", not \"{}\"", routing.escape_debug());
                return Err(Failure::new(INVALID_CONFIG, text));
            }
            keys += &format!(":routing={routing}");
        }
        keys += if self.host.unwrap_or(true) { ":host=on" } else { ":host=off" };
        keys += if self.port_isolation { ":isolated=on" } else { "" };
        if self.mtu != 0 {
            keys += &format!(":mtu={}", self.mtu);
        }
        Ok(keys)
    }

    /// The gateway that the configuration says, with the network's prefix length.
    pub(super) fn gateway(&self) -> Result<Option<(Ipv4Addr, u8)>, Failure> {
        let is_own = self.ipam.kind.as_deref().is_none_or(|kind| kind == OWN_IPAM);
        let Some(subnet) = self.ipam.subnet.as_deref().filter(|_| is_own) else {
            return Ok(None);
        };
        let parsed = subnet.split_once('/').and_then(|(address, len)| {
            let (address, len) =
                (address.parse::<Ipv4Addr>().ok()?, len.parse::<u8>().ok().filter(|len| (1..=30).contains(len))?);
            Some((Ipv4Addr::from(u32::from(address) & u32::MAX << (32 - len)), len))
        });
        let Some((network, len)) = parsed else {
            let text = format!("ipam.subnet is an IPv4 network such as 10.88.1.0/24, not '{}'", subnet.escape_debug());
            return Err(Failure::new(INVALID_CONFIG, text));
        };
        Ok(Some((self.ipam.gateway.unwrap_or_else(|| Ipv4Addr::from(u32::from(network) + 1)), len)))
    }

    /// Addresses that the runtime asks for, `ADDR` or `ADDR/LEN`.
    pub(super) fn wanted_addresses(&self, environment: &Environment) -> Vec<String> {
        if self.runtime_config.ips.is_empty() {
            environment.argument("IP").map(str::to_owned).into_iter().collect()
        } else {
            self.runtime_config.ips.clone()
        }
    }

    /// The length of the prefix of its network, if the configuration says it.
    pub(super) fn prefix_len(&self) -> Option<u8> {
        self.gateway().ok()?.map(|(_, len)| len)
    }

    /// The MAC address that the runtime asks for.
    pub(super) fn mac(&self, environment: &Environment) -> Option<String> {
        let mac = Some(self.runtime_config.mac.clone()).filter(|mac| !mac.is_empty());
        mac.or_else(|| environment.argument("MAC").map(str::to_owned))
    }

    /// Published ports. One without a port of the host is not published, as the conventions say.
    pub(super) fn rules(&self) -> Result<Vec<Rule>, Failure> {
        if self.runtime_config.bandwidth.values().any(|value| value.as_u64().is_some_and(|rate| rate > 0)) {
            let text = "a limit of bandwidth cannot be kept: leave the annotation, or the capability \"bandwidth\", out";
            return Err(Failure::new(REFUSED, text));
        }
        self.runtime_config.port_mappings.iter().filter(|mapping| mapping.host_port != 0).map(PortMapping::rule).collect()
    }

    /// Names of the container: that of its pod or container, and its aliases in this network. Those that cannot be names of hosts are
    /// left out.
    pub(super) fn names(&self, environment: &Environment) -> Vec<String> {
        let aliases = match &self.runtime_config.aliases {
            Value::Object(by_network) => by_network.get(&self.name).and_then(Value::as_array),
            Value::Array(aliases) => Some(aliases),
            _ => None,
        };
        let aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
        let mut names: Vec<String> = Vec::new();
        for name in environment.argument("K8S_POD_NAME").into_iter().chain(aliases) {
            if is_host_name(name) && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// How names are resolved: as the runtime says, or the configuration.
    pub(super) fn dns(&self) -> &Dns {
        self.runtime_config.dns.as_ref().filter(|dns| !dns.is_empty()).unwrap_or(&self.dns)
    }

    /// Addresses in the result of ADD, of this interface of the container.
    pub(super) fn previous_addresses(&self, environment: &Environment) -> impl Iterator<Item = &str> {
        let part = |name: &str| self.prev_result.as_ref().and_then(|result| result[name].as_array()).into_iter().flatten();
        let is_own = |interface: &Value| {
            let is_inside = interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty());
            interface["name"] == environment.interface.as_str() && is_inside
        };
        let own = part("interfaces").position(is_own);
        part("ips")
            .filter(move |ip| own.is_some() && ip["interface"].as_u64().map(|at| at as usize) == own)
            .filter_map(|ip| ip["address"].as_str())
    }

    /// The attachments that are to stay, if the runtime says it.
    pub(super) fn valid_attachments(&self) -> Option<&[ValidAttachment]> {
        self.valid_attachments.as_deref()
    }

    /// Checks the network's name, which begins the ids of its guests.
    pub(super) fn check_names(&self) -> Result<(), Failure> {
        if is_name(&self.name) {
            return Ok(());
        }
        let text = format!("'{}' is no name of a network: use letters, digits, '_', '.' and '-'", self.name.escape_debug());
        Err(Failure::new(INVALID_CONFIG, text))
    }
}

impl PortMapping {
    fn rule(&self) -> Result<Rule, Failure> {
        let protocol = if self.protocol.is_empty() { "tcp".to_owned() } else { self.protocol.to_ascii_lowercase() };
        let refused = |what: String| Err(Failure::new(REFUSED, format!("port {} cannot be published: {what}", self.host_port)));
        if protocol != "tcp" && protocol != "udp" {
            return refused(format!("TCP and UDP can be, {} cannot", protocol.escape_debug()));
        }
        let address = match self.host_ip.parse() {
            Err(_) if self.host_ip.is_empty() => None,
            Ok(IpAddr::V4(address)) => Some(address).filter(|address| !address.is_unspecified()),
            Ok(IpAddr::V6(address)) if address.is_unspecified() => None,
            _ => return refused(format!("'{}' is no IPv4 address of the host", self.host_ip.escape_debug())),
        };
        Ok(Rule { address, host_port: self.host_port, container_port: self.container_port, protocol })
    }
}

/// What the environment says of a container.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) container: String,
    pub(super) interface: String,
    namespace: Option<String>,
    arguments: Vec<(String, String)>,
}

impl Environment {
    pub(super) fn of_attachment() -> Result<Environment, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let required = |name: &str| variable(name).ok_or_else(|| Failure::new(INVALID_ENVIRONMENT, format!("{name} is not set")));
        let (container, interface) = (required("CNI_CONTAINERID")?, required("CNI_IFNAME")?);
        if !is_name(&container) {
            let text = format!("CNI_CONTAINERID '{}' is no id of a container", container.escape_debug());
            return Err(Failure::new(INVALID_ENVIRONMENT, text));
        }
        if interface.len() > LONGEST_NAME || interface.contains(['/', ':', '@']) || interface.contains(char::is_whitespace) {
            let text = format!("CNI_IFNAME '{}' is no name of an interface", interface.escape_debug());
            return Err(Failure::new(INVALID_ENVIRONMENT, text));
        }
        let arguments = variable("CNI_ARGS").unwrap_or_default();
        let arguments = arguments.split(';').filter_map(|pair| pair.split_once('='));
        let arguments = arguments.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Environment { container, interface, namespace: variable("CNI_NETNS"), arguments })
    }

    /// The container's namespace.
    pub(super) fn namespace(&self) -> Result<&str, Failure> {
        self.namespace.as_deref().ok_or_else(|| Failure::new(INVALID_ENVIRONMENT, "CNI_NETNS is not set"))
    }

    /// The id of the container's guest in this network. Never the namespace, whose path changes.
    pub(super) fn guest(&self, network: &str) -> String {
        format!("{}{}/{}", guests_of(network), self.container, self.interface)
    }

    fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// A name as the specification has it: of networks and containers.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Labels of letters, digits, hyphens and underscores, with dots between, as the switch takes them.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Versions before 0.3.0 need not be named, and are not spoken.
fn usual_version() -> String {
    "0.1.0".to_owned()
}

/// `null` is the same as nothing.
fn or_default<'d, T: Deserialize<'d> + Default, D: Deserializer<'d>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config_of(text: &str) -> NetworkConfig {
        NetworkConfig::parse(text).unwrap()
    }

    fn config(value: Value) -> NetworkConfig {
        config_of(&value.to_string())
    }

    fn environment(arguments: &str) -> Environment {
        let arguments = arguments.split(';').filter_map(|pair| pair.split_once('='));
        Environment {
            container: "c1".to_owned(),
            interface: "eth0".to_owned(),
            namespace: None,
            arguments: arguments.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    /// As podman writes it, and as containerd does.
    #[test]
    fn both_spellings() {
        for mappings in [
            json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" }, { "hostPort": 0, "containerPort": 1 }]),
            json!([{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": null }]),
        ] {
            let config = config(json!({ "cniVersion": "1.0.0", "name": "n", "runtimeConfig": { "portMappings": mappings } }));
            let rules: Vec<String> = config.rules().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(rules, ["8080:80/tcp"]);
        }
        let runtime = json!({ "portMappings": null, "bandwidth": null, "ips": null, "mac": null, "aliases": null,
            "dns": { "Servers": ["10.0.0.1"], "Searches": ["x"], "Options": null } });
        let nothing = config(json!({ "name": "n", "mtu": null, "ipam": null, "runtimeConfig": runtime }));
        assert!(nothing.rules().unwrap().is_empty());
        assert_eq!(
            (nothing.dns().nameservers.as_slice(), nothing.dns().search.as_slice()),
            (&["10.0.0.1".to_owned()][..], &["x".to_owned()][..])
        );
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let of = |runtime: Value| config(json!({ "name": "n", "runtimeConfig": runtime })).rules().map(|rules| rules.len());
        let said = |runtime| of(runtime).unwrap_err().to_json();
        assert!(
            said(json!({ "portMappings": [{ "hostPort": 1, "containerPort": 1, "protocol": "sctp" }] })).contains("sctp cannot")
        );
        assert!(
            said(json!({ "portMappings": [{ "hostPort": 1, "containerPort": 1, "hostIP": "::1" }] })).contains("no IPv4 address")
        );
        for rate in ["IngressRate", "ingressRate"] {
            assert!(said(json!({ "bandwidth": { rate: 1000 } })).contains("bandwidth cannot be kept"));
        }
        assert_eq!(of(json!({ "bandwidth": { "ingressRate": 0 } })).unwrap(), 0);
    }

    #[test]
    fn names_addresses_and_bridges() {
        let config = config(json!({
            "name": "vsw", "mtu": 1400, "portIsolation": true, "routing": "outside",
            "ipam": { "type": "vswitch", "subnet": "10.88.1.0/24" }, "runtimeConfig": { "aliases": { "vsw": ["web", "no name"], "x": ["y"] } },
        }));
        let environment = environment("IgnoreUnknown=1;K8S_POD_NAME=pod_1;IP=10.88.1.9;MAC=02:00:00:00:00:09");
        assert_eq!(config.names(&environment), ["pod_1", "web"]);
        assert_eq!(config.wanted_addresses(&environment), ["10.88.1.9"]);
        assert_eq!(config.mac(&environment).unwrap(), "02:00:00:00:00:09");
        assert_eq!(environment.guest("vsw"), "cni:vsw/c1/eth0");
        assert!(config_of(r#"{"name":"a/b"}"#).check_names().is_err() && config_of("{}").check_names().is_err());
        assert!(config_of(r#"{"name":"x:mtu=576"}"#).bridge().is_err());
        let keys = config.bridge_keys(&Requested::default()).unwrap();
        assert_eq!(keys, ":gateway=10.88.1.1/24:routing=outside:host=on:isolated=on:mtu=1400");
        let bad = |text: &str| config_of(text).bridge_keys(&Requested::default()).unwrap_err().to_json();
        assert!(bad(r#"{"name":"n","ipam":{"type":"vswitch","subnet":"10.88.1.0"}}"#).contains("ipam.subnet is an IPv4 network"));
        assert!(bad(r#"{"name":"n"}"#).contains("which addresses has the network?"));
        assert!(bad(r#"{"name":"n","ipam":{"subnet":"10.88.1.0/24"},"routing":"x:host=on"}"#).contains("routing is"));
        assert!(config_of(r#"{"name":"a-long-name-of-a-network"}"#).bridge().unwrap_err().to_json().contains("1 to 15 letters"));
    }

    #[test]
    fn a_rule_is_known_by_its_port_outside() {
        let rule = Rule { address: None, host_port: 80, container_port: 8080, protocol: "tcp".to_owned() };
        assert!(rule.is_shown_as("tcp 80 -> 10.0.0.2:8080"));
        assert!(!rule.is_shown_as("tcp 8080 -> 10.0.0.2:80") && !rule.is_shown_as("udp 80 -> 10.0.0.2:80"));
    }
}
