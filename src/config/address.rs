//! IPv4 addresses and networks as people write them: `10.0.0.1`, `10.0.0.1/24`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::ConfigError;
use super::words::parse_number;

/// Where a network has an address of its own and one for broadcasts. In one of 31 bits both are hosts'
/// (RFC 3021), and one of 32 is a single host.
const LAST_PREFIX_WITH_BROADCAST: u8 = 30;

/// Blocks that no host beyond this one has addresses from (RFC 6890 section 2.2.2, RFC 5771).
const NO_HOSTS: [(Cidr, &str); 4] = [
    (Cidr::new(Ipv4Addr::UNSPECIFIED, 8), "no host's address"),
    (Cidr::new(Ipv4Addr::new(127, 0, 0, 0), 8), "a loopback address"),
    (Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4), "a multicast address"),
    (Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 4), "a reserved address"),
];

/// An address and the network that it is in (RFC 4632 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cidr {
    pub(crate) address: Ipv4Addr,
    /// How many of its bits are the network's, 1 to 32.
    pub(crate) prefix_len: u8,
}

impl Cidr {
    /// Of a prefix length that was checked.
    pub(crate) const fn new(address: Ipv4Addr, prefix_len: u8) -> Cidr {
        Cidr { address, prefix_len }
    }

    /// The network itself: the address without the bits that tell its hosts apart.
    pub(crate) fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// The last address of the network.
    pub(crate) fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// Is this address in the network?
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network().to_bits()
    }

    /// Is any address in both networks?
    pub(crate) fn overlaps(self, other: Cidr) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// The network as it is written: `10.0.0.0/24`.
    pub(crate) fn block(self) -> Cidr {
        Cidr { address: self.network(), ..self }
    }

    /// An address that a host can have here, for examples.
    pub(super) fn first_host(self) -> Ipv4Addr {
        let beyond = u32::from(self.prefix_len <= LAST_PREFIX_WITH_BROADCAST);
        Ipv4Addr::from_bits(self.network().to_bits() + beyond)
    }

    /// Why no host can have this address of the network, if none can.
    pub(super) fn not_a_host(self, address: Ipv4Addr) -> Option<&'static str> {
        if self.prefix_len > LAST_PREFIX_WITH_BROADCAST {
            return None;
        }
        match address {
            _ if address == self.network() => Some("the network address"),
            _ if address == self.broadcast() => Some("the broadcast address"),
            _ => None,
        }
    }

    fn mask(self) -> u32 {
        let host_bits = u32::BITS.saturating_sub(u32::from(self.prefix_len));
        u32::MAX.checked_shl(host_bits).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_len)
    }
}

/// A host's address.
pub(super) fn parse_address(place: &str, text: &str) -> Result<Ipv4Addr, ConfigError> {
    let Ok(address) = text.parse() else {
        return Err(ConfigError::new(
            place,
            match text.parse::<Ipv6Addr>() {
                Ok(_) => format!("'{text}' is an IPv6 address; the router knows IPv4 alone"),
                Err(_) => format!("'{text}' is not an IPv4 address such as 10.0.0.1"),
            },
        ));
    };
    match NO_HOSTS.iter().find(|(block, _)| block.contains(address)) {
        Some((_, what)) => {
            Err(ConfigError::new(place, format!("{address} is {what}: name one that a host can have, such as 10.0.0.1")))
        }
        None => Ok(address),
    }
}

/// A host's address with its network.
pub(super) fn parse_cidr(place: &str, text: &str, prefix: RangeInclusive<u8>) -> Result<Cidr, ConfigError> {
    let Some((address, prefix_len)) = text.split_once('/') else {
        let address = parse_address(place, text)?;
        return Err(ConfigError::new(place, format!("{address} has no prefix length: add one, such as {address}/24")));
    };
    let address = parse_address(place, address)?;
    let cidr = Cidr::new(address, parse_number(place, "the prefix length", prefix_len, prefix)?);
    if let Some((block, _)) = NO_HOSTS.iter().find(|(block, _)| cidr.overlaps(*block)) {
        let problem = format!("{} takes in {block}, where no hosts are: make the prefix longer", cidr.block());
        return Err(ConfigError::new(place, problem));
    }
    if let Some(what) = cidr.not_a_host(address) {
        let host = Cidr { address: cidr.first_host(), ..cidr };
        return Err(ConfigError::new(place, format!("{address} is {what} of {}: use another, such as {host}", cidr.block())));
    }
    Ok(cidr)
}

/// A network that hosts are in, as it is written: without bits that would tell them apart.
pub(super) fn parse_network(place: &str, text: &str) -> Result<Cidr, ConfigError> {
    let (address, prefix_len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
    let address = parse_address(place, address)?;
    let prefix_len = match prefix_len {
        Some(len) => parse_number(place, "the prefix length", len, 1..=32)?,
        None => return Err(ConfigError::new(place, format!("{address} has no prefix length: add one, such as {address}/24"))),
    };
    let cidr = Cidr::new(address, prefix_len);
    if cidr.block() != cidr {
        return Err(ConfigError::new(place, format!("{cidr} is an address, not a network: write {}", cidr.block())));
    }
    if let Some((block, _)) = NO_HOSTS.iter().find(|(block, _)| cidr.overlaps(*block)) {
        return Err(ConfigError::new(place, format!("{cidr} takes in {block}, where no hosts are: make the prefix longer")));
    }
    Ok(cidr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        parse_cidr("here", text, 1..=32).unwrap()
    }

    #[test]
    fn networks_of_literal_addresses() {
        for (text, network, broadcast) in [
            ("10.0.0.1/24", [10, 0, 0, 0], [10, 0, 0, 255]),
            ("10.77.130.9/18", [10, 77, 128, 0], [10, 77, 191, 255]),
            ("192.0.2.5/30", [192, 0, 2, 4], [192, 0, 2, 7]),
            ("192.0.2.5/31", [192, 0, 2, 4], [192, 0, 2, 5]),
            ("192.0.2.5/32", [192, 0, 2, 5], [192, 0, 2, 5]),
        ] {
            let cidr = cidr(text);
            assert_eq!((cidr.network(), cidr.broadcast()), (network.into(), broadcast.into()), "{text}");
            assert_eq!(cidr.to_string(), text);
        }
    }

    #[test]
    fn overlap_is_mutual() {
        for (one, other, overlap) in [
            ("10.0.0.1/24", "10.0.0.200/24", true),
            ("10.0.0.1/24", "10.0.0.200/25", true),
            ("10.0.0.1/24", "10.200.0.1/8", true),
            ("10.0.0.1/24", "10.0.0.77/32", true),
            ("10.0.0.1/25", "10.0.0.129/25", false),
            ("10.0.0.1/24", "10.0.1.1/24", false),
        ] {
            assert_eq!(cidr(one).overlaps(cidr(other)), overlap, "{one} {other}");
            assert_eq!(cidr(other).overlaps(cidr(one)), overlap, "{other} {one}");
        }
    }

    #[test]
    fn bad_addresses_are_named() {
        for (text, say) in [
            ("10.0.0/24", "here: '10.0.0' is not an IPv4 address such as 10.0.0.1"),
            ("10.0.0.1", "10.0.0.1 has no prefix length: add one, such as 10.0.0.1/24"),
            ("fe80::1/64", "'fe80::1' is an IPv6 address; the router knows IPv4 alone"),
            ("010.0.0.1/24", "'010.0.0.1' is not an IPv4 address"),
            ("0.0.0.0/24", "0.0.0.0 is no host's address: name one that a host can have"),
            ("127.0.0.1/24", "127.0.0.1 is a loopback address"),
            ("224.0.0.1/24", "224.0.0.1 is a multicast address"),
            ("255.255.255.255/24", "255.255.255.255 is a reserved address"),
            ("10.0.0.1/", "the prefix length is a number from 1 to 30, not ''"),
            ("10.0.0.1/31", "the prefix length is a number from 1 to 30, not '31'"),
            ("10.0.0.1/1", "0.0.0.0/1 takes in 0.0.0.0/8, where no hosts are: make the prefix longer"),
            ("10.0.0.0/24", "10.0.0.0 is the network address of 10.0.0.0/24: use another, such as 10.0.0.1/24"),
            ("10.0.0.255/24", "10.0.0.255 is the broadcast address of 10.0.0.0/24: use another, such as 10.0.0.1/24"),
        ] {
            let said = parse_cidr("here", text, 1..=30).expect_err(text).to_string();
            assert!(said.contains(say), "{text}: {said}");
        }
    }
}
