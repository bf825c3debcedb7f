//! The thread that serves local clients of published ports.
//!
//! *Threads.* One, made with the first rule; it ends with the last one, and its connections with it. The control thread gives it rules.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netio::reservation::PortProtocol;
use netio::{LocalDatagrams, Poller, Waker};
use packet::Ipv4Prefix;

use super::Rules;
use super::bound::Bound;
use super::datagrams::Datagrams;
use super::streams::Streams;

/// How often clients are looked at that carry nothing.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// The first tokens of TCP's listeners and connections, and of the sockets that receive datagrams and their clients.
pub(super) const LISTENERS: u64 = 0;
pub(super) const STREAMS: u64 = 1 << 16;
pub(super) const ENTRANCES: u64 = 2 << 16;
pub(super) const DATAGRAM_CLIENTS: u64 = 3 << 16;

/// The sockets that local clients reach.
#[derive(Debug)]
pub(super) enum Entrances {
    /// A program of the kernel's gives these what is for published ports.
    Given { streams: Vec<TcpListener>, datagrams: Vec<LocalDatagrams> },
    /// Published ports are bound.
    Bound,
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
    /// Networks and addresses whose guests have gone since.
    gone: Mutex<Vec<Ipv4Prefix>>,
    /// Number of times that there were other rules.
    changes: AtomicU64,
    ends: AtomicBool,
}

impl Shared {
    pub(super) fn new(rules: Rules) -> Shared {
        Shared { rules: Mutex::new(rules), gone: Mutex::default(), changes: AtomicU64::default(), ends: AtomicBool::default() }
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Vec<Ipv4Prefix>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's port that a published one leads to.
    pub(super) fn guest_of(&self, protocol: PortProtocol, port: u16) -> Option<SocketAddrV4> {
        self.rules().get(&(protocol, port)).copied()
    }
}

impl Clients {
    /// Starts the thread with these sockets.
    pub(super) fn start(entrances: Entrances) -> io::Result<Clients> {
        let poller = Poller::new()?;
        let (streams, datagrams, bound) = match entrances {
            Entrances::Given { streams, datagrams } => (streams, datagrams, None),
            Entrances::Bound => (Vec::new(), Vec::new(), Some(Bound::default())),
        };
        let (streams, datagrams) = (Streams::new(streams, &poller)?, Datagrams::new(datagrams, &poller)?);
        let (shared, waker) = (Arc::new(Shared::new(Rules::new())), poller.waker());
        let serving = Serving { shared: Arc::clone(&shared), poller, streams, datagrams, bound };
        let thread = thread::Builder::new().name("local-clients".to_owned()).spawn(move || serving.run())?;
        Ok(Clients { shared, waker, thread: Some(thread) })
    }

    /// Where new connections and all datagrams lead from now on.
    pub(super) fn set_rules(&self, rules: Rules) {
        *self.shared.rules() = rules;
        self.shared.changes.fetch_add(1, Ordering::Release);
        self.waker.wake();
    }

    /// Clients of guests in these networks end before anything more is carried.
    pub(super) fn end(&self, networks: &[Ipv4Prefix]) {
        self.shared.gone().extend(networks);
        self.waker.wake();
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
    /// Ports that are bound, unless the kernel gives us theirs without.
    bound: Option<Bound>,
}

impl Serving {
    fn run(mut self) {
        let (mut ready, mut seen) = (Vec::new(), (0, None));
        while !self.shared.ends.load(Ordering::Acquire) {
            ready.clear();
            let has_refused = self.bound.as_ref().is_some_and(Bound::has_refused);
            let has_timers = self.streams.has_timers() || self.datagrams.has_timers() || has_refused;
            let timeout = has_timers.then_some(SWEEP);
            if let Err(error) = self.poller.wait(timeout, |token| ready.push(token)) {
                tracing::error!(%error, "the thread of local clients cannot wait for them, and ends");
                return;
            }
            let now = Instant::now();
            self.end_what_has_gone();
            for token in &ready {
                match *token {
                    ENTRANCES.. => self.datagrams.serve(*token, &self.shared, &self.poller, now),
                    _ => self.streams.serve(*token, &self.shared, &self.poller, now),
                }
            }
            self.bind(&mut seen, now);
            self.streams.sweep(&self.poller, now);
            self.datagrams.sweep(&self.shared, &self.poller, now);
        }
    }
    fn end_what_has_gone(&mut self) {
        let gone = std::mem::take(&mut *self.shared.gone());
        if !gone.is_empty() {
            let is_gone = |guest: Ipv4Addr| gone.iter().any(|network| network.contains(guest));
            self.streams.end(is_gone, &self.poller);
            self.datagrams.end(is_gone, &self.poller);
        }
    }

    /// Binds the ports of the rules, if that is how they are served: of new rules, and each second those that were refused.
    fn bind(&mut self, seen: &mut (u64, Option<Instant>), now: Instant) {
        let Some(bound) = &mut self.bound else { return };
        let changes = self.shared.changes.load(Ordering::Acquire);
        let is_due = bound.has_refused() && seen.1.is_none_or(|at| now.duration_since(at) >= SWEEP);
        if changes != seen.0 || is_due {
            *seen = (changes, Some(now));
            let rules = self.shared.rules().clone();
            bound.follow(&rules, &mut self.streams, &mut self.datagrams, &self.poller);
        }
    }
}

/// The first place that is free, or the one after the last.
pub(super) fn free_place<T>(places: &[Option<T>]) -> usize {
    places.iter().position(Option::is_none).unwrap_or(places.len())
}

/// Puts something in a free place.
pub(super) fn put<T>(places: &mut Vec<Option<T>>, at: usize, item: T) {
    match places.get_mut(at) {
        Some(place) => *place = Some(item),
        None => places.push(Some(item)),
    }
}
