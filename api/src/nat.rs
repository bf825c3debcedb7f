//! Address translation: connections, mappings, outside addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{NatStats, words};

/// An IP protocol: in JSON `tcp`, `udp`, `icmp`, or its number as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(into = "String", try_from = "String")]
#[schema(value_type = String)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Protocol = Protocol(1);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => out.pad("icmp"),
            Protocol::TCP => out.pad("tcp"),
            Protocol::UDP => out.pad("udp"),
            Protocol(number) => out.pad(&number.to_string()),
        }
    }
}

impl FromStr for Protocol {
    type Err = NotAProtocol;

    fn from_str(text: &str) -> Result<Protocol, NotAProtocol> {
        match text {
            "icmp" => Ok(Protocol::ICMP),
            "tcp" => Ok(Protocol::TCP),
            "udp" => Ok(Protocol::UDP),
            _ => {
                // One notation per number: no sign and no leading zero.
                let number = text.parse::<u8>().ok().filter(|number| number.to_string() == text);
                number.map(Protocol).ok_or_else(|| NotAProtocol(text.to_owned()))
            }
        }
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> String {
        protocol.to_string()
    }
}

impl TryFrom<String> for Protocol {
    type Error = NotAProtocol;

    fn try_from(text: String) -> Result<Protocol, NotAProtocol> {
        text.parse()
    }
}

/// A word that names no protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{}' is not a protocol: write tcp, udp, icmp, or a number from 0 to 255", .0.escape_debug())]
pub struct NotAProtocol(String);

/// A list of translated connections.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// Number of connections that match.
    pub total: usize,
    /// The first of them, up to the limit.
    pub connections: Vec<Connection>,
}

/// A translated connection.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// IP protocol.
    pub protocol: Protocol,
    /// Number of the IP protocol.
    pub protocol_number: u8,
    /// The side that opened it.
    pub opened_by: Side,
    /// State of a TCP connection; `null` for other protocols.
    pub phase: Option<Phase>,
    /// Seconds until it ends if no packet comes.
    pub expires_in: u32,
    /// Packets from the side that opened it, before translation.
    pub original: Flow,
    /// Packets to the side that opened it, before translation.
    pub reply: Flow,
}

words! {
    /// A side of the address translation.
    Side {
        /// The guests.
        Inside = "inside",
        /// The network of the uplink.
        Outside = "outside",
    }

    /// State of a TCP connection.
    Phase {
        /// The handshake is not complete.
        Opening = "opening",
        /// The handshake is complete.
        Established = "established",
        /// A FIN was seen.
        Closing = "closing",
        /// An RST was seen.
        Reset = "reset",
    }

    /// Kind of an outside address.
    AddressKind {
        /// Used by the switch alone.
        Own = "own",
        /// Shared with the host.
        Shared = "shared",
        /// The address of one guest.
        OneToOne = "one-to-one",
    }
}

/// One direction of a connection. For an ICMP query the identifier stands for the port of the host that asks, and the
/// message type for the other one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Source address.
    pub src: String,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    pub dst: String,
    /// Destination port.
    pub dst_port: u16,
}

/// The address translation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Nat {
    /// Outside addresses.
    pub addresses: Vec<OutsideAddress>,
    /// Rules of published ports, as they were given.
    pub published: Vec<String>,
    /// Number of mappings.
    pub total: usize,
    /// The first mappings, up to the limit.
    pub mappings: Vec<Mapping>,
    /// Counters.
    pub stats: NatStats,
}

/// An outside address.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OutsideAddress {
    /// The address.
    pub address: String,
    /// How it is used.
    pub kind: AddressKind,
    /// Inside address of the guest that has it, if it is one-to-one.
    pub guest: Option<String>,
}

/// An inside endpoint and the outside endpoint that stands for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Mapping {
    /// IP protocol.
    pub protocol: Protocol,
    /// Inside address and port.
    pub inside: String,
    /// Outside address and port.
    pub outside: String,
    /// Connections that use it.
    pub connections: usize,
    /// It belongs to a rule and stays without connections.
    pub published: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_one_notation() {
        assert_eq!(serde_json::to_string(&[Protocol::TCP, Protocol(132)]).unwrap(), r#"["tcp","132"]"#);
        assert_eq!(serde_json::from_str::<Vec<Protocol>>(r#"["icmp","17"]"#).unwrap(), [Protocol::ICMP, Protocol::UDP]);
        for bad in ["", "TCP", "256", "-1", "+1", "007", "sctp"] {
            assert!(bad.parse::<Protocol>().is_err(), "{bad}");
        }
    }

    #[test]
    fn words_in_json_are_those_of_text() {
        for kind in [AddressKind::Own, AddressKind::Shared, AddressKind::OneToOne] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
        assert_eq!(serde_json::to_string(&AddressKind::OneToOne).unwrap(), "\"one-to-one\"");
    }
}
