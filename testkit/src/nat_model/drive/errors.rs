//! ICMP errors about packets in flight, and about any others.

use std::net::Ipv4Addr;

use nat::tcp::Peer;
use nat::{Endpoint, Protocol, Refused, Side, Tuple};
use packet::checksum::Checksum;

use super::{EXTERNALS, GUESTS, PEERS, PROTOCOLS, Pair, ports_of};
use crate::nat_model::few::Copied;
use crate::nat_model::rewriting;
use crate::packets::{self, ACK, ICMP, TCP, Tcp, UDP, address, header_len, ipv4_mut, word};

impl Pair<'_> {
    /// An ICMP error about a packet in flight, or about any other.
    pub(super) fn error(&mut self) {
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
        let mut after = Copied::of(&packet);
        let answer = self.nat.translate(side, &mut ipv4_mut(&mut after), Checksum::Complete, 0, self.model.now);
        match (answer, expected) {
            (Ok(translated), Ok((src, dst, quoted))) => {
                assert_eq!((translated.dst, translated.first), (dst, None));
                rewriting::check_error(&packet, &after, src, dst, quoted);
            }
            (Err(refused), Err(expected)) => {
                assert_eq!(refused, expected);
                assert_eq!(*after, *packet, "refused, and changed");
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
}
