//! What a container gets, and how the runtime is told (SPEC.md section 5).

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Value, json};

use super::config::{Dns, Environment, NetworkConfig};
use super::{Failure, INVALID_CONFIG, NOT_DECODED};

const DEFAULT_ROUTE: &str = "0.0.0.0/0";

/// The word for an address that the switch chooses.
const AUTO: &str = "auto";

/// Addresses of an interface that is to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Requested {
    /// With the lengths of their prefixes, or [`AUTO`].
    pub(super) addresses: Vec<String>,
    /// The gateway that a delegated plugin names.
    gateway: Option<Ipv4Addr>,
    /// How names are resolved, as a delegated plugin says.
    dns: Dns,
}

impl Requested {
    /// The addresses that the runtime asks for, or one that the switch chooses.
    pub(super) fn of(config: &NetworkConfig, environment: &Environment) -> Requested {
        let mut requested = Requested { addresses: config.wanted_addresses(environment), ..Requested::default() };
        requested.complete(config.prefix_len());
        if requested.addresses.is_empty() {
            requested.addresses.push(AUTO.to_owned());
        }
        requested
    }

    /// What a delegated plugin has given.
    pub(super) fn given(result: &Value, config: &NetworkConfig) -> Result<Requested, Failure> {
        let ips = result["ips"].as_array().ok_or_else(|| Failure::new(NOT_DECODED, "the IPAM plugin has given no addresses"))?;
        let addresses = ips.iter().filter_map(|ip| ip["address"].as_str()).map(str::to_owned).collect();
        let gateway = ips.iter().find_map(|ip| ip["gateway"].as_str()?.parse().ok());
        for route in result["routes"].as_array().into_iter().flatten() {
            let by = route["gw"].as_str().and_then(|by| by.parse().ok());
            if route["dst"] != DEFAULT_ROUTE || by.is_some() && by != gateway {
                let text = format!(
                    "the route {route} of IPAM plugin {} cannot be made: only a default route by the gateway can",
                    config.ipam.kind.as_deref().unwrap_or_default()
                );
                return Err(Failure::new(INVALID_CONFIG, text));
            }
        }
        let dns = Dns::deserialize(&result["dns"]).unwrap_or_default();
        Ok(Requested { addresses, gateway, dns })
    }

    /// Gives IPv4 addresses without the length of a prefix this one.
    pub(super) fn complete(&mut self, prefix_len: Option<u8>) {
        let Some(len) = prefix_len else { return };
        for address in self.addresses.iter_mut().filter(|address| address.parse::<Ipv4Addr>().is_ok()) {
            *address = format!("{address}/{len}");
        }
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
}

/// The MAC address of an interface with this IPv4 address: 02:42 and its bytes, as Docker's.
fn mac_of(address: &str) -> Option<String> {
    let (address, _) = address.split_once('/')?;
    let [a, b, c, d] = address.parse::<Ipv4Addr>().ok()?.octets();
    Some(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
}

/// The result of ADD for the guest that was made.
pub(super) fn of_guest(guest: &Value, config: &NetworkConfig, environment: &Environment, requested: &Requested) -> Value {
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
    let route = gateway.map(|gateway| json!({ "dst": DEFAULT_ROUTE, "gw": gateway }));
    let routes: Vec<Value> = route.into_iter().collect();
    let mut interface = json!({ "name": environment.interface, "mac": guest["mac"].as_str().unwrap_or_default() });
    interface["sandbox"] = json!(environment.namespace().unwrap_or_default());
    if config.version == "1.1.0" && config.mtu != 0 {
        interface["mtu"] = json!(config.mtu);
    }
    let dns = dns(Some(config.dns()).filter(|dns| !dns.is_empty()).unwrap_or(&requested.dns));
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
        let config = NetworkConfig::parse(r#"{"name":"n","ipam":{"type":"host-local"}}"#).unwrap();
        let given = |result: &Value| Requested::given(result, &config);
        let one = given(&result).unwrap();
        assert_eq!(
            (one.addresses.as_slice(), one.dns.nameservers.as_slice()),
            (&["10.88.2.5/24".to_owned()][..], &["10.88.2.1".to_owned()][..])
        );
        assert_eq!(one.gateway(), Some((Ipv4Addr::new(10, 88, 2, 1), 24)));
        assert_eq!(one.mac().unwrap(), "02:42:0a:58:02:05");
        assert!(given(&json!({})).is_err());
        assert_eq!(given(&json!({ "ips": [], "dns": {} })).unwrap(), Requested::default());
        for route in
            [json!({ "dst": "10.96.0.0/12" }), json!({ "dst": "::/0" }), json!({ "dst": "0.0.0.0/0", "gw": "10.88.2.9" })]
        {
            let mut other = result.clone();
            other["routes"] = json!([route]);
            assert!(given(&other).unwrap_err().to_json().contains("only a default route"), "{other}");
        }
    }
}
