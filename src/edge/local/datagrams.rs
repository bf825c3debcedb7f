//! UDP of local clients: each has a socket that is connected to its guest, which the guest answers to.
//!
//! ```text
//!   program --> published port --> entrance, whose client? --> client's socket --> guest
//!           <-- in the name of the port <---------------------- client's socket <--
//! ```
//!
//! A client is a program's address and port together with those that it sent to. It ends after [`IDLE_TIMEOUT`] without a datagram, and
//! when its port is published no more or for another guest.
//!
//! *Bounds.* At most [`MAX_CLIENTS`] at a time: a further one takes the place of the one that has been idle for longest, since
//! programs that ask one question a socket are gone long before their time is over. A socket has [`MAX_TURN`] datagrams a turn.
//!
//! *Lost:* what comes while there is no descriptor for another client, or no room in a socket; and errors, such as that nobody listens at
//! the guest.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use netio::local_datagrams::HEADROOM;
use netio::reservation::PortProtocol;
use netio::{LocalDatagrams, LocalFlow, Poller};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::clients::{DATAGRAM_CLIENTS, ENTRANCES, Shared, free_place, put};

/// Maximum number of clients at a time; each takes a descriptor.
const MAX_CLIENTS: usize = 256;

/// As that of proxies of this kind elsewhere. The translation keeps mappings for longer, as hosts outside cannot open them again; a
/// client's next datagram can.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Datagrams of a socket before others have their turn.
const MAX_TURN: usize = 16;

/// The longest payload of a datagram over IPv6, in bytes.
const MAX_PAYLOAD: usize = 65_535 - 8;

/// The sockets that clients reach, and the clients.
pub(super) struct Datagrams {
    /// By their tokens; `None` where a token is free.
    entrances: Vec<Option<LocalDatagrams>>,
    /// By their tokens; `None` where a token is free.
    clients: Vec<Option<Client>>,
    places: HashMap<LocalFlow, usize>,
    /// A datagram, with room for the headers of an answer.
    buffer: Box<[u8]>,
}

/// A client, and its socket to the guest.
struct Client {
    flow: LocalFlow,
    /// Which entrance it came in by.
    entrance: usize,
    guest: SocketAddrV4,
    socket: UdpSocket,
    used: Instant,
}

impl Datagrams {
    /// Serves what comes in by these sockets.
    pub(super) fn new(entrances: Vec<LocalDatagrams>, poller: &Poller) -> io::Result<Datagrams> {
        let buffer = vec![0; HEADROOM + MAX_PAYLOAD].into();
        let mut datagrams = Datagrams { entrances: Vec::new(), clients: Vec::new(), places: HashMap::new(), buffer };
        for entrance in entrances {
            datagrams.add(entrance, poller)?;
        }
        Ok(datagrams)
    }

    /// Serves what comes in by one more socket. Returns its place.
    pub(super) fn add(&mut self, entrance: LocalDatagrams, poller: &Poller) -> io::Result<usize> {
        let place = free_place(&self.entrances);
        poller.add(&entrance, ENTRANCES + place as u64)?;
        put(&mut self.entrances, place, entrance);
        Ok(place)
    }

    /// Closes a socket, and ends its clients.
    pub(super) fn remove(&mut self, place: usize, poller: &Poller) {
        self.close_all(|client| client.entrance == place, poller);
        if let Some(entrance) = self.entrances.get_mut(place).and_then(Option::take) {
            let _ = poller.remove(entrance);
        }
    }

    /// Whether [`Datagrams::sweep`] is to be called from time to time.
    pub(super) fn has_timers(&self) -> bool {
        !self.places.is_empty()
    }

    /// Serves what is ready.
    pub(super) fn serve(&mut self, token: u64, rules: &Shared, poller: &Poller, now: Instant) {
        match token.checked_sub(DATAGRAM_CLIENTS) {
            Some(place) => self.answer(place as usize, now),
            None => self.ask((token - ENTRANCES) as usize, rules, poller, now),
        }
    }

    /// Carries datagrams of clients to guests.
    fn ask(&mut self, entrance: usize, rules: &Shared, poller: &Poller, now: Instant) {
        for _ in 0..MAX_TURN {
            let Some(Some(socket)) = self.entrances.get(entrance) else { return };
            let (len, flow) = match socket.receive(&mut self.buffer) {
                Ok(Some((len, Some(flow)))) => (len, flow),
                Ok(Some((_, None))) => continue,
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "cannot receive datagrams of local clients"),
            };
            // A datagram for a port that is no longer published may have waited in the socket.
            let Some(guest) = rules.guest_of(PortProtocol::Udp, flow.wanted.port()) else { continue };
            match self.client((flow, entrance), guest, poller, now) {
                Ok(place) => self.send(place, len, now),
                Err(error) => tracing::debug!(%error, "cannot reach a guest for a local client"),
            }
        }
    }

    /// The place of the client of a flow to this guest, which may be new.
    fn client(
        &mut self,
        (flow, entrance): (LocalFlow, usize),
        guest: SocketAddrV4,
        poller: &Poller,
        now: Instant,
    ) -> io::Result<usize> {
        if let Some(place) = self.places.get(&flow).copied() {
            if self.clients.get(place).is_some_and(|client| client.as_ref().is_some_and(|client| client.guest == guest)) {
                return Ok(place);
            }
            self.close(place, poller);
        }
        if self.places.len() >= MAX_CLIENTS {
            let clients = self.clients.iter().enumerate().filter_map(|(place, client)| Some((place, client.as_ref()?.used)));
            if let Some((oldest, _)) = clients.min_by_key(|(_, used)| *used) {
                self.close(oldest, poller);
            }
        }
        let place = free_place(&self.clients);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&socket, &guest)?;
        poller.add(&socket, DATAGRAM_CLIENTS + place as u64)?;
        put(&mut self.clients, place, Client { flow, entrance, guest, socket: socket.into(), used: now });
        self.places.insert(flow, place);
        Ok(place)
    }

    fn send(&mut self, place: usize, len: usize, now: Instant) {
        let Some(Some(client)) = self.clients.get_mut(place) else { return };
        client.used = now;
        let Some(payload) = self.buffer.get(..len) else { return };
        // An earlier datagram's error is told instead of sending this one.
        if client.socket.send(payload).is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
            let _ = client.socket.send(payload);
        }
    }

    /// Carries datagrams of a guest to its client.
    fn answer(&mut self, place: usize, now: Instant) {
        let Some(Some(client)) = self.clients.get_mut(place) else { return };
        let Some(Some(entrance)) = self.entrances.get(client.entrance) else { return };
        for _ in 0..MAX_TURN {
            let len = match client.socket.recv(&mut self.buffer[HEADROOM..]) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What went wrong with an earlier datagram.
                Err(_) => continue,
            };
            client.used = now;
            let _ = entrance.answer(&client.flow, &mut self.buffer[..HEADROOM + len]);
        }
    }

    /// Ends clients that were idle for too long, or whose port is not the guest's any more.
    pub(super) fn sweep(&mut self, rules: &Shared, poller: &Poller, now: Instant) {
        let is_over = |client: &Client| {
            now.duration_since(client.used) > IDLE_TIMEOUT
                || rules.guest_of(PortProtocol::Udp, client.flow.wanted.port()) != Some(client.guest)
        };
        self.close_all(is_over, poller);
        while self.clients.last().is_some_and(Option::is_none) {
            self.clients.pop();
        }
    }

    /// Ends the clients of these guests.
    pub(super) fn end(&mut self, is_gone: impl Fn(Ipv4Addr) -> bool, poller: &Poller) {
        self.close_all(|client| is_gone(*client.guest.ip()), poller);
    }

    fn close_all(&mut self, is_one: impl Fn(&Client) -> bool, poller: &Poller) {
        for place in 0..self.clients.len() {
            if self.clients[place].as_ref().is_some_and(&is_one) {
                self.close(place, poller);
            }
        }
    }

    fn close(&mut self, place: usize, poller: &Poller) {
        if let Some(client) = self.clients.get_mut(place).and_then(Option::take) {
            let _ = poller.remove(&client.socket);
            self.places.remove(&client.flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// The thread's work, one turn at a time, with a guest for the port of the entrance. Answers need a right that tests may lack, and
    /// are tested between namespaces.
    struct Lab {
        datagrams: Datagrams,
        rules: Shared,
        poller: Poller,
        guest: UdpSocket,
    }

    impl Lab {
        fn new() -> Lab {
            let guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let poller = Poller::new().unwrap();
            let datagrams = Datagrams::new(Vec::new(), &poller).unwrap();
            let SocketAddr::V4(to) = guest.local_addr().unwrap() else { unreachable!("a socket of IPv4") };
            Lab { datagrams, rules: Shared::new([((PortProtocol::Udp, 53), to)].into()), poller, guest }
        }

        /// A datagram of this many bytes from a client's port comes in.
        fn ask(&mut self, port: u16, len: usize, now: Instant) -> SocketAddr {
            let [client, wanted] = [port, 53].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            let guest = self.rules.guest_of(PortProtocol::Udp, 53).unwrap();
            let place = self.datagrams.client((LocalFlow { client, wanted }, 0), guest, &self.poller, now).unwrap();
            self.datagrams.send(place, len, now);
            let (received, from) = self.guest.recv_from(&mut [0; 2000]).unwrap();
            assert_eq!(received, len);
            from
        }

        fn left(&mut self, now: Instant) -> usize {
            self.datagrams.sweep(&self.rules, &self.poller, now);
            let left = self.datagrams.clients.iter().flatten().count();
            assert_eq!(self.datagrams.places.len(), left);
            left
        }
    }

    #[test]
    fn a_client_has_one_socket_until_it_is_idle() {
        let (mut lab, now) = (Lab::new(), Instant::now());
        let first = lab.ask(1000, 10, now);
        let second = lab.ask(1001, 0, now);
        assert_ne!(first, second);
        assert_eq!(lab.ask(1000, 1400, now + IDLE_TIMEOUT / 2), first);
        assert_eq!(lab.left(now + IDLE_TIMEOUT), 2);
        assert_eq!(lab.left(now + IDLE_TIMEOUT * 5 / 4), 1);
        assert_eq!(lab.ask(1000, 1, now + IDLE_TIMEOUT * 5 / 4), first);
        assert_eq!(lab.left(now + IDLE_TIMEOUT * 3), 0);
        assert!(!lab.datagrams.has_timers());
    }

    #[test]
    fn a_further_client_takes_the_place_of_the_most_idle_one() {
        let (mut lab, now) = (Lab::new(), Instant::now());
        let later = |n: u16| now + Duration::from_millis(n.into());
        let sockets: Vec<SocketAddr> = (0..MAX_CLIENTS as u16).map(|n| lab.ask(1000 + n, 1, later(n))).collect();
        assert_eq!(lab.ask(1000, 1, later(5000)), sockets[0], "not idle any more");
        lab.ask(999, 1, later(5001));
        assert_eq!(lab.left(later(5001)), MAX_CLIENTS);
        assert_eq!(lab.ask(1000, 1, later(5002)), sockets[0]);
        assert_ne!(lab.ask(1001, 1, later(5003)), sockets[1]);
    }

    #[test]
    fn clients_end_with_their_rule() {
        let (mut lab, now) = (Lab::new(), Instant::now());
        let before = lab.ask(1000, 1, now);
        let guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(to) = guest.local_addr().unwrap() else { unreachable!("a socket of IPv4") };
        (lab.guest, lab.rules) = (guest, Shared::new([((PortProtocol::Udp, 53), to)].into()));
        assert_ne!(lab.ask(1000, 1, now), before, "to the guest of now");
        assert_eq!(lab.left(now), 1);
        lab.rules = Shared::new([((PortProtocol::Tcp, 53), to)].into());
        assert_eq!(lab.left(now), 0);
    }

    #[test]
    fn an_error_costs_no_later_datagram() {
        let (mut lab, now) = (Lab::new(), Instant::now());
        lab.ask(1000, 1, now);
        let to = lab.guest.local_addr().unwrap();
        // Nobody listens there for a while.
        lab.guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        lab.datagrams.send(0, 2, now);
        lab.guest = UdpSocket::bind(to).unwrap();
        lab.ask(1000, 3, now);
    }
}
