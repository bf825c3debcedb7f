//! The control socket: HTTP over a Unix socket, for `vswitchctl` and other programs.
//!
//! ```text
//!   client --HTTP--> control-api thread --Query--> control thread, which has it all
//!                           ^                          |
//!                           +-------- oneshot ---------+
//! ```
//!
//! A thread of its own speaks HTTP, so that no client keeps the control thread from devices. What is asked
//! becomes a [`Query`]; the control thread answers with what it has, and writing it down as JSON is this
//! thread's work again. Frames do not pass by here, and workers wait for nobody.
//!
//! *Limits.* 64 connections at a time, one request each; 5 s for its head and 30 s for all of it; bodies of
//! 256 KiB. As many queries wait as there can be connections. Who may connect is the file's mode (0660).

mod api;
mod door;
mod log;
mod metrics;
pub(crate) mod views;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Context;
use netio::Waker;
use netio::guest::Address;
use tokio::sync::oneshot;

pub(crate) use door::Door;
pub(crate) use metrics::LATENCY_STEPS;

/// At most so many clients at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 64;

/// Where an answer goes. Whoever asked may be gone.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What the control thread is asked.
#[derive(Debug)]
pub(crate) enum Query {
    Show(Reply<views::Show>),
    Stats(Reply<views::Stats>),
    MacTable(Reply<MacTableNow>),
    Neighbours(Reply<Vec<views::Neighbour>>),
    /// `None` without a translation.
    Connections(Reply<Option<Vec<nat::Connection>>>),
    /// The same, without the mappings, which the connections tell.
    Nat(Reply<Option<(views::Nat, Vec<nat::Connection>)>>),
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
    pub(crate) fn start(door: Door, control: Waker) -> anyhow::Result<ControlSocket> {
        let listener = door.listener().context("handing the control socket over")?;
        let (queries, received) = sync_channel(CONNECTIONS);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.context("making the control socket's runtime")?;
        let asker = Asker { queries, control };
        let serve = move || {
            if let Err(error) = runtime.block_on(api::serve(listener, asker, stopped)) {
                tracing::error!("the control socket ended: {error}");
            }
        };
        let thread = thread::Builder::new().name("control-api".to_owned()).spawn(serve);
        let thread = thread.context("starting the control socket's thread")?;
        Ok(ControlSocket { queries: received, stop: Some(stop), thread: Some(thread), door })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Address {
        self.door.path()
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
}
