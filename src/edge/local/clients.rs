//! The thread that serves local clients of published ports: accepts, connects to the guest, and copies both ways.
//!
//! ```text
//!   accepted > connecting > copying, each way: read > buffer > write; end of file > shutdown > both ended: closed
//! ```
//!
//! *Bounds.* At most [`MAX_CLIENTS`] at a time; further ones wait in the listeners' backlogs. Each has a buffer of [`BUFFER`] bytes a
//! direction, which is empty before more is read. A guest that does not answer is given up after [`CONNECT_TIMEOUT`], and a connection
//! that carries nothing after [`IDLE_TIMEOUT`]; after [`HALF_CLOSED_TIMEOUT`] if the client or the guest has closed its side, also if
//! that end is still behind bytes that the other does not take; after [`HALF_CLOSED_IF_FULL`] if no place is free. Both are asked from
//! time to time whether they are still there ([`KEEPALIVE`]). A client that cannot be accepted, for want of descriptors, is waited for
//! in the backlog, and tried again a [`SWEEP`] later.
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
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::Rules;

/// Maximum number of clients at a time; each takes four descriptors.
const MAX_CLIENTS: usize = 128;

/// Bytes on their way in one direction.
const BUFFER: usize = 64 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// As long as the translation keeps an idle connection (RFC 5382 REQ-5).
const IDLE_TIMEOUT: Duration = Duration::from_secs(7440);

/// As long as the translation keeps a connection that closes (RFC 5382 REQ-5). The kernel keeps a closed socket whose peer has not
/// closed for 60 s.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(240);

/// As [`HALF_CLOSED_TIMEOUT`], while all places are taken.
const HALF_CLOSED_IF_FULL: Duration = Duration::from_secs(30);

/// When the kernel asks a silent client or guest whether it is still there (RFC 9293 section 3.8.4), and how often it asks again
/// before the connection fails.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(60), 5);

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
        let serving = Serving::new(Arc::clone(&shared), poller, listeners);
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
    /// The listeners are watched: there is room, and the last client could be accepted.
    is_accepting: bool,
    /// When to accept again after a failure.
    accepts_at: Option<Instant>,
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
    fn new(shared: Arc<Shared>, poller: Poller, listeners: [Option<TcpListener>; 2]) -> Serving {
        Serving { shared, poller, listeners, clients: Vec::new(), is_accepting: true, accepts_at: None }
    }

    fn run(mut self) {
        let mut ready = Vec::new();
        while !self.shared.ends.load(Ordering::Acquire) {
            if let Err(error) = self.turn(&mut ready) {
                tracing::error!(%error, "the thread of local clients cannot wait for them, and ends");
                return;
            }
            self.sweep(Instant::now());
        }
    }

    /// Waits for sockets, and serves those that are ready.
    fn turn(&mut self, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let has_timers = !self.clients.is_empty() || self.accepts_at.is_some();
        self.poller.wait(has_timers.then_some(SWEEP), |token| ready.push(token))?;
        let now = Instant::now();
        for token in ready {
            match token.checked_sub(FIRST_LISTENER) {
                Some(listener) => self.accept(listener as usize, now),
                None => self.carry(*token as usize, now),
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize, now: Instant) {
        let Some(Some(listener)) = self.listeners.get(listener) else { return };
        // One at a time, so that those who are there have their turn.
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_pause(&error) || error.kind() == ErrorKind::ConnectionAborted => return,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a local client of a published port; trying again");
                self.accepts_at = Some(now + SWEEP);
                return self.watch_listeners();
            }
        };
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
            sockopt::set_tcp_keepidle(stream, KEEPALIVE.0)?;
            sockopt::set_tcp_keepintvl(stream, KEEPALIVE.0)?;
            sockopt::set_tcp_keepcnt(stream, KEEPALIVE.1)?;
            sockopt::set_socket_keepalive(stream, true)?;
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
        let is_full = self.is_full();
        for place in &mut self.clients {
            if place.as_ref().is_some_and(|client| client.is_over(now, is_full)) {
                *place = None;
            }
        }
        while self.clients.last().is_some_and(Option::is_none) {
            self.clients.pop();
        }
        self.accepts_at = self.accepts_at.filter(|at| *at > now);
        self.watch_listeners();
    }

    fn is_full(&self) -> bool {
        self.clients.iter().flatten().count() >= MAX_CLIENTS
    }

    /// Watches the listeners only while clients can be accepted.
    fn watch_listeners(&mut self) {
        let is_accepting = !self.is_full() && self.accepts_at.is_none();
        if is_accepting == self.is_accepting {
            return;
        }
        self.is_accepting = is_accepting;
        for (listener, token) in self.listeners.iter().zip(FIRST_LISTENER..) {
            let Some(listener) = listener else { continue };
            let _ = if is_accepting { self.poller.add(listener, token) } else { self.poller.remove(listener) };
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

    /// Its peer sends nothing more: it has closed its side, or the connection has failed.
    fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl Client {
    /// It has carried nothing for too long.
    fn is_over(&self, now: Instant, is_full: bool) -> bool {
        let idle = now.duration_since(self.used);
        if !self.is_connected {
            return idle > CONNECT_TIMEOUT;
        }
        let half_closed = if is_full { HALF_CLOSED_IF_FULL } else { HALF_CLOSED_TIMEOUT };
        idle > IDLE_TIMEOUT || idle > half_closed && (self.near.has_ended() || self.far.has_ended())
    }

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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    /// The thread's work, one turn at a time, with a guest for the port of the listener.
    struct Lab {
        serving: Serving,
        address: SocketAddr,
        guest: TcpListener,
    }

    impl Lab {
        fn new() -> Lab {
            let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let (listener, guest) = (bind(), bind());
            let (address, poller) = (listener.local_addr().unwrap(), Poller::new().unwrap());
            listener.set_nonblocking(true).unwrap();
            poller.add(&listener, FIRST_LISTENER).unwrap();
            let SocketAddr::V4(to) = guest.local_addr().unwrap() else { unreachable!("a listener of IPv4") };
            let shared = Arc::new(Shared { rules: Mutex::new([(address.port(), to)].into()), ends: AtomicBool::default() });
            Lab { serving: Serving::new(shared, poller, [Some(listener), None]), address, guest }
        }

        fn turn(&mut self) {
            self.serving.turn(&mut Vec::new()).unwrap();
        }

        /// A client, and the guest's side of its connection.
        fn client(&mut self) -> (TcpStream, TcpStream) {
            let client = TcpStream::connect(self.address).unwrap();
            let before = self.connected();
            while self.connected() == before {
                self.turn();
            }
            (client, self.guest.accept().unwrap().0)
        }

        fn connected(&self) -> usize {
            self.serving.clients.iter().flatten().filter(|client| client.is_connected).count()
        }

        /// Turns until the client's end has come to its socket here.
        fn wait_for_end(&mut self, of: usize) {
            while !self.serving.clients[of].as_ref().unwrap().near.has_ended() {
                self.turn();
            }
        }

        /// Clients that are left after as much time without a byte.
        fn left_after(&mut self, idle: Duration) -> usize {
            self.serving.sweep(Instant::now() + idle);
            self.connected()
        }
    }

    #[test]
    fn half_closed_connections_end_before_idle_ones() {
        let mut lab = Lab::new();
        let (idle, of_closed) = (lab.client(), lab.client());
        drop(of_closed.0);
        lab.wait_for_end(1);
        assert_eq!(lab.left_after(HALF_CLOSED_TIMEOUT - SWEEP), 2);
        assert_eq!(lab.left_after(HALF_CLOSED_TIMEOUT + SWEEP), 1, "the client that has closed");
        assert_eq!(lab.left_after(IDLE_TIMEOUT - SWEEP), 1);
        assert_eq!(lab.left_after(IDLE_TIMEOUT + SWEEP), 0);
        drop(idle);
    }

    #[test]
    fn an_end_behind_bytes_that_nobody_takes_counts() {
        let mut lab = Lab::new();
        let (client, _guest) = lab.client();
        // Until neither the guest's socket nor the buffer takes any more.
        while lab.serving.clients[0].as_ref().unwrap().near.is_read {
            (&client).write_all(&[0; BUFFER]).unwrap();
            lab.turn();
        }
        (&client).write_all(&[0]).unwrap();
        drop(client);
        while !lab.serving.clients[0].as_ref().unwrap().near.has_ended() {
            thread::yield_now();
        }
        assert!(!lab.serving.clients[0].as_ref().unwrap().ways[0].has_ended);
        assert_eq!(lab.left_after(HALF_CLOSED_TIMEOUT + SWEEP), 0);
    }

    #[test]
    fn half_closed_connections_make_room() {
        let mut lab = Lab::new();
        let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| lab.client()).collect();
        let _ = clients.pop().map(|(client, guest)| (drop(client), clients.push((guest.try_clone().unwrap(), guest))));
        lab.wait_for_end(MAX_CLIENTS - 1);
        assert!(!lab.serving.is_accepting);
        assert_eq!(lab.left_after(HALF_CLOSED_IF_FULL + SWEEP), MAX_CLIENTS - 1);
        assert!(lab.serving.is_accepting);
    }

    #[test]
    fn a_listener_that_fails_is_left_alone_for_a_while() {
        let mut lab = Lab::new();
        // It is ready all the time, and nobody can be accepted.
        let deaf = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&deaf, FIRST_LISTENER).unwrap();
        (lab.serving.poller, lab.serving.listeners[0]) = (poller, Some(deaf.into()));
        let mut ready = Vec::new();
        lab.serving.turn(&mut ready).unwrap();
        assert_eq!(ready, [FIRST_LISTENER]);
        lab.serving.turn(&mut ready).unwrap();
        assert_eq!(ready, [0; 0], "it is not looked at");
        lab.serving.sweep(Instant::now() + SWEEP);
        lab.serving.turn(&mut ready).unwrap();
        assert_eq!(ready, [FIRST_LISTENER], "and tried again");
    }
}
