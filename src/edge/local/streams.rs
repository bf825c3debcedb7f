//! TCP of local clients: accepts them, connects to the guest, and copies both ways.
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

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netio::reservation::PortProtocol;
use netio::{Poller, Writable};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::clients::{LISTENERS, STREAMS, SWEEP, Shared, free_place, put};

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

/// The listeners and their clients.
pub(super) struct Streams {
    /// By their tokens; `None` where a token is free.
    listeners: Vec<Option<TcpListener>>,
    /// By their tokens; `None` where a token is free.
    clients: Vec<Option<Client>>,
    /// The listeners are watched: there is room, and the last client could be accepted.
    is_accepting: bool,
    /// When to accept again after a failure.
    accepts_at: Option<Instant>,
}

/// A client and its guest.
struct Client {
    guest: SocketAddrV4,
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

impl Streams {
    /// Serves these listeners.
    pub(super) fn new(listeners: Vec<TcpListener>, poller: &Poller) -> io::Result<Streams> {
        let mut streams = Streams { listeners: Vec::new(), clients: Vec::new(), is_accepting: true, accepts_at: None };
        for listener in listeners {
            streams.add(listener, poller)?;
        }
        Ok(streams)
    }

    /// Serves one more listener. Returns its place.
    pub(super) fn add(&mut self, listener: TcpListener, poller: &Poller) -> io::Result<usize> {
        listener.set_nonblocking(true)?;
        let place = free_place(&self.listeners);
        if self.is_accepting {
            poller.add(&listener, LISTENERS + place as u64)?;
        }
        put(&mut self.listeners, place, listener);
        Ok(place)
    }

    /// Closes a listener. Its clients stay.
    pub(super) fn remove(&mut self, place: usize, poller: &Poller) {
        if let Some(listener) = self.listeners.get_mut(place).and_then(Option::take) {
            let _ = poller.remove(listener);
        }
    }

    /// Ends the clients of these guests: both ends are reset, so that the kernel sends nothing again of what they had sent.
    pub(super) fn end(&mut self, is_gone: impl Fn(Ipv4Addr) -> bool, poller: &Poller) {
        for place in &mut self.clients {
            if let Some(client) = place.take_if(|client| is_gone(*client.guest.ip())) {
                for end in [client.near, client.far] {
                    let _ = sockopt::set_socket_linger(&end.stream, Some(Duration::ZERO));
                }
            }
        }
        self.watch_listeners(poller);
    }

    /// Whether [`Streams::sweep`] is to be called from time to time.
    pub(super) fn has_timers(&self) -> bool {
        !self.clients.is_empty() || self.accepts_at.is_some()
    }

    /// Serves what is ready.
    pub(super) fn serve(&mut self, token: u64, rules: &Shared, poller: &Poller, now: Instant) {
        match token.checked_sub(STREAMS) {
            None => self.accept((token - LISTENERS) as usize, rules, poller, now),
            Some(place) => self.carry(place as usize, poller, now),
        }
    }

    fn accept(&mut self, listener: usize, rules: &Shared, poller: &Poller, now: Instant) {
        let Some(Some(listener)) = self.listeners.get(listener) else { return };
        // One at a time, so that those who are there have their turn.
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_pause(&error) || error.kind() == ErrorKind::ConnectionAborted => return,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a local client of a published port; trying again");
                self.accepts_at = Some(now + SWEEP);
                return self.watch_listeners(poller);
            }
        };
        let place = free_place(&self.clients);
        match connect(stream, rules, poller, STREAMS + place as u64, now) {
            Ok(Some(client)) => put(&mut self.clients, place, client),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot connect a local client to its guest"),
        }
        self.watch_listeners(poller);
    }

    fn carry(&mut self, at: usize, poller: &Poller, now: Instant) {
        let Some(place) = self.clients.get_mut(at) else { return };
        let Some(client) = place else { return };
        match client.carry(poller, STREAMS + at as u64, now) {
            Ok(false) => {}
            Ok(true) | Err(_) => {
                *place = None;
                self.watch_listeners(poller);
            }
        }
    }

    /// Closes connections that were idle for too long.
    pub(super) fn sweep(&mut self, poller: &Poller, now: Instant) {
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
        self.watch_listeners(poller);
    }

    fn is_full(&self) -> bool {
        self.clients.iter().flatten().count() >= MAX_CLIENTS
    }

    /// Watches the listeners only while clients can be accepted.
    fn watch_listeners(&mut self, poller: &Poller) {
        let is_accepting = !self.is_full() && self.accepts_at.is_none();
        if is_accepting == self.is_accepting {
            return;
        }
        self.is_accepting = is_accepting;
        for (listener, token) in self.listeners.iter().zip(LISTENERS..) {
            let Some(listener) = listener else { continue };
            let _ = if is_accepting { poller.add(listener, token) } else { poller.remove(listener) };
        }
    }
}

/// Begins to connect a client to the guest of the port that it wanted. `None` if no rule has the port.
fn connect(near: TcpStream, rules: &Shared, poller: &Poller, token: u64, now: Instant) -> io::Result<Option<Client>> {
    let Some(guest) = rules.guest_of(PortProtocol::Tcp, near.local_addr()?.port()) else { return Ok(None) };
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
    let [near, far] = [End::new(near, poller, token)?, End::new(far, poller, token)?];
    Ok(Some(Client { guest, near, far, ways: [Way::new(), Way::new()], is_connected: false, used: now }))
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
    use std::net::SocketAddr;
    use std::thread;

    use super::*;

    /// The thread's work, one turn at a time, with a guest for the port of the listener.
    struct Lab {
        streams: Streams,
        rules: Shared,
        poller: Poller,
        address: SocketAddr,
        guest: TcpListener,
    }

    impl Lab {
        fn new() -> Lab {
            let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let (listener, guest) = (bind(), bind());
            let (address, poller) = (listener.local_addr().unwrap(), Poller::new().unwrap());
            let SocketAddr::V4(to) = guest.local_addr().unwrap() else { unreachable!("a listener of IPv4") };
            let streams = Streams::new(vec![listener], &poller).unwrap();
            Lab { streams, rules: Shared::new([((PortProtocol::Tcp, address.port()), to)].into()), poller, address, guest }
        }

        /// Waits for what is ready, and serves it. Returns the tokens.
        fn turn(&mut self) -> Vec<u64> {
            let mut ready = Vec::new();
            self.poller.wait(Some(SWEEP), |token| ready.push(token)).unwrap();
            ready.iter().for_each(|token| self.streams.serve(*token, &self.rules, &self.poller, Instant::now()));
            ready
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
            self.streams.clients.iter().flatten().filter(|client| client.is_connected).count()
        }

        /// Turns until the client's end has come to its socket here.
        fn wait_for_end(&mut self, of: usize) {
            while !self.streams.clients[of].as_ref().unwrap().near.has_ended() {
                self.turn();
            }
        }

        /// Clients that are left after as much time without a byte.
        fn left_after(&mut self, idle: Duration) -> usize {
            self.streams.sweep(&self.poller, Instant::now() + idle);
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
        while lab.streams.clients[0].as_ref().unwrap().near.is_read {
            (&client).write_all(&[0; BUFFER]).unwrap();
            lab.turn();
        }
        (&client).write_all(&[0]).unwrap();
        drop(client);
        while !lab.streams.clients[0].as_ref().unwrap().near.has_ended() {
            thread::yield_now();
        }
        assert!(!lab.streams.clients[0].as_ref().unwrap().ways[0].has_ended);
        assert_eq!(lab.left_after(HALF_CLOSED_TIMEOUT + SWEEP), 0);
    }

    #[test]
    fn half_closed_connections_make_room() {
        let mut lab = Lab::new();
        let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| lab.client()).collect();
        let _ = clients.pop().map(|(client, guest)| (drop(client), clients.push((guest.try_clone().unwrap(), guest))));
        lab.wait_for_end(MAX_CLIENTS - 1);
        assert!(!lab.streams.is_accepting);
        assert_eq!(lab.left_after(HALF_CLOSED_IF_FULL + SWEEP), MAX_CLIENTS - 1);
        assert!(lab.streams.is_accepting);
    }

    #[test]
    fn a_listener_that_fails_is_left_alone_for_a_while() {
        let mut lab = Lab::new();
        // It is ready all the time, and nobody can be accepted.
        let deaf = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        lab.poller = Poller::new().unwrap();
        lab.streams = Streams::new(vec![deaf.into()], &lab.poller).unwrap();
        assert_eq!(lab.turn(), [LISTENERS]);
        assert_eq!(lab.turn(), [0; 0], "it is not looked at");
        lab.streams.sweep(&lab.poller, Instant::now() + SWEEP);
        assert_eq!(lab.turn(), [LISTENERS], "and tried again");
    }
}
