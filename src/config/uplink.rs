//! The uplink: the host's interface that leads outside, and what it is to the bridges.

use std::fmt;
use std::net::Ipv4Addr;

use vswitch::BridgeId;

use super::address::{Cidr, parse_address, parse_cidr};
use super::bridge::{BRIDGE, find, unknown_bridge};
use super::words::{check_name, unknown};
use super::{BridgedUplink, ConfigError, PortConfig};
use crate::cli::{BridgeWords, Flags};

const MODES: [&str; 2] = ["nat", "bridge"];

/// What the flags say of the way out.
#[derive(Debug)]
pub(super) enum Uplink {
    /// There is none.
    None,
    /// The interface is one more port of a bridge.
    Bridge(BridgedUplink),
    /// The router translates and sends through it.
    Nat(UplinkConfig),
}

/// An uplink of the router, in `nat` mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UplinkConfig {
    /// The host's interface.
    pub(crate) interface: String,
    /// The router's own addresses, with a MAC address of its own; none if it shares the host's.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// Of the own addresses, 1 to 32; 0 if there is none.
    pub(crate) prefix_len: u8,
    /// The next hop beyond the uplink's network; `None` leaves it to the host's routes.
    pub(crate) gateway: Option<Ipv4Addr>,
}

impl UplinkConfig {
    /// The network of the own addresses; `None` if the host's address is shared.
    pub(crate) fn network(&self) -> Option<Cidr> {
        self.addresses.first().map(|address| Cidr::new(*address, self.prefix_len))
    }
}

/// `eth0: nat by 198.51.100.3/24 and 1 more`.
impl fmt::Display for UplinkConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: nat by ", self.interface)?;
        match self.network() {
            Some(first) => write!(out, "{first}")?,
            None => out.write_str("the host's own address")?,
        }
        if let more @ 1.. = self.addresses.len().saturating_sub(1) {
            write!(out, " and {more} more")?;
        }
        match self.gateway {
            Some(gateway) => write!(out, ", gateway {gateway}"),
            None => Ok(()),
        }
    }
}

/// `--uplink` and what belongs to it.
pub(super) fn parse_uplink(flags: &Flags, words: &[BridgeWords], ports: &[PortConfig]) -> Result<Uplink, ConfigError> {
    let mode = flags.uplink_mode.as_deref();
    if let Some(mode) = mode.filter(|mode| !MODES.contains(mode)) {
        return Err(ConfigError::new("--uplink-mode", unknown("mode", mode, &MODES)));
    }
    let Some(interface) = &flags.uplink else {
        let lonely = [("--uplink-mode", mode.is_some())].into_iter().chain(for_nat(flags)).find(|(_, given)| *given);
        return match lonely {
            Some((flag, _)) => Err(ConfigError::new(flag, "there is no uplink: name its interface, such as --uplink eth0")),
            None => Ok(Uplink::None),
        };
    };
    check_interface(interface, ports)?;
    if mode == Some("bridge") {
        return match for_nat(flags).into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(ConfigError::new(
                flag,
                "an uplink in bridge mode is a plain port, nothing is translated: leave this flag out, or use --uplink-mode nat",
            )),
            None => Ok(Uplink::Bridge(BridgedUplink { interface: interface.clone(), bridge: parse_bridge(flags, words)? })),
        };
    }
    if flags.uplink_bridge.is_some() {
        let problem = "an uplink in nat mode is that of all bridges: leave bridge out, or use mode = \"bridge\"";
        return Err(ConfigError::new("--uplink-bridge", problem));
    }
    parse_nat_uplink(flags, interface.clone()).map(Uplink::Nat)
}

/// Which bridge an uplink in bridge mode is a port of.
fn parse_bridge(flags: &Flags, words: &[BridgeWords]) -> Result<BridgeId, ConfigError> {
    let names = words.iter().map(|bridge| bridge.name.as_str());
    match &flags.uplink_bridge {
        Some(name) => find(words, name).ok_or_else(|| ConfigError::new("--uplink-bridge", unknown_bridge(name, names))),
        None => find(words, BRIDGE).ok_or_else(|| {
            let first = names.clone().next().unwrap_or(BRIDGE);
            let problem = format!("which bridge is the uplink a port of? There is no {BRIDGE}: add bridge = \"{first}\"");
            ConfigError::new("--uplink-mode", problem)
        }),
    }
}

/// The flags that say something of translation, and whether they are given.
fn for_nat(flags: &Flags) -> [(&'static str, bool); 4] {
    [
        ("--uplink-address", flags.uplink_address.is_some()),
        ("--uplink-gateway", flags.uplink_gateway.is_some()),
        ("--publish", !flags.publish.is_empty()),
        ("--nat", !flags.nat.is_empty()),
    ]
}

fn check_interface(name: &str, ports: &[PortConfig]) -> Result<(), ConfigError> {
    check_name("--uplink", "an uplink", name)?;
    // In another namespace it is another interface.
    if let Some(port) = ports.iter().find(|port| port.link() == Some((name, None))) {
        let what = if port.shared_interface().is_some() { "a port" } else { "a TAP port" };
        let problem = format!("{name} is {what} of the bridge: name the host's interface that leads outside");
        return Err(ConfigError::new("--uplink", problem));
    }
    Ok(())
}

fn parse_nat_uplink(flags: &Flags, interface: String) -> Result<UplinkConfig, ConfigError> {
    let (addresses, prefix_len) = match &flags.uplink_address {
        Some(list) => parse_own_addresses(list)?,
        None => (Vec::new(), 0),
    };
    let mut uplink = UplinkConfig { interface, addresses, prefix_len, gateway: None };
    if let Some(text) = &flags.uplink_gateway {
        uplink.gateway = Some(parse_next_hop(text, &uplink)?);
    }
    Ok(uplink)
}

/// `CIDR[,ADDR...]`, all of one network.
fn parse_own_addresses(list: &str) -> Result<(Vec<Ipv4Addr>, u8), ConfigError> {
    let place = format!("--uplink-address {list}");
    let mut texts = list.split(',');
    let first = parse_cidr(&place, texts.next().unwrap_or_default(), 1..=32)?;
    let mut addresses = vec![first.address];
    for text in texts {
        if let Some((address, _)) = text.split_once('/') {
            let problem = format!("only the first address has a prefix length, and it holds for all: write {address}");
            return Err(ConfigError::new(place, problem));
        }
        let address = parse_address(&place, text)?;
        check_on_link(&place, address, first)?;
        if addresses.contains(&address) {
            return Err(ConfigError::new(place, format!("{address} is named twice")));
        }
        addresses.push(address);
    }
    Ok((addresses, first.prefix_len))
}

fn parse_next_hop(text: &str, uplink: &UplinkConfig) -> Result<Ipv4Addr, ConfigError> {
    let place = format!("--uplink-gateway {text}");
    let gateway = parse_address(&place, text)?;
    if uplink.addresses.contains(&gateway) {
        return Err(ConfigError::new(place, format!("{gateway} is an own address: name the next router's")));
    }
    // A single address has no neighbours in its network, so its gateway is outside of it.
    match uplink.network().filter(|network| network.prefix_len < 32) {
        Some(network) => check_on_link(&place, gateway, network).map(|()| gateway),
        None => Ok(gateway),
    }
}

fn check_on_link(place: &str, address: Ipv4Addr, network: Cidr) -> Result<(), ConfigError> {
    let problem = match network.not_a_host(address) {
        _ if !network.contains(address) => format!("{address} is not in {}, the uplink's network", network.block()),
        Some(what) => format!("{address} is {what} of {}", network.block()),
        None => return Ok(()),
    };
    Err(ConfigError::new(place, format!("{problem}: name one that a host can have there")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bridge::words_of;
    use crate::config::port::parse_tap;

    fn uplink(flags: &Flags) -> Result<Uplink, String> {
        let ports = ["tap0", "eth7@blue"].map(|tap| parse_tap(tap).unwrap());
        parse_uplink(flags, &words_of(flags), &ports).map_err(|error| error.to_string())
    }

    /// Interface, address and gateway; what is empty is not given.
    fn nat(interface: &str, address: &str, gateway: &str) -> Result<UplinkConfig, String> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let flags = Flags {
            uplink: Some(interface.to_owned()),
            uplink_address: given(address),
            uplink_gateway: given(gateway),
            ..Flags::default()
        };
        match uplink(&flags)? {
            Uplink::Nat(uplink) => Ok(uplink),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_and_summaries() {
        for (interface, address, gateway, say) in [
            ("eth0", "", "", "eth0: nat by the host's own address"),
            ("eth0", "", "192.0.2.1", "eth0: nat by the host's own address, gateway 192.0.2.1"),
            ("eth7", "198.51.100.3/24", "", "eth7: nat by 198.51.100.3/24"),
            ("eth0", "198.51.100.3/24,198.51.100.4", "", "eth0: nat by 198.51.100.3/24 and 1 more"),
            ("eth0", "198.51.100.2/31", "198.51.100.3", "eth0: nat by 198.51.100.2/31, gateway 198.51.100.3"),
            ("eth0", "198.51.100.2/32", "192.0.2.1", "eth0: nat by 198.51.100.2/32, gateway 192.0.2.1"),
        ] {
            assert_eq!(nat(interface, address, gateway).unwrap().to_string(), say);
        }
        let pool = nat("eth0", "198.51.100.3/24,198.51.100.9", "").unwrap();
        assert_eq!(pool.addresses, [[198, 51, 100, 3], [198, 51, 100, 9]].map(Ipv4Addr::from));
        assert_eq!((pool.prefix_len, pool.network()), (24, Some(Cidr::new([198, 51, 100, 3].into(), 24))));
    }

    #[test]
    fn bad_uplinks_are_answered_with_the_fix() {
        for (interface, address, gateway, say) in [
            ("", "", "", "--uplink: an uplink needs a name"),
            ("a b", "", "", "--uplink: 'a b' cannot be an interface's name"),
            ("tap0", "", "", "--uplink: tap0 is a TAP port of the bridge"),
            ("eth0", "198.51.100.3", "", "198.51.100.3 has no prefix length: add one"),
            ("eth0", "198.51.100.3/33", "", "a number from 1 to 32, not '33'"),
            ("eth0", "198.51.100.3/24,198.51.101.3", "", "198.51.101.3 is not in 198.51.100.0/24, the uplink's network"),
            ("eth0", "198.51.100.3/24,198.51.100.255", "", "198.51.100.255 is the broadcast address of 198.51.100.0/24"),
            ("eth0", "198.51.100.3/24,198.51.100.3", "", "198.51.100.3 is named twice"),
            ("eth0", "198.51.100.3/24,198.51.100.4/24", "", "it holds for all: write 198.51.100.4"),
            ("eth0", "198.51.100.3/24,", "", "'' is not an IPv4 address"),
            ("eth0", "198.51.100.3/24", "192.0.2.1", "--uplink-gateway 192.0.2.1: 192.0.2.1 is not in 198.51.100.0/24"),
            ("eth0", "198.51.100.3/24", "198.51.100.3", "198.51.100.3 is an own address: name the next router's"),
            ("eth0", "198.51.100.3/24", "198.51.100.0", "the network address of 198.51.100.0/24"),
            ("eth0", "", "0.0.0.0", "0.0.0.0 is no host's address"),
        ] {
            let said = nat(interface, address, gateway).expect_err(interface);
            assert!(said.contains(say), "{interface} {address} {gateway}: {said}");
        }
    }

    #[test]
    fn flags_that_need_a_nat_uplink() {
        let text = || Some("x".to_owned());
        let bridge = Some("bridge".to_owned());
        for (flag, flags) in [
            ("--uplink-address", Flags { uplink_address: text(), ..Flags::default() }),
            ("--uplink-gateway", Flags { uplink_gateway: text(), ..Flags::default() }),
            ("--publish", Flags { publish: vec!["x".to_owned()], ..Flags::default() }),
            ("--nat", Flags { nat: vec!["x".to_owned()], ..Flags::default() }),
        ] {
            let said = uplink(&flags).unwrap_err();
            assert!(said.starts_with(&format!("{flag}: there is no uplink")) && said.contains("--uplink eth0"), "{said}");
            let said = uplink(&Flags { uplink: Some("eth0".to_owned()), uplink_mode: bridge.clone(), ..flags }).unwrap_err();
            assert!(said.starts_with(&format!("{flag}: an uplink in bridge mode is a plain port")), "{said}");
        }
        let said = uplink(&Flags { uplink_mode: bridge.clone(), ..Flags::default() }).unwrap_err();
        assert!(said.starts_with("--uplink-mode: there is no uplink"), "{said}");
        let said = uplink(&Flags { uplink_mode: Some("brigde".to_owned()), ..Flags::default() }).unwrap_err();
        assert_eq!(said, "--uplink-mode: unknown mode 'brigde': did you mean 'bridge'?");
        let port = uplink(&Flags { uplink: Some("eth0".to_owned()), uplink_mode: bridge, ..Flags::default() });
        assert!(matches!(port, Ok(Uplink::Bridge(uplink)) if uplink.interface == "eth0"));
    }
}
