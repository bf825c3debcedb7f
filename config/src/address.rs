//! IPv4 addresses and networks of guests and of the uplink: `10.0.0.1`, `10.0.0.1/24`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use packet::Ipv4Prefix;

use crate::problem::Origin;
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{Number, PairKey, Text};

/// Blocks whose addresses no other host has (RFC 6890 section 2.2.2, RFC 5771).
const NO_HOSTS: [(Ipv4Prefix, &str); 4] = [
    (Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 8), "not the address of a host"),
    (Ipv4Prefix::new(Ipv4Addr::new(127, 0, 0, 0), 8), "a loopback address"),
    (Ipv4Prefix::new(Ipv4Addr::new(224, 0, 0, 0), 4), "a multicast address"),
    (Ipv4Prefix::new(Ipv4Addr::new(240, 0, 0, 0), 4), "a reserved address"),
];

/// An address and the network that it is in (RFC 4632 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// The address, with the bits of the host.
    pub address: Ipv4Addr,
    /// Bits of the network, 1 to 32.
    pub prefix_len: u8,
}

/// A gateway's address: of a network with room for a gateway and a guest, 1 to 30 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GatewayAddress(pub(crate) Cidr);

/// A host's address with its network, 1 to 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostNetwork(pub(crate) Cidr);

/// A host's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostAddress(pub(crate) Ipv4Addr);

/// A network, written without bits of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network(pub(crate) Ipv4Prefix);

impl Cidr {
    /// An address with a prefix length from 1 to 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix_len: u8) -> Cidr {
        Cidr { address, prefix_len }
    }

    /// The network: the address without the bits of the host.
    #[must_use]
    pub const fn network(self) -> Ipv4Prefix {
        Ipv4Prefix::new(self.address, self.prefix_len)
    }
}

/// Why no host in the network can have this address: "the network address", for example. `None` if a host can.
pub(crate) fn not_a_host(network: Ipv4Prefix, address: Ipv4Addr) -> Option<&'static str> {
    match address {
        _ if !network.has_broadcast() => None,
        _ if address == network.network() => Some("the network address"),
        _ if address == network.last() => Some("the broadcast address"),
        _ => None,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_len)
    }
}

impl Text for HostAddress {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<HostAddress, String> {
        host(text).map(HostAddress)
    }
}

impl Text for HostNetwork {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<HostNetwork, String> {
        host_with_network::<32>(text).map(HostNetwork)
    }
}

impl Text for GatewayAddress {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<GatewayAddress, String> {
        host_with_network::<30>(text).map(GatewayAddress)
    }
}

impl Text for Network {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<Network, String> {
        let cidr = with_prefix::<32>(text)?;
        let network = cidr.network();
        if network.network() != cidr.address {
            return Err(format!("{cidr} is an address, not a network: write {network}"));
        }
        check_hosts(network).map(|()| Network(network))
    }
}

impl PairKey for Network {
    const SHAPE: &str = "CIDR@ADDR, such as route=10.244.2.0/24@192.0.2.2";
}

fn host(text: &str) -> Result<Ipv4Addr, String> {
    let Ok(address) = text.parse::<Ipv4Addr>() else {
        let text = text.escape_debug();
        return Err(match text.to_string().parse::<Ipv6Addr>() {
            Ok(_) => format!("'{text}' is an IPv6 address, and the router has IPv4 only: use an address such as 10.0.0.1"),
            Err(_) => format!("'{text}' is not an IPv4 address such as 10.0.0.1"),
        });
    };
    match NO_HOSTS.iter().find(|(block, _)| block.contains(address)) {
        Some((_, what)) => Err(format!("{address} is {what}: use one that a host can have, such as 10.0.0.1")),
        None => Ok(address),
    }
}

fn with_prefix<const LONGEST: i64>(text: &str) -> Result<Cidr, String> {
    let (address, prefix_len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
    let address = host(address)?;
    let Some(prefix_len) = prefix_len else {
        return Err(format!("{address} has no prefix length: add one, such as {address}/24"));
    };
    Ok(Cidr::new(address, Number::<1, LONGEST>::of_text(prefix_len, "the prefix length")?.get()))
}

fn host_with_network<const LONGEST: i64>(text: &str) -> Result<Cidr, String> {
    let cidr = with_prefix::<LONGEST>(text)?;
    let network = cidr.network();
    check_hosts(network)?;
    match not_a_host(network, cidr.address) {
        Some(what) => {
            let host = Cidr { address: network.first_host(), ..cidr };
            Err(format!("{} is {what} of {network}: use another, such as {host}", cidr.address))
        }
        None => Ok(cidr),
    }
}

fn check_hosts(network: Ipv4Prefix) -> Result<(), String> {
    match NO_HOSTS.iter().find(|(block, _)| network.overlaps(*block)) {
        Some((block, _)) => Err(format!("{network} includes {block}, which has no addresses of hosts: use a longer prefix")),
        None => Ok(()),
    }
}

#[cfg(test)]
string_schema!(GatewayAddress, HostNetwork, HostAddress, Network);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_addresses_are_named() {
        for (text, say) in [
            ("10.0.0/24", "'10.0.0' is not an IPv4 address such as 10.0.0.1"),
            ("10.0.0.1", "10.0.0.1 has no prefix length: add one, such as 10.0.0.1/24"),
            ("fe80::1/64", "'fe80::1' is an IPv6 address, and the router has IPv4 only"),
            ("010.0.0.1/24", "'010.0.0.1' is not an IPv4 address"),
            ("0.0.0.0/24", "0.0.0.0 is not the address of a host: use one that a host can have"),
            ("127.0.0.1/24", "127.0.0.1 is a loopback address"),
            ("224.0.0.1/24", "224.0.0.1 is a multicast address"),
            ("255.255.255.255/24", "255.255.255.255 is a reserved address"),
            ("10.0.0.1/", "the prefix length is a number from 1 to 30, not ''"),
            ("10.0.0.1/31", "the prefix length is a number from 1 to 30, not '31'"),
            ("10.0.0.1/1", "0.0.0.0/1 includes 0.0.0.0/8, which has no addresses of hosts: use a longer prefix"),
            ("10.0.0.0/24", "10.0.0.0 is the network address of 10.0.0.0/24: use another, such as 10.0.0.1/24"),
            ("10.0.0.255/24", "10.0.0.255 is the broadcast address of 10.0.0.0/24: use another, such as 10.0.0.1/24"),
        ] {
            let said = host_with_network::<30>(text).expect_err(text);
            assert!(said.contains(say), "{text}: {said}");
        }
    }
}
