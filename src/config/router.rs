//! The router: its addresses towards the guests, its way out, and what of the guests can be reached
//! from outside.
//!
//! ```text
//!   guests of VLAN 0      10.0.0.0/24  --- gateway 10.0.0.1 --+
//!                                                             +-- router -- uplink eth0 -- the world
//!   guests of VLAN 10    10.0.10.0/24  --- gateway 10.0.10.1 -+     nat, publish
//! ```
//!
//! No two of these networks overlap, so that an address tells where it is. Without an uplink the router
//! routes between its gateways and translates nothing.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

use packet::vlan::VlanId;
use vswitch::BridgeId;

use super::ConfigError;
use super::address::{Cidr, parse_cidr};
use super::bridge::words_of;
use super::nat::{NatSettings, parse_nat};
use super::publish::{Publish, all_given_away, parse_rules};
use super::uplink::UplinkConfig;
use super::words::parse_vlan;
use crate::cli::{BridgeWords, Flags};

/// Where a NAT uplink is asked for and no gateway.
const DEFAULT_GATEWAY: Gateway =
    Gateway { bridge: BridgeId(0), vlan: VlanId::NONE, address: Cidr::new(Ipv4Addr::new(10, 77, 0, 1), 24) };

/// All that the router is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RouterConfig {
    /// One at least, one for each VLAN of each bridge at most; their networks do not overlap.
    pub(crate) gateways: Vec<Gateway>,
    /// `None` to route between gateways alone.
    pub(crate) uplink: Option<UplinkConfig>,
    /// Of no meaning without an uplink.
    pub(crate) nat: NatSettings,
    /// None without an uplink. No packet matches two of them.
    pub(crate) publish: Vec<Publish>,
}

/// The router's own address in one VLAN of one bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gateway {
    pub(crate) bridge: BridgeId,
    /// [`VlanId::NONE`] for untagged frames.
    pub(crate) vlan: VlanId,
    /// With the network of the guests there: 1 to 30 bits.
    pub(crate) address: Cidr,
}

/// `10.0.10.1/24 on VLAN 10`.
impl fmt::Display for Gateway {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            VlanId::NONE => self.address.fmt(out),
            vlan => write!(out, "{} on VLAN {vlan}", self.address),
        }
    }
}

impl Gateway {
    /// `10.0.10.1/24 on VLAN 10 of br1`; without a name as it is.
    pub(super) fn on(&self, bridge: Option<&str>) -> String {
        match (bridge, self.vlan) {
            (None, _) => self.to_string(),
            (Some(name), VlanId::NONE) => format!("{self} on {name}"),
            (Some(name), _) => format!("{self} of {name}"),
        }
    }
}

impl RouterConfig {
    /// `None` if neither a gateway nor an uplink to translate to is asked for.
    pub(super) fn from_flags(
        flags: &Flags,
        uplink: Option<UplinkConfig>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<RouterConfig>, ConfigError> {
        let gateways = match parse_gateways(&words_of(flags))? {
            none if none.is_empty() && uplink.is_none() => return Ok(None),
            none if none.is_empty() => vec![DEFAULT_GATEWAY],
            gateways => gateways,
        };
        let mut router = RouterConfig { gateways, uplink, nat: NatSettings::default(), publish: Vec::new() };
        let Some(uplink) = &router.uplink else { return Ok(Some(router)) };
        for network in uplink.network().into_iter().chain(uplink.gateway.map(|hop| Cidr::new(hop, 32))) {
            router.check_uplink_network(network)?;
        }
        router.nat = parse_nat(&flags.nat, warnings)?;
        router.publish = parse_rules(&flags.publish, &router.gateways, uplink)?;
        if all_given_away(&router.publish, uplink) {
            warnings.push("--publish: all own addresses are published 1:1; other guests have no way out".to_owned());
        }
        Ok(Some(router))
    }

    /// Is the network beyond the uplink another one than the guests'? Asked of own addresses when they
    /// are read, and to be asked of the host's when they are known.
    pub(crate) fn check_uplink_network(&self, network: Cidr) -> Result<(), ConfigError> {
        let Some(gateway) = self.gateways.iter().find(|gateway| gateway.address.overlaps(network)) else { return Ok(()) };
        let (inside, outside) = (gateway.address.block(), network.block());
        let problem =
            format!("{inside} of gateway {gateway} overlaps with {outside}, the uplink's: give the guests another network");
        Err(ConfigError::new("--gateway", problem))
    }

    /// A line for each gateway, the uplink, its settings and each rule. `name_of` names a bridge where there are several.
    pub(crate) fn summary<'a>(&self, name_of: impl Fn(BridgeId) -> Option<&'a str>) -> String {
        let mut text = String::new();
        for gateway in &self.gateways {
            let _ = writeln!(text, "gateway {}", gateway.on(name_of(gateway.bridge)));
        }
        if let Some(uplink) = &self.uplink {
            let _ = writeln!(text, "uplink {uplink}\nnat {}", self.nat);
        }
        for rule in &self.publish {
            let _ = writeln!(text, "publish {rule}");
        }
        text
    }
}

/// Each bridge's gateways, checked against each other and those of the others.
fn parse_gateways(words: &[BridgeWords]) -> Result<Vec<Gateway>, ConfigError> {
    let mut gateways: Vec<Gateway> = Vec::new();
    for (number, bridge) in words.iter().enumerate() {
        for text in bridge.gateway.iter().flat_map(|list| list.split(',')) {
            let gateway = Gateway { bridge: BridgeId(number as u8), ..parse_gateway(text)? };
            for other in &gateways {
                let bridge = words.get(other.bridge.index()).filter(|_| other.bridge != gateway.bridge);
                check_apart(&format!("--gateway {text}"), gateway, *other, bridge.map(|bridge| bridge.name.as_str()))?;
            }
            gateways.push(gateway);
        }
    }
    Ok(gateways)
}

/// `[VLAN=]CIDR`, on the first bridge.
pub(super) fn parse_gateway(text: &str) -> Result<Gateway, ConfigError> {
    let place = format!("--gateway {text}");
    let (vlan, cidr) = match text.split_once('=') {
        Some((vlan, cidr)) => (parse_vlan(&place, vlan, 0..=4094)?, cidr),
        None => (VlanId::NONE, text),
    };
    // In a smaller network there is no room for a gateway and a guest.
    Ok(Gateway { bridge: BridgeId(0), vlan, address: parse_cidr(&place, cidr, 1..=30)? })
}

/// `bridge` is that of `other`, if it is not the same.
fn check_apart(place: &str, gateway: Gateway, other: Gateway, bridge: Option<&str>) -> Result<(), ConfigError> {
    let problem = if gateway.vlan == other.vlan && bridge.is_none() {
        let what = match gateway.vlan {
            VlanId::NONE => "untagged frames have".to_owned(),
            vlan => format!("VLAN {vlan} has"),
        };
        format!("{what} the gateway {} already: put this one on another VLAN, such as {}", other.address, on_another(gateway))
    } else if gateway.address.overlaps(other.address) {
        let (one, another) = (gateway.address.block(), other.address.block());
        let on = bridge.map_or_else(String::new, |name| format!(" of bridge {name}"));
        format!("{one} overlaps with {another} of gateway {other}{on}: give each network addresses of its own")
    } else {
        return Ok(());
    };
    Err(ConfigError::new(place, problem))
}

fn on_another(gateway: Gateway) -> String {
    format!("{}={}", if gateway.vlan.get() == 10 { 20 } else { 10 }, gateway.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(flags: &Flags, uplink: bool) -> Result<(Option<RouterConfig>, Vec<String>), String> {
        let addresses: Vec<Ipv4Addr> = flags.uplink_address.iter().map(|text| text.parse().unwrap()).collect();
        let gateway = flags.uplink_gateway.as_ref().map(|text| text.parse().unwrap());
        let prefix_len = if addresses.is_empty() { 0 } else { 24 };
        let uplink = uplink.then(|| UplinkConfig { interface: "eth0".to_owned(), addresses, prefix_len, gateway });
        let mut warnings = Vec::new();
        let router = RouterConfig::from_flags(flags, uplink, &mut warnings).map_err(|error| error.to_string())?;
        Ok((router, warnings))
    }

    fn flags(gateways: &[&str], publish: &[&str]) -> Flags {
        let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Flags { gateway: strings(gateways), publish: strings(publish), ..Flags::default() }
    }

    fn own(address: &str, flags: Flags) -> Flags {
        Flags { uplink_address: Some(address.to_owned()), ..flags }
    }

    #[test]
    fn nothing_asked_nothing_routed() {
        assert!(router(&flags(&[], &[]), false).unwrap().0.is_none());
    }

    #[test]
    fn what_will_run_is_told_in_lines() {
        let said = |flags: &Flags, uplink| router(flags, uplink).unwrap().0.unwrap().summary(|_| None);
        assert_eq!(
            said(&flags(&["10.0.0.1/24,10=10.0.10.1/24", "0020=10.0.20.1/30"], &[]), false),
            "\
            gateway 10.0.0.1/24\n\
            gateway 10.0.10.1/24 on VLAN 10\n\
            gateway 10.0.20.1/30 on VLAN 20\n"
        );
        let nat = NatSettings::default();
        assert_eq!(
            said(&flags(&[], &["8080:10.77.0.2:80"]), true),
            format!(
                "\
            gateway 10.77.0.1/24\n\
            uplink eth0: nat by the host's own address\n\
            nat {nat}\n\
            publish tcp 8080 -> 10.77.0.2:80\n"
            )
        );
    }

    #[test]
    fn last_own_address_given_away_is_a_warning() {
        let (_, warnings) = router(&own("198.51.100.3", flags(&[], &["198.51.100.3:10.77.0.2"])), true).unwrap();
        assert_eq!(warnings, ["--publish: all own addresses are published 1:1; other guests have no way out"]);
        let (_, warnings) = router(&own("198.51.100.3", flags(&[], &["198.51.100.3:80:10.77.0.2:80"])), true).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn networks_that_overlap_are_refused() {
        for (flags, say) in [
            (
                flags(&["10.0.0.1/24", "10.0.1.1/24"], &[]),
                "--gateway 10.0.1.1/24: untagged frames have the gateway 10.0.0.1/24 already",
            ),
            (
                flags(&["10=10.0.0.1/24,10=10.0.1.1/24"], &[]),
                "VLAN 10 has the gateway 10.0.0.1/24 already: put this one on another VLAN, such as 20=",
            ),
            (
                flags(&["10=10.0.0.1/24,20=10.0.0.129/25"], &[]),
                "--gateway 20=10.0.0.129/25: 10.0.0.128/25 overlaps with 10.0.0.0/24 of gateway 10.0.0.1/24 on VLAN 10",
            ),
            (own("10.77.0.9", flags(&[], &[])), "10.77.0.0/24 of gateway 10.77.0.1/24 overlaps with 10.77.0.0/24, the uplink's"),
            (own("10.0.0.9", flags(&["10.1.0.1/16", "10=10.0.200.1/8"], &[])), "overlaps with"),
            (
                Flags { uplink_gateway: Some("10.77.0.9".to_owned()), ..Flags::default() },
                "10.77.0.0/24 of gateway 10.77.0.1/24 overlaps with 10.77.0.9/32",
            ),
        ] {
            let said = router(&flags, true).expect_err(say);
            assert!(said.contains(say), "{said}");
        }
        let (router, _) = router(&flags(&["10.0.0.1/24"], &[]), true).unwrap();
        let host = |text: &str| router.as_ref().unwrap().check_uplink_network(parse_cidr("host", text, 1..=32).unwrap());
        assert!(host("192.0.2.7/24").is_ok());
        let said = host("10.0.0.7/8").unwrap_err().to_string();
        assert!(
            said.starts_with("--gateway: 10.0.0.0/24 of gateway 10.0.0.1/24 overlaps with 10.0.0.0/8, the uplink's"),
            "{said}"
        );
    }

    #[test]
    fn bad_gateways_are_answered_with_the_fix() {
        for (text, say) in [
            ("10.0.0.1", "--gateway 10.0.0.1: 10.0.0.1 has no prefix length: add one, such as 10.0.0.1/24"),
            ("4095=10.0.0.1/24", "VLAN is a number from 0 to 4094, not '4095'"),
            ("10.0.0.1/31", "the prefix length is a number from 1 to 30, not '31'"),
            ("10.0.0.255/24", "10.0.0.255 is the broadcast address of 10.0.0.0/24: use another, such as 10.0.0.1/24"),
            ("127.0.0.1/8", "127.0.0.1 is a loopback address"),
            ("10.0.0.1/24,", "--gateway : '' is not an IPv4 address"),
        ] {
            let said = router(&flags(&[text], &[]), false).expect_err(text);
            assert!(said.contains(say), "{text}: {said}");
        }
    }
}
