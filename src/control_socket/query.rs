//! What the control thread is asked.
//!
//! A query carries the sender of its own reply. Queries wait in a bounded channel; one that finds no room is refused as busy.

use std::net::Ipv4Addr;

use api::Refusal;
use api::query::ConnectionFilter;
use packet::MacAddr;
use packet::vlan::VlanId;
use tokio::sync::oneshot;

use crate::watch::captures::{Begun, PortNow};
use crate::watch::traces::Following;

/// Where an answer goes. Whoever asked may be gone.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What the control thread is asked, or told to change.
#[derive(Debug)]
pub(crate) enum Query {
    Show(Reply<api::Show>),
    Stats(Reply<api::Stats>),
    /// Both of one moment.
    Metrics(Reply<(api::Stats, Vec<api::Tunnel>)>),
    /// Nothing but an answer.
    Health(Reply<()>),
    MacTable(Reply<MacTableNow>),
    AddMac {
        vlan: VlanId,
        mac: MacAddr,
        port: String,
        /// The name of the port's bridge.
        reply: Reply<Result<String, Refusal>>,
    },
    /// Was there one?
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
    /// At this port, or at all.
    BeginCapture {
        port: Option<String>,
        want: ::capture::Want,
        reply: Reply<Result<Begun, Refusal>>,
    },
    /// The ports that can be captured at now.
    CapturePorts(Reply<Vec<PortNow>>),
    Neighbours(Reply<Vec<api::Neighbour>>),
    FlushNeighbours {
        address: Option<Ipv4Addr>,
        reply: Reply<usize>,
    },
    /// How many match, and so many of them; `None` without a translation.
    Connections {
        filter: ConnectionFilter,
        most: usize,
        reply: Reply<Option<(usize, Vec<::nat::Connection>)>>,
    },
    FlushConnections {
        filter: ConnectionFilter,
        reply: Reply<Option<usize>>,
    },
    /// What was done, or would be.
    Reconfigure {
        verb: Verb,
        dry_run: bool,
        reply: Reply<Result<Vec<api::Change>, Refusal>>,
    },
    /// All but the mappings, and those.
    Nat {
        most: usize,
        reply: Reply<Option<(api::Nat, Vec<::nat::PortMapping>)>>,
    },
    /// What would become of an imaginary packet.
    Imagine(Box<crate::trace::Words>, Reply<Result<api::Story, Refusal>>),
    /// The stories of the next real packets, of one port and by a filter if they are said.
    Follow {
        count: u32,
        port: Option<String>,
        filter: Option<filter::Filter>,
        reply: Reply<Result<Following, Refusal>>,
    },
}

/// The MAC tables as they are, and the names of ports by their numbers.
#[derive(Debug)]
pub(crate) struct MacTableNow {
    /// By the bridges' names.
    pub(crate) bridges: Vec<(String, Vec<vswitch::MacEntry>)>,
    pub(crate) names: Vec<String>,
}

/// A change of the configuration.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Replaces all of it by this text, which errors call `file`.
    Apply {
        file: String,
        text: String,
    },
    AddPort(String),
    DeletePort(String),
    Publish(String),
    Unpublish(String),
    AddTunnel(String),
    DeleteTunnel(String),
}
