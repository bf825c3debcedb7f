//! Events: what happens in a running switch.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Action, State};

/// An event. Types may be added, and members to them.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number of the event, counted from 1 since the daemon started; a gap means missed events.
    pub sequence: u64,
    /// Time in UTC: `2026-11-21T14:05:06.789Z`.
    pub time: String,
    /// The event itself.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum What {
    /// The link of a port came up, or its MTU changed.
    PortUp {
        /// Name of the port.
        port: String,
        /// MTU of the link, in bytes.
        mtu: u32,
    },
    /// The link of a port went down; its MAC entries are removed.
    PortDown {
        /// Name of the port.
        port: String,
    },
    /// The device of a port is gone; the daemon waits for its return.
    PortGone {
        /// Name of the port.
        port: String,
    },
    /// The device of a port returned.
    PortBack {
        /// Name of the port.
        port: String,
    },
    /// A guest connected.
    GuestCame {
        /// Name of the port.
        port: String,
        /// The guest's process, as far as it is known.
        guest: String,
    },
    /// A guest disconnected; its port is free for another one.
    GuestWent {
        /// Name of the port.
        port: String,
    },
    /// The state of the uplink or the outside address of guests changed.
    UplinkChanged {
        /// Name of the interface.
        interface: String,
        /// State of its link.
        state: State,
        /// Outside address of guests.
        outside: Option<String>,
    },
    /// A station moved to another port.
    MacMoved {
        /// Name of the bridge.
        bridge: String,
        /// VLAN; 0 for untagged frames.
        vlan: u16,
        /// MAC address of the station.
        mac: String,
        /// Name of its previous port.
        from: String,
        /// Name of its port now.
        to: String,
        /// Further moves in the same second, which are only counted.
        more: u64,
    },
    /// The loop guard blocked a VLAN at a port: nothing of it is flooded to the port or from it for a while.
    PortBlocked {
        /// Name of the bridge.
        bridge: String,
        /// Name of the port.
        port: String,
        /// Name of the other port of the loop.
        other: String,
        /// VLAN; 0 for untagged frames.
        vlan: u16,
        /// All VLANs of the port are blocked, because it loops in many.
        all_vlans: bool,
        /// MAC address that kept moving between the two.
        mac: String,
        /// Seconds until it is released.
        seconds: u64,
    },
    /// The loop guard floods frames of a VLAN to and from a port again.
    PortReleased {
        /// Name of the bridge.
        bridge: String,
        /// Name of the port.
        port: String,
        /// VLAN; 0 for untagged frames, or if all VLANs were blocked.
        vlan: u16,
        /// All VLANs of the port were blocked.
        all_vlans: bool,
    },
    /// A MAC table is full, or a port used more than its share: new entries replace old ones. Events about full tables
    /// are repeated only after a minute in which the table was not full.
    MacTableFull {
        /// Name of the bridge.
        bridge: String,
        /// Learned entries.
        entries: usize,
    },
    /// The connection table is full: no connection can be opened.
    NatTableFull {
        /// Connections in the table.
        connections: usize,
    },
    /// No outside port is free for a new mapping.
    NatPortsExhausted {
        /// Mappings in use.
        mappings: usize,
    },
    /// A program of the host began to use a port of the shared address that a guest's connections had, which ended.
    HostTookPort {
        /// `tcp` or `udp`.
        protocol: String,
        /// The port.
        port: u16,
        /// The program, as far as it is known.
        program: Option<String>,
    },
    /// A host became a peer of a tunnel by sending to it.
    PeerFound {
        /// Name of the tunnel.
        tunnel: String,
        /// Address of the peer.
        peer: String,
    },
    /// The route to a peer of a tunnel changed.
    PeerChanged {
        /// Name of the tunnel.
        tunnel: String,
        /// Address of the peer.
        peer: String,
        /// Maximum length of a packet inside the tunnel, in bytes.
        mtu: u32,
        /// Why the peer cannot be reached; `null` if it can.
        problem: Option<String>,
    },
    /// A port was added, removed or altered.
    PortChanged {
        /// What was done.
        action: Action,
        /// Name of the port.
        port: String,
        /// Its keys; where they change, before and after.
        text: String,
    },
    /// A bridge was added, removed or altered.
    BridgeChanged {
        /// What was done.
        action: Action,
        /// Name of the bridge.
        bridge: String,
        /// Its keys; where they change, before and after.
        text: String,
    },
    /// A guest was added, removed or altered; events about its port and its rules follow.
    GuestChanged {
        /// What was done.
        action: Action,
        /// Id of the guest.
        guest: String,
        /// What it is; where that changes, before and after.
        text: String,
    },
    /// A gateway was added, removed or replaced.
    GatewayChanged {
        /// What was done.
        action: Action,
        /// Its address, VLAN and bridge.
        gateway: String,
        /// The address that it replaces.
        text: String,
    },
    /// A tunnel was added, removed or altered.
    TunnelChanged {
        /// What was done.
        action: Action,
        /// Name of the tunnel.
        tunnel: String,
        /// Its keys; where they change, before and after.
        text: String,
    },
    /// A route to a network behind a guest was added, removed or altered.
    RouteChanged {
        /// What was done.
        action: Action,
        /// The network.
        route: String,
        /// The guest and its bridge; where they change, before and after.
        text: String,
    },
    /// A rule for published ports was added, removed or altered.
    RuleChanged {
        /// What was done.
        action: Action,
        /// The rule.
        rule: String,
        /// Its keys; where they change, before and after.
        text: String,
    },
    /// Another setting of the configuration changed.
    SettingChanged {
        /// What was done.
        action: Action,
        /// Name of the setting.
        setting: String,
        /// Its value; where it changes, before and after.
        text: String,
    },
    /// A configuration was applied.
    ConfigApplied {
        /// Number of changes.
        changes: usize,
    },
    /// This reader was too slow and missed events. The event has the number of the last one missed.
    Missed {
        /// Number of events missed.
        events: u64,
    },
}

impl What {
    /// The member `type` in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            What::PortUp { .. } => "port_up",
            What::PortDown { .. } => "port_down",
            What::PortGone { .. } => "port_gone",
            What::PortBack { .. } => "port_back",
            What::GuestCame { .. } => "guest_came",
            What::GuestWent { .. } => "guest_went",
            What::UplinkChanged { .. } => "uplink_changed",
            What::MacMoved { .. } => "mac_moved",
            What::PortBlocked { .. } => "port_blocked",
            What::PortReleased { .. } => "port_released",
            What::MacTableFull { .. } => "mac_table_full",
            What::NatTableFull { .. } => "nat_table_full",
            What::NatPortsExhausted { .. } => "nat_ports_exhausted",
            What::HostTookPort { .. } => "host_took_port",
            What::PeerFound { .. } => "peer_found",
            What::PeerChanged { .. } => "peer_changed",
            What::PortChanged { .. } => "port_changed",
            What::BridgeChanged { .. } => "bridge_changed",
            What::GuestChanged { .. } => "guest_changed",
            What::GatewayChanged { .. } => "gateway_changed",
            What::TunnelChanged { .. } => "tunnel_changed",
            What::RouteChanged { .. } => "route_changed",
            What::RuleChanged { .. } => "rule_changed",
            What::SettingChanged { .. } => "setting_changed",
            What::ConfigApplied { .. } => "config_applied",
            What::Missed { .. } => "missed",
        }
    }
}

/// One line of text.
impl fmt::Display for What {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::PortUp { port, mtu } => write!(out, "port {port} is up, MTU {mtu}"),
            What::PortDown { port } => write!(out, "port {port} is down"),
            What::PortGone { port } => write!(out, "port {port} is gone"),
            What::PortBack { port } => write!(out, "port {port} is back"),
            What::GuestCame { port, guest } => write!(out, "{guest} connected to port {port}"),
            What::GuestWent { port } => write!(out, "the guest of port {port} disconnected"),
            What::UplinkChanged { interface, state, outside: None } => write!(out, "uplink {interface} is {state}"),
            What::UplinkChanged { interface, state, outside: Some(outside) } => {
                write!(out, "uplink {interface} is {state}, outside address {outside}")
            }
            What::MacMoved { vlan, mac, from, to, more, .. } => {
                write!(out, "{mac}")?;
                if *vlan != 0 {
                    write!(out, " on VLAN {vlan}")?;
                }
                write!(out, " moved from {from} to {to}")?;
                match more {
                    0 => Ok(()),
                    1 => write!(out, ", and 1 more station moved"),
                    more => write!(out, ", and {more} more stations moved"),
                }
            }
            What::PortBlocked { port, other, mac, seconds, vlan, all_vlans, .. } => {
                let vlans = blocked_vlans(*vlan, *all_vlans);
                write!(
                    out,
                    "port {port} is blocked{vlans} for {seconds} s: a loop with port {other}, {mac} keeps moving between them"
                )
            }
            What::PortReleased { port, vlan, all_vlans, .. } => {
                write!(out, "port {port} is no longer blocked{} by the loop guard", blocked_vlans(*vlan, *all_vlans))
            }
            What::MacTableFull { bridge, entries } => {
                write!(out, "the MAC table of bridge {bridge} is full: {entries} entries")
            }
            What::NatTableFull { connections } => write!(out, "the connection table is full: {connections} connections"),
            What::NatPortsExhausted { mappings } => write!(out, "no outside port is free: {mappings} mappings"),
            What::HostTookPort { protocol, port, program } => {
                let program = program.as_deref().unwrap_or("a program of the host");
                write!(out, "{program} took {protocol} port {port} of the shared address; guests' connections by it ended")
            }
            What::PeerFound { tunnel, peer } => write!(out, "tunnel {tunnel}: new peer {peer}"),
            What::PeerChanged { tunnel, peer, problem: Some(problem), .. } => {
                write!(out, "tunnel {tunnel}: {peer} cannot be reached: {problem}")
            }
            What::PeerChanged { tunnel, peer, mtu, problem: None } => {
                write!(out, "tunnel {tunnel}: {peer} can be reached, MTU {mtu}")
            }
            What::PortChanged { action, port, text } => write_change(out, *action, &format_args!("port {port}"), text),
            What::BridgeChanged { action, bridge, text } => write_change(out, *action, &format_args!("bridge {bridge}"), text),
            What::GuestChanged { action, guest, text } => write_change(out, *action, &format_args!("guest {guest}"), text),
            What::GatewayChanged { action, gateway, text } => {
                write_change(out, *action, &format_args!("gateway {gateway}"), text)
            }
            What::TunnelChanged { action, tunnel, text } => write_change(out, *action, &format_args!("tunnel {tunnel}"), text),
            What::RouteChanged { action, route, text } => write_change(out, *action, &format_args!("route {route}"), text),
            What::RuleChanged { action, rule, text } => write_change(out, *action, &format_args!("rule {rule}"), text),
            What::SettingChanged { action, setting, text } => write_change(out, *action, setting, text),
            What::ConfigApplied { changes: 1 } => write!(out, "configuration applied, 1 change"),
            What::ConfigApplied { changes } => write!(out, "configuration applied, {changes} changes"),
            What::Missed { events: 1 } => write!(out, "1 event missed: this reader was too slow"),
            What::Missed { events } => write!(out, "{events} events missed: this reader was too slow"),
        }
    }
}

/// Words for what the loop guard has blocked at a port: ` on VLAN 10`, ` on all VLANs`, or nothing for untagged frames.
#[must_use]
pub fn blocked_vlans(vlan: u16, all_vlans: bool) -> String {
    match (vlan, all_vlans) {
        (_, true) => " on all VLANs".to_owned(),
        (0, false) => String::new(),
        (vlan, false) => format!(" on VLAN {vlan}"),
    }
}

fn write_change(out: &mut fmt::Formatter<'_>, action: Action, what: &dyn fmt::Display, text: &str) -> fmt::Result {
    write!(out, "{action} {what}")?;
    if text.is_empty() { Ok(()) } else { write!(out, ": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        for what in [
            What::MacMoved {
                bridge: String::new(),
                vlan: 0,
                mac: String::new(),
                from: String::new(),
                to: String::new(),
                more: 0,
            },
            What::UplinkChanged { interface: String::new(), state: State::Down, outside: None },
            What::Missed { events: 3 },
            What::NatPortsExhausted { mappings: 1 },
        ] {
            let event = Event { sequence: 1, time: String::new(), what: what.clone() };
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["type"], what.name());
            assert_eq!(serde_json::from_value::<Event>(json).unwrap().what, what);
        }
    }
}
