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

/// Number of connections at the front of a queue among which one that gives way is looked for.
const INSPECTED: usize = 32;

/// What a connection must free to give way to a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lack {
    /// A place in the table.
    Place,
    /// A connection of the same owner.
    OfOwner,
    /// A connection to the same published endpoint.
    OfEndpoint,
    /// A connection of the same guest and owner.
    OfGuest,
    /// An outside port of the same guest and owner.
    PortOfGuest,
    /// An outside port of the same owner.
    PortOfOwner,
    /// Any outside port.
    Port,
}

/// The possible outcomes of a packet that belongs to no connection.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// Possible reasons for a refusal.
    pub(super) may: Vec<Refused>,
    /// Whether it must be refused, for one of the reasons in `may`.
    pub(super) must: bool,
    /// Limits that are reached, perhaps and for certain.
    lacks: Vec<(Refused, Lack, bool)>,
}

impl Opening {
    fn refuse(&mut self, refused: Refused, must: bool, may: bool) {
        if must || may {
            self.may.push(refused);
        }
        self.must |= must;
    }

    /// A limit is reached, for certain or perhaps: the packet is refused unless a half-open connection gives way.
    fn lack(&mut self, refused: Refused, lack: Lack, sure: bool, perhaps: bool) {
        if sure || perhaps {
            self.lacks.push((refused, lack, sure));
        }
    }

    fn only(refused: Refused) -> Opening {
        Opening { may: vec![refused], must: true, lacks: Vec::new() }
    }
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) config: NatConfig,
    pub(super) externals: Vec<External>,
    usable: HashMap<(Ipv4Addr, Protocol), Vec<bool>>,
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
            usable: HashMap::new(),
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

    pub(super) fn kind(&self, address: Ipv4Addr) -> Option<ExternalKind> {
        self.externals.iter().find(|external| external.address == address).map(|external| external.kind)
    }

    /// The possible outcomes of a first packet.
    pub(super) fn opening(&self, tuple: &Tuple, segment: Option<&Segment>, kind: u8, is_sound: bool, owner: u16) -> Opening {
        let mut opening = Opening::default();
        if tuple.side == Side::Outside {
            let (sure, perhaps) = self.lets_in(tuple);
            if !perhaps {
                return self.with_dead(tuple, Opening::only(Refused::NoMapping));
            }
            opening.refuse(Refused::NoMapping, false, !sure);
        }
        match tuple.protocol {
            Protocol::TCP => {
                let policy =
                    Policy { pick_up: self.config.tcp_loose && tuple.side == Side::Inside, liberal: self.config.tcp_liberal };
                let opens = segment.is_some_and(|segment| Tracker::open(segment, policy).is_some());
                opening.refuse(Refused::NotOpening, !opens, false);
            }
            Protocol::ICMP => opening.refuse(Refused::IcmpIgnored, !matches!(kind, 8 | 13), false),
            _ => {}
        }
        opening.refuse(Refused::BadChecksum, !is_sound, false);
        if opening.must {
            return self.with_dead(tuple, opening);
        }
        self.limits(owner, &mut opening);
        match tuple.side {
            Side::Inside => self.outbound(tuple, owner, &mut opening),
            Side::Outside => self.inbound(tuple, owner, &mut opening),
        }
        self.give_way(tuple, owner, &mut opening);
        let is_known = |conns: &[Conn]| conns.iter().any(|conn| self.could_clash(conn, tuple));
        opening.refuse(Refused::Clash, false, is_known(&self.live) || is_known(&self.dead));
        opening
    }

    /// A dead connection that is still found judges the segment first.
    fn with_dead(&self, tuple: &Tuple, mut opening: Opening) -> Opening {
        if tuple.protocol == Protocol::TCP && self.dead.iter().any(|conn| conn.has(tuple)) {
            opening.may.push(Refused::OutOfWindow);
        }
        opening
    }

    fn could_clash(&self, conn: &Conn, tuple: &Tuple) -> bool {
        let reply = |other: &Tuple| match tuple.side {
            Side::Inside => other.side == Side::Outside && other.src == tuple.dst && self.kind(other.dst.address).is_some(),
            Side::Outside => {
                let insides = self.insides_of(tuple);
                other.side == Side::Inside && other.dst == tuple.src && insides.contains(&other.src)
            }
        };
        conn.protocol() == tuple.protocol && (reply(&conn.original) || reply(&conn.reply))
    }

    /// Whether limits that are reached mean a refusal: not if a half-open connection certainly gives way, and for certain if
    /// there is none that could.
    fn give_way(&self, tuple: &Tuple, owner: u16, opening: &mut Opening) {
        let all = || self.live.iter().chain(&self.dead);
        let lacks = opening.lacks.clone();
        let is_sure = |conn: &&Conn| {
            !conn.was_complete && lacks.iter().all(|(_, lack, _)| self.would_help(conn, *lack, tuple, owner, true))
        };
        if all().count() <= INSPECTED && self.live.iter().any(|conn| is_sure(&conn)) {
            return;
        }
        for (refused, lack, sure) in &lacks {
            let is_possible = |conn: &Conn| conn.is_half_open() && self.would_help(conn, *lack, tuple, owner, false);
            opening.refuse(*refused, *sure && !all().any(is_possible), true);
        }
    }

    /// Whether the end of a connection frees what is missing; for certain, or perhaps.
    fn would_help(&self, conn: &Conn, lack: Lack, tuple: &Tuple, owner: u16, sure: bool) -> bool {
        let all = || self.live.iter().chain(&self.dead);
        let frees_port = || {
            let Some((protocol, outside)) = conn.mapping else { return false };
            let is_only = || all().filter(|other| other.mapping == conn.mapping).count() == 1;
            let is_there = || self.addresses_for(tuple.src.address) == [outside.address];
            let is_usable =
                || self.usable.get(&(outside.address, protocol)).is_some_and(|usable| usable[usize::from(outside.port)]);
            let is_sure = || is_only() && is_there() && is_usable() && conn.port_owner == Some(owner);
            protocol == tuple.protocol && !self.published.contains_key(&(protocol, outside)) && (!sure || is_sure())
        };
        let is_own = conn.owner == owner;
        let is_of_guest = |address: Ipv4Addr| is_own && conn.inside().address == address;
        match lack {
            Lack::Place => is_own || !sure,
            Lack::OfOwner => is_own,
            Lack::OfEndpoint => conn.original.side == Side::Outside && conn.mapping == Some((tuple.protocol, tuple.dst)),
            Lack::OfGuest => {
                let is_to_endpoint = conn.original.side == Side::Outside && conn.mapping.is_some();
                !is_to_endpoint && self.insides_of(tuple).iter().any(|inside| is_of_guest(inside.address))
            }
            Lack::PortOfGuest => is_of_guest(tuple.src.address) && frees_port() && (!sure || conn.original.side == Side::Inside),
            Lack::PortOfOwner => is_own && frees_port(),
            Lack::Port => (is_own || !sure) && frees_port(),
        }
    }

    /// Checks that a live connection, or one that is not known, may have given way to a new one.
    fn check_victim(&self, victim: &Conn, tuple: &Tuple, owner: u16, opening: &Opening) {
        assert!(victim.is_half_open(), "{victim:?} was complete, and gave way to {tuple:?}");
        let is_limit = |(_, lack, _): &(Refused, Lack, bool)| self.would_help(victim, *lack, tuple, owner, false);
        assert!(opening.lacks.iter().any(is_limit), "{victim:?} gave way to {tuple:?}: {opening:?}");
        let needs_port =
            opening.lacks.iter().any(|(_, lack, _)| matches!(lack, Lack::PortOfGuest | Lack::PortOfOwner | Lack::Port));
        if let ([(_, lack, true)], false) = (&opening.lacks[..], needs_port) {
            let is_older = |conn: &&Conn| !conn.was_complete && self.would_help(conn, *lack, tuple, owner, true);
            let older = self.live.iter().take_while(|conn| conn.original != victim.original).find(is_older);
            assert!(older.is_none(), "{older:?} is older than {victim:?}");
        }
    }

    /// Maximum number of connections of an owner while there are so many in all.
    fn most_of_owner(&self, all: usize) -> usize {
        let (max, each) = (self.config.max_connections, self.config.max_connections_per_port);
        let free = max - all.min(max);
        if each >= max { max } else { each.min(free.max(free * each / (max - each))) }
    }

    fn limits(&self, owner: u16, opening: &mut Opening) {
        let (live, all) = (self.live.len(), self.live.len() + self.dead.len());
        let most = self.config.max_connections;
        opening.lack(Refused::TableFull, Lack::Place, live >= most, all >= most);
        // In a small table buckets fill up earlier; and mappings without connections count too.
        opening.refuse(Refused::TableFull, false, most < 100);
        let of = |conns: &[Conn]| conns.iter().filter(|conn| conn.owner == owner).count();
        let (of_live, of_dead) = (of(&self.live), of(&self.dead));
        let (sure, perhaps) = (of_live >= self.most_of_owner(live), of_live + of_dead >= self.most_of_owner(all));
        opening.lack(Refused::PortShare, Lack::OfOwner, sure, perhaps);
        opening.refuse(Refused::PortShare, usize::from(owner) >= self.config.ports_of_bridge, false);
    }

    /// Half of a port's share is for connections from outside to one published endpoint.
    fn inbound(&self, tuple: &Tuple, owner: u16, opening: &mut Opening) {
        let most = self.config.max_connections_per_port / 2;
        let (lack, count): (Lack, &dyn Fn(&Conn) -> bool) = match self.kind(tuple.dst.address) {
            Some(ExternalKind::OneToOne(guest)) => {
                (Lack::OfGuest, &move |conn| conn.inside().address == guest && conn.owner == owner)
            }
            _ => (Lack::OfEndpoint, &|conn| conn.mapping == Some((tuple.protocol, tuple.dst))),
        };
        let live = self.live.iter().filter(|conn| count(conn)).count();
        let dead = self.dead.iter().filter(|conn| count(conn)).count();
        opening.lack(Refused::PortShare, lack, live >= most, live + dead >= most);
    }

    fn outbound(&self, tuple: &Tuple, owner: u16, opening: &mut Opening) {
        let guest = tuple.src.address;
        let addresses = self.addresses_for(guest);
        opening.refuse(Refused::NoAddress, addresses.is_empty(), false);
        let is_one_to_one = self.one_to_one(guest).is_some();
        if opening.must || is_one_to_one {
            return;
        }
        if !tuple.protocol.has_ports() {
            let is_shared = |address: &Ipv4Addr| self.kind(*address) == Some(ExternalKind::Shared);
            return opening.refuse(Refused::NotShared, addresses.iter().all(is_shared), addresses.iter().any(is_shared));
        }
        let is_new = self.known_mapping(tuple.protocol, tuple.src).is_none();
        let held = |conns: &mut dyn Iterator<Item = &Conn>, sure: bool| {
            let is_own = |conn: &Conn| conn.port_owner.map_or(!sure, |of| of == owner);
            let of_guest =
                conns.filter(|conn| conn.inside().address == guest && conn.protocol() == tuple.protocol && is_own(conn));
            of_guest
                .filter_map(|conn| conn.mapping)
                .filter(|held| !self.published.contains_key(held))
                .collect::<HashSet<_>>()
                .len()
        };
        self.ports_of_owner((tuple.protocol, tuple.src), owner, is_new, opening);
        let most = self.config.max_ports_per_guest as usize;
        let sure = is_new && !self.may_be_known(tuple.protocol, tuple.src) && held(&mut self.live.iter(), true) >= most;
        let perhaps = is_new && held(&mut self.live.iter().chain(&self.dead), false) >= most;
        opening.lack(Refused::GuestShare, Lack::PortOfGuest, sure, perhaps);
        let has_free = |address: &Ipv4Addr, sure: bool| self.has_free(tuple.protocol, *address, sure);
        let exhausted = is_new && addresses.iter().any(|address| !has_free(address, true));
        let sure =
            is_new && !self.may_be_known(tuple.protocol, tuple.src) && addresses.iter().all(|address| !has_free(address, false));
        opening.lack(Refused::PortsExhausted, Lack::Port, sure, exhausted);
    }

    /// An owner gets at most three times as many ports of an outside address as are free.
    fn ports_of_owner(&self, (protocol, inside): Outside, owner: u16, is_new: bool, opening: &mut Opening) {
        let range = if protocol == Protocol::ICMP { 0x1_0000 } else { self.config.ports.len() };
        // A mapping that may have been replaced may have another owner.
        let is_at_limit = |address: &Ipv4Addr, sure: bool| {
            let all = || self.live.iter().chain(self.dead.iter());
            let held = |conn: &&Conn| conn.mapping.is_some_and(|(of, outside)| of == protocol && outside.address == *address);
            let is_live = |held: Option<Outside>| self.live.iter().any(|conn| conn.mapping == held);
            let counts = |conn: &&Conn| !sure || is_live(conn.mapping);
            let taken: HashSet<Outside> = all().filter(held).filter(counts).filter_map(|conn| conn.mapping).collect();
            let published: HashSet<Outside> =
                self.published.keys().filter(|(of, outside)| *of == protocol && outside.address == *address).copied().collect();
            let is_own = |conn: &&Conn| match sure {
                true => all().all(|other| other.mapping != conn.mapping || other.port_owner == Some(owner)),
                false => conn.port_owner.is_none_or(|of| of == owner),
            };
            let own = all().filter(held).filter(counts).filter(is_own).filter_map(|conn| conn.mapping);
            let own = own.filter(|held| !published.contains(held)).collect::<HashSet<_>>().len();
            own >= (range.saturating_sub(taken.union(&published).count()) * 3).max(1)
        };
        let addresses = self.addresses_for(inside.address);
        let sure = is_new && !self.may_be_known(protocol, inside) && addresses.iter().all(|address| is_at_limit(address, true));
        let perhaps = is_new && addresses.iter().any(|address| is_at_limit(address, false));
        opening.lack(Refused::PortShare, Lack::PortOfOwner, sure, perhaps);
    }

    fn one_to_one(&self, guest: Ipv4Addr) -> Option<Ipv4Addr> {
        self.externals.iter().find(|external| external.kind == ExternalKind::OneToOne(guest)).map(|external| external.address)
    }

    /// The outside addresses that a new flow of a guest may get.
    fn addresses_for(&self, guest: Ipv4Addr) -> Vec<Ipv4Addr> {
        if let Some(own) = self.one_to_one(guest) {
            return vec![own];
        }
        let is_pool = |address: &Ipv4Addr| matches!(self.kind(*address), Some(ExternalKind::Own | ExternalKind::Shared));
        let has_flows = self.live.iter().any(|conn| conn.inside().address == guest);
        if let Some(paired) = self.pairs.get(&guest).filter(|paired| is_pool(paired) && has_flows) {
            return vec![*paired];
        }
        self.externals.iter().map(|external| external.address).filter(is_pool).collect()
    }

    /// Whether it accepts packets from any peer: for certain, perhaps.
    fn lets_in(&self, tuple: &Tuple) -> (bool, bool) {
        match self.kind(tuple.dst.address) {
            None => return (false, false),
            Some(ExternalKind::OneToOne(_)) => return (true, true),
            Some(_) => {}
        }
        let here = (tuple.protocol, tuple.dst);
        if self.published.contains_key(&here) {
            return (true, true);
        }
        if self.config.filtering != Filtering::EndpointIndependent || !matches!(tuple.protocol, Protocol::TCP | Protocol::UDP) {
            return (false, false);
        }
        let live = self.live.iter().any(|conn| conn.mapping == Some(here));
        (live, live || self.dead.iter().any(|conn| conn.mapping == Some(here)))
    }

    /// The inside endpoints that an unsolicited packet may reach.
    pub(super) fn insides_of(&self, tuple: &Tuple) -> Vec<Endpoint> {
        if let Some(ExternalKind::OneToOne(guest)) = self.kind(tuple.dst.address) {
            return vec![Endpoint::new(guest, tuple.dst.port)];
        }
        let here = (tuple.protocol, tuple.dst);
        if let Some(guest) = self.published.get(&here) {
            return vec![*guest];
        }
        let held = self.live.iter().filter(|conn| conn.mapping == Some(here)).map(Conn::inside);
        let mut held: Vec<Endpoint> = held.collect();
        if held.is_empty() {
            held = self.dead.iter().filter(|conn| conn.mapping == Some(here)).map(Conn::inside).collect();
        }
        held
    }

    /// The outside endpoints that stand for an inside endpoint now.
    fn mappings_of(&self, protocol: Protocol, inside: Endpoint) -> HashSet<Endpoint> {
        let is_independent = self.config.mapping == Mapping::EndpointIndependent;
        let of = |conn: &&Conn| conn.protocol() == protocol && conn.inside() == inside && is_independent;
        let dynamic = self.live.iter().filter(of).filter_map(|conn| conn.mapping).map(|(_, outside)| outside);
        let published = self.published.iter().filter(|((of, _), guest)| *of == protocol && **guest == inside);
        dynamic.chain(published.map(|((_, outside), _)| *outside)).collect()
    }

    /// The outside endpoint that a new flow must get, if the model knows.
    fn known_mapping(&self, protocol: Protocol, inside: Endpoint) -> Option<Endpoint> {
        let mappings = self.mappings_of(protocol, inside);
        let only = mappings.iter().next().copied().filter(|_| mappings.len() == 1)?;
        (!self.ambiguous.contains(&(protocol, inside))).then_some(only)
    }

    fn may_be_known(&self, protocol: Protocol, inside: Endpoint) -> bool {
        let is_independent = self.config.mapping == Mapping::EndpointIndependent;
        let of = |conn: &Conn| conn.protocol() == protocol && conn.inside() == inside && conn.mapping.is_some();
        !self.mappings_of(protocol, inside).is_empty() || is_independent && self.dead.iter().any(of)
    }

    /// Whether a new mapping may take this port. `sure`: ports that may still be held count as taken.
    fn is_free(&self, protocol: Protocol, outside: Endpoint, sure: bool) -> bool {
        let held = Some((protocol, outside));
        let is_usable = self.usable.get(&(outside.address, protocol)).is_some_and(|usable| usable[usize::from(outside.port)]);
        let is_published = self.published.contains_key(&(protocol, outside));
        let is_held =
            self.live.iter().any(|conn| conn.mapping == held) || sure && self.dead.iter().any(|conn| conn.mapping == held);
        is_usable && !is_published && !is_held
    }

    /// Whether a new mapping may take any port of this address.
    fn has_free(&self, protocol: Protocol, address: Ipv4Addr, sure: bool) -> bool {
        let Some(usable) = self.usable.get(&(address, protocol)) else { return false };
        // With more usable ports than there are holders of ports, one is free.
        let holders = self.live.len() + self.dead.len() + self.published.len();
        if usable.iter().filter(|is_usable| **is_usable).take(holders + 1).count() > holders {
            return true;
        }
        let usable = (0..=u16::MAX).zip(usable).filter(|(_, is_usable)| **is_usable);
        usable.map(|(port, _)| Endpoint::new(address, port)).any(|outside| self.is_free(protocol, outside, sure))
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
        assert!(addresses.contains(&outside.address), "{inside} got {outside}, not of {addresses:?}");
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
        assert!(has_class || !class.clone().any(is_free), "{outside} is of another class than {inside}");
        let may_have_parity = || class.clone().any(|port| has_parity(port) && is_free(port));
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

    pub(super) fn set_externals(&mut self, externals: &[External]) {
        let gone: Vec<External> = self.externals.iter().filter(|old| !externals.contains(old)).copied().collect();
        for External { address, .. } in gone {
            let is_of = |tuple: &Tuple| tuple.side == Side::Outside && tuple.dst.address == address;
            self.end(|conn| is_of(&conn.original) || is_of(&conn.reply));
            self.published.retain(|(_, outside), _| outside.address != address);
            self.usable.retain(|(of, _), _| *of != address);
            self.pairs.retain(|_, paired| *paired != address);
        }
        for new in externals.iter().filter(|new| !self.externals.contains(new)) {
            for protocol in [Protocol::ICMP, Protocol::TCP, Protocol::UDP] {
                let is_usable = |port| match new.kind {
                    _ if protocol == Protocol::ICMP => true,
                    ExternalKind::Own => self.config.ports.contains(&port),
                    _ => false,
                };
                self.usable.insert((new.address, protocol), (0..=u16::MAX).map(is_usable).collect());
            }
        }
        self.externals = externals.to_vec();
    }

    pub(super) fn publish(&mut self, outside: Outside, guest: Endpoint) -> Result<(), Refused> {
        self.kind(outside.1.address).ok_or(Refused::NoAddress)?;
        if self.published.contains_key(&outside) {
            return Err(Refused::Clash);
        }
        self.end(|conn| conn.mapping == Some(outside));
        if self.may_be_known(outside.0, guest) {
            self.ambiguous.insert((outside.0, guest));
        }
        self.published.insert(outside, guest);
        self.used_once.insert(outside);
        Ok(())
    }

    pub(super) fn unpublish(&mut self, outside: Outside) -> bool {
        if self.published.remove(&outside).is_none() {
            return false;
        }
        self.end(|conn| conn.mapping == Some(outside));
        true
    }

    pub(super) fn grant(&mut self, address: Ipv4Addr, protocol: Protocol, ports: &[u16]) {
        if let Some(usable) = self.usable.get_mut(&(address, protocol)) {
            for port in ports.iter().filter(|port| self.config.ports.contains(port)) {
                usable[usize::from(*port)] = true;
            }
        }
    }

    /// Where the reply may go: for certain, perhaps.
    pub(super) fn revoke(&mut self, address: Ipv4Addr, protocol: Protocol, port: u16, answer: bool) {
        let held = (protocol, Endpoint::new(address, port));
        let is_held = self.published.contains_key(&held) || self.live.iter().any(|conn| conn.mapping == Some(held));
        if is_held {
            assert!(!answer, "{held:?} is in use");
        } else if !self.dead.iter().any(|conn| conn.mapping == Some(held)) {
            assert!(answer, "{held:?} is not in use");
        }
        if answer && let Some(usable) = self.usable.get_mut(&(address, protocol)) {
            usable[usize::from(port)] = false;
        }
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
