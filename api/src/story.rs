//! Stories: the way of a packet through the switch, step by step.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

/// The steps of a packet, or those that an imaginary packet would take
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Story {
    /// The port that received it; `null` for a packet that had waited for the MAC address of its next hop
    pub port: Option<String>,
    /// Milliseconds since the switch started
    pub at: u64,
    /// Time in UTC at which a real packet was received: `2026-11-21T14:05:06.789012Z`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Its headers, in the notation of tcpdump
    pub packet: String,
    /// Length of the frame, in bytes
    pub len: u32,
    /// Values assumed for fields that an imaginary packet left open
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
    /// Its steps, in order
    pub steps: Vec<Step>,
    /// Number of further steps, for which there was no room
    pub left_out: u16,
    /// How it ended
    pub verdict: Verdict,
    /// Where the destination of an imaginary packet is known, if the packet does not reach it there
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One step of a packet
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Kind of step
    pub step: StepKind,
    /// The step as text
    pub text: String,
    /// Port
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Reason of a drop
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// VLAN; 0 for untagged frames
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// MAC address
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// IP address, such as that of the next hop or of the receiver of an ICMP error
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Source address and port after the step
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// Destination address, with its port where it was translated, after the step
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
}

impl Step {
    /// A step without details.
    pub fn new(step: StepKind, text: impl Into<String>) -> Step {
        let text = text.into();
        Step { step, text, port: None, reason: None, vlan: None, mac: None, address: None, src: None, dst: None }
    }
}

words! {
    /// Kind of a step.
    StepKind {
        /// A port received the packet.
        Arrived = "arrived",
        /// A packet that waited goes on.
        Resumed = "resumed",
        /// The frame was taken out of a tunnel.
        Decapsulated = "decapsulated",
        /// The VLAN was determined.
        Classified = "classified",
        /// The source address was learned, or not.
        Learned = "learned",
        /// The router learned a neighbour.
        NeighbourLearned = "neighbour_learned",
        /// An ARP request was answered.
        ArpAnswered = "arp_answered",
        /// An ICMP echo request was answered.
        EchoAnswered = "echo_answered",
        /// The frame is addressed to the gateway.
        ForGateway = "for_gateway",
        /// The packet came from the uplink.
        FromOutside = "from_outside",
        /// The packet came from the host.
        FromHost = "from_host",
        /// The packet is for the host.
        ToHost = "to_host",
        /// The route leads to a network inside.
        RouteInside = "route_inside",
        /// The route leads to the uplink.
        RouteOutside = "route_outside",
        /// The destination is in a network behind a guest.
        RouteBehind = "route_behind",
        /// The packet keeps its source address on its way outside.
        Untranslated = "untranslated",
        /// The route leads into a tunnel.
        RouteTunnel = "route_tunnel",
        /// The packet is for an own outside address.
        Hairpin = "hairpin",
        /// An address was translated.
        Translated = "translated",
        /// The MAC address of the next hop is known.
        Neighbour = "neighbour",
        /// The MAC address of the next hop is not known.
        Waits = "waits",
        /// An ARP request of the router was dropped.
        RequestDropped = "request_dropped",
        /// A fragment waits for the first one.
        FragmentKept = "fragment_kept",
        /// The packet was fragmented.
        Fragmented = "fragmented",
        /// The super-frame was segmented.
        Segmented = "segmented",
        /// An ICMP error was sent.
        Told = "told",
        /// No ICMP error was sent.
        NotTold = "not_told",
        /// The port of the destination is known.
        Forwarded = "forwarded",
        /// The frame goes to all ports of its VLAN.
        Flooded = "flooded",
        /// The frame was queued to a port.
        Queued = "queued",
        /// The frame was put into a tunnel.
        Encapsulated = "encapsulated",
        /// The frame was sent.
        Sent = "sent",
        /// The frame, or a copy of it, was dropped.
        Dropped = "dropped",
    }

    /// How the way of a packet ends.
    VerdictKind {
        /// It was sent.
        Sent = "sent",
        /// It was dropped.
        Dropped = "dropped",
        /// The switch answered it.
        Answered = "answered",
        /// It waits in the switch.
        Waits = "waits",
        /// The switch consumed it.
        Taken = "taken",
    }
}

/// How the way of a packet ended
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// Kind of end
    pub verdict: VerdictKind,
    /// Reason of the drop
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The verdict as text
    pub text: String,
}

/// The last line of a live trace
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct End {
    /// Number of stories sent
    pub told: u32,
    /// Number of stories lost for lack of room
    pub lost: u64,
    /// The requested port was removed or replaced
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub port_is_gone: bool,
}
