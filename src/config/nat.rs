//! Settings of the translation: what `--nat` says.
//!
//! The defaults keep RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP) and their update RFC 7857. A
//! timeout below what they ask for is taken, with a warning: whoever wants it knows the network.

use std::fmt;
use std::ops::RangeInclusive;

use super::ConfigError;
use super::words::{parse_number, parse_ports, parse_switch, unknown};
use crate::edge::router::PortNumbers;

/// How many connections can be followed at once.
const CONNECTIONS_RANGE: RangeInclusive<usize> = 1024..=4_000_000;

/// Seconds: up to a week.
const TIMEOUT_RANGE: RangeInclusive<u32> = 1..=604_800;

const KEYS: [&str; 15] = [
    "ports",
    "max-connections",
    "max-connections-per-port",
    "max-ports-per-guest",
    "mapping",
    "filtering",
    "tcp-established",
    "tcp-transitory",
    "tcp-opening",
    "udp",
    "icmp",
    "other",
    "tcp-loose",
    "tcp-liberal",
    "mss-clamp",
];

/// Timeouts that an RFC gives the least of: its seconds, and where. That of a connection that is being
/// opened may be shorter (RFC 7857 section 2.1).
const FLOORS: [(&str, u32, &str); 4] = [
    ("tcp-established", 7440, "RFC 5382 REQ-5"),
    ("tcp-transitory", 240, "RFC 5382 REQ-5"),
    ("udp", 120, "RFC 4787 REQ-5"),
    ("icmp", 60, "RFC 5508 REQ-2"),
];

/// What one outside endpoint of a guest depends on, or who may answer to it (RFC 4787 sections 4.1
/// and 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dependence {
    /// On the guest's endpoint alone.
    EndpointIndependent,
    /// On the remote's address and port too.
    AddressAndPortDependent,
}

impl Dependence {
    const ALL: [Dependence; 2] = [Dependence::EndpointIndependent, Dependence::AddressAndPortDependent];

    fn name(self) -> &'static str {
        match self {
            Dependence::EndpointIndependent => "endpoint-independent",
            Dependence::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// How guests' packets are translated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NatSettings {
    /// Outside ports to choose from.
    pub(crate) ports: RangeInclusive<u16>,
    /// Most connections at once, 1024 to 4,000,000.
    pub(crate) max_connections: usize,
    /// Most of them that one port of the bridge may have.
    pub(crate) max_connections_per_port: usize,
    /// Most outside ports that one guest may have, for each protocol.
    pub(crate) max_ports_per_guest: u16,
    /// What a guest's outside port depends on.
    pub(crate) mapping: Dependence,
    /// Who may send to it.
    pub(crate) filtering: Dependence,
    /// When idle connections end.
    pub(crate) timeouts: Timeouts,
    /// Take up TCP connections whose opening was not seen.
    pub(crate) tcp_loose: bool,
    /// Let segments pass that are outside of the window.
    pub(crate) tcp_liberal: bool,
    /// Lower the MSS that TCP announces to what the uplink's MTU carries.
    pub(crate) mss_clamp: bool,
}

/// Seconds without traffic until a connection ends, 1 to 604,800 each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Timeouts {
    /// An open TCP connection (RFC 5382 REQ-5: 2 hours 4 minutes at least).
    pub(crate) tcp_established: u32,
    /// One that is closing or was reset (RFC 5382 REQ-5, RFC 7857 section 2.2: 4 minutes at least).
    pub(crate) tcp_transitory: u32,
    /// One that is being opened (RFC 7857 section 2.1).
    pub(crate) tcp_opening: u32,
    /// UDP (RFC 4787 REQ-5: 2 minutes at least, 5 recommended).
    pub(crate) udp: u32,
    /// ICMP queries (RFC 5508 REQ-2: 60 seconds at least).
    pub(crate) icmp: u32,
    /// All other protocols.
    pub(crate) other: u32,
}

impl NatSettings {
    /// When connections end.
    pub(crate) fn to_timeouts(&self) -> nat::Timeouts {
        let Timeouts { tcp_established, tcp_transitory, tcp_opening, udp, icmp, other } = self.timeouts;
        nat::Timeouts { tcp_established, tcp_opening, tcp_transitory, udp, icmp, other }
    }

    /// For a bridge with so many ports, the uplink among them.
    pub(crate) fn to_nat(&self, ports: PortNumbers) -> nat::NatConfig {
        let is_independent = |dependence| dependence == Dependence::EndpointIndependent;
        nat::NatConfig {
            max_connections: self.max_connections,
            max_connections_per_port: self.max_connections_per_port,
            max_ports_per_guest: self.max_ports_per_guest.into(),
            ports_of_bridge: ports.at_start,
            port_numbers: ports.capacity,
            ports: self.ports.clone(),
            mapping: if is_independent(self.mapping) {
                nat::Mapping::EndpointIndependent
            } else {
                nat::Mapping::AddressAndPortDependent
            },
            filtering: if is_independent(self.filtering) {
                nat::Filtering::EndpointIndependent
            } else {
                nat::Filtering::AddressAndPortDependent
            },
            timeouts: self.to_timeouts(),
            tcp_loose: self.tcp_loose,
            tcp_liberal: self.tcp_liberal,
        }
    }
}

impl Default for NatSettings {
    fn default() -> NatSettings {
        NatSettings {
            ports: 1024..=65_535,
            max_connections: 262_144,
            max_connections_per_port: 131_072,
            max_ports_per_guest: 32_768,
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPortDependent,
            timeouts: Timeouts { tcp_established: 7440, tcp_transitory: 240, tcp_opening: 240, udp: 300, icmp: 60, other: 600 },
            tcp_loose: true,
            tcp_liberal: false,
            mss_clamp: true,
        }
    }
}

/// `262144 connections, 131072 a port; ports 1024-65535, 32768 a guest; ..`.
impl fmt::Display for NatSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} connections, {} a port; ports {}-{}, {} a guest; mapping {}, filtering {}",
            self.max_connections,
            self.max_connections_per_port,
            self.ports.start(),
            self.ports.end(),
            self.max_ports_per_guest,
            self.mapping.name(),
            self.filtering.name()
        )
    }
}

/// `KEY=VALUE[,KEY=VALUE...]`, as often as it is given; what is odd but allowed goes to `warnings`.
pub(super) fn parse_nat(lists: &[String], warnings: &mut Vec<String>) -> Result<NatSettings, ConfigError> {
    let mut settings = NatSettings::default();
    let mut given: Vec<&str> = Vec::new();
    for pair in lists.iter().flat_map(|list| list.split(',')) {
        let place = format!("--nat {pair}");
        let Some((key, value)) = pair.split_once('=') else {
            return Err(ConfigError::new(place, format!("'{pair}' is not KEY=VALUE; there are {}", KEYS.join(", "))));
        };
        if given.contains(&key) {
            return Err(ConfigError::new(place, format!("'{key}' is given twice")));
        }
        settings.read(&place, key, value, warnings)?;
        given.push(key);
    }
    settings.share(given.contains(&"max-connections-per-port"))?;
    Ok(settings)
}

impl NatSettings {
    fn read(&mut self, place: &str, key: &str, value: &str, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
        match key {
            "ports" => self.ports = parse_ports(place, value)?,
            "max-connections" => self.max_connections = parse_number(place, key, value, CONNECTIONS_RANGE)?,
            "max-connections-per-port" => {
                self.max_connections_per_port = parse_number(place, key, value, 1..=*CONNECTIONS_RANGE.end())?;
            }
            "max-ports-per-guest" => self.max_ports_per_guest = parse_number(place, key, value, 1..=u16::MAX)?,
            "mapping" => self.mapping = parse_dependence(place, key, value)?,
            "filtering" => self.filtering = parse_dependence(place, key, value)?,
            "tcp-loose" => self.tcp_loose = parse_switch(place, key, value)?,
            "tcp-liberal" => self.tcp_liberal = parse_switch(place, key, value)?,
            "mss-clamp" => self.mss_clamp = parse_switch(place, key, value)?,
            _ => {
                let Some(timeout) = self.timeouts.named(key) else {
                    return Err(ConfigError::new(place, unknown("key", key, &KEYS)));
                };
                *timeout = parse_number(place, &format!("{key} in seconds"), value, TIMEOUT_RANGE)?;
                warnings.extend(below_floor(place, key, *timeout));
            }
        }
        Ok(())
    }

    /// A port's share of the connections: half of them unless it is given.
    fn share(&mut self, given: bool) -> Result<(), ConfigError> {
        let all = self.max_connections;
        if !given {
            self.max_connections_per_port = all / 2;
        }
        let share = self.max_connections_per_port;
        if share > all {
            let problem = format!("{share} are more than max-connections={all}: give a port {all} at most, or raise it");
            return Err(ConfigError::new(format!("--nat max-connections-per-port={share}"), problem));
        }
        Ok(())
    }
}

impl Timeouts {
    fn named(&mut self, key: &str) -> Option<&mut u32> {
        Some(match key {
            "tcp-established" => &mut self.tcp_established,
            "tcp-transitory" => &mut self.tcp_transitory,
            "tcp-opening" => &mut self.tcp_opening,
            "udp" => &mut self.udp,
            "icmp" => &mut self.icmp,
            "other" => &mut self.other,
            _ => return None,
        })
    }
}

fn below_floor(place: &str, key: &str, seconds: u32) -> Option<String> {
    let (_, floor, source) = FLOORS.iter().find(|(name, floor, _)| *name == key && seconds < *floor)?;
    Some(format!("{place}: {source} asks for at least {floor} s; connections that are only quiet will be lost"))
}

fn parse_dependence(place: &str, key: &str, text: &str) -> Result<Dependence, ConfigError> {
    let known = Dependence::ALL.into_iter().find(|dependence| dependence.name() == text);
    known.ok_or_else(|| ConfigError::new(place, unknown(key, text, &Dependence::ALL.map(Dependence::name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nat(lists: &[&str]) -> Result<(NatSettings, Vec<String>), String> {
        let mut warnings = Vec::new();
        let lists: Vec<String> = lists.iter().map(ToString::to_string).collect();
        let settings = parse_nat(&lists, &mut warnings).map_err(|error| error.to_string())?;
        Ok((settings, warnings))
    }

    #[test]
    fn nothing_said_keeps_the_rfcs() {
        let (settings, warnings) = nat(&[]).unwrap();
        assert_eq!((settings.clone(), warnings.as_slice()), (NatSettings::default(), &[][..]));
        assert_eq!(
            settings.to_string(),
            "262144 connections, 131072 a port; ports 1024-65535, 32768 a guest; \
             mapping endpoint-independent, filtering address-and-port-dependent"
        );
    }

    #[test]
    fn every_key_sets_its_own() {
        let (settings, warnings) = nat(&[
            "ports=40000-49999,max-connections=4096,max-connections-per-port=4096,max-ports-per-guest=100",
            "mapping=address-and-port-dependent,filtering=endpoint-independent",
            "tcp-established=86400,tcp-transitory=241,tcp-opening=30,udp=120,icmp=61,other=1",
            "tcp-loose=off,tcp-liberal=on,mss-clamp=off",
        ])
        .unwrap();
        let expected = NatSettings {
            ports: 40_000..=49_999,
            max_connections: 4096,
            max_connections_per_port: 4096,
            max_ports_per_guest: 100,
            mapping: Dependence::AddressAndPortDependent,
            filtering: Dependence::EndpointIndependent,
            timeouts: Timeouts { tcp_established: 86_400, tcp_transitory: 241, tcp_opening: 30, udp: 120, icmp: 61, other: 1 },
            tcp_loose: false,
            tcp_liberal: true,
            mss_clamp: false,
        };
        assert_eq!((settings, warnings.as_slice()), (expected, &[][..]));
    }

    #[test]
    fn a_port_has_half_of_the_connections() {
        assert_eq!(nat(&["max-connections=5000"]).unwrap().0.max_connections_per_port, 2500);
        assert_eq!(nat(&["max-connections-per-port=9,max-connections=5000"]).unwrap().0.max_connections_per_port, 9);
        let said = nat(&["max-connections-per-port=5001,max-connections=5000"]).unwrap_err();
        assert!(said.contains("max-connections-per-port=5001: 5001 are more than max-connections=5000"), "{said}");
    }

    #[test]
    fn short_timeouts_are_taken_with_a_warning() {
        for (key, floor, source) in FLOORS {
            let (short, at) = (format!("{key}={}", floor - 1), format!("{key}={floor}"));
            let (mut settings, warnings) = nat(&[&short]).unwrap();
            assert_eq!(settings.timeouts.named(key), Some(&mut (floor - 1)));
            let [said] = warnings.as_slice() else { panic!("{warnings:?}") };
            assert!(said.starts_with(&format!("--nat {short}: {source} asks for at least {floor} s")), "{said}");
            assert_eq!(nat(&[&at]).unwrap().1.as_slice(), &[] as &[String]);
        }
    }

    #[test]
    fn every_key_is_known() {
        for key in KEYS {
            let said = nat(&[&format!("{key}=?")]).expect_err(key);
            assert!(!said.contains("unknown key"), "{said}");
        }
    }

    #[test]
    fn bad_settings_are_answered_with_the_fix() {
        for (text, say) in [
            ("prots=1-2", "--nat prots=1-2: unknown key 'prots': did you mean 'ports'?"),
            ("udp", "'udp' is not KEY=VALUE; there are ports, max-connections"),
            ("", "'' is not KEY=VALUE"),
            ("udp=300,icmp=60,udp=301", "--nat udp=301: 'udp' is given twice"),
            ("udp=0", "udp in seconds is a number from 1 to 604800, not '0'"),
            ("other=5m", "other in seconds is a number from 1 to 604800, not '5m'"),
            ("tcp-established=604801", "a number from 1 to 604800"),
            ("max-connections=1023", "max-connections is a number from 1024 to 4000000, not '1023'"),
            ("max-ports-per-guest=0", "a number from 1 to 65535, not '0'"),
            ("ports=2000-1000", "2000-1000 ends before it begins: write 1000-2000"),
            ("ports=0-10", "a port is a number from 1 to 65535, not '0'"),
            ("mapping=symmetric", "unknown mapping 'symmetric'; there are endpoint-independent, address-and-port-dependent"),
            ("filtering=endpoint-independant", "did you mean 'endpoint-independent'?"),
            ("mss-clamp=1440", "mss-clamp is on or off, not '1440'"),
        ] {
            let said = nat(&[text]).expect_err(text);
            assert!(said.contains(say), "{text}: {said}");
        }
    }
}
