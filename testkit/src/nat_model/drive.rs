//! The driver: derives packets and changes from any bytes, applies them to translation and model, and compares.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use nat::fragments::{Fragment, Key};
use nat::tcp::{Peer, Segment};
use nat::{
    Connection, Endpoint, External, ExternalKind, Filtering, FirstFragment, Mapping, Nat, NatConfig, NatStats, Protocol,
    Published, Refused, Side, Timeouts, Tuple,
};
use packet::Timestamp;
use packet::checksum::Checksum;

use super::choices::Choices;
use super::fragments::Piece;
use super::model::{Conn, Model};
use super::rewriting;
use crate::packets::{self, ACK, FIN, ICMP, RST, SYN, TCP, Tcp, UDP, address, header_len, ipv4_mut, word};

/// Limit of the steps of one input.
const MAX_STEPS: usize = 600;

const GUESTS: [Ipv4Addr; 4] =
    [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 1, 3), Ipv4Addr::new(10, 0, 1, 4)];
const PEERS: [Ipv4Addr; 3] = [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2), Ipv4Addr::new(8, 8, 8, 8)];
const EXTERNALS: [Ipv4Addr; 4] =
    [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 3), Ipv4Addr::new(203, 0, 113, 4)];
const PORTS: [u16; 10] = [1024, 1025, 1026, 1027, 5000, 80, 81, 600, 601, 0];
const PROTOCOLS: [u8; 16] = [TCP, TCP, TCP, TCP, TCP, TCP, UDP, UDP, UDP, UDP, UDP, UDP, ICMP, ICMP, 47, 132];

/// Length of a TCP segment that is assumed for a first fragment (`LONGEST_SEGMENT`).
const LONGEST_SEGMENT: u32 = 65_535 - 40;

/// The translation and its model.
struct Pair<'a> {
    nat: Nat,
    model: Model,
    choices: Choices<'a>,
    /// No half-open connection lives longer than under pressure.
    has_short_timeouts: bool,
}

/// Takes any bytes as a sequence of packets, rule changes and passing time, and panics where translation and model
/// differ.
pub fn drive(data: &[u8]) {
    let mut choices = Choices(data);
    let config = config(&mut choices);
    let seed = [u64::from(choices.byte()), 7];
    let nat = Nat::new(config.clone(), seed).unwrap();
    let has_short_timeouts = config.timeouts != Timeouts::default();
    let mut pair = Pair { nat, model: Model::new(config), choices, has_short_timeouts };
    let own = |address| External { address, kind: ExternalKind::Own };
    pair.set_externals(&[own(EXTERNALS[0]), own(EXTERNALS[1])]);
    for step in 0..MAX_STEPS {
        if pair.choices.is_empty() {
            break;
        }
        pair.step();
        pair.model.note_count(pair.nat.stats().connections);
        pair.model.tidy();
        if step % 16 == 0 {
            pair.compare();
        }
    }
    pair.compare();
}

fn config(choices: &mut Choices<'_>) -> NatConfig {
    let flags = choices.byte();
    let is = |bit: u8| flags >> bit & 1 != 0;
    let ports = choices.one_of(&[(1024, 65_535), (1024, 1029), (1, 65_535), (600, 1026)]);
    let short = Timeouts { tcp_established: 100, tcp_opening: 20, tcp_transitory: 10, udp: 30, icmp: 15, other: 25 };
    NatConfig {
        max_connections: if is(0) { 12 } else { 1024 },
        max_connections_per_port: if is(1) { 5 } else { 1000 },
        max_ports_per_guest: if is(2) { 3 } else { 1000 },
        ports_of_bridge: 4,
        port_numbers: 4,
        ports: ports.0..=ports.1,
        mapping: if is(3) { Mapping::AddressAndPortDependent } else { Mapping::EndpointIndependent },
        filtering: if is(4) { Filtering::EndpointIndependent } else { Filtering::AddressAndPortDependent },
        timeouts: if is(5) { short } else { Timeouts::default() },
        tcp_loose: !is(6),
        tcp_liberal: is(7),
    }
}

/// State of a packet's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Right,
    Wrong,
    Verified,
    Partial,
    /// UDP only.
    Absent,
}

impl Pair<'_> {
    fn step(&mut self) {
        match self.choices.below(32) {
            0..=6 => self.first_packet(),
            7..=16 => self.next_packet(),
            17..=19 => self.stranger(),
            20..=22 => self.error(),
            23..=25 => self.piece(),
            26 => self.garbage(),
            27 | 28 => self.wait(),
            _ => match self.choices.below(16) {
                0 => self.flush(),
                1..=4 => self.change_externals(),
                5..=12 => self.change_ports(),
                _ => self.expire(),
            },
        }
    }

    fn endpoint(&mut self, of: &[Ipv4Addr]) -> Endpoint {
        Endpoint::new(self.choices.one_of(of), self.choices.one_of(&PORTS))
    }

    fn owner(&mut self) -> u16 {
        u16::from(self.choices.byte() % 9 / 2)
    }

    /// From a guest to a peer, or to an outside address.
    fn first_packet(&mut self) {
        let src = self.endpoint(&GUESTS);
        let dst = if self.choices.rarely(6) { self.endpoint(&EXTERNALS) } else { self.endpoint(&PEERS) };
        self.flow_packet(Side::Inside, src, dst);
    }

    /// From a peer to an outside address, at random or one in use.
    fn stranger(&mut self) {
        let src = self.endpoint(&PEERS);
        let mut dst = self.endpoint(&EXTERNALS);
        let held: Vec<Endpoint> =
            self.model.live.iter().chain(&self.model.dead).filter_map(|conn| conn.mapping).map(|held| held.1).collect();
        if !held.is_empty() && self.choices.rarely(2) {
            dst = self.choices.one_of(&held);
        }
        self.flow_packet(Side::Outside, src, dst);
    }

    fn flow_packet(&mut self, side: Side, src: Endpoint, dst: Endpoint) {
        let protocol = self.choices.one_of(&PROTOCOLS);
        let flags = self.choices.one_of(&[SYN, SYN, SYN, SYN, SYN, SYN, SYN, SYN, SYN, SYN, ACK, ACK, SYN | ACK, RST, 0, FIN]);
        let sequence = if self.choices.rarely(4) { self.choices.long() } else { 1000 };
        let acknowledgment = if self.choices.rarely(4) { self.choices.long() } else { 0 };
        let kind = self.choices.one_of(&[8, 8, 13, 0, 14, 5, 4, 17]);
        let packet = self.flow(protocol, src, dst, kind, Tcp::new(flags, sequence, acknowledgment));
        self.send(side, packet);
    }

    fn flow(&mut self, protocol: u8, src: Endpoint, dst: Endpoint, kind: u8, mut tcp: Tcp) -> Vec<u8> {
        let (len, seed) = (self.choices.below(40), self.choices.byte());
        let payload: Vec<u8> = (0..len as u8).map(|n| seed.wrapping_mul(n)).collect();
        match protocol {
            TCP => {
                if self.choices.rarely(3) {
                    tcp.options =
                        self.choices.one_of(&[&[3u8, 3, 7, 1][..], &[2, 4, 5, 0xb4], &[1, 1, 1, 0], &[3, 9, 9, 9]]).to_vec();
                    tcp.window = self.choices.word();
                }
                packets::tcp(src, dst, &tcp, &payload)
            }
            UDP => packets::udp(src, dst, &payload),
            ICMP => {
                packets::query(kind, if matches!(kind, 0 | 14) { dst.port } else { src.port }, src.address, dst.address, &payload)
            }
            _ => packets::ip(protocol, src.address, dst.address, &payload),
        }
    }

    /// A packet of a connection that exists, or did.
    fn next_packet(&mut self) {
        let Some((conn, from)) = self.some_conn() else { return self.first_packet() };
        let tuple = if from == Peer::Initiator { conn.original } else { conn.reply };
        let packet = self.packet_of(&conn, from, &tuple);
        self.send(tuple.side, packet);
    }

    fn some_conn(&mut self) -> Option<(Conn, Peer)> {
        let of = if self.choices.rarely(8) { &self.model.dead } else { &self.model.live };
        let conn = of.get(usize::from(self.choices.byte()) % of.len().max(1))?.clone();
        Some((conn, if self.choices.rarely(2) { Peer::Responder } else { Peer::Initiator }))
    }

    /// Mostly what an endpoint of this connection might send.
    fn packet_of(&mut self, conn: &Conn, from: Peer, tuple: &Tuple) -> Vec<u8> {
        let (mine, theirs) = (conn.next[from as usize], conn.next[from.other() as usize]);
        let flags = self.choices.one_of(&[ACK, ACK, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, SYN]);
        let mut far = |rare: usize| match self.choices.below(rare) {
            1 => 1u32.wrapping_neg(),
            2 => 1,
            3 => 1000u32.wrapping_neg(),
            4 => 30_000,
            5 => self.choices.long(),
            _ => 0,
        };
        let tcp = Tcp::new(flags, mine.wrapping_add(far(16)), theirs.wrapping_add(far(24)));
        let is_asked = tuple.src.port == 8 || tuple.src.port == 13;
        let kind = match (is_asked && conn.protocol() == Protocol::ICMP, tuple.src.port, tuple.dst.port) {
            (true, 8, _) => 0,
            (true, ..) => 14,
            (false, _, kind) => kind as u8,
        };
        self.flow(conn.protocol().0, tuple.src, tuple.dst, kind, tcp)
    }

    fn checksum(&mut self, packet: &mut [u8]) -> Checksum {
        let (l4, protocol) = (header_len(packet), packet[9]);
        let states = [
            State::Right,
            State::Right,
            State::Right,
            State::Right,
            State::Wrong,
            State::Verified,
            State::Partial,
            State::Absent,
        ];
        match (self.choices.one_of(&states), protocol) {
            (State::Partial, TCP | UDP) => {
                packets::set_partial_checksum(packet);
                Checksum::Partial
            }
            (State::Verified, TCP | UDP) => Checksum::Verified,
            (State::Wrong, _) if packet.len() > l4 + 7 => {
                packet[l4 + 7] ^= 1;
                Checksum::Complete
            }
            (State::Absent, UDP) => {
                packets::put(packet, l4 + 6, 0);
                Checksum::Complete
            }
            _ => Checksum::Complete,
        }
    }

    /// A complete packet.
    fn send(&mut self, side: Side, mut packet: Vec<u8>) {
        if self.choices.rarely(8) {
            let protocol = packet[9];
            packet = packets::ip_with(&[1, 1, 1, 0], protocol, address(&packet, 12), address(&packet, 16), &packet[20..]);
        }
        let checksum = self.checksum(&mut packet);
        let owner = self.owner();
        self.translate(side, packet, checksum, owner, None);
    }

    /// One packet through both. `piece`: it is a first fragment.
    fn translate(&mut self, side: Side, packet: Vec<u8>, checksum: Checksum, owner: u16, piece: Option<(Key, Fragment)>) {
        let l4 = header_len(&packet);
        let protocol = Protocol(packet[9]);
        let tuple = match tuple_of(side, &packet) {
            Ok(tuple) => tuple,
            Err(refused) => {
                let mut after = packet.clone();
                assert_eq!(self.nat.translate(side, &mut ipv4_mut(&mut after), checksum, owner, self.model.now), Err(refused));
                return assert_eq!(after, packet, "refused, and changed");
            }
        };
        let mut segment = (protocol == Protocol::TCP).then(|| Segment::parse(&packet[l4..])).flatten();
        if let (Some(segment), Some(_)) = (&mut segment, piece) {
            segment.len = LONGEST_SEGMENT;
        }
        let known = self.model.find(&tuple);
        let before = self.nat.stats();
        let mut after = packet.clone();
        let answer = self.nat.translate(side, &mut ipv4_mut(&mut after), checksum, owner, self.model.now);
        let mut expected = match known {
            Some(at) => {
                assert_eq!(self.nat.stats().opened, before.opened, "{tuple:?} lives");
                let result = self.model.follow(at, &tuple, segment.as_ref());
                result.map(|()| Model::target(&self.model.live[at], &tuple))
            }
            None => self.opened(&tuple, &packet, segment, checksum, owner, piece.is_some(), &before, &answer),
        };
        if let (Ok(to), Some((key, piece))) = (expected, piece)
            && !self.model.datagrams.first(key, piece, to, owner, self.model.now)
        {
            expected = Err(Refused::FragmentRefused);
        }
        self.tell(|| format!("{tuple:?} {checksum:?} owner {owner} {piece:?}: {answer:?}"));
        match (answer, expected) {
            (Ok(translated), Ok((src, dst))) => {
                assert_eq!((translated.dst, translated.first.is_some()), (dst.address, piece.is_some()));
                rewriting::check_flow(&packet, &after, src, dst, checksum == Checksum::Partial, piece.is_none());
                if let (Some(first), Some((key, _))) = (translated.first, piece) {
                    self.release(first, key, src, dst);
                }
            }
            (Err(refused), Err(expected)) => {
                assert_eq!(refused, expected, "{tuple:?}");
                assert_eq!(after, packet, "refused, and changed");
            }
            (answer, expected) => panic!("{tuple:?}: {answer:?} instead of {expected:?}"),
        }
        if answer.is_ok() && piece.is_none() && self.choices.rarely(4) {
            self.there_and_back(side, &tuple, &after, known.is_none());
        }
    }

    /// A packet of no live connection. Checks its effect and returns the translated packet.
    #[expect(clippy::too_many_arguments, reason = "all that is known of one packet")]
    fn opened(
        &mut self,
        tuple: &Tuple,
        packet: &[u8],
        segment: Option<Segment>,
        checksum: Checksum,
        owner: u16,
        is_piece: bool,
        before: &NatStats,
        answer: &Result<nat::Translated, Refused>,
    ) -> Result<(Endpoint, Endpoint), Refused> {
        let l4 = header_len(packet);
        let at = packets::checksum_at(packet[9]);
        let is_absent = packet[9] == UDP && word(packet, l4 + 6) == 0;
        let is_right = at.is_none_or(|at| Some(word(packet, l4 + at)) == packets::transport_checksum(packet));
        let is_sound = is_piece || checksum != Checksum::Complete || is_absent || is_right;
        // A TCP fragment opens nothing.
        let opener = segment.as_ref().filter(|_| !is_piece);
        let opening = self.model.opening(tuple, opener, packet.get(l4).copied().unwrap_or(0), is_sound, owner);
        let stats = self.nat.stats();
        if stats.opened == before.opened {
            assert_eq!(stats.evicted, before.evicted, "{tuple:?} took a place, and was refused");
            let Err(refused) = answer else { panic!("{tuple:?} passed, and is of no connection") };
            assert!(opening.may.contains(refused), "{tuple:?} was refused as {refused:?}: {opening:?}");
            return Err(*refused);
        }
        assert!(!opening.must, "{tuple:?} opened a connection: {opening:?}");
        let connections = self.nat.connections(self.model.now);
        let new: Vec<&Connection> = connections.iter().filter(|connection| connection.original == *tuple).collect();
        assert_eq!(new.len(), 1, "{tuple:?}");
        self.tell(|| format!("opens {:?}", new[0]));
        let missing = self.missing(&connections);
        assert!(missing.len() as u64 <= stats.evicted - before.evicted, "{missing:?} are gone");
        self.model.opened(tuple, new[0].reply, segment.as_ref(), owner, missing.first().copied(), &opening);
        Ok(new[0].reply.reversed())
    }

    /// The original tuples of connections that should be among these.
    fn missing(&self, connections: &[Connection]) -> Vec<Tuple> {
        let there: HashSet<Tuple> = connections.iter().map(|connection| connection.original).collect();
        self.model.live.iter().map(|conn| conn.original).filter(|original| !there.contains(original)).collect()
    }

    /// The reply to a translated packet returns to the packet's source.
    fn there_and_back(&mut self, side: Side, tuple: &Tuple, after: &[u8], is_new: bool) {
        let there = tuple_of(side, after).unwrap();
        let (src, dst) = (there.dst, there.src);
        let answer = match there.protocol {
            Protocol::UDP => packets::udp(src, dst, b"answer"),
            Protocol::ICMP if matches!(after[header_len(after)], 8 | 13) => {
                let kind = if after[header_len(after)] == 8 { 0 } else { 14 };
                packets::query(kind, dst.port, src.address, dst.address, b"answer")
            }
            Protocol::TCP if is_new => {
                let l4 = header_len(after);
                let Some(segment) = Segment::parse(&after[l4..]) else { return };
                let ours = segment.sequence.wrapping_add(segment.len);
                let (flags, sequence) = if segment.flags & SYN != 0 { (SYN | ACK, 7000) } else { (ACK, segment.acknowledgment) };
                packets::tcp(src, dst, &Tcp::new(flags, sequence, ours), &[])
            }
            Protocol::TCP | Protocol::ICMP => return,
            Protocol(other) => packets::ip(other, src.address, dst.address, b"answer"),
        };
        let mut back = answer.clone();
        let result = self.nat.translate(side.other(), &mut ipv4_mut(&mut back), Checksum::Complete, 0, self.model.now);
        assert!(result.is_ok(), "{tuple:?} was answered: {result:?}");
        rewriting::check_flow(&answer, &back, tuple.dst, tuple.src, false, true);
        let reply = tuple_of(side.other(), &answer).unwrap();
        let segment = Segment::parse(&answer[20..]).filter(|_| there.protocol == Protocol::TCP);
        let at = self.model.find(&reply).expect("it lives");
        assert_eq!(self.model.follow(at, &reply, segment.as_ref()), Ok(()));
    }

    /// An ICMP error about a packet in flight, or about any other.
    fn error(&mut self) {
        let kind = self.choices.one_of(&[[3, 1], [3, 3], [3, 4], [3, 4], [11, 0], [12, 0], [11, 1], [3, 13]]);
        let mtu = if kind == [3, 4] { self.choices.one_of(&[1400, 576, 575, 1, 0]) } else { 0 };
        let (side, quoted) = match self.some_conn() {
            Some((conn, from)) if !self.choices.rarely(8) => {
                // The sender of an error saw the packet as it left on that side.
                let (sent, seen) =
                    if from == Peer::Initiator { (conn.original, conn.reply) } else { (conn.reply, conn.original) };
                let (src, dst) = seen.reversed();
                let quoted = self.packet_of(&conn, from, &Tuple { src, dst, ..sent });
                (sent.side.other(), quoted)
            }
            _ => {
                let (src, dst) = (self.endpoint(&EXTERNALS), self.endpoint(&PEERS));
                let protocol = self.choices.one_of(&PROTOCOLS);
                (Side::Outside, self.flow(protocol, src, dst, 8, Tcp::new(ACK, 0, 0)))
            }
        };
        let mut quoted = quoted;
        match self.choices.below(16) {
            0 => packets::put(&mut quoted, 6, 7),
            1 => quoted[10] ^= 1,
            2 => quoted[0] ^= 1 << self.choices.below(8),
            3 => quoted = packets::ip_with(&[1, 1, 1, 0], quoted[9], address(&quoted, 12), address(&quoted, 16), &quoted[20..]),
            _ => {}
        }
        let cut = if self.choices.rarely(3) { self.choices.below(50) } else { 28 + self.choices.below(40) };
        quoted.truncate(cut);
        let router = self.choices.one_of(&[PEERS[0], PEERS[2], GUESTS[3]]);
        let to = if quoted.len() >= 20 && !self.choices.rarely(16) { address(&quoted, 12) } else { EXTERNALS[0] };
        let mut packet = packets::error(kind, mtu, router, to, &quoted);
        let is_wrong = self.choices.rarely(16);
        if is_wrong {
            packet[22] ^= 4;
        }
        let expected = if is_wrong { Err(Refused::BadChecksum) } else { self.error_expected(side, &packet) };
        let mut after = packet.clone();
        let answer = self.nat.translate(side, &mut ipv4_mut(&mut after), Checksum::Complete, 0, self.model.now);
        match (answer, expected) {
            (Ok(translated), Ok((src, dst, quoted))) => {
                assert_eq!((translated.dst, translated.first), (dst, None));
                rewriting::check_error(&packet, &after, src, dst, quoted);
            }
            (Err(refused), Err(expected)) => {
                assert_eq!(refused, expected);
                assert_eq!(after, packet, "refused, and changed");
            }
            (answer, expected) => panic!("an error: {answer:?} instead of {expected:?}"),
        }
    }

    fn error_expected(&self, side: Side, packet: &[u8]) -> Result<(Ipv4Addr, Ipv4Addr, (Endpoint, Endpoint)), Refused> {
        let icmp = &packet[header_len(packet)..];
        if icmp[..2] == [3, 4] && (1..576).contains(&word(icmp, 6)) {
            return Err(Refused::IcmpIgnored);
        }
        let quote = &icmp[8..];
        if quote.len() < 20 || quote[0] >> 4 != 4 || header_len(quote) < 20 {
            return Err(Refused::Malformed);
        }
        let has_ports = matches!(quote[9], ICMP | TCP | UDP);
        if quote.len() < header_len(quote) + if has_ports { 8 } else { 0 } {
            return Err(Refused::Malformed);
        }
        if word(quote, 6) & 0x1fff != 0 {
            return Err(Refused::IcmpUnrelated);
        }
        let (src, dst) = ports_of(quote[9], &quote[header_len(quote)..])?;
        let (src, dst) = (Endpoint::new(address(quote, 12), src), Endpoint::new(address(quote, 16), dst));
        if address(packet, 16) != src.address {
            return Err(Refused::IcmpUnrelated);
        }
        let answer = Tuple { side, protocol: Protocol(quote[9]), src: dst, dst: src };
        let conn = &self.model.live[self.model.find(&answer).ok_or(Refused::IcmpUnrelated)?];
        let (sent, sender) =
            if conn.original == answer { (conn.reply, Peer::Responder) } else { (conn.original, Peer::Initiator) };
        if let Some(tracker) = conn.tracker {
            let at = header_len(quote) + 4;
            let sequence = u32::from(word(quote, at)) << 16 | u32::from(word(quote, at + 2));
            if !tracker.is_acceptable_quote(sender, sequence) {
                return Err(Refused::IcmpUnrelated);
            }
        }
        let (from, to) = (address(packet, 12), address(packet, 16));
        let (from, to) = if side == Side::Outside { (from, sent.src.address) } else { (sent.dst.address, to) };
        Ok((from, to, (sent.src, sent.dst)))
    }

    /// A fragment; held if the first one has not arrived.
    fn piece(&mut self) {
        let Some((conn, from)) = self.some_conn() else { return };
        let tuple = if from == Peer::Initiator { conn.original } else { conn.reply };
        let whole = self.packet_of(&conn, from, &tuple);
        let l4 = header_len(&whole);
        let transport = [&whole[l4..], &[0x5a; 64]].concat();
        let whole = packets::ip(whole[9], tuple.src.address, tuple.dst.address, &transport);
        let (start, end, more) = self.choices.one_of(&[
            (0, 24, true),
            (0, 24, true),
            (24, 40, true),
            (24, 40, true),
            (40, 47, false),
            (40, 47, false),
            (16, 32, true),
            (8, 24, true),
            (40, 60, false),
            (32, 37, true),
            (0, 4, true),
            (24, 24, false),
        ]);
        let id = 100 + self.choices.below(3) as u16;
        let owner = if self.choices.rarely(16) { 2 } else { 1 };
        let packet = packets::fragment(&whole, start..end, id, more);
        let (src, dst) = (address(&packet, 12), address(&packet, 16));
        let key = Key { side: tuple.side as u8, src, dst, id, protocol: packet[9] };
        let fragment = Fragment { offset: start, len: end - start, more };
        if start == 0 {
            if packet[9] == ICMP && matches!(packet[20], 3 | 11 | 12) {
                return;
            }
            let checksum = if self.choices.rarely(8) { Checksum::Verified } else { Checksum::Complete };
            return self.translate(tuple.side, packet, checksum, owner, Some((key, fragment)));
        }
        let mut after = packet.clone();
        let answer = self.nat.translate(tuple.side, &mut ipv4_mut(&mut after), Checksum::Complete, owner, self.model.now);
        match self.model.datagrams.later(key, fragment, owner, self.model.now) {
            Piece::Passes(src, dst) => {
                assert_eq!(answer.map(|translated| translated.dst), Ok(dst.address));
                rewriting::check_later(&packet, &after, src.address, dst.address);
            }
            Piece::Refused => assert_eq!((answer, after == packet), (Err(Refused::FragmentRefused), true)),
            Piece::Early => {
                assert_eq!((answer, after == packet), (Err(Refused::FragmentEarly), true));
                let expected = self.model.datagrams.hold(key, &packet, owner, self.model.now);
                let ip = ipv4_mut(&mut after);
                assert_eq!(self.nat.hold(tuple.side, ip.view(), &packet, u64::from(owner), owner, self.model.now), expected);
            }
        }
    }

    /// The fragments that waited for this one get the same endpoints.
    fn release(&mut self, first: FirstFragment, key: Key, src: Endpoint, dst: Endpoint) {
        let mut released = Vec::new();
        self.nat.release(&first, |frame, _| released.push(frame.to_vec()));
        assert_eq!(released, self.model.datagrams.release(key));
        for packet in released {
            let mut after = packet.clone();
            assert_eq!(first.translate(&mut ipv4_mut(&mut after)), dst.address);
            rewriting::check_later(&packet, &after, src.address, dst.address);
        }
    }

    /// Any bytes after a valid IPv4 header.
    fn garbage(&mut self) {
        let side = if self.choices.rarely(2) { Side::Outside } else { Side::Inside };
        let len = self.choices.below(30);
        let payload: Vec<u8> = (0..len).map(|_| self.choices.byte()).collect();
        let protocol = self.choices.one_of(&PROTOCOLS);
        let (src, dst) = if side == Side::Inside { (GUESTS[0], PEERS[0]) } else { (PEERS[0], EXTERNALS[0]) };
        let packet = packets::ip(protocol, src, dst, &payload);
        if protocol == ICMP && payload.first().is_some_and(|kind| matches!(kind, 3 | 11 | 12)) {
            let mut after = packet.clone();
            let _ = self.nat.translate(side, &mut ipv4_mut(&mut after), Checksum::Complete, 0, self.model.now);
            return;
        }
        self.translate(side, packet, Checksum::Verified, 0, None);
    }

    fn wait(&mut self) {
        let millis = match self.choices.below(8) {
            0..=2 => u64::from(self.choices.word()) % 2000,
            3 | 4 => u64::from(self.choices.byte()) * 100,
            5 => u64::from(self.choices.byte() % 64) * 1000,
            _ if !self.choices.rarely(3) => 5,
            6 => {
                1000 * u64::from(self.choices.one_of(&[10u16, 20, 30, 60, 240, 300, 7440]))
                    + u64::from(self.choices.word() % 2000)
            }
            _ => 3_600_000 * u64::from(self.choices.byte() % 8),
        };
        let then = self.model.now.after(Duration::from_millis(millis));
        if !self.has_short_timeouts && self.model.live.iter().any(Conn::is_half_open) {
            self.turn_the_wheel(then);
        }
        self.model.set_now(then);
        let missing = self.missing(&self.nat.connections(then));
        missing.iter().for_each(|original| self.model.ended_early(original));
        assert!(missing.is_empty() || !self.has_short_timeouts, "{missing:?} are gone");
        self.tell(|| "waited".into());
    }

    /// Lets time pass as the control thread does, until no half-open connection can be left: then those that time out early,
    /// under pressure, do so at no other time.
    fn turn_the_wheel(&mut self, then: Timestamp) {
        const LONGEST_SECS: u32 = 700;
        let mut now = self.model.now;
        for _ in 0..LONGEST_SECS {
            if now.secs() >= then.secs() {
                break;
            }
            now = Timestamp::from_secs(u64::from(now.secs()) + 1);
            self.nat.expire(now, 2000);
        }
        self.model.datagrams.expire(now);
    }

    fn expire(&mut self) {
        if self.choices.rarely(4) {
            self.nat.expire(self.model.now, 2000);
            // A timeout that became shorter takes effect within a minute.
            let is_late = |conn: &Conn| conn.tracker.is_some() && self.model.now.secs() - conn.used < 7440 + 240 + 64;
            let late = self.model.dead.iter().filter(|conn| is_late(conn)).count();
            assert!(self.nat.stats().connections <= self.model.live.len() + late, "dead connections stay");
            self.model.datagrams.expire(self.model.now);
        } else {
            // No datagrams: which of them are evicted first is up to the table.
            let budget = self.choices.below(8);
            self.model.datagrams.expire(self.model.now);
            while self.nat.expire(self.model.now, budget + 1) && self.choices.rarely(2) {}
            self.nat.expire(self.model.now, 2000);
        }
    }

    /// An outside address is added, removed or changes its kind.
    fn change_externals(&mut self) {
        let address = self.choices.one_of(&EXTERNALS);
        let mut externals = self.model.externals.clone();
        externals.retain(|external| external.address != address);
        let kind = match self.choices.below(8) {
            0..=2 => Some(ExternalKind::Own),
            3 => Some(ExternalKind::Shared),
            4 => Some(ExternalKind::OneToOne(self.choices.one_of(&GUESTS))),
            _ => None,
        };
        let is_twice =
            |kind| matches!(kind, ExternalKind::OneToOne(_)) && externals.iter().any(|other: &External| other.kind == kind);
        if let Some(kind) = kind.filter(|kind| !is_twice(*kind)) {
            externals.push(External { address, kind });
        }
        self.set_externals(&externals);
    }

    fn set_externals(&mut self, externals: &[External]) {
        self.tell(|| format!("{externals:?}"));
        assert_eq!(self.nat.set_externals(externals, self.model.now), Ok(()));
        self.model.set_externals(externals);
        for address in EXTERNALS {
            assert_eq!(self.nat.is_external(address), self.model.kind(address).is_some());
        }
    }

    fn change_ports(&mut self) {
        let address = self.choices.one_of(&EXTERNALS);
        let protocol = self.choices.one_of(&[Protocol::TCP, Protocol::UDP]);
        let port = self.choices.one_of(&PORTS);
        let outside = (protocol, Endpoint::new(address, port));
        match self.choices.below(6) {
            0 | 1 => {
                if matches!(self.model.kind(address), Some(ExternalKind::OneToOne(_))) {
                    return;
                }
                let guest = self.endpoint(&GUESTS);
                let rule = Published { protocol, address, port, guest };
                let answer = self.nat.publish(&rule, self.model.now);
                self.tell(|| format!("{rule:?}: {answer:?}"));
                if answer == Err(Refused::TableFull) && self.model.config.max_connections < 100 {
                    self.model.end(|conn| conn.mapping == Some(outside));
                    return;
                }
                assert_eq!(answer, self.model.publish(outside, guest));
            }
            2 => assert_eq!(self.nat.unpublish(address, protocol, port, self.model.now), self.model.unpublish(outside)),
            3 | 4 => {
                let ports: Vec<u16> = (0..self.choices.below(8)).map(|n| port.saturating_add(n as u16)).collect();
                self.nat.grant(address, protocol, &ports);
                self.model.grant(address, protocol, &ports);
            }
            _ => {
                let answer = self.nat.revoke(address, protocol, port);
                self.model.revoke(address, protocol, port, answer);
            }
        }
    }

    fn flush(&mut self) {
        let guest = self.choices.one_of(&GUESTS);
        let protocol = Protocol(self.choices.one_of(&PROTOCOLS));
        let all = self.choices.rarely(8);
        let of = |original: &Tuple, reply: &Tuple| {
            let inside = if original.side == Side::Inside { original.src } else { reply.src };
            all || inside.address == guest && original.protocol == protocol
        };
        let dead = self.model.dead.len();
        let live = self.model.end(|conn| of(&conn.original, &conn.reply));
        self.tell(|| format!("flush {guest} {protocol} all {all}"));
        let ended = self.nat.flush(self.model.now, |connection| of(&connection.original, &connection.reply));
        assert!((live..=live + dead).contains(&ended), "{ended} flushed, {live} lived and {dead} were dead");
    }

    /// For debugging: with this variable set, each step is printed.
    fn tell(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("NAT_MODEL_TELLS").is_some() {
            eprintln!("{:?} {}", self.model.now, what());
        }
    }

    /// Compares the lists of connections and mappings, and the counters.
    fn compare(&self) {
        let now = self.model.now;
        let shown: HashSet<_> = self.nat.connections(now).into_iter().map(as_shown).collect();
        let expected = self.model.live.iter().map(|conn| {
            let expires_in = self.model.timeout(conn) - (now.secs() - conn.used);
            as_shown(Connection { original: conn.original, reply: conn.reply, phase: conn.phase(), expires_in })
        });
        assert_eq!(shown, expected.collect());
        let _ = self.nat.demand();
    }
}

fn as_shown(connection: Connection) -> (Tuple, Tuple, String, u32) {
    (connection.original, connection.reply, format!("{:?}", connection.phase), connection.expires_in)
}

fn ports_of(protocol: u8, transport: &[u8]) -> Result<(u16, u16), Refused> {
    match protocol {
        TCP | UDP => Ok((word(transport, 0), word(transport, 2))),
        ICMP => match transport[0] {
            kind @ (8 | 13) => Ok((word(transport, 4), u16::from(kind))),
            0 => Ok((8, word(transport, 4))),
            14 => Ok((13, word(transport, 4))),
            _ => Err(Refused::IcmpIgnored),
        },
        _ => Ok((0, 0)),
    }
}

fn tuple_of(side: Side, packet: &[u8]) -> Result<Tuple, Refused> {
    let transport = &packet[header_len(packet)..];
    let needs = match packet[9] {
        TCP => 20,
        UDP | ICMP => 8,
        _ => 0,
    };
    if transport.len() < needs {
        return Err(Refused::Malformed);
    }
    let (src, dst) = ports_of(packet[9], transport)?;
    let endpoint = |at: usize, port: u16| Endpoint::new(address(packet, at), port);
    Ok(Tuple { side, protocol: Protocol(packet[9]), src: endpoint(12, src), dst: endpoint(16, dst) })
}
