//! Addresses of the network that carries tunnels, of either family.

use std::net::IpAddr;

use packet::Prefix;

use crate::problem::Origin;
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{Number, Text};

/// An address block that is written without host bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block(pub(crate) Prefix);

/// The address of another host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remote(pub(crate) IpAddr);

/// An address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Local(pub(crate) IpAddr);

/// The address of a multicast group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GroupAddress(pub(crate) IpAddr);

/// Whether an address is of one link only, so that the link has to be named (RFC 4291 sections 2.5.6 and 2.7).
pub(super) fn is_of_one_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast() && v6.segments()[0] & 0xf <= 2,
    }
}

impl Text for Remote {
    fn parse(text: &str, _: &str, origin: &Origin) -> Result<Remote, String> {
        let address = ip(text, origin)?;
        if address.is_multicast() {
            let (group, key) = (origin.say("group = ", "group="), origin.say("remotes", "remote="));
            let cure =
                format!("use {group}{} with peers instead of {key}", origin.say(&format!("\"{address}\""), &address.to_string()));
            return Err(format!("{address} is a multicast address: {cure}"));
        }
        check_host(address, "name the other host's").map(|()| Remote(address))
    }
}

impl Text for Local {
    fn parse(text: &str, _: &str, origin: &Origin) -> Result<Local, String> {
        let address = ip(text, origin)?;
        if address.is_multicast() {
            return Err(format!("{address} is a multicast address: local is the address of one host"));
        }
        check_host(address, "leave local out for any of this host's").map(|()| Local(address))
    }
}

impl Text for GroupAddress {
    fn parse(text: &str, _: &str, origin: &Origin) -> Result<GroupAddress, String> {
        let address = ip(text, origin)?;
        if address.is_multicast() {
            return Ok(GroupAddress(address));
        }
        let key = origin.say("remotes", "remote=");
        Err(format!("{address} is not in 224.0.0.0/4 or ff00::/8: name a group, or the other hosts with {key}"))
    }
}

/// `ADDR/LEN`, without bits behind the prefix.
impl Text for Block {
    fn parse(text: &str, _: &str, origin: &Origin) -> Result<Block, String> {
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address = ip(address, origin)?;
        let what = "the prefix length";
        let len: u8 = match (len, address) {
            (Some(len), IpAddr::V4(_)) => Number::<0, 32>::of_text(len, what)?.get(),
            (Some(len), IpAddr::V6(_)) => Number::<0, 128>::of_text(len, what)?.get(),
            (None, IpAddr::V4(_)) => 32,
            (None, IpAddr::V6(_)) => 128,
        };
        let prefix = Prefix::new(address, len);
        if prefix.network() != address {
            return Err(format!("{address}/{len} is not the first address of its block: write {prefix}"));
        }
        Ok(Block(prefix))
    }
}

fn check_host(address: IpAddr, cure: &str) -> Result<(), String> {
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Err(format!("{address} is not the address of a host: {cure}")),
        IpAddr::V6(v6) if v6.is_unspecified() => Err(format!("{address} is not the address of a host: {cure}")),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Err(format!("{address} is a reserved address: use one that a host can have")),
        _ => Ok(()),
    }
}

fn ip(text: &str, origin: &Origin) -> Result<IpAddr, String> {
    let said = text.escape_debug();
    Err(match (text.parse::<IpAddr>(), text.split_once('%')) {
        (Ok(IpAddr::V6(v6)), _) => match v6.to_ipv4_mapped() {
            Some(v4) => format!("{text} is an IPv4 address mapped to IPv6: write {v4}"),
            None => return Ok(v6.into()),
        },
        (Ok(address), _) => return Ok(address),
        (Err(_), Some((address, device))) => {
            let (address, device) = (address.escape_debug(), device.escape_debug());
            let in_file = format!("write \"{address}\" and dev = \"{device}\"");
            let as_flag = format!("write {address} and dev={device}");
            format!("the device has a key of its own: {}", origin.say(&in_file, &as_flag))
        }
        (Err(_), None) => format!("'{said}' is not an IP address such as 192.0.2.2 or 2001:db8::2"),
    })
}

#[cfg(test)]
string_schema!(Block, Remote, Local, GroupAddress);

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Result<Block, String> {
        Block::parse(text, "peers", &Origin::Default)
    }

    #[test]
    fn blocks_of_both_families() {
        for (text, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "ffff::", "0.0.0.0"),
        ] {
            let contains = |address: &str| block(text).unwrap().0.contains(address.parse().unwrap());
            assert!(contains(inside) && !contains(outside), "{text}");
        }
        for (text, say) in [
            ("192.0.2.1/24", "192.0.2.1/24 is not the first address of its block: write 192.0.2.0/24"),
            ("2001:db8::1/64", "write 2001:db8::/64"),
            ("192.0.2.0/33", "the prefix length is a number from 0 to 32, not '33'"),
            ("2001:db8::/129", "the prefix length is a number from 0 to 128, not '129'"),
            ("all", "'all' is not an IP address"),
        ] {
            let said = block(text).expect_err(text);
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
