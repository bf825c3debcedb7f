//! What happens in the switch, as those are told who follow it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened. Kinds may be added, and fields to them.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    /// One more than that of the event before, from 1 at the daemon's start: a gap is what was missed.
    pub(crate) sequence: u64,
    /// When, in UTC: `2026-11-21T14:05:06.789Z`.
    pub(crate) time: String,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum What {
    /// A port's link came up, or its MTU is another.
    PortUp { port: String, mtu: u32 },
    /// It went down; its MAC entries are forgotten.
    PortDown { port: String },
    /// A port's device is gone; it is looked for.
    PortGone { port: String },
    /// It is there again.
    PortBack { port: String },
    /// A guest connected, and who it is, as far as that is known.
    GuestCame { port: String, guest: String },
    /// A guest is gone; its place is free.
    GuestWent { port: String },
    /// The uplink is otherwise than before: up, down or gone; and the address that guests go out by.
    UplinkChanged { interface: String, state: String, outside: Option<String> },
    /// A station showed up behind another port. `more` have moved besides in the same second.
    MacMoved { bridge: String, vlan: u16, mac: String, from: String, to: String, more: u64 },
    /// The MAC table is full, or a port took more than its share: entries make room for others. Told once until that
    /// has not happened for a minute, as all that is full.
    MacTableFull { bridge: String, entries: usize },
    /// No more connections can be opened.
    NatTableFull { connections: usize },
    /// There is no outside port left for a new mapping.
    NatPortsExhausted { mappings: usize },
    /// A host became a peer of a tunnel.
    PeerFound { tunnel: String, peer: String },
    /// The way to a peer of a tunnel is another: how long a packet may be, and why there is none now.
    PeerChanged { tunnel: String, peer: String, mtu: u32, problem: Option<String> },
    /// A port was added, removed or altered, and what it is now or was.
    PortChanged { action: String, port: String, text: String },
    /// The same of a tunnel.
    TunnelChanged { action: String, tunnel: String, text: String },
    /// The same of a rule.
    RuleChanged { action: String, rule: String, text: String },
    /// The same of anything else in the configuration.
    SettingChanged { action: String, setting: String, text: String },
    /// A configuration was put in force.
    ConfigApplied { changes: usize },
    /// This reader was too slow, and so many events went by unseen. Its number is that of the last of them.
    Missed { events: u64 },
}

/// For people.
impl fmt::Display for What {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::PortUp { port, mtu } => write!(out, "port {port} is up, mtu {mtu}"),
            What::PortDown { port } => write!(out, "port {port} is down"),
            What::PortGone { port } => write!(out, "port {port} is gone"),
            What::PortBack { port } => write!(out, "port {port} is back"),
            What::GuestCame { port, guest } => write!(out, "{guest} came to port {port}"),
            What::GuestWent { port } => write!(out, "the guest of port {port} went"),
            What::UplinkChanged { interface, state, outside: None } => write!(out, "uplink {interface} is {state}"),
            What::UplinkChanged { interface, state, outside: Some(outside) } => {
                write!(out, "uplink {interface} is {state}, guests go out as {outside}")
            }
            What::MacMoved { vlan, mac, from, to, more, .. } => {
                write!(out, "{mac}")?;
                if *vlan != 0 {
                    write!(out, " of VLAN {vlan}")?;
                }
                write!(out, " moved from {from} to {to}")?;
                if *more > 0 { write!(out, ", and {more} more stations moved") } else { Ok(()) }
            }
            What::MacTableFull { bridge, entries } => write!(out, "the MAC table of bridge {bridge} is full: {entries} entries"),
            What::NatTableFull { connections } => write!(out, "no more connections can be opened: {connections} are there"),
            What::NatPortsExhausted { mappings } => write!(out, "no outside port is left: {mappings} are mapped"),
            What::PeerFound { tunnel, peer } => write!(out, "tunnel {tunnel}: {peer} is a peer now"),
            What::PeerChanged { tunnel, peer, problem: Some(problem), .. } => {
                write!(out, "tunnel {tunnel}: no way to {peer}: {problem}")
            }
            What::PeerChanged { tunnel, peer, mtu, problem: None } => {
                write!(out, "tunnel {tunnel}: the way to {peer} has mtu {mtu}")
            }
            What::PortChanged { action, port, text } => write_change(out, action, &format_args!("port {port}"), text),
            What::TunnelChanged { action, tunnel, text } => write_change(out, action, &format_args!("tunnel {tunnel}"), text),
            What::RuleChanged { action, rule, text } => write_change(out, action, &format_args!("rule {rule}"), text),
            What::SettingChanged { action, setting, text } => write_change(out, action, setting, text),
            What::ConfigApplied { changes: 1 } => write!(out, "configuration applied, 1 change"),
            What::ConfigApplied { changes } => write!(out, "configuration applied, {changes} changes"),
            What::Missed { events } => write!(out, "{events} events were missed: too slow"),
        }
    }
}

fn write_change(out: &mut fmt::Formatter<'_>, action: &str, what: &dyn fmt::Display, text: &str) -> fmt::Result {
    write!(out, "{action} {what}")?;
    if text.is_empty() { Ok(()) } else { write!(out, ": {text}") }
}
