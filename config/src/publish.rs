//! Published ports: connections from outside to a guest (destination NAT), `--publish` and `[[publish]]`.
//!
//! Two kinds. A rule for ports forwards some of an uplink address to a guest, each to the port that is as far into the guest's range.
//! A 1:1 rule gives a guest a whole own address, all ports and protocols both ways. No packet may match two rules, so that their order has no
//! meaning. A rule for ports that names no address is one for all of the uplink's addresses but those that are given away whole.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::address::HostAddress;
use crate::keys::keys;
use crate::nat::PortRange;
use crate::problem::{At, Origin, Problems};
use crate::raw::{Entry, Raw, RawValue};
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{Text, Value, words};

const SHAPE: &str =
    "write [ADDR:]PORT:GUEST:PORT[/tcp|udp|tcp+udp], such as 8080:10.77.0.2:80, or ADDR:GUEST for all of an own address";

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Publish {
    /// Some ports, to as many of a guest.
    Ports {
        /// An address of the uplink; `None` for all that are not published 1:1.
        listen: Option<Ipv4Addr>,
        /// Its ports.
        ports: RangeInclusive<u16>,
        /// The guest's address.
        guest: Ipv4Addr,
        /// The guest's ports, as many.
        guest_ports: RangeInclusive<u16>,
        /// Whether it is for TCP.
        tcp: bool,
        /// Whether it is for UDP; at least one of both is true.
        udp: bool,
    },
    /// A whole own address of the uplink, 1:1.
    Address {
        /// The own address.
        listen: Ipv4Addr,
        /// The guest's address.
        guest: Ipv4Addr,
    },
}

words! {
    /// The protocols of a rule for ports.
    pub(crate) enum PublishProtocol {
        Tcp = "tcp",
        Udp = "udp",
        Both = "tcp+udp",
    }
}

/// Where connections come in: `[ADDR:]PORT[-PORT]`, or `ADDR`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listen {
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) ports: Option<RangeInclusive<u16>>,
}

/// Where they go: `GUEST:PORT[-PORT]`, or `GUEST`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Guest {
    address: Ipv4Addr,
    ports: Option<RangeInclusive<u16>>,
}

keys! {
    /// A port of the uplink's address that is a guest's, or a whole address.
    struct PublishKeys {
        /// PORT, PORT-PORT, ADDR:PORT, ADDR:PORT-PORT; or ADDR, all of an own address.
        "listen" => listen: Listen,
        /// GUEST:PORT or GUEST:PORT-PORT; or GUEST behind a whole address.
        "to" => to: Guest,
        /// tcp, udp or tcp+udp. Default: tcp.
        "protocol" => protocol: PublishProtocol,
    }
}

impl Publish {
    /// The address of the uplink that it names.
    #[must_use]
    pub fn listen(&self) -> Option<Ipv4Addr> {
        match self {
            Publish::Ports { listen, .. } => *listen,
            Publish::Address { listen, .. } => Some(*listen),
        }
    }

    /// The guest's address.
    #[must_use]
    pub fn guest(&self) -> Ipv4Addr {
        match self {
            Publish::Ports { guest, .. } | Publish::Address { guest, .. } => *guest,
        }
    }

    pub(crate) fn is_whole_address(&self) -> bool {
        matches!(self, Publish::Address { .. })
    }

    /// Why both cannot be, if they cannot.
    pub(crate) fn conflict(&self, other: &Publish) -> Option<&'static str> {
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
                let protocol = match (tcp, udp) {
                    (true, true) => PublishProtocol::Both,
                    (false, true) => PublishProtocol::Udp,
                    (_, false) => PublishProtocol::Tcp,
                };
                let listen = listen.map_or_else(String::new, |address| format!("{address}:"));
                write!(out, "{} {listen}{} -> {guest}:{}", protocol.name(), range(ports), range(guest_ports))
            }
        }
    }
}

impl PublishKeys {
    /// The rule; `None` if its keys are wrong by themselves.
    pub(crate) fn rule(&self, table: &Origin, problems: &mut Problems) -> Option<Publish> {
        if self.is_faulty {
            return None;
        }
        let (Some(At { value: listen, .. }), Some(At { value: to, origin, .. })) = (&self.listen, &self.to) else {
            problems
                .add(table, "what is published? Add listen = \"8080\" and to = \"10.77.0.2:80\", or whichever ports these are");
            return None;
        };
        let (ports, guest_ports) = match (&listen.ports, &to.ports, listen.address) {
            (None, None, Some(address)) => {
                if let Some(protocol) = &self.protocol {
                    let as_flag = format!("write {address}:{}", to.address);
                    let cure = table.say("leave protocol out", &as_flag);
                    problems.add(&protocol.origin, format!("a 1:1 rule is for all protocols: {cure}"));
                    return None;
                }
                return Some(Publish::Address { listen: address, guest: to.address });
            }
            (Some(ports), Some(guest_ports), _) => (ports.clone(), guest_ports.clone()),
            _ => {
                let problem =
                    "a port goes to a port, and a whole address to a guest: write listen = \"8080\" and to = \"10.77.0.2:80\"";
                problems.add(origin, table.say(problem, &format!("this is no rule: {SHAPE}")));
                return None;
            }
        };
        if ports.len() != guest_ports.len() {
            let (one, other) = (ports.len(), guest_ports.len());
            problems.add(origin, format!("{one} ports cannot become {other}: give both ranges the same length"));
            return None;
        }
        let protocol = self.protocol.as_ref().map_or(PublishProtocol::Tcp, |protocol| protocol.value);
        let (tcp, udp) = (protocol != PublishProtocol::Udp, protocol != PublishProtocol::Tcp);
        Some(Publish::Ports { listen: listen.address, ports, guest: to.address, guest_ports, tcp, udp })
    }
}

/// The pairs of `[ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/PROTOCOL]`, or of `ADDR:GUEST`.
pub(crate) fn split_rule(text: &str, origin: &Origin) -> Result<Vec<Entry>, String> {
    let (rule, protocol) = text.split_once('/').map_or((text, None), |(rule, protocol)| (rule, Some(protocol)));
    let parts: Vec<&str> = rule.split(':').collect();
    let (listen, to) = match parts[..] {
        [listen, guest] if listen.contains('.') => (listen.to_owned(), guest.to_owned()),
        [ports, guest, guest_ports] => (ports.to_owned(), format!("{guest}:{guest_ports}")),
        [listen, ports, guest, guest_ports] => (format!("{listen}:{ports}"), format!("{guest}:{guest_ports}")),
        _ => return Err(format!("this is no rule: {SHAPE}")),
    };
    let mut entries = vec![Entry::word("listen", listen, origin), Entry::word("to", to, origin)];
    entries.extend(protocol.map(|protocol| Entry::word("protocol", protocol, origin)));
    Ok(entries)
}

/// A number stands for a port.
impl Value for Listen {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Listen> {
        let text = match &raw.value {
            RawValue::Number(port) => port.to_string(),
            RawValue::Word(text) | RawValue::Text(text) => text.clone(),
            _ => {
                problems.add(&raw.origin, raw.is_not(key, "a port, or text in quotes"));
                return None;
            }
        };
        let parsed = match text.split_once(':') {
            Some((address, ports)) => {
                parse_both(address, ports, &raw.origin).map(|(address, ports)| (Some(address), Some(ports)))
            }
            None if text.contains('.') => HostAddress::parse(&text, key, &raw.origin).map(|address| (Some(address.0), None)),
            None => PortRange::parse(&text, key, &raw.origin).map(|ports| (None, Some(ports.0))),
        };
        let (address, ports) = parsed.map_err(|problem| problems.add(&raw.origin, problem)).ok()?;
        Some(Listen { address, ports })
    }
}

impl Text for Guest {
    fn parse(text: &str, key: &str, origin: &Origin) -> Result<Guest, String> {
        Ok(match text.split_once(':') {
            Some((address, ports)) => {
                let (address, ports) = parse_both(address, ports, origin)?;
                Guest { address, ports: Some(ports) }
            }
            None => Guest { address: HostAddress::parse(text, key, origin)?.0, ports: None },
        })
    }
}

fn parse_both(address: &str, ports: &str, origin: &Origin) -> Result<(Ipv4Addr, RangeInclusive<u16>), String> {
    Ok((HostAddress::parse(address, "", origin)?.0, PortRange::parse(ports, "", origin)?.0))
}

#[cfg(test)]
string_schema!(Guest);

#[cfg(test)]
impl JsonSchema for Listen {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Listen".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "type": "string" }] })
    }
}
