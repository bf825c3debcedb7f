//! The thread that serves local clients of published ports.
//!
//! *Threads.* One, made with the first rule; it ends with the last one, and its connections with it. The control thread gives it rules.

use std::io;
use std::net::{SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netio::reservation::PortProtocol;
use netio::{LocalDatagrams, Poller, Waker};

use super::Rules;
use super::datagrams::Datagrams;
use super::streams::Streams;

/// How often clients are looked at that carry nothing.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// Token of the first socket for datagrams; those of TCP's listeners are below.
pub(super) const DATAGRAMS: u64 = 2;

/// Tokens of the first connection, and of the first client that sends datagrams.
pub(super) const FIRST_STREAM: u64 = 1 << 16;
pub(super) const FIRST_DATAGRAM_CLIENT: u64 = 1 << 17;

/// The sockets that local clients reach, of IPv4 and of IPv6.
#[derive(Debug)]
pub(super) struct Entrances {
    pub(super) streams: [Option<TcpListener>; 2],
    pub(super) datagrams: [Option<LocalDatagrams>; 2],
}

/// The control thread's end of the thread.
#[derive(Debug)]
pub(super) struct Clients {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What the control thread tells.
#[derive(Debug)]
pub(super) struct Shared {
    rules: Mutex<Rules>,
    ends: AtomicBool,
}

impl Shared {
    pub(super) fn new(rules: Rules) -> Shared {
        Shared { rules: Mutex::new(rules), ends: AtomicBool::default() }
    }

    /// The guest's port that a published one leads to.
    pub(super) fn guest_of(&self, protocol: PortProtocol, port: u16) -> Option<SocketAddrV4> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).get(&(protocol, port)).copied()
    }
}

impl Clients {
    /// Starts the thread with these sockets.
    pub(super) fn start(entrances: Entrances) -> io::Result<Clients> {
        let poller = Poller::new()?;
        let streams = Streams::new(entrances.streams, &poller)?;
        let datagrams = Datagrams::new(entrances.datagrams, &poller)?;
        let (shared, waker) = (Arc::new(Shared::new(Rules::new())), poller.waker());
        let serving = Serving { shared: Arc::clone(&shared), poller, streams, datagrams };
        let thread = thread::Builder::new().name("local-clients".to_owned()).spawn(move || serving.run())?;
        Ok(Clients { shared, waker, thread: Some(thread) })
    }

    /// Where new connections and all datagrams lead from now on.
    pub(super) fn set_rules(&self, rules: Rules) {
        *self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of local clients ended with a panic");
        }
    }
}

struct Serving {
    shared: Arc<Shared>,
    poller: Poller,
    streams: Streams,
    datagrams: Datagrams,
}

impl Serving {
    fn run(mut self) {
        let mut ready = Vec::new();
        while !self.shared.ends.load(Ordering::Acquire) {
            ready.clear();
            let has_timers = self.streams.has_timers() || self.datagrams.has_timers();
            let timeout = has_timers.then_some(SWEEP);
            if let Err(error) = self.poller.wait(timeout, |token| ready.push(token)) {
                tracing::error!(%error, "the thread of local clients cannot wait for them, and ends");
                return;
            }
            let now = Instant::now();
            for token in &ready {
                match *token {
                    DATAGRAMS..FIRST_STREAM | FIRST_DATAGRAM_CLIENT.. => {
                        self.datagrams.serve(*token, &self.shared, &self.poller, now);
                    }
                    _ => self.streams.serve(*token, &self.shared, &self.poller, now),
                }
            }
            self.streams.sweep(&self.poller, now);
            self.datagrams.sweep(&self.shared, &self.poller, now);
        }
    }
}
