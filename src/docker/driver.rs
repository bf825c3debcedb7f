//! The calls of dockerd, each one change of the configuration.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::RefusalKind;
use config::{Docker, GuestWords};

use super::options::bridge_keys;
use super::protocol::{
    CreateEndpoint, CreateNetwork, EndpointInfo, EndpointMade, InterfaceMade, InterfaceName, Joined, Nothing, OfEndpoint,
    OfNetwork, PORT_MAP, PortBinding, TCP, UDP,
};
use crate::control_socket::{Asker, BUSY, Query, Verb};

/// Begins the ids of guests that are endpoints.
pub(super) const GUEST: &str = "docker:";

/// Begins the names of bridges that are networks, as of those that Docker itself makes.
const BRIDGE: &str = "br-";

/// Digits of a network's id in the name of its bridge.
const DIGITS: usize = 12;

/// The label of a guest with the id of its network.
pub(super) const NETWORK_LABEL: &str = "docker.network";

/// All IPv6 addresses of the host.
const ANY_IPV6: &str = "::";

/// How the name of an interface begins in a container.
const PREFIX: &str = "eth";

/// What the driver asks of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network {
    /// The gateway of untagged frames.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// It reaches no other network.
    pub(crate) is_internal: bool,
}

/// The driver.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    asker: Asker,
    config: Arc<Docker>,
}

impl Driver {
    pub(super) fn new(asker: Asker, config: Docker) -> Driver {
        Driver { asker, config: Arc::new(config) }
    }

    pub(super) async fn create_network(&self, call: CreateNetwork) -> Result<Nothing, String> {
        let bridge = bridge_of(&call.network)?;
        let gateway = match &call.ipv4[..] {
            [] => String::new(),
            [ipam] if ipam.gateway.is_empty() => String::new(),
            [ipam] => format!(":gateway={}", cidr(&ipam.gateway)?),
            _ => return Err("a network has one IPv4 subnet: leave the others out".to_owned()),
        };
        let words = format!("{bridge}{gateway}{}", bridge_keys(&call.options, &self.config)?);
        match self.asker.ask_change(Verb::AddBridge(words.clone())).await {
            // dockerd repeats a call whose answer was lost.
            Err(refusal) if refusal.in_the_way.as_deref() == Some(bridge.as_str()) => {
                self.change(Verb::DeleteBridge(bridge)).await?;
                self.change(Verb::AddBridge(words)).await
            }
            made => made.map(|_| Nothing {}).map_err(|refusal| refusal.text),
        }
    }

    /// Also removes guests whose own removal was lost.
    pub(super) async fn delete_network(&self, call: OfNetwork) -> Result<Nothing, String> {
        let bridge = bridge_of(&call.network)?;
        for guest in self.guests().await? {
            if guest.network == bridge && guest.id.starts_with(GUEST) {
                self.change(Verb::DeleteGuest(guest.id)).await?;
            }
        }
        match self.asker.ask_change(Verb::DeleteBridge(bridge)).await {
            // It is gone already.
            Err(refusal) if refusal.kind == RefusalKind::NotFound => Ok(Nothing {}),
            changed => changed.map(|_| Nothing {}).map_err(|refusal| refusal.text),
        }
    }

    pub(super) async fn create_endpoint(&self, call: CreateEndpoint) -> Result<EndpointMade, String> {
        let network = bridge_of(&call.of.network)?;
        self.network(&network).await?;
        let addresses = [call.interface.address, call.interface.address_ipv6].into_iter().filter(|address| !address.is_empty());
        let addresses: Vec<String> = addresses.collect();
        let is_given = !call.interface.mac_address.is_empty();
        let mac = if is_given { Some(call.interface.mac_address) } else { addresses.iter().find_map(|address| mac_of(address)) };
        let words = GuestWords {
            network: Some(network),
            mac: mac.clone(),
            addresses: Some(addresses),
            labels: Some(vec![(NETWORK_LABEL.to_owned(), call.of.network)]),
            ..GuestWords::default()
        };
        let id = guest_of(&call.of.endpoint)?;
        // Docker's IPAM is the authority: who has the address in its network, has been forgotten.
        self.change(Verb::AddGuestInstead { prefix: GUEST, id, words }).await?;
        Ok(EndpointMade { interface: InterfaceMade { mac_address: mac.filter(|_| !is_given) } })
    }

    pub(super) async fn delete_endpoint(&self, call: OfEndpoint) -> Result<Nothing, String> {
        self.change(Verb::DeleteGuest(guest_of(&call.endpoint)?)).await
    }

    pub(super) async fn endpoint_info(&self, call: OfEndpoint) -> Result<EndpointInfo, String> {
        let guest = self.guest(&call.endpoint).await?;
        Ok(EndpointInfo { value: BTreeMap::from([("vswitch.port", guest.port)]) })
    }

    pub(super) async fn join(&self, call: OfEndpoint) -> Result<Joined, String> {
        let guest = self.guest(&call.endpoint).await?;
        let network = self.network(&guest.network).await?;
        let gateway = network.gateway.filter(|_| !network.is_internal);
        let interface_name = InterfaceName { src_name: guest.interface, dst_prefix: PREFIX };
        Ok(Joined { interface_name, gateway, disable_gateway_service: gateway.is_none() })
    }

    /// An internal network publishes nothing.
    pub(super) async fn publish(&self, call: OfEndpoint) -> Result<Nothing, String> {
        let bindings = bindings(&call)?;
        if bindings.is_empty() || self.network(&bridge_of(&call.network)?).await?.is_internal {
            return Ok(Nothing {});
        }
        // Newer engines name both families.
        let of_ipv4: HashSet<(u8, u16)> =
            bindings.iter().filter(|binding| binding.host_ip != ANY_IPV6).map(|binding| (binding.proto, binding.port)).collect();
        let is_beside = |binding: &&PortBinding| binding.host_ip == ANY_IPV6 && of_ipv4.contains(&(binding.proto, binding.port));
        let rules =
            bindings.iter().filter(|binding| !is_beside(binding)).map(|binding| rule(binding, self.config.publish_default));
        self.set_rules(&call.endpoint, rules.collect::<Result<_, _>>()?).await
    }

    pub(super) async fn unpublish(&self, call: OfEndpoint) -> Result<Nothing, String> {
        let id = guest_of(&call.endpoint)?;
        match self.guests().await?.into_iter().find(|guest| guest.id == id) {
            Some(guest) if !guest.publish.is_empty() => self.set_rules(&call.endpoint, Vec::new()).await,
            // It is gone, or has none.
            _ => Ok(Nothing {}),
        }
    }

    async fn set_rules(&self, endpoint: &str, rules: Vec<String>) -> Result<Nothing, String> {
        let words = GuestWords { publish: Some(rules), ..GuestWords::default() };
        self.change(Verb::SetGuest(guest_of(endpoint)?, words)).await
    }

    async fn change(&self, verb: Verb) -> Result<Nothing, String> {
        self.asker.ask_change(verb).await.map(|_| Nothing {}).map_err(|refusal| refusal.text)
    }

    pub(super) async fn delete_guest(&self, id: &str) -> Result<Nothing, String> {
        self.change(Verb::DeleteGuest(id.to_owned())).await
    }

    pub(super) async fn guests(&self) -> Result<Vec<api::Guest>, String> {
        self.asker.ask(Query::Guests).await.ok_or_else(busy)
    }

    async fn guest(&self, endpoint: &str) -> Result<api::Guest, String> {
        let id = guest_of(endpoint)?;
        let found = self.guests().await?.into_iter().find(|guest| guest.id == id);
        found.ok_or_else(|| format!("the switch has no guest {id}: it has lost its state; start the container again"))
    }

    async fn network(&self, bridge: &str) -> Result<Network, String> {
        let asked = self.asker.ask(|reply| Query::Network { bridge: bridge.to_owned(), reply });
        asked.await.ok_or_else(busy)?.ok_or_else(|| {
            format!(
                "the switch has no bridge {bridge}: it has lost its state, or 'bridge del' has removed it; remove Docker's network and \
                 create it again"
            )
        })
    }
}

fn busy() -> String {
    BUSY.to_owned()
}

/// The name of a network's bridge.
pub(super) fn bridge_of(network: &str) -> Result<String, String> {
    let digits = network.get(..DIGITS).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    digits.map(|digits| format!("{BRIDGE}{digits}")).ok_or_else(|| format!("'{}' is no id of a network", network.escape_debug()))
}

/// The id of an endpoint's guest.
fn guest_of(endpoint: &str) -> Result<String, String> {
    let is_id = !endpoint.is_empty() && endpoint.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_id { Ok(format!("{GUEST}{endpoint}")) } else { Err(format!("'{}' is no id of an endpoint", endpoint.escape_debug())) }
}

/// A gateway's address with the length of its prefix.
fn cidr(text: &str) -> Result<String, String> {
    let parsed = text.split_once('/').and_then(|(address, len)| {
        let (address, len): (Ipv4Addr, u8) = (address.parse().ok()?, len.parse().ok()?);
        Some(format!("{address}/{len}"))
    });
    parsed.ok_or_else(|| format!("'{}' is no address with the length of its prefix", text.escape_debug()))
}

/// The MAC address that Docker gives an interface with this IPv4 address: 02:42 and its bytes.
fn mac_of(address: &str) -> Option<String> {
    let (address, _) = address.split_once('/')?;
    let [a, b, c, d] = address.parse::<Ipv4Addr>().ok()?.octets();
    Some(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
}

fn bindings(call: &OfEndpoint) -> Result<Vec<PortBinding>, String> {
    let Some(list) = call.options.get(PORT_MAP).filter(|list| !list.is_null()) else { return Ok(Vec::new()) };
    serde_json::from_value(list.clone()).map_err(|error| format!("the published ports cannot be read: {error}"))
}

/// A rule in the words of `guest set --publish`: `[ADDR:]PORT[-PORT]:PORT/PROTOCOL`.
fn rule(binding: &PortBinding, default: Option<Ipv4Addr>) -> Result<String, String> {
    let PortBinding { proto, port, host_ip, host_port, host_port_end } = binding;
    let protocol = match *proto {
        TCP => "tcp",
        UDP => "udp",
        _ => return Err(format!("port {port} cannot be published: TCP and UDP can be, other protocols cannot")),
    };
    let address = match host_ip.parse() {
        Ok(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
        Ok(IpAddr::V6(address)) => {
            return Err(format!("port {port} cannot be published on {address}: only IPv4 addresses can be used"));
        }
        Ok(IpAddr::V4(_)) => None,
        Err(_) if host_ip.is_empty() => default,
        Err(_) => return Err(format!("'{}' is no address to publish port {port} on", host_ip.escape_debug())),
    };
    let address = address.map_or_else(String::new, |address| format!("{address}:"));
    let ports = if host_port_end > host_port { format!("{host_port}-{host_port_end}") } else { host_port.to_string() };
    Ok(format!("{address}{ports}:{port}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_ids() {
        assert_eq!(bridge_of("c1ff5e0d2a91aabbccdd").unwrap(), "br-c1ff5e0d2a91");
        assert!(bridge_of("c1ff").is_err() && bridge_of("c1ff5e0d2a/1aabb").is_err());
        assert_eq!(guest_of("78d5").unwrap(), "docker:78d5");
        assert!(guest_of("").is_err() && guest_of("78 d5").is_err());
        assert_eq!(mac_of("10.71.0.3/24").unwrap(), "02:42:0a:47:00:03");
        assert_eq!(mac_of("fd00::3/64"), None);
    }

    #[test]
    fn bindings_become_rules() {
        let of = |json: serde_json::Value| rule(&serde_json::from_value(json).unwrap(), None);
        let binding = |host_ip: &str, first: u16, last: u16| {
            of(serde_json::json!({ "Proto": 6, "IP": "", "Port": 80, "HostIP": host_ip, "HostPort": first, "HostPortEnd": last }))
        };
        for (host_ip, first, last, expected) in [
            ("", 8080, 8080, "8080:80/tcp"),
            ("0.0.0.0", 8080, 8080, "8080:80/tcp"),
            ("192.0.2.1", 8080, 8080, "192.0.2.1:8080:80/tcp"),
            ("", 0, 0, "0:80/tcp"),
            ("", 8000, 8010, "8000-8010:80/tcp"),
        ] {
            assert_eq!(binding(host_ip, first, last).unwrap(), expected);
        }
        assert!(binding("::1", 8080, 8080).unwrap_err().contains("only IPv4"));
        assert!(of(serde_json::json!({ "Proto": 132, "Port": 80 })).unwrap_err().contains("TCP and UDP can be"));
        assert_eq!(of(serde_json::json!({ "Proto": 17, "Port": 53, "HostIP": null })).unwrap(), "0:53/udp");
    }
}
