//! The door: a packet comes in from one side of the router and leaves as one of the other.
//!
//! ```text
//!  known connection:   view > find > follow (window, state, time) > rewrite
//!  first packet:       view > find > open: lock > begin > admit > unlock > rewrite
//! ```

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use packet::Timestamp;
use packet::checksum::{self, Checksum};

use crate::Refused;
use crate::book::{Book, NatStats, PortUsage};
use crate::config::{LiveTimeouts, NatConfig};
use crate::flow_cache::FlowCache;
use crate::fragments::{Fragment, Fragments, Key};
use crate::open_ports::OpenPorts;
use crate::rewrite;
use crate::rules::{AT_ONCE, Addresses};
use crate::table::{Direction, Found, Id, Table};
use crate::tcp::{Peer, Phase, Policy, Segment, Tracker, Verdict};
use crate::tuple::{Endpoint, Protocol, Side, Tuple};
use crate::view::{View, plain, u16_at, view};

/// Below so many free ports, more are asked for.
const FEW_PORTS: u32 = 512;

/// Whether ports are wanted, and whether anybody knows.
const NOT_WANTED: u8 = 0;
const WANTED: u8 = 1;
const TOLD: u8 = 2;

/// The longest payload of a segment that came in fragments.
const LONGEST_SEGMENT: u32 = 65_535 - 40;

/// The translation of one router, shared by all its workers.
pub struct Nat {
    pub(crate) config: NatConfig,
    pub(crate) timeouts: LiveTimeouts,
    pub(crate) table: Table,
    pub(crate) open_ports: OpenPorts,
    pub(crate) addresses: Addresses,
    book: Mutex<Book>,
    fragments: Mutex<Fragments<(Endpoint, Endpoint)>>,
    wants_ports: AtomicU8,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translated {
    /// Where it goes now.
    pub dst: std::net::Ipv4Addr,
    /// It was the first fragment of a datagram whose later ones may have been kept: see
    /// [`Nat::release`].
    pub first: Option<FirstFragment>,
}

/// A datagram's first fragment, and what it says of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstFragment {
    key: Key,
    src: Endpoint,
    dst: Endpoint,
}

impl FirstFragment {
    /// Translates a fragment that was kept, in place. Where it goes now.
    pub fn translate(&self, packet: &mut [u8]) -> std::net::Ipv4Addr {
        rewrite::addresses(packet, self.src, self.dst);
        self.dst.address
    }
}

/// One connection, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The direction of the packet that opened it.
    pub original: Tuple,
    /// The direction of its replies.
    pub reply: Tuple,
    /// For TCP.
    pub phase: Option<Phase>,
    /// Seconds until it ends if no packet comes.
    pub expires_in: u32,
}

/// An inside endpoint and the outside one that stands for it, as shown to people. One of a guest's lives as long as a
/// connection uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortMapping {
    /// Of this protocol.
    pub protocol: Protocol,
    /// The guest's.
    pub inside: Endpoint,
    /// What the world sees.
    pub outside: Endpoint,
    /// So many connections use it.
    pub connections: u32,
    /// It is a rule's, and stays.
    pub is_published: bool,
}

/// What a packet of a known connection is to become; or that there is no such connection any more.
enum Followed {
    To(Endpoint, Endpoint),
    Over,
}

impl Nat {
    /// A translation without outside addresses; see [`Nat::set_externals`]. `seed` is secret and new
    /// with each start. `None` if the machine has not got the memory.
    #[must_use]
    pub fn new(config: NatConfig, seed: [u64; 2]) -> Option<Nat> {
        Some(Nat {
            table: Table::new(config.max_connections, seed)?,
            open_ports: OpenPorts::new()?,
            addresses: Addresses::default(),
            book: Mutex::new(Book::new(&config, seed)),
            fragments: Mutex::new(Fragments::new(seed)),
            wants_ports: AtomicU8::new(NOT_WANTED),
            timeouts: LiveTimeouts::new(config.timeouts),
            config,
        })
    }

    /// Translates a packet that came in on `side`, in place: `packet` is an IPv4 packet without
    /// padding, whose header was checked, `checksum` what is known of its transport checksum, `owner`
    /// the number of the bridge's port that it came through.
    ///
    /// `flows` is the calling worker's own memory of connections, if it has one.
    #[inline]
    pub fn translate_by(
        &self,
        flows: Option<&mut FlowCache>,
        side: Side,
        packet: &mut [u8],
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Translated, Refused> {
        let Some((tuple, l4)) = plain(packet, side) else {
            return self.translate_unusual(side, packet, checksum, owner, now);
        };
        let (src, dst) = self.target::<true>(flows, &tuple, packet, l4, checksum, false, owner, now)?;
        rewrite::endpoints(packet, l4, tuple.protocol, src, dst, checksum == Checksum::Partial);
        Ok(Translated { dst: dst.address, first: None })
    }

    /// ICMP, fragments, protocols without ports.
    fn translate_unusual(
        &self,
        side: Side,
        packet: &mut [u8],
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Translated, Refused> {
        match view(packet, side)? {
            View::Flow { tuple, l4, first } => {
                let (src, dst) = self.target::<true>(None, &tuple, packet, l4, checksum, first.is_some(), owner, now)?;
                if let Some((key, fragment)) = first {
                    let remembered = self.fragments().first(key, fragment, (src, dst), owner, now);
                    remembered.map_err(|_| Refused::FragmentRefused)?;
                }
                rewrite::endpoints(packet, l4, tuple.protocol, src, dst, checksum == Checksum::Partial);
                Ok(Translated { dst: dst.address, first: first.map(|(key, _)| FirstFragment { key, src, dst }) })
            }
            View::Later { key, fragment } => self.later(key, fragment, packet, owner, now),
            View::Error { l4 } => self.translate_error(side, packet, l4, now.secs()),
        }
    }

    /// The same for who remembers no flows.
    pub fn translate(
        &self,
        side: Side,
        packet: &mut [u8],
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Translated, Refused> {
        self.translate_by(None, side, packet, checksum, owner, now)
    }

    /// The endpoints that a packet of this flow gets. Unless it is to be `LASTING`, nothing changes by it. Part of
    /// its caller: endpoints that go through memory in halves cost more than all the rest.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "one packet's view, told apart where it was read")]
    pub(crate) fn target<const LASTING: bool>(
        &self,
        flows: Option<&mut FlowCache>,
        tuple: &Tuple,
        packet: &[u8],
        l4: usize,
        checksum: Checksum,
        is_fragment: bool,
        owner: u16,
        now: Timestamp,
    ) -> Result<(Endpoint, Endpoint), Refused> {
        let transport = Transport { bytes: &packet[l4..], checksum, is_fragment };
        if let Some(found) = flows.as_ref().and_then(|flows| flows.get(tuple)).filter(|found| self.table.is_current(found))
            && let Followed::To(src, dst) = self.follow::<LASTING>(found, &transport, now)?
        {
            return Ok((src, dst));
        }
        let hash = self.table.hash(tuple);
        if let Some(found) = self.table.find(tuple, hash)
            && let Followed::To(src, dst) = self.follow::<LASTING>(&found, &transport, now)?
        {
            if let Some(flows) = flows {
                flows.put(tuple, &found);
            }
            return Ok((src, dst));
        }
        self.open::<LASTING>(tuple, hash, &transport, owner, now)
    }

    /// A packet of a known connection: is it in time and in order?
    #[inline(always)]
    fn follow<const LASTING: bool>(&self, found: &Found, transport: &Transport<'_>, now: Timestamp) -> Result<Followed, Refused> {
        let secs = now.secs();
        let idle = secs.saturating_sub(self.table.used(found.id));
        let (src, dst) = found.tuples.opposite(found.direction).reversed();
        let protocol = found.tuples.original.protocol;
        if protocol != Protocol::TCP {
            if idle > self.timeouts.of(protocol, || Phase::Opening) {
                return Ok(Followed::Over);
            }
            if LASTING {
                self.table.refresh(found.id, secs);
            }
            return Ok(Followed::To(src, dst));
        }
        let segment = transport.segment()?;
        let peer = if found.direction == Direction::Original { Peer::Initiator } else { Peer::Responder };
        let step = |tracker: &mut Tracker| {
            let before = tracker.phase();
            if idle > self.timeouts.of(protocol, || before) {
                return None;
            }
            let verdict = tracker.follow(peer, &segment);
            // A reset keeps nothing alive (RFC 7857 section 7); the one that ends a connection starts the
            // four minutes that are left to it.
            let refreshes = !segment.is_reset() && verdict != Verdict::Doubtful || tracker.phase() != before;
            Some((verdict, refreshes))
        };
        let tracked = if LASTING {
            self.table.track(found, step)
        } else {
            self.table.is_current(found).then(|| step(&mut self.table.tracker(found.id)))
        };
        match tracked {
            Some(None) => return Ok(Followed::Over),
            Some(Some((Verdict::Invalid, _))) => return Err(Refused::OutOfWindow),
            Some(Some((_, refreshes))) => {
                if LASTING && refreshes {
                    self.table.refresh(found.id, secs);
                }
            }
            // Its number was given to another connection meanwhile.
            None => return Ok(Followed::Over),
        }
        Ok(Followed::To(src, dst))
    }

    /// A packet of no connection: it may open one.
    #[cold]
    fn open<const LASTING: bool>(
        &self,
        tuple: &Tuple,
        hash: u64,
        transport: &Transport<'_>,
        owner: u16,
        now: Timestamp,
    ) -> Result<(Endpoint, Endpoint), Refused> {
        if tuple.side == Side::Outside && !self.lets_in(tuple) {
            return Err(Refused::NoMapping);
        }
        let tracker = transport.opens(tuple, &self.config)?;
        if !transport.is_sound(tuple) {
            return Err(Refused::BadChecksum);
        }
        let mut book = self.book();
        if LASTING {
            book.expire_some(&self.table, &self.open_ports, now);
        }
        // Another worker may have been quicker, and a connection whose time is over may be in the way.
        if let Some(found) = self.table.find(tuple, hash) {
            if !book.is_over(&self.table, found.id, now.secs()) {
                return Ok(found.tuples.opposite(found.direction).reversed());
            }
            if LASTING {
                book.end(&self.table, &self.open_ports, found.id, now);
            }
        }
        let begun = book.begin(&self.table, tuple, hash, owner, now);
        if !LASTING {
            let pending = begun?;
            return if book.has_room_for(&self.table, &pending) {
                Ok(pending.tuples.reply.reversed())
            } else {
                Err(Refused::TableFull)
            };
        }
        book.turn();
        let pending = match begun {
            // What stands in the way may be over too.
            Err(Refused::Clash | Refused::TableFull | Refused::PortShare | Refused::PortsExhausted | Refused::GuestShare) => {
                book.expire_some(&self.table, &self.open_ports, now);
                let begun = book.begin(&self.table, tuple, hash, owner, now);
                book.turn();
                begun
            }
            begun => begun,
        };
        self.ask_for_ports(&mut book, tuple, pending.as_ref().err());
        let pending = pending?;
        book.admit(&self.table, &self.open_ports, &pending, tracker.as_ref(), now)?;
        Ok(pending.tuples.reply.reversed())
    }

    /// Might a stranger's packet open a connection? Without the lock.
    fn lets_in(&self, tuple: &Tuple) -> bool {
        match self.addresses.find(tuple.dst.address) {
            Some((_, true)) => true,
            Some((number, false)) => self.open_ports.get(number, tuple.protocol, tuple.dst.port),
            None => false,
        }
    }

    fn later(&self, key: Key, fragment: Fragment, packet: &mut [u8], owner: u16, now: Timestamp) -> Result<Translated, Refused> {
        let followed = self.fragments().follow(key, fragment, owner, now);
        let (src, dst) = followed.map_err(|_| Refused::FragmentRefused)?.ok_or(Refused::FragmentEarly)?;
        rewrite::addresses(packet, src, dst);
        Ok(Translated { dst: dst.address, first: None })
    }

    /// Keeps a copy of a frame whose packet was refused as [`Refused::FragmentEarly`], for 15 seconds
    /// at most. `tag` is the caller's word for it. False if there is no room.
    pub fn hold(&self, side: Side, packet: &[u8], frame: &[u8], tag: u64, owner: u16, now: Timestamp) -> bool {
        match view(packet, side) {
            Ok(View::Later { key, .. }) => self.fragments().hold(key, frame, tag, owner, now).is_ok(),
            _ => false,
        }
    }

    /// Hands out the frames that were kept for a datagram, in the order of their arrival. They are to be
    /// translated with [`FirstFragment::translate`].
    pub fn release(&self, first: &FirstFragment, give: impl FnMut(&[u8], u64)) {
        self.fragments().release(first.key, give);
    }

    /// Ends connections whose time is over and forgets datagrams that never became whole, looking at
    /// no more than `budget` of each. Returns whether there may be more. For quiet times: each
    /// connection that opens does a little of it too.
    pub fn expire(&self, now: Timestamp, budget: usize) -> bool {
        let fragments = self.fragments().expire(now, budget);
        let connections = self.book().expire(&self.table, &self.open_ports, now, budget);
        fragments == budget || connections == budget
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> NatStats {
        self.book().stats()
    }

    /// What is used of the outside addresses' ports. Allocates; holds the lock for a look at each port's bit.
    #[must_use]
    pub fn port_usage(&self) -> Vec<PortUsage> {
        self.book().port_usage()
    }

    /// As it was made.
    #[must_use]
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Datagrams in pieces that are remembered now, at most [`fragments::DATAGRAMS`](crate::fragments::DATAGRAMS), and
    /// frames of theirs that wait for the first piece.
    #[must_use]
    pub fn fragments_now(&self) -> (usize, usize) {
        let fragments = self.fragments();
        (fragments.len(), fragments.held())
    }

    /// All connections, in no order. Allocates, and takes the lock for a moment at a time.
    #[must_use]
    pub fn connections(&self, now: Timestamp) -> Vec<Connection> {
        let mut connections = Vec::new();
        self.for_each(|book, id| {
            if !book.is_over(&self.table, id, now.secs()) {
                connections.push(self.connection(id, now));
            }
        });
        connections
    }

    /// The connections for which `concerned` says yes: how many they are, and the first `most` that are met, in no
    /// order. Takes the lock for a moment at a time.
    #[must_use]
    pub fn find_connections(
        &self,
        now: Timestamp,
        most: usize,
        concerned: impl Fn(&Connection) -> bool,
    ) -> (usize, Vec<Connection>) {
        let (mut count, mut found) = (0, Vec::new());
        self.for_each(|book, id| {
            if book.is_over(&self.table, id, now.secs()) {
                return;
            }
            let connection = self.connection(id, now);
            if concerned(&connection) {
                count += 1;
                if found.len() < most {
                    found.push(connection);
                }
            }
        });
        (count, found)
    }

    /// The mappings: how many there are, and the first `most` that are met, in no order. Takes the lock for a moment
    /// at a time.
    #[must_use]
    pub fn mappings(&self, most: usize) -> (usize, Vec<PortMapping>) {
        let (mut count, mut found, mut from) = (0, Vec::new(), Some(0));
        while let Some(start) = from {
            from = self.book().scan_mappings(start, AT_ONCE, |entry, address| {
                count += 1;
                if found.len() < most {
                    found.push(PortMapping {
                        protocol: entry.protocol,
                        inside: entry.inside,
                        outside: Endpoint::new(address, entry.port),
                        connections: entry.connections,
                        is_published: entry.is_published,
                    });
                }
            });
        }
        (count, found)
    }

    pub(crate) fn connection(&self, id: Id, now: Timestamp) -> Connection {
        let tuples = self.table.tuples(id);
        let phase = (tuples.original.protocol == Protocol::TCP).then(|| self.table.tracker(id).phase());
        let timeout = self.timeouts.of(tuples.original.protocol, || phase.unwrap_or(Phase::Opening));
        let idle = now.secs().saturating_sub(self.table.used(id));
        Connection { original: tuples.original, reply: tuples.reply, phase, expires_in: timeout.saturating_sub(idle) }
    }

    /// Is a connection's time over? Without the lock.
    pub(crate) fn is_over(&self, id: Id, secs: u32) -> bool {
        let protocol = self.table.tuples(id).original.protocol;
        let timeout = self.timeouts.of(protocol, || self.table.tracker(id).phase());
        secs.saturating_sub(self.table.used(id)) > timeout
    }

    /// Visits all connections, a few at a time under the lock.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Book, Id)) {
        let mut from = Some(0);
        while let Some(start) = from {
            let book = self.book();
            from = book.scan(start, AT_ONCE, |id| visit(&book, id));
        }
    }

    /// Are ports wanted that nobody was told of yet? Then tell whoever calls [`Nat::demand`]; true once
    /// for each time.
    #[inline]
    pub fn wants_ports(&self) -> bool {
        self.wants_ports.load(Ordering::Relaxed) == WANTED
            && self.wants_ports.compare_exchange(WANTED, TOLD, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Is somebody told of wanted ports, and has not asked which? Clears it.
    pub fn take_wants(&self) -> bool {
        self.wants_ports.swap(NOT_WANTED, Ordering::Relaxed) != NOT_WANTED
    }

    /// A shared address on which ports run low, or on which the wanted one was not granted.
    fn ask_for_ports(&self, book: &mut Book, tuple: &Tuple, refused: Option<&Refused>) {
        if tuple.side == Side::Inside && book.note_demand(tuple, refused.is_some(), FEW_PORTS) {
            let _ = self.wants_ports.compare_exchange(NOT_WANTED, WANTED, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fragments(&self) -> MutexGuard<'_, Fragments<(Endpoint, Endpoint)>> {
        self.fragments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Nat {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Nat").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A packet's transport header and what follows.
struct Transport<'a> {
    bytes: &'a [u8],
    checksum: Checksum,
    is_fragment: bool,
}

impl Transport<'_> {
    /// As a TCP segment. Of a fragmented one only the first piece is there, so it counts as the
    /// longest that it can be.
    #[inline]
    fn segment(&self) -> Result<Segment, Refused> {
        let segment = Segment::parse(self.bytes).ok_or(Refused::OutOfWindow)?;
        Ok(if self.is_fragment { Segment { len: LONGEST_SEGMENT, ..segment } } else { segment })
    }

    /// The state in which a connection starts that this packet opens, for TCP.
    fn opens(&self, tuple: &Tuple, config: &NatConfig) -> Result<Option<Tracker>, Refused> {
        match tuple.protocol {
            Protocol::TCP => {
                let segment = Segment::parse(self.bytes).filter(|_| !self.is_fragment).ok_or(Refused::NotOpening)?;
                let policy = Policy { pick_up: config.tcp_loose && tuple.side == Side::Inside, liberal: config.tcp_liberal };
                let tracker = Tracker::open(&segment, policy);
                tracker.map(Some).ok_or(Refused::NotOpening)
            }
            Protocol::ICMP if !is_request(self.bytes[0]) => Err(Refused::IcmpIgnored),
            _ => Ok(None),
        }
    }

    /// Is the checksum right, as far as it stands in the packet?
    fn is_sound(&self, tuple: &Tuple) -> bool {
        if self.is_fragment || self.checksum != Checksum::Complete {
            return true;
        }
        // A datagram may be shorter than the packet.
        let bytes = match tuple.protocol {
            Protocol::UDP => self.bytes.get(..usize::from(u16_at(self.bytes, 4))).unwrap_or(&[]),
            _ => self.bytes,
        };
        let sum = checksum::sum(bytes);
        let (a, b) = (tuple.src.address.octets(), tuple.dst.address.octets());
        let addresses = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]];
        let with_pseudo = || checksum::add(sum, checksum::pseudo_header(&addresses, tuple.protocol.0, bytes.len()));
        match tuple.protocol {
            Protocol::TCP => with_pseudo() == 0xffff,
            Protocol::UDP => self.bytes[6..8] == [0, 0] || with_pseudo() == 0xffff,
            Protocol::ICMP => sum == 0xffff,
            _ => true,
        }
    }
}

/// The ICMP queries that are translated.
fn is_request(message: u8) -> bool {
    matches!(message, packet::icmpv4::kind::ECHO_REQUEST | packet::icmpv4::kind::TIMESTAMP_REQUEST)
}
