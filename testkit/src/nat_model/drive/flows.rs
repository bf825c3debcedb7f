//! Packets of flows: first packets, packets of connections that exist or did, strangers, and any bytes.

use nat::fragments::{Fragment, Key};
use nat::tcp::{Peer, Segment};
use nat::{Endpoint, NatStats, Protocol, Refused, Side, Tuple};
use packet::checksum::Checksum;

use super::{EXTERNALS, GUESTS, PEERS, PROTOCOLS, Pair, ports_of};
use crate::nat_model::few::Copied;
use crate::nat_model::model::{Conn, Model};
use crate::nat_model::rewriting;
use crate::packets::{self, ACK, FIN, ICMP, RST, SYN, TCP, Tcp, UDP, address, header_len, ipv4_mut, word};

/// Length of a TCP segment that is assumed for a first fragment (`LONGEST_SEGMENT`).
const LONGEST_SEGMENT: u32 = 65_535 - 40;

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
    /// From a guest to a peer, or to an outside address.
    pub(super) fn first_packet(&mut self) {
        let src = self.endpoint(&GUESTS);
        let dst = if self.choices.rarely(6) { self.endpoint(&EXTERNALS) } else { self.endpoint(&PEERS) };
        self.flow_packet(Side::Inside, src, dst);
    }

    /// From a peer to an outside address, at random or one in use.
    pub(super) fn stranger(&mut self) {
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

    pub(super) fn flow(&mut self, protocol: u8, src: Endpoint, dst: Endpoint, kind: u8, mut tcp: Tcp) -> Vec<u8> {
        let (len, seed) = (self.choices.below(40), self.choices.byte());
        let bytes: [u8; 40] = std::array::from_fn(|n| seed.wrapping_mul(n as u8));
        let payload = &bytes[..len];
        match protocol {
            TCP => {
                if self.choices.rarely(3) {
                    tcp.options =
                        self.choices.one_of(&[&[3u8, 3, 7, 1][..], &[2, 4, 5, 0xb4], &[1, 1, 1, 0], &[3, 9, 9, 9]]).to_vec();
                    tcp.window = self.choices.word();
                }
                packets::tcp(src, dst, &tcp, payload)
            }
            UDP => packets::udp(src, dst, payload),
            ICMP => {
                packets::query(kind, if matches!(kind, 0 | 14) { dst.port } else { src.port }, src.address, dst.address, payload)
            }
            _ => packets::ip(protocol, src.address, dst.address, payload),
        }
    }

    /// A packet of a connection that exists, or did.
    pub(super) fn next_packet(&mut self) {
        let Some((conn, from)) = self.some_conn() else { return self.first_packet() };
        let tuple = if from == Peer::Initiator { conn.original } else { conn.reply };
        let packet = self.packet_of(&conn, from, &tuple);
        self.send(tuple.side, packet);
    }

    pub(super) fn some_conn(&mut self) -> Option<(Conn, Peer)> {
        let of = if self.choices.rarely(8) { &self.model.dead } else { &self.model.live };
        let conn = of.get(usize::from(self.choices.byte()) % of.len().max(1))?.clone();
        Some((conn, if self.choices.rarely(2) { Peer::Responder } else { Peer::Initiator }))
    }

    /// Mostly what an endpoint of this connection might send.
    pub(super) fn packet_of(&mut self, conn: &Conn, from: Peer, tuple: &Tuple) -> Vec<u8> {
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
    pub(super) fn translate(
        &mut self,
        side: Side,
        packet: Vec<u8>,
        checksum: Checksum,
        owner: u16,
        piece: Option<(Key, Fragment)>,
    ) {
        let l4 = header_len(&packet);
        let protocol = Protocol(packet[9]);
        let tuple = match tuple_of(side, &packet) {
            Ok(tuple) => tuple,
            Err(refused) => {
                let mut after = Copied::of(&packet);
                assert_eq!(self.nat.translate(side, &mut ipv4_mut(&mut after), checksum, owner, self.model.now), Err(refused));
                return assert_eq!(*after, *packet, "refused, and changed");
            }
        };
        let mut segment = (protocol == Protocol::TCP).then(|| Segment::parse(&packet[l4..])).flatten();
        if let (Some(segment), Some(_)) = (&mut segment, piece) {
            segment.len = LONGEST_SEGMENT;
        }
        let known = self.model.find(&tuple);
        let before = self.nat.stats();
        let mut after = Copied::of(&packet);
        let answer = self.nat.translate(side, &mut ipv4_mut(&mut after), checksum, owner, self.model.now);
        self.note(answer, &after);
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
                assert_eq!(*after, *packet, "refused, and changed");
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
        let mut new = connections.iter().filter(|connection| connection.original == *tuple);
        let (Some(new), None) = (new.next(), new.next()) else { panic!("{tuple:?} did not open one connection") };
        self.tell(|| format!("opens {new:?}"));
        let missing = self.missing(&connections);
        assert!(missing.len() as u64 <= stats.evicted - before.evicted, "{missing:?} are gone");
        self.model.opened(tuple, new.reply, segment.as_ref(), owner, missing.first().copied(), &opening);
        Ok(new.reply.reversed())
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
        let mut back = Copied::of(&answer);
        let result = self.nat.translate(side.other(), &mut ipv4_mut(&mut back), Checksum::Complete, 0, self.model.now);
        assert!(result.is_ok(), "{tuple:?} was answered: {result:?}");
        rewriting::check_flow(&answer, &back, tuple.dst, tuple.src, false, true);
        let reply = tuple_of(side.other(), &answer).unwrap();
        let segment = Segment::parse(&answer[20..]).filter(|_| there.protocol == Protocol::TCP);
        let at = self.model.find(&reply).expect("it lives");
        assert_eq!(self.model.follow(at, &reply, segment.as_ref()), Ok(()));
    }

    /// Any bytes after a valid IPv4 header.
    pub(super) fn garbage(&mut self) {
        let side = if self.choices.rarely(2) { Side::Outside } else { Side::Inside };
        let len = self.choices.below(30);
        let payload: Vec<u8> = (0..len).map(|_| self.choices.byte()).collect();
        let protocol = self.choices.one_of(&PROTOCOLS);
        let (src, dst) = if side == Side::Inside { (GUESTS[0], PEERS[0]) } else { (PEERS[0], EXTERNALS[0]) };
        let packet = packets::ip(protocol, src, dst, &payload);
        if protocol == ICMP && payload.first().is_some_and(|kind| matches!(kind, 3 | 11 | 12)) {
            let mut after = Copied::of(&packet);
            let _ = self.nat.translate(side, &mut ipv4_mut(&mut after), Checksum::Complete, 0, self.model.now);
            return;
        }
        self.translate(side, packet, Checksum::Verified, 0, None);
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
