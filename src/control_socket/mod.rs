//! The control socket: HTTP over a Unix socket, for `vswitchctl` and other programs; and metrics over TCP.
//!
//! ```text
//!   client --HTTP--> control-api thread --Query--> control thread, which has it all
//!                           ^                          |
//!                           +-------- oneshot ---------+
//! ```
//!
//! A thread of its own speaks HTTP, so that no client keeps the control thread from devices. A request becomes a [`Query`]; the
//! control thread answers with what it has, or changes it, and writing it down as JSON is this thread's work again. Frames do not
//! pass by here, and workers wait for nobody.
//!
//! *Files.* [`paths`] is the table of paths; what they do is in files by subject. [`listener`] accepts connections and keeps them in
//! their limits, [`places`] says who makes room when there are many, [`server`] is the thread, [`socket`] the socket's file,
//! [`rights`] says what a client may do, [`answer`] what is taken and refused, [`input`] reads parameters and bodies,
//! [`description`] completes the OpenAPI document. [`scrape`] serves metrics in the same way, in a thread of its own.
//!
//! *Limits* are those of [`LIMITS`]; a body is at most 256 KiB long. As many queries wait as requests are answered, and lists
//! have an end.

mod answer;
mod ask;
mod capture;
mod conntrack;
mod description;
mod events;
mod fdb;
mod guests;
mod input;
mod large;
mod lasting;
pub(crate) mod listener;
mod log;
mod metrics;
mod nat;
mod neighbours;
mod paths;
pub(crate) mod places;
mod query;
mod reconfigure;
pub(crate) mod rights;
mod routes;
mod scrape;
pub(crate) mod server;
mod show;
mod socket;
mod stop;
mod trace;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::Event;
use netio::Waker;
use netio::peer::Credentials;
use tokio::net::UnixListener;
use tokio::sync::broadcast::Sender;

use listener::Limits;
use places::{Client, Peer, Quota};
use rights::Rights;
use server::Server;

pub(crate) use answer::BUSY;
pub(crate) use ask::Asker;
pub(crate) use conntrack::matches;
pub(crate) use metrics::LATENCY_STEPS;
pub(crate) use query::{MacTableNow, PortName, Query, Verb};
pub(crate) use scrape::{Scrape, ScrapeListener};
pub(crate) use socket::ControlListener;

/// What clients of the control socket may take up.
const LIMITS: Limits = Limits {
    connections: 128,
    answers: Quota { all: 64, but_root: 48, of_others: 32 },
    answers_each: 16,
    patience: None,
    lasting: Quota { all: 16, but_root: 12, of_others: 8 },
    large: Quota { all: 3, but_root: 2, of_others: 1 },
    head: 16 << 10,
    head_time: Duration::from_secs(5),
    request_time: Duration::from_secs(30),
};

/// The thread that speaks HTTP on the control socket, and what it asks; ended when dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    server: Server,
    listener: ControlListener,
}

impl ControlSocket {
    /// Serves the clients of this socket; `control` wakes the control thread when there is something to answer.
    pub(crate) fn start(listener: ControlListener, events: Sender<Arc<Event>>, control: Waker) -> anyhow::Result<ControlSocket> {
        let socket = listener.socket().context("handing the control socket over")?;
        let guard = listener.guard().clone();
        let server = Server::start("control-api", LIMITS.answers.all, control, move |asker| async move {
            let socket = UnixListener::from_std(socket)?;
            let router = paths::router(asker, events, guard.clone());
            Ok(listener::serve(socket, LIMITS, |stream, _| client(stream, &guard), router).await)
        })?;
        Ok(ControlSocket { server, listener })
    }

    /// Where the socket is, and who may connect besides its owner.
    pub(crate) fn summary(&self) -> String {
        self.listener.summary()
    }

    /// The next query, if there is one.
    pub(crate) fn next_query(&self) -> Option<Query> {
        self.server.next_query()
    }
}

/// Who has connected.
fn client(stream: &tokio::net::UnixStream, guard: &rights::Guard) -> Client {
    match Credentials::of_peer(stream) {
        Ok(peer) => Client { peer: Peer::User(peer.user), rights: guard.rights_of(&peer), is_root: guard.is_owner(&peer) },
        Err(_) => Client { peer: Peer::User(u32::MAX), rights: Rights::Nothing, is_root: false },
    }
}
