//! What a container gets, and how the runtime is told (SPEC.md section 5).

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::config::{Dns, Environment, NetworkConfig};
use super::{Failure, NOT_DECODED};

/// The word for an address that the switch chooses.
const AUTO: &str = "auto";

/// Addresses of an interface that is to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Attachment {
    /// With the lengths of their prefixes, or [`AUTO`].
    pub(super) addresses: Vec<String>,
    /// The gateway that a delegated plugin names.
    gateway: Option<Ipv4Addr>,
    /// Its routes, and how it says that names are resolved.
    routes: Vec<Value>,
    dns: Option<Value>,
}

impl Attachment {
    /// The addresses that the runtime asks for, or one that the switch chooses.
    pub(super) fn chosen_by_the_switch(config: &NetworkConfig, environment: &Environment) -> Attachment {
        let with_prefix = |address: String| match config.prefix_len() {
            Some(len) if !address.contains('/') => format!("{address}/{len}"),
            _ => address,
        };
        let mut addresses: Vec<String> = config.wanted_addresses(environment).into_iter().map(with_prefix).collect();
        if addresses.is_empty() {
            addresses.push(AUTO.to_owned());
        }
        Attachment { addresses, ..Attachment::default() }
    }

    /// What a delegated plugin has given.
    pub(super) fn given(result: &Value) -> Result<Attachment, Failure> {
        let ips = result["ips"].as_array().ok_or_else(|| Failure::new(NOT_DECODED, "the IPAM plugin has given no addresses"))?;
        let addresses = ips.iter().filter_map(|ip| ip["address"].as_str()).map(str::to_owned).collect();
        let gateway = ips.iter().find_map(|ip| ip["gateway"].as_str()?.parse().ok());
        let routes = result["routes"].as_array().cloned().unwrap_or_default();
        Ok(Attachment { addresses, gateway, routes, dns: result.get("dns").filter(|dns| !dns.is_null()).cloned() })
    }

    /// The MAC address that follows from the first IPv4 address that is known; otherwise a random one (locally administered, RFC 7042
    /// section 2.1).
    pub(super) fn mac(&self) -> io::Result<String> {
        if let Some(mac) = self.addresses.iter().find_map(|address| mac_of(address)) {
            return Ok(mac);
        }
        let mut bytes = [0; 5];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let [a, b, c, d, e] = bytes;
        Ok(format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}"))
    }

    /// The gateway with the prefix length of its network.
    pub(super) fn gateway(&self) -> Option<(Ipv4Addr, u8)> {
        let len = self.addresses.iter().find_map(|address| {
            let (address, len) = address.split_once('/')?;
            address.parse::<Ipv4Addr>().ok()?;
            len.parse().ok()
        });
        Some((self.gateway?, len?))
    }
}

/// The MAC address of an interface with this IPv4 address: 02:42 and its bytes, as Docker's.
fn mac_of(address: &str) -> Option<String> {
    let (address, _) = address.split_once('/')?;
    let [a, b, c, d] = address.parse::<Ipv4Addr>().ok()?.octets();
    Some(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
}

/// The result of ADD for the guest that was made.
pub(super) fn of_guest(guest: &Value, config: &NetworkConfig, environment: &Environment, wanted: &Attachment) -> Value {
    let gateway = guest["gateway"].as_str();
    let is_before_1 = config.version.starts_with("0.");
    let ips = guest["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).map(|address| {
        let is_ipv4 = !address.contains(':');
        let mut ip = json!({ "address": address, "interface": 0 });
        if let Some(gateway) = gateway.filter(|_| is_ipv4) {
            ip["gateway"] = json!(gateway);
        }
        if is_before_1 {
            ip["version"] = json!(if is_ipv4 { "4" } else { "6" });
        }
        ip
    });
    let ips: Vec<Value> = ips.collect();
    let mut routes = wanted.routes.clone();
    if let Some(gateway) = gateway.filter(|_| !routes.iter().any(|route| route["dst"] == "0.0.0.0/0")) {
        routes.push(json!({ "dst": "0.0.0.0/0", "gw": gateway }));
    }
    let mut interface = json!({ "name": environment.interface, "mac": guest["mac"].as_str().unwrap_or_default() });
    interface["sandbox"] = json!(environment.namespace().unwrap_or_default());
    if config.version == "1.1.0" && config.mtu != 0 {
        interface["mtu"] = json!(config.mtu);
    }
    let dns = wanted.dns.clone().unwrap_or_else(|| dns(config.dns()));
    json!({ "cniVersion": config.version, "interfaces": [interface], "ips": ips, "routes": routes, "dns": dns })
}

fn dns(dns: &Dns) -> Value {
    let mut object = serde_json::Map::new();
    let lists = [("nameservers", &dns.nameservers), ("search", &dns.search), ("options", &dns.options)];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        object.insert(name.to_owned(), json!(list));
    }
    if !dns.domain.is_empty() {
        object.insert("domain".to_owned(), json!(dns.domain));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_delegate_gives() {
        let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.88.2.5/24", "gateway": "10.88.2.1" }],
            "routes": [{ "dst": "0.0.0.0/0" }], "dns": { "nameservers": ["10.88.2.1"] } });
        let given = Attachment::given(&result).unwrap();
        assert_eq!(given.addresses, ["10.88.2.5/24"]);
        assert_eq!(given.gateway(), Some((Ipv4Addr::new(10, 88, 2, 1), 24)));
        assert_eq!(given.mac().unwrap(), "02:42:0a:58:02:05");
        assert!(Attachment::given(&json!({})).is_err());
        assert_eq!(Attachment::given(&json!({ "ips": [] })).unwrap(), Attachment::default());
    }
}
