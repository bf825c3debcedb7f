//! The control socket: HTTP over a Unix socket, for `vswitchctl` and other programs.
//!
//! ```text
//!   client --HTTP--> control-api thread --Query--> control thread, which has it all
//!                           ^                          |
//!                           +-------- oneshot ---------+
//! ```
//!
//! A thread of its own speaks HTTP, so that no client keeps the control thread from devices. What is asked
//! becomes a [`Query`]; the control thread answers with what it has, or changes it, and writing it down as JSON is this
//! thread's work again. Frames do not pass by here, and workers wait for nobody.
//!
//! *Files.* [`api`] is the table of paths; what they do is in files by subject. [`server`] keeps connections in their
//! limits, [`rights`] says who may do what, [`answer`] what is taken and refused.
//!
//! *Limits.* 64 connections at a time, half of them for those who may not do everything, one request each; 5 s for its
//! head and 30 s for all of it; bodies of 256 KiB. As many queries wait as there can be connections. Of answers that may be
//! [`large`] there are two at a time, and lists have an end.

mod answer;
mod api;
mod capture;
mod conntrack;
mod door;
pub(crate) mod event;
mod events;
mod fdb;
mod large;
mod lasting;
mod log;
mod metrics;
mod nat;
mod neighbours;
mod reconfigure;
mod rights;
mod scrape;
mod server;
mod show;
pub(crate) mod story;
mod trace;
pub(crate) mod views;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Context;
use axum::response::Response;
use netio::Waker;
use packet::MacAddr;
use packet::vlan::VlanId;
use tokio::sync::broadcast::Sender;
use tokio::sync::oneshot;

use crate::watch::captures::{Begun, PortNow};
use crate::watch::traces::Following;
use event::Event;

pub(crate) use conntrack::Which as WhichConnections;
pub(crate) use door::{Door, describe};
pub(crate) use event::What;
pub(crate) use metrics::LATENCY_STEPS;
pub(crate) use reconfigure::Verb;
pub(crate) use scrape::{Scrape, ScrapeDoor};

/// At most so many clients at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 64;

/// Where an answer goes. Whoever asked may be gone.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What the control thread is asked, or told to change.
#[derive(Debug)]
pub(crate) enum Query {
    Show(Reply<views::Show>),
    Stats(Reply<views::Stats>),
    /// Both of one moment.
    Metrics(Reply<(views::Stats, Vec<views::Tunnel>)>),
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
    Neighbours(Reply<Vec<views::Neighbour>>),
    FlushNeighbours {
        address: Option<Ipv4Addr>,
        reply: Reply<usize>,
    },
    /// How many match, and so many of them; `None` without a translation.
    Connections {
        which: WhichConnections,
        most: usize,
        reply: Reply<Option<(usize, Vec<::nat::Connection>)>>,
    },
    FlushConnections {
        which: WhichConnections,
        reply: Reply<Option<usize>>,
    },
    /// What was done, or would be.
    Reconfigure {
        verb: Verb,
        dry_run: bool,
        reply: Reply<Result<Vec<views::Change>, Refusal>>,
    },
    /// All but the mappings, and those.
    Nat {
        most: usize,
        reply: Reply<Option<(views::Nat, Vec<::nat::PortMapping>)>>,
    },
    /// What would become of an imaginary packet.
    Imagine(Box<crate::trace::Words>, Reply<Result<story::Story, Refusal>>),
    /// The stories of the next real packets, of one port and by a filter if they are said.
    Follow {
        count: u32,
        port: Option<String>,
        filter: Option<filter::Filter>,
        reply: Reply<Result<Following, Refusal>>,
    },
}

/// Why something is not done, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// A word that is none.
    NotUnderstood(String),
    /// What it is about is not there.
    NotFound(String),
    /// Something else is in its way.
    Conflict(String),
    /// It can never be so.
    Unfit(String),
    /// A fault of ours.
    Fault(String),
}

/// The MAC tables as they are, and the names of ports by their numbers.
#[derive(Debug)]
pub(crate) struct MacTableNow {
    /// By the bridges' names.
    pub(crate) bridges: Vec<(String, Vec<vswitch::MacEntry>)>,
    pub(crate) names: Vec<String>,
}

/// The thread that speaks HTTP, and what it asks; ended when dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    queries: Receiver<Query>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    door: Door,
}

/// Asks the control thread.
#[derive(Clone, Debug)]
struct Asker {
    queries: SyncSender<Query>,
    control: Waker,
}

impl ControlSocket {
    /// Serves those who come to this door; `control` wakes who is to answer.
    pub(crate) fn start(door: Door, events: Sender<Arc<Event>>, control: Waker) -> anyhow::Result<ControlSocket> {
        let listener = door.listener().context("handing the control socket over")?;
        let guard = door.guard().clone();
        let (queries, received) = sync_channel(CONNECTIONS);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.context("making the control socket's runtime")?;
        let router = api::router(Asker { queries, control }, events, guard.clone());
        let serve = move || {
            if let Err(error) = runtime.block_on(server::serve(listener, guard, router, stopped)) {
                tracing::error!("the control socket ended: {error}");
            }
        };
        let thread = thread::Builder::new().name("control-api".to_owned()).spawn(serve);
        let thread = thread.context("starting the control socket's thread")?;
        Ok(ControlSocket { queries: received, stop: Some(stop), thread: Some(thread), door })
    }

    /// Where it is and who may come there, for people.
    pub(crate) fn summary(&self) -> String {
        self.door.summary()
    }

    /// What is asked next, if something is.
    pub(crate) fn next_query(&self) -> Option<Query> {
        self.queries.try_recv().ok()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control socket's thread ended with a panic");
        }
    }
}

impl Asker {
    /// `None`: too many ask, or the daemon ends.
    async fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queries.try_send(query(reply)).ok()?;
        self.control.wake();
        answer.await.ok()
    }

    /// The same where it can be refused.
    async fn change<T>(&self, query: impl FnOnce(Reply<Result<T, Refusal>>) -> Query) -> Result<T, Response> {
        Ok(self.ask(query).await.ok_or_else(answer::busy)??)
    }
}
