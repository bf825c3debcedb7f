//! Requests to the control thread.
//!
//! A query carries the sender for its reply. Queries wait in a bounded channel; if it is full, the request is refused as busy.

use std::net::Ipv4Addr;

use api::Refusal;
use api::query::ConnectionFilter;
use packet::MacAddr;
use packet::vlan::VlanId;
use tokio::sync::oneshot;

use crate::docker::Network;
use crate::state::upgrade::Upgrade;
use crate::watch::captures::{Begun, PortNow};
use crate::watch::traces::Following;

/// The sender for a reply. Its receiver may have been dropped already.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// A request to the control thread: for state, or for a change.
#[derive(Debug)]
pub(crate) enum Query {
    Show(Reply<api::Show>),
    Stats(Reply<api::Stats>),
    /// Statistics and tunnels, read at the same time.
    Metrics(Reply<(api::Stats, Vec<api::Tunnel>)>),
    /// Replies at once; shows that the control thread runs.
    Health(Reply<()>),
    MacTable(Reply<MacTableNow>),
    AddMac {
        vlan: VlanId,
        mac: MacAddr,
        port: String,
        /// Replies with the names of the port's bridge and of the port.
        reply: Reply<Result<(String, String), Refusal>>,
    },
    /// Replies whether there was such an entry.
    RemoveMac {
        bridge: Option<String>,
        vlan: VlanId,
        mac: MacAddr,
        reply: Reply<Result<bool, Refusal>>,
    },
    FlushMacs {
        bridge: Option<String>,
        port: Option<String>,
        vlan: Option<VlanId>,
        reply: Reply<Result<usize, Refusal>>,
    },
    /// Begins a capture at one port, or at all ports.
    BeginCapture {
        port: Option<String>,
        want: ::capture::Want,
        reply: Reply<Result<Begun, Refusal>>,
    },
    /// The ports that exist now and can be captured at.
    CapturePorts(Reply<Vec<PortNow>>),
    Guests(Reply<Vec<api::Guest>>),
    /// What a network driver asks of a bridge; `None` if there is no such bridge.
    Network {
        bridge: String,
        reply: Reply<Option<Network>>,
    },
    Routes(Reply<Vec<api::Route>>),
    Neighbours(Reply<Vec<api::Neighbour>>),
    FlushNeighbours {
        address: Option<Ipv4Addr>,
        reply: Reply<usize>,
    },
    /// Replies with the number of matching connections and at most `most` of them; with `None` without NAT.
    Connections {
        filter: ConnectionFilter,
        most: usize,
        reply: Reply<Option<(usize, Vec<::nat::Connection>)>>,
    },
    FlushConnections {
        filter: ConnectionFilter,
        reply: Reply<Option<usize>>,
    },
    /// Another program is to go on.
    Upgrade {
        upgrade: Upgrade,
        reply: Reply<Result<(), Refusal>>,
    },
    /// The configuration in force, in TOML.
    Configuration(Reply<String>),
    /// Changes the configuration. Replies with the changes made, or with `dry_run` those that would be made.
    Reconfigure {
        verb: Verb,
        dry_run: bool,
        reply: Reply<Result<Vec<api::Change>, Refusal>>,
    },
    /// Replies with the state of NAT and at most `most` port mappings; with `None` without NAT.
    Nat {
        most: usize,
        reply: Reply<Option<(api::Nat, Vec<::nat::PortMapping>)>>,
    },
    /// Traces an imaginary packet.
    Imagine(Box<crate::trace::Words>, Reply<Result<api::Story, Refusal>>),
    /// Traces the next `count` real packets, limited to a port and a filter if given.
    Follow {
        count: u32,
        port: Option<String>,
        filter: Option<filter::Filter>,
        reply: Reply<Result<Following, Refusal>>,
    },
}

impl Query {
    /// Returns whether nothing needs to be done because the client is gone. A change is made whether or not its client waits for
    /// the answer.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Query::Show(reply) => reply.is_closed(),
            Query::Stats(reply) => reply.is_closed(),
            Query::Metrics(reply) => reply.is_closed(),
            Query::Health(reply) => reply.is_closed(),
            Query::Configuration(reply) => reply.is_closed(),
            Query::Upgrade { reply, .. } => reply.is_closed(),
            Query::MacTable(reply) => reply.is_closed(),
            Query::BeginCapture { reply, .. } => reply.is_closed(),
            Query::CapturePorts(reply) => reply.is_closed(),
            Query::Guests(reply) => reply.is_closed(),
            Query::Network { reply, .. } => reply.is_closed(),
            Query::Routes(reply) => reply.is_closed(),
            Query::Neighbours(reply) => reply.is_closed(),
            Query::Connections { reply, .. } => reply.is_closed(),
            Query::Nat { reply, .. } => reply.is_closed(),
            Query::Imagine(_, reply) => reply.is_closed(),
            Query::Follow { reply, .. } => reply.is_closed(),
            Query::AddMac { .. } | Query::RemoveMac { .. } | Query::FlushMacs { .. } => false,
            Query::FlushNeighbours { .. } | Query::FlushConnections { .. } | Query::Reconfigure { .. } => false,
        }
    }
}

/// The current MAC tables.
#[derive(Debug)]
pub(crate) struct MacTableNow {
    /// Entries of each bridge, with the bridge's name.
    pub(crate) bridges: Vec<(String, Vec<vswitch::MacEntry>)>,
    /// Port names, indexed by port number.
    pub(crate) names: Vec<String>,
}

/// A change of the configuration.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Replaces the whole configuration by `text`. Errors refer to it as `file`.
    Apply {
        file: String,
        text: String,
        /// Whether what verbs have made goes too.
        prune: bool,
    },
    AddBridge(String),
    SetBridge(String),
    DeleteBridge(String),
    AddPort(String),
    /// Changes these keys of a port.
    SetPort(PortName, String),
    DeletePort(PortName),
    AddRoute(String),
    DeleteRoute(String),
    Publish(String),
    Unpublish(String),
    /// A guest's id, and what it is.
    AddGuest(String, config::GuestWords),
    /// The same for an engine: its own guests, whose ids begin with the prefix, make room.
    AddGuestInstead {
        prefix: &'static str,
        id: String,
        words: config::GuestWords,
    },
    SetGuest(String, config::GuestWords),
    DeleteGuest(String),
    /// Removes the guests whose ids begin with `prefix`, but those of `keep`.
    KeepGuests {
        prefix: String,
        keep: Vec<String>,
    },
    AddTunnel(String),
    DeleteTunnel(String),
}

/// How a request names a port.
#[derive(Debug)]
pub(crate) enum PortName {
    /// By its name, or `NAME@NETNS`.
    Name(String),
    /// By the id that its maker gave it.
    Id(String),
}
