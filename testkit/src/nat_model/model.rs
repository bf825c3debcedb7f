//! Connections, mappings, limits and rules as plain lists.
//!
//! An expired connection may hold its port and count against limits until something looks it up; the model keeps such
//! connections apart ("dead") and allows both outcomes.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use nat::tcp::{Peer, Phase, Policy, Segment, Tracker, Verdict};
use nat::{Endpoint, External, ExternalKind, Filtering, Mapping, NatConfig, Protocol, Refused, Side, Tuple};
use packet::Timestamp;

use super::fragments::Datagrams;
use opening::Opening;
use usable::Usable;

mod addresses;
mod opening;
mod usable;

pub(super) type Outside = (Protocol, Endpoint);

#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
    pub(super) used: u32,
    pub(super) tracker: Option<Tracker>,
    /// The outside endpoint reserved for it, if it belongs to a mapping.
    pub(super) mapping: Option<Outside>,
    pub(super) owner: u16,
    /// Both ends have taken part in it, at some time.
    was_complete: bool,
    /// It is not TCP, and there was a packet in reply.
    is_replied: bool,
    /// The owner of the connection that made its mapping, if known for certain.
    port_owner: Option<u16>,
    /// For the simulated endpoints: the next sequence numbers of both.
    pub(super) next: [u32; 2],
}

impl Conn {
    pub(super) fn inside(&self) -> Endpoint {
        if self.original.side == Side::Inside { self.original.src } else { self.reply.src }
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.original.protocol
    }

    pub(super) fn has(&self, tuple: &Tuple) -> bool {
        self.original == *tuple || self.reply == *tuple
    }

    /// Whether one of its ends has not taken part yet.
    pub(super) fn is_half_open(&self) -> bool {
        self.tracker.map_or(!self.was_complete, |tracker| !tracker.has_opened())
    }

    /// Notes a packet that passed.
    fn note(&mut self, is_reply: bool) {
        self.was_complete |= match (self.tracker, self.original.side) {
            (Some(tracker), _) => tracker.has_opened(),
            (None, Side::Inside) => is_reply,
            (None, Side::Outside) => !is_reply && self.is_replied,
        };
        self.is_replied |= is_reply;
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        self.tracker.map(|tracker| tracker.phase())
    }
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) config: NatConfig,
    pub(super) externals: Vec<External>,
    usable: Usable,
    pub(super) live: Vec<Conn>,
    pub(super) dead: Vec<Conn>,
    pub(super) published: HashMap<Outside, Endpoint>,
    /// Inside endpoints that had several mappings at a time, any of which may be found.
    ambiguous: HashSet<(Protocol, Endpoint)>,
    /// Outside endpoints that mappings had.
    used_once: HashSet<Outside>,
    /// The outside address of each guest with connections.
    pairs: HashMap<Ipv4Addr, Ipv4Addr>,
    pub(super) datagrams: Datagrams,
    pub(super) now: Timestamp,
}

impl Model {
    pub(super) fn new(config: NatConfig) -> Model {
        Model {
            config,
            externals: Vec::new(),
            usable: Usable::default(),
            live: Vec::new(),
            dead: Vec::new(),
            published: HashMap::new(),
            ambiguous: HashSet::new(),
            used_once: HashSet::new(),
            pairs: HashMap::new(),
            datagrams: Datagrams::default(),
            now: Timestamp::default(),
        }
    }

    pub(super) fn timeout(&self, conn: &Conn) -> u32 {
        let timeouts = &self.config.timeouts;
        match (conn.protocol(), conn.phase()) {
            (Protocol::TCP, Some(Phase::Established)) => timeouts.tcp_established,
            (Protocol::TCP, Some(Phase::Opening)) => timeouts.tcp_opening,
            (Protocol::TCP, _) => timeouts.tcp_transitory,
            (Protocol::UDP, _) => timeouts.udp,
            (Protocol::ICMP, _) => timeouts.icmp,
            _ => timeouts.other,
        }
    }

    /// Lets time pass.
    pub(super) fn set_now(&mut self, now: Timestamp) {
        self.now = now;
        for conn in std::mem::take(&mut self.live) {
            if now.secs() - conn.used > self.timeout(&conn) { self.dead.push(conn) } else { self.live.push(conn) }
        }
    }

    /// Checks the number of connections, and forgets the dead ones once they cannot be among them.
    pub(super) fn note_count(&mut self, count: usize) {
        assert!(count >= self.live.len(), "{count} connections, and {} should live", self.live.len());
        assert!(count <= self.live.len() + self.dead.len(), "{count} connections of {}", self.live.len() + self.dead.len());
        assert!(count <= self.config.max_connections);
        if count == self.live.len() {
            self.dead.clear();
        }
    }

    pub(super) fn find(&self, tuple: &Tuple) -> Option<usize> {
        self.live.iter().position(|conn| conn.has(tuple))
    }

    /// The endpoints that a packet of a live connection gets.
    pub(super) fn target(conn: &Conn, tuple: &Tuple) -> (Endpoint, Endpoint) {
        if conn.original == *tuple { conn.reply.reversed() } else { conn.original.reversed() }
    }

    /// Updates a live connection by a packet.
    pub(super) fn follow(&mut self, at: usize, tuple: &Tuple, segment: Option<&Segment>) -> Result<(), Refused> {
        let now = self.now.secs();
        let conn = &mut self.live[at];
        let is_reply = conn.original != *tuple;
        let Some(tracker) = &mut conn.tracker else {
            conn.used = now;
            conn.note(is_reply);
            return Ok(());
        };
        let segment = segment.ok_or(Refused::OutOfWindow)?;
        let from = if conn.original == *tuple { Peer::Initiator } else { Peer::Responder };
        let before = tracker.phase();
        match tracker.follow(from, segment) {
            Verdict::Invalid => return Err(Refused::OutOfWindow),
            verdict => {
                if segment.flags & 4 == 0 && verdict != Verdict::Doubtful || tracker.phase() != before {
                    conn.used = now;
                }
                if verdict != Verdict::Doubtful {
                    conn.next[from as usize] = segment.sequence.wrapping_add(segment.len);
                }
                conn.note(is_reply);
            }
        }
        Ok(())
    }

    /// Removes a connection that is not there any more although it has not timed out: one that is half-open and idle, under
    /// pressure.
    pub(super) fn ended_early(&mut self, original: &Tuple) {
        const PRESSED_SECS: u32 = 30;
        let at = self.live.iter().position(|conn| conn.original == *original).expect("a live connection");
        let conn = self.live.remove(at);
        assert!(conn.is_half_open() && self.now.secs() - conn.used > PRESSED_SECS, "{conn:?} has gone");
    }

    /// Checks the endpoints of a connection that this packet opened. `victim` is a live connection whose place it took.
    pub(super) fn opened(
        &mut self,
        tuple: &Tuple,
        reply: Tuple,
        segment: Option<&Segment>,
        owner: u16,
        victim: Option<Tuple>,
        opening: &Opening,
    ) {
        let victim = victim.and_then(|original| self.live.iter().find(|conn| conn.original == original)).cloned();
        if let Some(victim) = &victim {
            self.check_victim(victim, tuple, owner, opening);
        }
        let is_victim = |conn: &Conn| victim.as_ref().is_some_and(|victim| conn.original == victim.original);
        for known in self.live.iter().filter(|conn| !is_victim(conn)).flat_map(|conn| [conn.original, conn.reply]) {
            assert!(known != *tuple && known != reply, "{known:?} is of two connections");
        }
        let of_victim = victim.as_ref().and_then(|victim| victim.mapping);
        let mapping = match tuple.side {
            Side::Inside => self.check_outbound(tuple, &reply, of_victim),
            Side::Outside => self.check_inbound(tuple, &reply),
        };
        let policy = Policy { pick_up: self.config.tcp_loose && tuple.side == Side::Inside, liberal: self.config.tcp_liberal };
        let tracker = (tuple.protocol == Protocol::TCP).then(|| Tracker::open(segment.unwrap(), policy).unwrap());
        let next = segment.map_or([0; 2], |segment| [segment.sequence.wrapping_add(segment.len), segment.acknowledgment]);
        let is_by_mapping = |conn: &&Conn| mapping.is_some() && conn.mapping == mapping;
        let is_independent = self.config.mapping == Mapping::EndpointIndependent;
        let port_owner = match (self.live.iter().find(is_by_mapping), self.dead.iter().find(is_by_mapping)) {
            // Its port, but not its mapping.
            (Some(other), _) if is_victim(other) && !(is_independent && other.inside() == tuple.src) => Some(owner),
            (Some(other), _) => other.port_owner,
            (None, Some(_)) => None,
            (None, None) => Some(owner),
        };
        let conn = Conn {
            original: *tuple,
            reply,
            used: self.now.secs(),
            tracker,
            mapping,
            owner,
            was_complete: false,
            is_replied: false,
            port_owner,
            next,
        };
        let is_by_address = tuple.side == Side::Inside && (mapping.is_none() || !self.may_be_known(tuple.protocol, tuple.src));
        self.dead.retain(|dead| !dead.has(tuple) && !dead.has(&reply));
        let inside = conn.inside();
        if mapping.is_some() {
            let ours = self.mappings_of(tuple.protocol, inside);
            if !ours.is_empty() && mapping.is_some_and(|(_, outside)| !ours.contains(&outside)) {
                self.ambiguous.insert((tuple.protocol, inside));
            }
        }
        self.used_once.extend(mapping);
        let outside = if tuple.side == Side::Inside { reply.dst.address } else { tuple.dst.address };
        let is_new = !self.live.iter().any(|conn| conn.inside().address == inside.address);
        let is_first = is_new && !self.dead.iter().any(|dead| dead.inside().address == inside.address);
        if is_by_address || is_first && tuple.side == Side::Outside {
            self.pairs.insert(inside.address, outside);
        } else if is_new {
            // Its record may be older than this packet, or made by the pool although its mapping was not.
            self.pairs.remove(&inside.address);
        }
        if let Some(victim) = &victim {
            self.live.retain(|conn| conn.original != victim.original);
        }
        self.live.push(conn);
        assert!(self.live.iter().filter(|conn| conn.owner == owner).count() <= self.config.max_connections_per_port);
    }

    fn check_outbound(&self, tuple: &Tuple, reply: &Tuple, of_victim: Option<Outside>) -> Option<Outside> {
        let Tuple { protocol, src: inside, .. } = *tuple;
        let outside = reply.dst;
        assert_eq!((reply.side, reply.protocol, reply.src), (Side::Outside, protocol, tuple.dst));
        let kind = self.kind(outside.address).expect("an outside address");
        if let ExternalKind::OneToOne(guest) = kind {
            assert_eq!((guest, inside.port), (inside.address, outside.port), "another guest's address");
            return None;
        }
        assert!(self.one_to_one(inside.address).is_none() || self.may_be_known(protocol, inside), "it has an address of its own");
        if !protocol.has_ports() {
            assert_eq!(outside.port, 0);
            return None;
        }
        let held = Some((protocol, outside));
        match self.known_mapping(protocol, inside) {
            Some(known) => assert_eq!(outside, known, "an inside endpoint has one outside endpoint"),
            None if self.mappings_of(protocol, inside).contains(&outside) => {}
            None if self.may_be_known(protocol, inside) && self.dead.iter().any(|conn| conn.mapping == held) => {}
            None => self.check_choice(protocol, inside, outside, of_victim == held),
        }
        held
    }

    /// Checks the outside endpoint of a new mapping.
    fn check_choice(&self, protocol: Protocol, inside: Endpoint, outside: Endpoint, is_victims: bool) {
        let addresses = self.addresses_for(inside.address);
        assert!(addresses.contains(&outside.address), "{inside} got {outside}, not of {:?}", &*addresses);
        assert!(is_victims || self.is_free(protocol, outside, false), "{outside} is not free");
        let is_free = |port: u16| self.is_free(protocol, Endpoint::new(outside.address, port), true);
        if outside.port == inside.port {
            return;
        }
        // With endpoint-independent filtering, a port rests before another guest gets it.
        let may_rest = self.config.filtering == Filtering::EndpointIndependent
            && self.used_once.contains(&(protocol, Endpoint::new(outside.address, inside.port)));
        assert!(may_rest || !is_free(inside.port), "port {} could have been kept", inside.port);
        let class = match inside.port {
            _ if protocol == Protocol::ICMP => 0..=u16::MAX,
            0..512 => 1..=511,
            512..1024 => 512..=1023,
            _ => 1024..=u16::MAX,
        };
        let has_parity = |port: u16| port % 2 == inside.port % 2;
        let has_class = class.contains(&outside.port);
        let of_class = || self.usable.within(outside.address, protocol, &class);
        assert!(has_class || !of_class().any(is_free), "{outside} is of another class than {inside}");
        let may_have_parity = || of_class().any(|port| has_parity(port) && is_free(port));
        assert!(has_parity(outside.port) || !may_have_parity(), "{outside} has another parity than {inside}");
    }

    fn check_inbound(&self, tuple: &Tuple, reply: &Tuple) -> Option<Outside> {
        assert_eq!((reply.side, reply.protocol, reply.dst), (Side::Inside, tuple.protocol, tuple.src));
        assert!(self.insides_of(tuple).contains(&reply.src), "{} is not for {}", tuple.dst, reply.src);
        let is_one_to_one = matches!(self.kind(tuple.dst.address), Some(ExternalKind::OneToOne(_)));
        (!is_one_to_one).then_some((tuple.protocol, tuple.dst))
    }

    /// Ends connections at once. Returns the number of live ones.
    pub(super) fn end(&mut self, concerned: impl Fn(&Conn) -> bool) -> usize {
        let before = self.live.len();
        self.live.retain(|conn| !concerned(conn));
        self.dead.retain(|conn| !concerned(conn));
        before - self.live.len()
    }

    /// Forgets the dead once the translation certainly has.
    pub(super) fn tidy(&mut self) {
        if self.dead.is_empty() {
            let known: Vec<_> =
                self.ambiguous.iter().copied().filter(|(protocol, inside)| self.may_be_known(*protocol, *inside)).collect();
            self.ambiguous = known.into_iter().collect();
        }
    }
}
