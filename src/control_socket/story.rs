//! What a trace tells, for people and programs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened to a packet, or what would happen to an imaginary one
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Story {
    /// The port that it came in through; `null` for one that had waited for its next hop
    pub(crate) port: Option<String>,
    /// Milliseconds since the switch's start
    pub(crate) at: u64,
    /// The packet, in tcpdump's manner
    pub(crate) packet: String,
    /// Length of the frame, in bytes
    pub(crate) len: u32,
    /// What an imaginary packet's words left open
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) assumed: Vec<String>,
    /// In order
    pub(crate) steps: Vec<Step>,
    /// Steps that found no room
    pub(crate) left_out: u16,
    /// How it ended
    pub(crate) verdict: Verdict,
}

/// One step
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Step {
    /// Its kind
    pub(crate) step: String,
    /// In words
    pub(crate) text: String,
    /// The port that it is about
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// Why something was dropped
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// A VLAN
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vlan: Option<u16>,
    /// A MAC address
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    /// An address, of the next hop or of whom something is told
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// The source behind the step
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) src: Option<String>,
    /// The destination behind the step
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dst: Option<String>,
}

/// How a story ends
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Verdict {
    /// `sent`, `dropped`, `answered`, `waits` or `taken`
    pub(crate) verdict: String,
    /// Why it was dropped
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// In words
    pub(crate) text: String,
}

/// The end of a live trace
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct End {
    /// Stories that were told
    pub(crate) told: u32,
    /// Stories that found no room
    pub(crate) lost: u64,
}
