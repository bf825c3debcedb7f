//! What is said over vswitchd's control socket, as JSON: the types that the daemon writes and its clients read.
//!
//! | file | holds |
//! |---|---|
//! | [`switch`] | the switch as a whole: bridges, gateways, uplink, latency |
//! | [`port`] | ports and their counters |
//! | [`stats`] | all counters at one moment |
//! | [`table`] | entries of the MAC table and neighbours |
//! | [`guest`] | guests |
//! | [`nat`] | connections, mappings, outside addresses |
//! | [`tunnel`] | tunnels and their peers |
//! | [`change`] | differences between two configurations |
//! | [`log`] | log levels |
//! | [`event`] | events |
//! | [`story`] | traces of packets |
//! | [`query`] | parameters and bodies of requests |
//! | [`refusal`] | errors |
//!
//! *Compatibility.* From the first release on, within one version of the paths (`/v1/`) members and kinds of events may be added; no
//! member changes its name, type or meaning. Values of a closed set are enums, numbers are numbers, and addresses are text in their
//! usual notation. Messages for people, and values in the syntax of command-line flags, are free text.

pub mod change;
pub mod event;
pub mod guest;
pub mod log;
pub mod nat;
pub mod port;
pub mod query;
pub mod refusal;
pub mod stats;
pub mod story;
pub mod switch;
pub mod table;
pub mod tunnel;

pub use change::{Action, Change, Configuration};
pub use event::{Event, What, blocked_vlans};
pub use guest::{Guest, GuestKeys, GuestsToKeep, NewGuest};
pub use log::{Level, Log, LogChange};
pub use nat::{AddressKind, Connection, Connections, Flow, Mapping, Nat, NotAProtocol, OutsideAddress, Phase, Protocol, Side};
pub use port::{Limits, Port, PortKind, PortStats, State, VlanMode};
pub use refusal::{PROBLEM_JSON, Problem, Refusal, RefusalKind};
pub use stats::{BridgeStats, FragmentStats, MacTableStats, NatPorts, NatStats, NeighbourStats, Stats, WorkerStats};
pub use story::{End, Step, StepKind, Story, Verdict, VerdictKind};
pub use switch::{Bridge, Gate, Gateway, Latency, Reach, Route, Show, Stopping, Uplink, UplinkMode};
pub use table::{Flushed, MacEntry, Neighbour};
pub use tunnel::{Peer, Tunnel, TunnelKind};

/// The words of an enum without fields: what `Display` and JSON call each variant.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:tt),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// The word for it in JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.pad(self.name())
            }
        }
    )+};
}
pub(crate) use words;
