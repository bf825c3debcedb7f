//! The translation of a packet: decided first, then carried out.
//!
//! ```text
//!  known connection:   view > find > step > track, refresh > write
//!  first packet:       view > find > lock: begin > admit > unlock > write
//!  decide:             view > find > step | begin            (changes nothing)
//! ```
//!
//! Both ways through share the functions that decide: the step of a TCP tracker on a copy of it, [`Book::begin`],
//! [`Fragments::decide`], and what an ICMP error is about. [`Nat::translate`] carries out what they say while it holds
//! the tracker or the lock that they read under; [`Nat::decide`] hands it back as a value.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use packet::Timestamp;
use packet::checksum::Checksum;
use packet::ipv4::{Ipv4Mut, Ipv4View};

use crate::Refused;
use crate::addresses::Addresses;
use crate::book::{Book, BookLock};
use crate::config::{LiveTimeouts, NatConfig};
use crate::decision::{Basis, Change, Decision};
use crate::flow_cache::{FlowCache, FlowKey, Known};
use crate::fragments::{Fragments, Key};
use crate::open_ports::OpenPorts;
use crate::pending::Pending;
use crate::rewrite;
use crate::table::{self, Direction, Entry, Found, Table};
use crate::tcp::{Peer, Phase, Segment, Tracker, Verdict};
use crate::transport::Transport;
use crate::tuple::{Endpoint, Protocol, Side, Tuple};
use crate::view::{View, view};

/// With fewer free ports than this, more are asked for.
const FEW_PORTS: u32 = 512;

/// States of [`Nat::wants_ports`].
const NOT_WANTED: u8 = 0;
const WANTED: u8 = 1;
const REPORTED: u8 = 2;

/// The translation of one router, shared by all workers.
pub struct Nat {
    pub(crate) config: NatConfig,
    pub(crate) timeouts: LiveTimeouts,
    pub(crate) table: Table,
    pub(crate) open_ports: OpenPorts,
    pub(crate) addresses: Addresses,
    book: BookLock,
    fragments: Mutex<Fragments<(Ipv4Addr, Ipv4Addr)>>,
    wants_ports: AtomicU8,
}

/// A packet that was translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translated {
    /// Its new destination.
    pub dst: Ipv4Addr,
    /// The reason.
    pub basis: Basis,
    /// Set for the first fragment of a datagram. Later ones may wait for it: see [`Nat::release`].
    pub first: Option<FirstFragment>,
}

/// A datagram whose first fragment was translated, and the addresses that its later fragments get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstFragment {
    key: Key,
    src: Ipv4Addr,
    dst: Ipv4Addr,
}

impl FirstFragment {
    /// Translates a later fragment that was held, in place. Returns its new destination.
    pub fn translate(&self, packet: &mut Ipv4Mut<'_>) -> Ipv4Addr {
        packet.set_addresses(self.src, self.dst);
        self.dst
    }
}

/// The endpoints that a packet gets, and the reason for its translation.
type Target = (Endpoint, Endpoint, Basis);

/// What a packet means for the connection that it belongs to.
enum Step {
    /// It passes, and restarts the timeout or not.
    Passes { refreshes: bool },
    /// It is outside of the TCP window.
    Refused,
    /// The connection has timed out, and is no connection any more.
    Over,
}

impl Nat {
    /// A translation without outside addresses; see [`Nat::set_externals`]. `seed` is secret and differs with each
    /// start. `None` if the machine lacks the memory.
    #[must_use]
    pub fn new(config: NatConfig, seed: [u64; 2]) -> Option<Nat> {
        let table = Table::new(config.max_connections, seed)?;
        Nat::with_table(config, seed, table)
    }

    pub(crate) fn with_table(config: NatConfig, seed: [u64; 2], table: Table) -> Option<Nat> {
        Some(Nat {
            table,
            open_ports: OpenPorts::new()?,
            addresses: Addresses::default(),
            book: BookLock::new(Book::new(&config, seed)),
            fragments: Mutex::new(Fragments::new(seed)),
            wants_ports: AtomicU8::new(NOT_WANTED),
            timeouts: LiveTimeouts::new(config.timeouts),
            config,
        })
    }

    /// As [`Nat::new`], in the same memory if the sizes are the same. For tests that live through one short life after
    /// another. `None` if the machine lacks the memory.
    pub fn reset(&mut self, config: NatConfig, seed: [u64; 2]) -> Option<()> {
        let has_size = self.config.max_connections == config.max_connections;
        if !has_size || !self.table.reset(seed) {
            self.table = Table::new(config.max_connections, seed)?;
        }
        self.addresses = Addresses::default();
        self.timeouts = LiveTimeouts::new(config.timeouts);
        self.wants_ports = AtomicU8::new(NOT_WANTED);
        self.book.get_mut().reset(&config, seed, &self.open_ports);
        self.fragments.get_mut().unwrap_or_else(PoisonError::into_inner).reset(seed);
        self.config = config;
        Some(())
    }

    /// Translates a packet that came in on `side`, in place. `checksum` is what is known of its transport checksum,
    /// `owner` the number of the bridge port that it came through, `flows` the calling worker's cache of connections.
    #[inline(always)]
    pub fn translate_by(
        &self,
        flows: Option<&mut FlowCache>,
        side: Side,
        packet: &mut Ipv4Mut<'_>,
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Translated, Refused> {
        let Some(key) = FlowKey::of(packet.view(), side) else {
            return self.translate_unusual(side, packet, checksum, owner, now);
        };
        if let Some(flows) = &flows
            && let Some(Known { found, rewrite, .. }) = flows.get(key)
            && let entry = self.table.entry(found.id)
            && table::is_current(entry, found)
            && self.follow(entry, found, &Transport { bytes: packet.view().payload(), checksum, is_fragment: false }, now)?
        {
            rewrite.apply(packet, checksum);
            return Ok(Translated { dst: rewrite.dst(), basis: Basis::Known, first: None });
        }
        self.translate_uncached(flows, key, packet, checksum, owner, now)
    }

    /// Translates a packet of a flow that the cache does not have.
    #[inline(never)]
    fn translate_uncached(
        &self,
        flows: Option<&mut FlowCache>,
        key: FlowKey,
        packet: &mut Ipv4Mut<'_>,
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Translated, Refused> {
        let tuple = key.tuple();
        let transport = Transport { bytes: packet.view().payload(), checksum, is_fragment: false };
        let (src, dst, basis) = self.target(flows.map(|flows| (flows, key)), &tuple, &transport, owner, now)?;
        rewrite::endpoints(packet, tuple.protocol, src, dst, checksum);
        Ok(Translated { dst: dst.address, basis, first: None })
    }

    /// [`Nat::translate_by`] without a cache.
    pub fn translate(
        &self,
        side: Side,
        packet: &mut Ipv4Mut<'_>,
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Translated, Refused> {
        self.translate_by(None, side, packet, checksum, owner, now)
    }

    /// Translates ICMP, fragments, and protocols without ports.
    fn translate_unusual(
        &self,
        side: Side,
        packet: &mut Ipv4Mut<'_>,
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Translated, Refused> {
        let (decision, first) = match view(packet.view(), side)? {
            View::Flow { tuple, first } => {
                let transport = Transport { bytes: packet.view().payload(), checksum, is_fragment: first.is_some() };
                let (src, dst, basis) = self.target(None, &tuple, &transport, owner, now)?;
                if let Some((key, fragment)) = first {
                    let noted = self.fragments().first(key, fragment, (src.address, dst.address), owner, now);
                    noted.map_err(|_| Refused::FragmentRefused)?;
                }
                let first = first.map(|(key, _)| FirstFragment { key, src: src.address, dst: dst.address });
                (Decision { basis, change: Change::Endpoints { protocol: tuple.protocol, src, dst } }, first)
            }
            View::Later { key, fragment } => {
                let followed = self.fragments().follow(key, fragment, owner, now);
                (decide_later(followed.map_err(|_| Refused::FragmentRefused)?)?, None)
            }
            View::Error => (self.decide_error(side, packet.view(), now.secs())?, None),
        };
        decision.write(packet, checksum);
        Ok(Translated { dst: decision.dst(), basis: decision.basis, first })
    }

    /// How [`Nat::translate`] would translate the packet now. Changes no table, tracker or timeout, and draws no random
    /// number: asked twice, the answer is the same, and so is that of the packet which then comes.
    ///
    /// One thing is left out: a first packet ends up to four connections that have timed out, which may make the room
    /// that it needs, or that in which the oldest half-open connections wait. Call [`Nat::expire`] first where that matters.
    #[cold]
    pub fn decide(
        &self,
        side: Side,
        packet: Ipv4View<'_>,
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Decision, Refused> {
        match view(packet, side)? {
            View::Flow { tuple, first } => {
                let transport = Transport { bytes: packet.payload(), checksum, is_fragment: first.is_some() };
                let (src, dst, basis) = self.decide_flow(&tuple, &transport, owner, now)?;
                if let Some((key, fragment)) = first {
                    let accepted = self.fragments().decide(key, fragment, owner, now);
                    accepted.map_err(|_| Refused::FragmentRefused)?;
                }
                Ok(Decision { basis, change: Change::Endpoints { protocol: tuple.protocol, src, dst } })
            }
            View::Later { key, fragment } => {
                let accepted = self.fragments().decide(key, fragment, owner, now);
                decide_later(accepted.map_err(|_| Refused::FragmentRefused)?.translation)
            }
            View::Error => self.decide_error(side, packet, now.secs()),
        }
    }

    /// The endpoints that a packet of this flow gets; its connection moves on, or opens. Inlined into its caller:
    /// returning endpoints through memory costs more than everything else here.
    #[inline(always)]
    fn target(
        &self,
        cache: Option<(&mut FlowCache, FlowKey)>,
        tuple: &Tuple,
        transport: &Transport<'_>,
        owner: u16,
        now: Timestamp,
    ) -> Result<Target, Refused> {
        let hash = self.table.hash(tuple);
        if let Some(found) = self.table.find(tuple, hash)
            && self.follow(self.table.entry(found.id), &found, transport, now)?
        {
            if let Some((flows, key)) = cache {
                flows.put(key, &found);
            }
            return Ok(known(&found));
        }
        self.open(tuple, hash, transport, owner, now)
    }

    /// The endpoints that [`Nat::target`] would give.
    fn decide_flow(&self, tuple: &Tuple, transport: &Transport<'_>, owner: u16, now: Timestamp) -> Result<Target, Refused> {
        let hash = self.table.hash(tuple);
        if let Some(found) = self.table.find(tuple, hash) {
            let idle = idle(self.table.entry(found.id), now);
            let step = match found.tuples.original.protocol {
                Protocol::TCP => self.tcp_step(found.direction, &mut self.table.tracker(found.id), &transport.segment()?, idle),
                protocol => self.step(protocol, idle),
            };
            match step {
                Step::Passes { .. } => return Ok(known(&found)),
                Step::Refused => return Err(Refused::OutOfWindow),
                Step::Over => {}
            }
        }
        self.may_open(tuple, transport)?;
        let book = self.book();
        match self.standing(&book, tuple, hash, now) {
            Some((found, false)) => Ok(known(&found)),
            _ => book.begin(&self.table, tuple, hash, owner, now).map(|pending| opened(&pending)),
        }
    }

    /// Moves a connection on by a packet of it. False if there is no such connection any more.
    #[inline(always)]
    fn follow(&self, entry: &Entry, found: &Found, transport: &Transport<'_>, now: Timestamp) -> Result<bool, Refused> {
        let idle = idle(entry, now);
        let step = match found.tuples.original.protocol {
            Protocol::TCP => {
                let segment = transport.segment()?;
                let tracked = table::track(entry, found, |tracker| self.tcp_step(found.direction, tracker, &segment, idle));
                // `None`: its number was given to another connection meanwhile.
                tracked.unwrap_or(Step::Over)
            }
            // The rest is UDP, mostly.
            Protocol::UDP => self.step(Protocol::UDP, idle),
            protocol => self.step(protocol, idle),
        };
        match step {
            Step::Passes { refreshes } => {
                if refreshes {
                    table::refresh(entry, found, now.secs());
                }
                Ok(true)
            }
            Step::Refused => Err(Refused::OutOfWindow),
            Step::Over => Ok(false),
        }
    }

    /// What a packet means for a connection of any protocol but TCP.
    #[inline(always)]
    fn step(&self, protocol: Protocol, idle: u32) -> Step {
        if idle > self.timeouts.of(protocol, || Phase::Opening) { Step::Over } else { Step::Passes { refreshes: true } }
    }

    /// What a segment means for a TCP connection, whose tracker it moves on: the table's, or a copy.
    #[inline(always)]
    fn tcp_step(&self, direction: Direction, tracker: &mut Tracker, segment: &Segment, idle: u32) -> Step {
        let before = tracker.phase();
        if idle > self.timeouts.of(Protocol::TCP, || before) {
            return Step::Over;
        }
        let peer = if direction == Direction::Original { Peer::Initiator } else { Peer::Responder };
        match tracker.follow(peer, segment) {
            Verdict::Invalid => Step::Refused,
            // A reset keeps nothing alive (RFC 7857 section 7); the one that ends a connection starts the
            // four minutes that are left to it.
            verdict => {
                let refreshes = !segment.is_reset() && verdict != Verdict::Doubtful || tracker.phase() != before;
                Step::Passes { refreshes }
            }
        }
    }

    /// Opens a connection by a packet that belongs to none, if it may.
    #[cold]
    fn open(&self, tuple: &Tuple, hash: u64, transport: &Transport<'_>, owner: u16, now: Timestamp) -> Result<Target, Refused> {
        let tracker = self.may_open(tuple, transport)?;
        let mut book = self.book();
        book.expire_some(&self.table, &self.open_ports, now);
        match self.standing(&book, tuple, hash, now) {
            Some((found, false)) => return Ok(known(&found)),
            Some((found, true)) => {
                book.end(&self.table, &self.open_ports, found.id, now);
            }
            None => {}
        }
        let mut begun = book.begin(&self.table, tuple, hash, owner, now);
        book.turn();
        if let Err(
            refused @ (Refused::Clash | Refused::TableFull | Refused::PortShare | Refused::PortsExhausted | Refused::GuestShare),
        ) = begun
        {
            // What is in the way may have timed out too, or those that could give way wait behind complete ones.
            book.expire_some(&self.table, &self.open_ports, now);
            book.tidy(&self.table, tuple, owner, refused);
            begun = book.begin(&self.table, tuple, hash, owner, now);
            book.turn();
        }
        self.ask_for_ports(&mut book, tuple, begun.as_ref().err());
        let pending = begun?;
        book.admit(&self.table, &self.open_ports, &pending, tracker.as_ref(), now)?;
        Ok(opened(&pending))
    }

    /// Whether a packet is one that may open a connection, which needs no lock; for TCP, the state that it starts in.
    fn may_open(&self, tuple: &Tuple, transport: &Transport<'_>) -> Result<Option<Tracker>, Refused> {
        if tuple.side == Side::Outside && !self.lets_in(tuple) {
            return Err(Refused::NoMapping);
        }
        let tracker = transport.opens(tuple, &self.config)?;
        if transport.is_sound(tuple) { Ok(tracker) } else { Err(Refused::BadChecksum) }
    }

    /// Whether a packet from outside is for an address or port that accepts new connections.
    fn lets_in(&self, tuple: &Tuple) -> bool {
        match self.addresses.find(tuple.dst.address) {
            Some((_, true)) => true,
            Some((number, false)) => self.open_ports.get(number, tuple.protocol, tuple.dst.port),
            None => false,
        }
    }

    /// The connection that already has a tuple, and whether it has timed out: another worker may have opened it
    /// meanwhile, or it has timed out and was not ended yet.
    fn standing(&self, book: &Book, tuple: &Tuple, hash: u64, now: Timestamp) -> Option<(Found, bool)> {
        let found = self.table.find(tuple, hash)?;
        Some((found, book.is_over(&self.table, found.id, now.secs())))
    }

    /// Holds a copy of a frame whose packet was refused as [`Refused::FragmentEarly`], for up to 15 seconds. `tag` is
    /// handed back with it. False if there is no room.
    pub fn hold(&self, side: Side, packet: Ipv4View<'_>, frame: &[u8], tag: u64, owner: u16, now: Timestamp) -> bool {
        match view(packet, side) {
            Ok(View::Later { key, .. }) => self.fragments().hold(key, frame, tag, owner, now).is_ok(),
            _ => false,
        }
    }

    /// Whether [`Nat::hold`] has room for a frame of this length. Changes nothing.
    #[must_use]
    pub fn decide_hold(&self, frame_len: usize, owner: u16, now: Timestamp) -> bool {
        self.fragments().decide_hold(frame_len, owner, now).is_ok()
    }

    /// Hands out the frames that were held for a datagram, in the order of their arrival. Translate them with
    /// [`FirstFragment::translate`].
    pub fn release(&self, first: &FirstFragment, give: impl FnMut(&[u8], u64)) {
        self.fragments().release(first.key, give);
    }

    /// Ends connections that have timed out and forgets incomplete datagrams, up to `budget` of each. True if there may
    /// be more. For quiet times: each connection that opens does a share of it too.
    pub fn expire(&self, now: Timestamp, budget: usize) -> bool {
        let fragments = self.fragments().expire(now, budget);
        let connections = self.book().expire(&self.table, &self.open_ports, now, budget);
        fragments == budget || connections == budget
    }

    /// The configuration that it was created with.
    #[must_use]
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Whether ports are wanted since the last call that said so: the control thread should call [`Nat::demand`].
    #[inline]
    pub fn wants_ports(&self) -> bool {
        self.wants_ports.load(Ordering::Relaxed) == WANTED
            && self.wants_ports.compare_exchange(WANTED, REPORTED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether ports were wanted since the last call of this. Clears it.
    pub fn take_wants(&self) -> bool {
        self.wants_ports.swap(NOT_WANTED, Ordering::Relaxed) != NOT_WANTED
    }

    /// Notes a shared address that is short of ports, or on which the guest's own port was not granted.
    fn ask_for_ports(&self, book: &mut Book, tuple: &Tuple, refused: Option<&Refused>) {
        if tuple.side == Side::Inside && book.note_demand(tuple, refused.is_some(), FEW_PORTS) {
            let _ = self.wants_ports.compare_exchange(NOT_WANTED, WANTED, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    pub(crate) fn fragments(&self) -> MutexGuard<'_, Fragments<(Ipv4Addr, Ipv4Addr)>> {
        self.fragments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Nat {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Nat").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Seconds since a packet last refreshed the connection of an entry.
#[inline(always)]
fn idle(entry: &Entry, now: Timestamp) -> u32 {
    now.secs().saturating_sub(table::used(entry))
}

#[inline(always)]
fn known(found: &Found) -> Target {
    let (src, dst) = found.tuples.opposite(found.direction).reversed();
    (src, dst, Basis::Known)
}

fn opened(pending: &Pending) -> Target {
    let (src, dst) = pending.tuples.reply.reversed();
    (src, dst, pending.basis)
}

/// How a later fragment is translated, by the addresses of its datagram's first one.
fn decide_later(translation: Option<(Ipv4Addr, Ipv4Addr)>) -> Result<Decision, Refused> {
    let (src, dst) = translation.ok_or(Refused::FragmentEarly)?;
    Ok(Decision { basis: Basis::Fragment, change: Change::Addresses { src, dst } })
}
