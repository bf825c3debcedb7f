//! Settings of the translation: `--nat`, `[nat]`.
//!
//! The defaults keep RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP) and their update RFC 7857. A shorter timeout than these require is
//! accepted, with a warning: the operator knows the network.

use std::fmt;
use std::ops::RangeInclusive;

use crate::keys::keys;
use crate::problem::{At, Origin, Problem, Problems};
use crate::raw::Raw;
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{Number, Text, Value, words};

/// A number of seconds, up to a week.
type Seconds = Number<1, 604_800>;

/// The shortest timeouts that the RFCs allow: key, seconds, and the requirement. That of a connection that is being opened may be
/// shorter (RFC 7857 section 2.1).
const FLOORS: [(&str, u32, &str); 4] = [
    ("tcp-established", 7440, "RFC 5382 REQ-5"),
    ("tcp-transitory", 240, "RFC 5382 REQ-5"),
    ("udp", 120, "RFC 4787 REQ-5"),
    ("icmp", 60, "RFC 5508 REQ-2"),
];

/// How guests' packets are translated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nat {
    /// Outside ports to choose from.
    pub ports: RangeInclusive<u16>,
    /// Maximum number of connections, 1,024 to 4,000,000.
    pub max_connections: usize,
    /// Maximum number of connections of one port of a bridge.
    pub max_connections_per_port: usize,
    /// Maximum number of outside ports of one guest, for each protocol.
    pub max_ports_per_guest: u16,
    /// Dependence of a guest's outside port on the remote (RFC 4787 section 4.1).
    pub mapping: Dependence,
    /// Dependence of the right to send to it (RFC 4787 section 5).
    pub filtering: Dependence,
    /// Timeouts of idle connections.
    pub timeouts: Timeouts,
    /// Whether TCP connections without an observed handshake are accepted.
    pub tcp_loose: bool,
    /// Whether TCP segments outside of the window pass.
    pub tcp_liberal: bool,
    /// What happens to the MSS option of TCP.
    pub mss_clamp: MssClamp,
    /// Whether packets from and to 169.254.0.0/16 are forwarded, which RFC 3927 section 2.7 forbids.
    pub forward_link_local: bool,
}

/// Seconds without traffic until a connection ends, 1 to 604,800 each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// An open TCP connection (RFC 5382 REQ-5: at least 2 hours 4 minutes).
    pub tcp_established: u32,
    /// A TCP connection that is closing or was reset (RFC 5382 REQ-5, RFC 7857 section 2.2: at least 4 minutes).
    pub tcp_transitory: u32,
    /// A TCP connection that is being opened (RFC 7857 section 2.1).
    pub tcp_opening: u32,
    /// UDP (RFC 4787 REQ-5: at least 2 minutes, 5 recommended).
    pub udp: u32,
    /// ICMP queries (RFC 5508 REQ-2: at least 60 seconds).
    pub icmp: u32,
    /// All other protocols.
    pub other: u32,
}

words! {
    /// Dependence of an outside port, or of the right to send to it, on the remote.
    pub enum Dependence {
        /// The guest's address and port alone.
        EndpointIndependent = "endpoint-independent",
        /// The remote's address and port too.
        AddressAndPortDependent = "address-and-port-dependent",
    }
}

/// What happens to the segment size that TCP announces through the uplink: `true`, `false`, or a number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MssClamp {
    /// It stays.
    Off,
    /// It is lowered to what fits through the route.
    Fit,
    /// It is lowered to this number of bytes, and to what fits through the route.
    To(u16),
}

/// The sizes that `mss-clamp` takes, in bytes: from Linux's least (`tcp_min_snd_mss`) to the most that a packet holds.
type SegmentSize = Number<48, 65_495>;

/// `FIRST-LAST`, or one port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PortRange(pub(crate) RangeInclusive<u16>);

keys! {
    /// How guests' packets are translated.
    struct NatKeys {
        /// Outside ports to choose from. Default: 1024-65535.
        "ports" => ports: PortRange,
        /// Most connections at once, 1,024 to 4,000,000. Default: 262144.
        "max-connections" => max_connections: Number<1024, 4_000_000>,
        /// Most of them that one port of the bridge may have. Default: half of max-connections.
        "max-connections-per-port" => max_connections_per_port: Number<1, 4_000_000>,
        /// Most outside ports that one guest may have, for each protocol. Default: 32768.
        "max-ports-per-guest" => max_ports_per_guest: Number<1, 65_535>,
        /// endpoint-independent or address-and-port-dependent. Default: endpoint-independent.
        "mapping" => mapping: Dependence,
        /// endpoint-independent or address-and-port-dependent. Default: address-and-port-dependent.
        "filtering" => filtering: Dependence,
        /// When idle connections end.
        "timeouts" => timeouts: TimeoutKeys,
        /// TCP connections without an observed handshake are accepted. Default: true.
        "tcp-loose" => tcp_loose: bool,
        /// TCP segments outside of the window pass. Default: false.
        "tcp-liberal" => tcp_liberal: bool,
        /// The MSS option of TCP is lowered to fit the route's MTU; a number: and to no more than this. Default: true.
        "mss-clamp" => mss_clamp: MssClamp,
        /// Packets from and to 169.254.0.0/16 are forwarded, also to a cloud's metadata server. Default: false.
        "forward-link-local" => forward_link_local: bool,
    }
}

keys! {
    /// Seconds without traffic until a connection ends, 1 to 604,800.
    struct TimeoutKeys {
        /// An open TCP connection. Default: 7440.
        "tcp-established" => tcp_established: Seconds,
        /// A TCP connection that is closing or was reset. Default: 240.
        "tcp-transitory" => tcp_transitory: Seconds,
        /// A TCP connection that is being opened. Default: 240.
        "tcp-opening" => tcp_opening: Seconds,
        /// UDP. Default: 300.
        "udp" => udp: Seconds,
        /// Queries such as ping. Default: 60.
        "icmp" => icmp: Seconds,
        /// All other protocols. Default: 600.
        "other" => other: Seconds,
    }
}

impl Default for Nat {
    fn default() -> Nat {
        Nat {
            ports: 1024..=65_535,
            max_connections: 262_144,
            max_connections_per_port: 131_072,
            max_ports_per_guest: 32_768,
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPortDependent,
            timeouts: Timeouts { tcp_established: 7440, tcp_transitory: 240, tcp_opening: 240, udp: 300, icmp: 60, other: 600 },
            tcp_loose: true,
            tcp_liberal: false,
            mss_clamp: MssClamp::Fit,
            forward_link_local: false,
        }
    }
}

/// `262144 connections, 131072 a port; ports 1024-65535, 32768 a guest; ..`.
impl fmt::Display for Nat {
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

impl NatKeys {
    /// The settings, with defaults for missing keys.
    pub(crate) fn nat(&self, problems: &mut Problems) -> Nat {
        let default = Nat::default();
        let is_on = |key: &Option<At<bool>>, default: bool| key.as_ref().map_or(default, |key| key.value);
        let max_connections = self.max_connections.as_ref().map_or(default.max_connections, |most| most.value.get());
        let mut nat = Nat {
            ports: self.ports.as_ref().map_or(default.ports, |ports| ports.value.0.clone()),
            max_connections,
            max_connections_per_port: max_connections / 2,
            max_ports_per_guest: self.max_ports_per_guest.as_ref().map_or(default.max_ports_per_guest, |most| most.value.get()),
            mapping: self.mapping.as_ref().map_or(default.mapping, |mapping| mapping.value),
            filtering: self.filtering.as_ref().map_or(default.filtering, |filtering| filtering.value),
            timeouts: self.timeouts.as_ref().map_or(default.timeouts, |keys| keys.value.timeouts(default.timeouts)),
            tcp_loose: is_on(&self.tcp_loose, default.tcp_loose),
            tcp_liberal: is_on(&self.tcp_liberal, default.tcp_liberal),
            mss_clamp: self.mss_clamp.as_ref().map_or(default.mss_clamp, |clamp| clamp.value),
            forward_link_local: is_on(&self.forward_link_local, default.forward_link_local),
        };
        if let Some(share) = &self.max_connections_per_port {
            nat.max_connections_per_port = share.value.get();
            if nat.max_connections_per_port > max_connections {
                let (max, share_of) = (max_connections, nat.max_connections_per_port);
                let problem = format!(
                    "{share_of} are more than max-connections, {max}: give a port at most {max}, or raise max-connections"
                );
                problems.add(&share.origin, problem);
            }
        }
        nat
    }

    /// Timeouts that are shorter than an RFC allows.
    pub(crate) fn warnings(&self) -> Vec<Problem> {
        let Some(At { value: keys, .. }) = &self.timeouts else { return Vec::new() };
        let warning = |(key, floor, source): &(&str, u32, &str)| {
            let timeout = keys.named(key).filter(|timeout| timeout.value.get::<u32>() < *floor)?;
            let text = format!("{source} asks for at least {floor} s; connections that are only quiet will be lost");
            Some(Problem::new(&timeout.origin, text))
        };
        FLOORS.iter().filter_map(warning).collect()
    }
}

impl TimeoutKeys {
    fn timeouts(&self, default: Timeouts) -> Timeouts {
        let seconds = |key: &Option<At<Seconds>>, default: u32| key.as_ref().map_or(default, |key| key.value.get());
        Timeouts {
            tcp_established: seconds(&self.tcp_established, default.tcp_established),
            tcp_transitory: seconds(&self.tcp_transitory, default.tcp_transitory),
            tcp_opening: seconds(&self.tcp_opening, default.tcp_opening),
            udp: seconds(&self.udp, default.udp),
            icmp: seconds(&self.icmp, default.icmp),
            other: seconds(&self.other, default.other),
        }
    }

    fn named(&self, key: &str) -> Option<&At<Seconds>> {
        match key {
            "tcp-established" => self.tcp_established.as_ref(),
            "tcp-transitory" => self.tcp_transitory.as_ref(),
            "udp" => self.udp.as_ref(),
            "icmp" => self.icmp.as_ref(),
            _ => None,
        }
    }
}

impl Value for MssClamp {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<MssClamp> {
        let mut none = Problems::default();
        if let Some(is_on) = bool::read(raw, key, &mut none) {
            return Some(if is_on { MssClamp::Fit } else { MssClamp::Off });
        }
        if let Some(most) = SegmentSize::read(raw, key, &mut none) {
            return Some(MssClamp::To(most.get()));
        }
        let switch = raw.origin.say("true or false", "on or off");
        problems.add(&raw.origin, raw.is_not(key, &format!("{switch}, or a number from 48 to 65495")));
        None
    }
}

#[cfg(test)]
impl schemars::JsonSchema for MssClamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MssClamp".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "boolean" }, SegmentSize::json_schema(generator)] })
    }
}

impl Text for PortRange {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<PortRange, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text| Number::<1, 65_535>::of_text(text, "a port").map(Number::get::<u16>);
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("{first}-{last} ends before it begins: write {last}-{first}"));
        }
        Ok(PortRange(first..=last))
    }
}

#[cfg(test)]
string_schema!(PortRange);
