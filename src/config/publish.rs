//! Published ports: what the world may begin with a guest (destination NAT).
//!
//! Two kinds. A rule for ports forwards some of an uplink address to a guest, each to the port that is
//! as far into the guest's range. A 1:1 rule gives a guest a whole own address, all ports and protocols
//! both ways. No packet may match two rules, so that none depends on their order. A rule for ports that
//! names no address is one for all of the uplink's addresses but those that are given away whole.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::ConfigError;
use super::address::parse_address;
use super::router::Gateway;
use super::uplink::UplinkConfig;
use super::words::{parse_ports, unknown};

const SHAPE: &str = "write [ADDR:]PORT:GUEST:PORT[/tcp|udp|tcp+udp], such as 8080:10.77.0.2:80, \
    or ADDR:GUEST for all of an own address";

/// Protocols: the word, TCP, UDP.
const PROTOCOLS: [(&str, bool, bool); 3] = [("tcp", true, false), ("udp", false, true), ("tcp+udp", true, true)];

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Publish {
    /// Some ports, to as many of a guest.
    Ports {
        /// An address of the uplink; `None` for all that are not published 1:1.
        listen: Option<Ipv4Addr>,
        /// Its ports.
        ports: RangeInclusive<u16>,
        /// Where to.
        guest: Ipv4Addr,
        /// The guest's ports, as many.
        guest_ports: RangeInclusive<u16>,
        /// TCP?
        tcp: bool,
        /// UDP? One of both at least.
        udp: bool,
    },
    /// A whole own address of the uplink, 1:1.
    Address {
        /// The own address.
        listen: Ipv4Addr,
        /// Whose it is.
        guest: Ipv4Addr,
    },
}

impl Publish {
    fn listen(&self) -> Option<Ipv4Addr> {
        match self {
            Publish::Ports { listen, .. } => *listen,
            Publish::Address { listen, .. } => Some(*listen),
        }
    }

    fn guest(&self) -> Ipv4Addr {
        match self {
            Publish::Ports { guest, .. } | Publish::Address { guest, .. } => *guest,
        }
    }

    /// Why both cannot be, if they cannot.
    fn conflict(&self, other: &Publish) -> Option<&'static str> {
        match (self, other) {
            (
                Publish::Ports { listen: one, ports: these, tcp, udp, .. },
                Publish::Ports { listen: another, ports: those, tcp: other_tcp, udp: other_udp, .. },
            ) => {
                let address = one.is_none() || another.is_none() || one == another;
                let protocol = *tcp && *other_tcp || *udp && *other_udp;
                let port = these.start() <= those.end() && those.start() <= these.end();
                (address && protocol && port).then_some("publish a port to one guest only")
            }
            (Publish::Address { guest: one, .. }, Publish::Address { guest: another, .. }) if one == another => {
                Some("a guest has one address 1:1")
            }
            _ => (self.listen().is_some() && self.listen() == other.listen()).then_some("a 1:1 rule takes the whole address"),
        }
    }
}

/// `tcp 198.51.100.3:8000-8010 -> 10.0.0.2:9000-9010`.
impl fmt::Display for Publish {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |ports: &RangeInclusive<u16>| match (ports.start(), ports.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        match self {
            Publish::Address { listen, guest } => write!(out, "all {listen} -> {guest}"),
            Publish::Ports { listen, ports, guest, guest_ports, tcp, udp } => {
                let protocol = PROTOCOLS.iter().find(|(_, with_tcp, with_udp)| (with_tcp, with_udp) == (tcp, udp));
                let listen = listen.map_or_else(String::new, |address| format!("{address}:"));
                write!(out, "{} {listen}{}", protocol.map_or("no", |(name, ..)| name), range(ports))?;
                write!(out, " -> {guest}:{}", range(guest_ports))
            }
        }
    }
}

/// All rules, each checked against the router's addresses and against those before it.
pub(super) fn parse_rules(texts: &[String], gateways: &[Gateway], uplink: &UplinkConfig) -> Result<Vec<Publish>, ConfigError> {
    let mut rules: Vec<Publish> = Vec::with_capacity(texts.len());
    for text in texts {
        let place = format!("--publish {text}");
        let rule = parse_rule(&place, text)?;
        check_listen(&place, &rule, gateways, uplink)?;
        check_guest(&place, rule.guest(), gateways)?;
        if let Some((other, why)) = rules.iter().find_map(|other| Some((other, rule.conflict(other)?))) {
            return Err(ConfigError::new(place, format!("in conflict with {other}: {why}, leave one of both out")));
        }
        rules.push(rule);
    }
    check_left_over(&rules, uplink)?;
    Ok(rules)
}

/// Are all own addresses given away whole?
pub(super) fn all_given_away(rules: &[Publish], uplink: &UplinkConfig) -> bool {
    let whole = rules.iter().filter(|rule| matches!(rule, Publish::Address { .. })).count();
    whole > 0 && whole == uplink.addresses.len()
}

/// `[ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/PROTOCOL]` or `ADDR:GUEST`.
pub(super) fn parse_rule(place: &str, text: &str) -> Result<Publish, ConfigError> {
    let (rule, protocol) = text.split_once('/').map_or((text, None), |(rule, protocol)| (rule, Some(protocol)));
    let parts: Vec<&str> = rule.split(':').collect();
    let (listen, ports, guest, guest_ports) = match parts[..] {
        [_, _] if protocol.is_some() => {
            return Err(ConfigError::new(place, format!("a 1:1 rule is for all protocols: write {rule}")));
        }
        [listen, guest] if listen.contains('.') => {
            return Ok(Publish::Address { listen: parse_address(place, listen)?, guest: parse_address(place, guest)? });
        }
        [ports, guest, guest_ports] => (None, ports, guest, guest_ports),
        [listen, ports, guest, guest_ports] => (Some(parse_address(place, listen)?), ports, guest, guest_ports),
        _ => return Err(ConfigError::new(place, format!("this is no rule: {SHAPE}"))),
    };
    let (tcp, udp) = parse_protocol(place, protocol.unwrap_or("tcp"))?;
    let (ports, guest_ports) = (parse_ports(place, ports)?, parse_ports(place, guest_ports)?);
    if ports.len() != guest_ports.len() {
        let problem = format!("{} ports cannot become {}: both ranges have the same length", ports.len(), guest_ports.len());
        return Err(ConfigError::new(place, problem));
    }
    Ok(Publish::Ports { listen, ports, guest: parse_address(place, guest)?, guest_ports, tcp, udp })
}

fn parse_protocol(place: &str, text: &str) -> Result<(bool, bool), ConfigError> {
    let known = PROTOCOLS.iter().find(|(name, ..)| *name == text).map(|(_, tcp, udp)| (*tcp, *udp));
    known.ok_or_else(|| ConfigError::new(place, unknown("protocol", text, &PROTOCOLS.map(|(name, ..)| name))))
}

fn check_listen(place: &str, rule: &Publish, gateways: &[Gateway], uplink: &UplinkConfig) -> Result<(), ConfigError> {
    let Some(listen) = rule.listen() else { return Ok(()) };
    let problem = if let Some(inside) = gateways.iter().find(|gateway| gateway.address.contains(listen)) {
        format!("{listen} is in {}, the guests' side: name an address of the uplink", inside.address.block())
    } else if uplink.addresses.contains(&listen) {
        return Ok(());
    } else if !uplink.addresses.is_empty() {
        let own: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
        let own = own.join(",");
        format!("{listen} is not an own address of the uplink ({own}): name one of these, or add it to --uplink-address")
    } else if matches!(rule, Publish::Address { .. }) {
        format!("the host's address cannot be given away whole: make {listen} an own address with --uplink-address")
    } else {
        // Which addresses the host has is known at the start.
        return Ok(());
    };
    Err(ConfigError::new(place, problem))
}

fn check_guest(place: &str, guest: Ipv4Addr, gateways: &[Gateway]) -> Result<(), ConfigError> {
    let Some(home) = gateways.iter().find(|gateway| gateway.address.contains(guest)).map(|gateway| gateway.address) else {
        let networks: Vec<String> = gateways.iter().map(|gateway| gateway.address.block().to_string()).collect();
        let problem =
            format!("{guest} is in no gateway's network ({}): name a guest there, or add its gateway", networks.join(", "));
        return Err(ConfigError::new(place, problem));
    };
    let what = if guest == home.address { Some("the gateway itself") } else { home.not_a_host(guest) };
    match what {
        Some(what) => Err(ConfigError::new(place, format!("{guest} is {what} of {}: name a guest's address", home.block()))),
        None => Ok(()),
    }
}

/// A rule for all addresses needs one that is not given away whole.
fn check_left_over(rules: &[Publish], uplink: &UplinkConfig) -> Result<(), ConfigError> {
    let everywhere = rules.iter().find(|rule| rule.listen().is_none());
    match everywhere.filter(|_| all_given_away(rules, uplink)) {
        Some(rule) => {
            let problem =
                format!("{rule} is left without an address: all own ones are published 1:1, add one to --uplink-address");
            Err(ConfigError::new("--publish", problem))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::router::parse_gateway;

    /// With guests in 10.0.0.0/24 and 10.0.10.0/24.
    fn rules(own: &[[u8; 4]], texts: &[&str]) -> Result<Vec<Publish>, String> {
        let gateways = ["10.0.0.1/24", "10=10.0.10.1/24"].map(|text| parse_gateway(text).unwrap());
        let uplink = UplinkConfig {
            interface: "eth0".to_owned(),
            addresses: own.iter().copied().map(Ipv4Addr::from).collect(),
            prefix_len: 24,
            gateway: None,
        };
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        parse_rules(&texts, &gateways, &uplink).map_err(|error| error.to_string())
    }

    const HOST: &[[u8; 4]] = &[];
    const POOL: &[[u8; 4]] = &[[198, 51, 100, 3], [198, 51, 100, 4]];

    #[test]
    fn a_rule_of_each_kind() {
        for (own, text, say) in [
            (HOST, "8080:10.0.0.2:80", "tcp 8080 -> 10.0.0.2:80"),
            (HOST, "53:10.0.10.2:53/tcp+udp", "tcp+udp 53 -> 10.0.10.2:53"),
            (HOST, "192.0.2.9:1-65535:10.0.0.2:1-65535/udp", "udp 192.0.2.9:1-65535 -> 10.0.0.2:1-65535"),
            (POOL, "198.51.100.4:8000-8010:10.0.0.2:9000-9010/tcp", "tcp 198.51.100.4:8000-8010 -> 10.0.0.2:9000-9010"),
            (POOL, "198.51.100.4:10.0.0.2", "all 198.51.100.4 -> 10.0.0.2"),
        ] {
            assert_eq!(rules(own, &[text]).unwrap()[0].to_string(), say);
        }
        let expected = Publish::Ports {
            listen: None,
            ports: 8000..=8001,
            guest: [10, 0, 0, 2].into(),
            guest_ports: 80..=81,
            tcp: false,
            udp: true,
        };
        assert_eq!(rules(HOST, &["8000-8001:10.0.0.2:80-81/udp"]).unwrap(), [expected]);
    }

    #[test]
    fn rules_that_do_not_meet_stand_together() {
        for texts in [
            ["53:10.0.0.2:53/tcp", "53:10.0.0.3:53/udp"],
            ["80-89:10.0.0.2:80-89", "90-99:10.0.0.2:80-89"],
            ["198.51.100.3:80:10.0.0.2:80", "198.51.100.4:80:10.0.0.3:80"],
            ["198.51.100.3:80:10.0.0.2:80", "198.51.100.4:10.0.0.2"],
            ["80:10.0.0.2:80", "198.51.100.4:10.0.0.3"],
            ["198.51.100.3:10.0.0.2", "198.51.100.4:10.0.0.3"],
        ] {
            assert_eq!(rules(POOL, &texts).expect("both").len(), 2, "{texts:?}");
        }
    }

    #[test]
    fn rules_that_meet_are_in_conflict() {
        for (texts, say) in [
            (["80:10.0.0.2:80", "80:10.0.0.2:80"], "in conflict with tcp 80 -> 10.0.0.2:80: publish a port to one guest only"),
            (["80-89:10.0.0.2:80-89", "89:10.0.0.3:80"], "in conflict with tcp 80-89 -> 10.0.0.2:80-89"),
            (["80:10.0.0.2:80/tcp+udp", "70-90:10.0.0.2:70-90/udp"], "in conflict with tcp+udp 80"),
            (["198.51.100.3:80:10.0.0.2:80", "80:10.0.0.3:80"], "in conflict with tcp 198.51.100.3:80"),
            (["198.51.100.3:10.0.0.2", "198.51.100.3:10.0.0.3"], "a 1:1 rule takes the whole address"),
            (["198.51.100.3:10.0.0.2", "198.51.100.3:80:10.0.0.3:80"], "a 1:1 rule takes the whole address"),
            (["198.51.100.3:80:10.0.0.3:80", "198.51.100.3:10.0.0.2"], "a 1:1 rule takes the whole address"),
            (["198.51.100.3:10.0.0.2", "198.51.100.4:10.0.0.2"], "a guest has one address 1:1"),
        ] {
            let said = rules(POOL, &texts).expect_err(texts[1]);
            assert!(said.starts_with(&format!("--publish {}: ", texts[1])) && said.contains(say), "{said}");
        }
        let said = rules(&POOL[..1], &["80:10.0.0.2:80", "198.51.100.3:10.0.0.2"]).unwrap_err();
        assert!(said.contains("tcp 80 -> 10.0.0.2:80 is left without an address"), "{said}");
    }

    #[test]
    fn bad_rules_are_answered_with_the_fix() {
        for (own, text, say) in [
            (HOST, "8080", "--publish 8080: this is no rule: write [ADDR:]PORT:GUEST:PORT[/tcp|udp|tcp+udp]"),
            (HOST, "8080:10.0.0.2", "this is no rule: write"),
            (HOST, "[::1]:80:10.0.0.2:80", "this is no rule: write"),
            (HOST, "8080:10.0.0.2:80/tpc", "unknown protocol 'tpc': did you mean 'tcp'?"),
            (HOST, "8080:10.0.0.2:80/icmp", "unknown protocol 'icmp'; there are tcp, udp, tcp+udp"),
            (HOST, "0:10.0.0.2:80", "a port is a number from 1 to 65535, not '0'"),
            (HOST, "8080:10.0.0.2:65536", "a port is a number from 1 to 65535, not '65536'"),
            (HOST, "http:10.0.0.2:80", "a port is a number from 1 to 65535, not 'http'"),
            (HOST, "80-70:10.0.0.2:70-80", "80-70 ends before it begins: write 70-80"),
            (HOST, "80-90:10.0.0.2:80-89", "11 ports cannot become 10: both ranges have the same length"),
            (HOST, "8080:guest:80", "'guest' is not an IPv4 address"),
            (HOST, "8080:10.0.1.2:80", "10.0.1.2 is in no gateway's network (10.0.0.0/24, 10.0.10.0/24)"),
            (HOST, "8080:10.0.10.1:80", "10.0.10.1 is the gateway itself of 10.0.10.0/24: name a guest's address"),
            (HOST, "8080:10.0.0.0:80", "10.0.0.0 is the network address"),
            (HOST, "8080:10.0.0.255:80", "10.0.0.255 is the broadcast address"),
            (HOST, "0.0.0.0:8080:10.0.0.2:80", "0.0.0.0 is no host's address"),
            (HOST, "10.0.0.1:8080:10.0.0.2:80", "10.0.0.1 is in 10.0.0.0/24, the guests' side"),
            (HOST, "198.51.100.3:10.0.0.2", "the host's address cannot be given away whole"),
            (POOL, "198.51.100.5:80:10.0.0.2:80", "198.51.100.5 is not an own address of the uplink (198.51.100.3,198.51.100.4)"),
            (POOL, "198.51.100.5:10.0.0.2", "198.51.100.5 is not an own address of the uplink"),
            (POOL, "198.51.100.3:10.0.0.2/tcp", "a 1:1 rule is for all protocols: write 198.51.100.3:10.0.0.2"),
        ] {
            let said = rules(own, &[text]).expect_err(text);
            assert!(said.contains(say), "{text}: {said}");
        }
    }
}
