//! The possible outcomes of a packet that belongs to no connection: limits, and who gives way.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use nat::tcp::{Policy, Segment, Tracker};
use nat::{ExternalKind, Protocol, Refused, Side, Tuple};

use super::{Conn, Model, Outside};

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
pub(in crate::nat_model) struct Opening {
    /// Possible reasons for a refusal.
    pub(in crate::nat_model) may: Vec<Refused>,
    /// Whether it must be refused, for one of the reasons in `may`.
    pub(in crate::nat_model) must: bool,
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

impl Model {
    /// The possible outcomes of a first packet.
    pub(in crate::nat_model) fn opening(
        &self,
        tuple: &Tuple,
        segment: Option<&Segment>,
        kind: u8,
        is_sound: bool,
        owner: u16,
    ) -> Opening {
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
            let is_there = || *self.addresses_for(tuple.src.address) == [outside.address];
            let is_usable = || self.usable.contains(outside.address, protocol, outside.port);
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
    pub(super) fn check_victim(&self, victim: &Conn, tuple: &Tuple, owner: u16, opening: &Opening) {
        assert!(victim.is_half_open(), "{victim:?} was complete, and gave way to {tuple:?}");
        let is_limit = |(_, lack, _): &(Refused, Lack, bool)| self.would_help(victim, *lack, tuple, owner, false);
        assert!(opening.lacks.iter().any(is_limit), "{victim:?} gave way to {tuple:?}: {opening:?}");
        let needs_port =
            opening.lacks.iter().any(|(_, lack, _)| matches!(lack, Lack::PortOfGuest | Lack::PortOfOwner | Lack::Port));
        // Those that could not help others may have lost their turn.
        if let ([(_, lack, true)], false) = (&opening.lacks[..], needs_port)
            && self.live.len() + self.dead.len() <= INSPECTED / 2
        {
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
}
