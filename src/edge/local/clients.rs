//! The thread that serves local clients of published ports: accepts, connects to the guest, and copies both ways.
//!
//! ```text
//!   accepted > connecting > copying, each way: read > buffer > write; end of file > shutdown > both ended: closed
//! ```
//!
//! *Bounds.* At most [`MAX_CLIENTS`] at a time; further ones wait in the listeners' backlogs. Each has a buffer of [`BUFFER`] bytes a
//! direction, which is empty before more is read. A guest that does not answer is given up after [`CONNECT_TIMEOUT`], and a connection
//! that carries nothing after [`IDLE_TIMEOUT`].
//!
//! *Threads.* One, made with the first rule; it ends with the last one, and its connections with it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netio::{Poller, Waker, Writable};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Rules;

/// Maximum number of clients at a time; each takes four descriptors.
const MAX_CLIENTS: usize = 128;

/// Bytes on their way in one direction.
const BUFFER: usize = 64 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// As long as the translation keeps an idle connection (RFC 5382 REQ-5).
const IDLE_TIMEOUT: Duration = Duration::from_secs(7440);

/// How often connections are looked at that carry nothing.
const SWEEP: Duration = Duration::from_secs(1);

/// Tokens of the listeners; clients have those below.
const FIRST_LISTENER: u64 = MAX_CLIENTS as u64;

/// The control thread's end of the thread.
#[derive(Debug)]
pub(super) struct Clients {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Rules>,
    ends: AtomicBool,
}

impl Clients {
    /// Starts the thread with these listeners, of IPv4 and of IPv6.
    pub(super) fn start(listeners: [Option<TcpListener>; 2]) -> io::Result<Clients> {
        let poller = Poller::new()?;
        for (listener, token) in listeners.iter().zip(FIRST_LISTENER..) {
            let Some(listener) = listener else { continue };
            listener.set_nonblocking(true)?;
            poller.add(listener, token)?;
        }
        let (shared, waker) = (Arc::new(Shared::default()), poller.waker());
        let serving = Serving { shared: Arc::clone(&shared), poller, listeners, clients: Vec::new(), is_full: false };
        let thread = thread::Builder::new().name("local-clients".to_owned()).spawn(move || serving.run())?;
        Ok(Clients { shared, waker, thread: Some(thread) })
    }

    /// Where new connections lead from now on.
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
    listeners: [Option<TcpListener>; 2],
    /// By their tokens; `None` where a token is free.
    clients: Vec<Option<Client>>,
    /// The listeners are not watched, since there is no room.
    is_full: bool,
}

/// A client and its guest.
struct Client {
    near: End,
    far: End,
    /// From the client to the guest, and back.
    ways: [Way; 2],
    is_connected: bool,
    used: Instant,
}

/// One socket of a connection.
struct End {
    stream: TcpStream,
    writable: Writable,
    /// It is watched for what it receives.
    is_read: bool,
}

/// One direction.
struct Way {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    has_ended: bool,
    is_shut: bool,
}

impl Serving {
    fn run(mut self) {
        let mut ready = Vec::new();
        while !self.shared.ends.load(Ordering::Acquire) {
            ready.clear();
            let timeout = (!self.clients.is_empty()).then_some(SWEEP);
            if let Err(error) = self.poller.wait(timeout, |token| ready.push(token)) {
                tracing::error!(%error, "the thread of local clients cannot wait for them, and ends");
                return;
            }
            let now = Instant::now();
            for token in &ready {
                match token.checked_sub(FIRST_LISTENER) {
                    Some(listener) => self.accept(listener as usize, now),
                    None => self.carry(*token as usize, now),
                }
            }
            self.sweep(now);
        }
    }

    fn accept(&mut self, listener: usize, now: Instant) {
        let Some(Some(listener)) = self.listeners.get(listener) else { return };
        // One at a time, so that those who are there have their turn.
        let Ok((stream, _)) = listener.accept() else { return };
        let place = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        match self.connect(stream, place as u64, now) {
            Ok(Some(client)) if place == self.clients.len() => self.clients.push(Some(client)),
            Ok(Some(client)) => self.clients[place] = Some(client),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot connect a local client to its guest"),
        }
        self.watch_listeners();
    }

    /// Begins to connect a client to the guest of the port that it wanted. `None` if no rule has the port.
    fn connect(&self, near: TcpStream, token: u64, now: Instant) -> io::Result<Option<Client>> {
        let port = near.local_addr()?.port();
        let guest = self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner).get(&port).copied();
        let Some(guest) = guest else { return Ok(None) };
        near.set_nonblocking(true)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let far = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&far, &guest) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let far = TcpStream::from(far);
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
        }
        let [near, far] = [End::new(near, &self.poller, token)?, End::new(far, &self.poller, token)?];
        Ok(Some(Client { near, far, ways: [Way::new(), Way::new()], is_connected: false, used: now }))
    }

    fn carry(&mut self, token: usize, now: Instant) {
        let Some(place) = self.clients.get_mut(token) else { return };
        let Some(client) = place else { return };
        match client.carry(&self.poller, token as u64, now) {
            Ok(false) => {}
            Ok(true) | Err(_) => {
                *place = None;
                self.watch_listeners();
            }
        }
    }

    /// Closes connections that were idle for too long.
    fn sweep(&mut self, now: Instant) {
        for place in &mut self.clients {
            let is_over = |client: &Client| {
                let limit = if client.is_connected { IDLE_TIMEOUT } else { CONNECT_TIMEOUT };
                now.duration_since(client.used) > limit
            };
            if place.as_ref().is_some_and(is_over) {
                *place = None;
            }
        }
        while self.clients.last().is_some_and(Option::is_none) {
            self.clients.pop();
        }
        self.watch_listeners();
    }

    /// Accepts clients only while there is room.
    fn watch_listeners(&mut self) {
        let is_full = self.clients.iter().flatten().count() >= MAX_CLIENTS;
        if is_full == self.is_full {
            return;
        }
        self.is_full = is_full;
        for (listener, token) in self.listeners.iter().zip(FIRST_LISTENER..) {
            if let Some(listener) = listener {
                let _ = self.poller.watch_readable(listener, token, !is_full);
            }
        }
    }
}

impl End {
    fn new(stream: TcpStream, poller: &Poller, token: u64) -> io::Result<End> {
        let writable = poller.add_writable(stream.as_fd(), token)?;
        Ok(End { stream, writable, is_read: false })
    }

    /// Starts or stops to wait for what it receives.
    fn read(&mut self, is_read: bool, poller: &Poller, token: u64) -> io::Result<()> {
        if is_read != self.is_read {
            if is_read {
                poller.add(&self.stream, token)?;
            } else {
                poller.remove(&self.stream)?;
            }
            self.is_read = is_read;
        }
        Ok(())
    }
}

impl Client {
    /// Carries what there is. Returns whether the connection is over.
    fn carry(&mut self, poller: &Poller, token: u64, now: Instant) -> io::Result<bool> {
        if !self.is_connected {
            if let Some(error) = self.far.stream.take_error()? {
                return Err(error);
            }
            if let Err(error) = self.far.stream.peer_addr() {
                return if error.kind() == ErrorKind::NotConnected { Ok(false) } else { Err(error) };
            }
            (self.is_connected, self.used) = (true, now);
        }
        let [there, back] = &mut self.ways;
        let (near, far) = (&mut self.near, &mut self.far);
        let carried = there.carry(&near.stream, &far.stream)? | back.carry(&far.stream, &near.stream)?;
        if carried {
            self.used = now;
        }
        near.read(there.wants_more(), poller, token)?;
        far.read(back.wants_more(), poller, token)?;
        for (way, to) in [(&*there, &far.writable), (&*back, &near.writable)] {
            if way.start < way.end {
                to.arm()?;
            }
        }
        Ok(there.is_shut && back.is_shut)
    }
}

impl Way {
    fn new() -> Way {
        Way { buffer: vec![0; BUFFER].into(), start: 0, end: 0, has_ended: false, is_shut: false }
    }

    fn wants_more(&self) -> bool {
        self.start == self.end && !self.has_ended
    }

    /// Writes what there is, and one buffer more. Returns whether anything moved.
    fn carry(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<bool> {
        let mut moved = self.write(&mut to)?;
        if self.wants_more() {
            match from.read(&mut self.buffer) {
                Ok(0) => self.has_ended = true,
                Ok(len) => (self.start, self.end) = (0, len),
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
            moved |= self.write(&mut to)?;
        }
        if self.has_ended && self.start == self.end && !self.is_shut {
            self.is_shut = true;
            // One that is closed already needs no end.
            let _ = to.shutdown(Shutdown::Write);
        }
        Ok(moved)
    }

    fn write(&mut self, to: &mut &TcpStream) -> io::Result<bool> {
        let before = self.start;
        while self.start < self.end {
            match to.write(&self.buffer[self.start..self.end]) {
                Ok(len) => self.start += len,
                Err(error) if is_pause(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.start != before)
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
