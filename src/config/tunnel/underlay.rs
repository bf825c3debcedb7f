//! Addresses of the network that carries tunnels, of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::ConfigError;
use crate::config::words::parse_number;

/// An address block of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prefix {
    /// The first address of the block.
    pub(crate) address: IpAddr,
    /// How many of its bits all addresses of the block share: 0 to 32, or 0 to 128.
    pub(crate) len: u8,
}

impl Prefix {
    /// Is this address in the block? One of the other family is not.
    #[cfg(test)]
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        Prefix::around(address, self.len) == self
    }

    fn around(address: IpAddr, len: u8) -> Prefix {
        let len_32 = u32::from(len);
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(len_32)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(len_32)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        };
        Prefix { address, len }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.len)
    }
}

/// An address that one host can have: `key` says whose.
pub(super) fn parse_host(place: &str, key: &str, text: &str) -> Result<IpAddr, ConfigError> {
    let address = parse_ip(place, text)?;
    let problem = match address {
        _ if address.is_multicast() && key == "remote" => {
            format!("{address} is a multicast address: use group={address} with peers= instead")
        }
        _ if address.is_multicast() => format!("{address} is a multicast address: {key} is the address of one host"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => format!("{address} is no host's address: {}", left_out(key)),
        IpAddr::V6(v6) if v6.is_unspecified() => format!("{address} is no host's address: {}", left_out(key)),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => format!("{address} is a reserved address: name one that a host can have"),
        _ => return Ok(address),
    };
    Err(ConfigError::new(place, problem))
}

/// The address of a multicast group.
pub(super) fn parse_group(place: &str, text: &str) -> Result<IpAddr, ConfigError> {
    let address = parse_ip(place, text)?;
    if address.is_multicast() {
        return Ok(address);
    }
    let problem = format!("{address} is not in 224.0.0.0/4 or ff00::/8: name a group, or the other hosts with remote={address}");
    Err(ConfigError::new(place, problem))
}

/// `ADDR/LEN`, without bits behind the prefix.
pub(super) fn parse_prefix(place: &str, text: &str) -> Result<Prefix, ConfigError> {
    let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
    let address = parse_ip(place, address)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let len = match len {
        Some(len) => parse_number(place, "the prefix length", len, 0..=longest)?,
        None => longest,
    };
    let prefix = Prefix::around(address, len);
    if prefix.address != address {
        return Err(ConfigError::new(place, format!("{address}/{len} is not the first address of its block: write {prefix}")));
    }
    Ok(prefix)
}

/// Of one link only (RFC 4291 sections 2.5.6 and 2.7): which one is to be said.
pub(super) fn is_of_one_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast() && v6.segments()[0] & 0xf <= 2,
    }
}

fn left_out(key: &str) -> &'static str {
    match key {
        "local" => "leave local= out for any of this host's",
        _ => "name the other host's",
    }
}

fn parse_ip(place: &str, text: &str) -> Result<IpAddr, ConfigError> {
    let problem = match (text.parse::<IpAddr>(), text.split_once('%')) {
        (Ok(IpAddr::V6(v6)), _) => match v6.to_ipv4_mapped() {
            Some(v4) => format!("{text} is an IPv4 address in IPv6's clothes: write {v4}"),
            None => return Ok(v6.into()),
        },
        (Ok(address), _) => return Ok(address),
        (Err(_), Some((address, device))) => format!("name the device with dev=: write {address} and dev={device}"),
        (Err(_), None) => format!("'{text}' is not an IP address such as 192.0.2.2 or 2001:db8::2"),
    };
    Err(ConfigError::new(place, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_both_families() {
        for (text, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "ffff::", "0.0.0.0"),
        ] {
            let prefix = parse_prefix("here", text).unwrap();
            assert!(prefix.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!prefix.contains(outside.parse().unwrap()), "{text} {outside}");
        }
        for (text, say) in [
            ("192.0.2.1/24", "here: 192.0.2.1/24 is not the first address of its block: write 192.0.2.0/24"),
            ("2001:db8::1/64", "write 2001:db8::/64"),
            ("192.0.2.0/33", "the prefix length is a number from 0 to 32, not '33'"),
            ("2001:db8::/129", "the prefix length is a number from 0 to 128, not '129'"),
            ("all", "'all' is not an IP address"),
        ] {
            let said = parse_prefix("here", text).expect_err(text).to_string();
            assert!(said.contains(say), "{text}: {said}");
        }
    }

    #[test]
    fn which_addresses_need_a_device() {
        for (text, needs) in
            [("fe80::1", true), ("ff02::42", true), ("ff05::42", false), ("2001:db8::1", false), ("169.254.0.1", false)]
        {
            assert_eq!(is_of_one_link(text.parse().unwrap()), needs, "{text}");
        }
    }
}
