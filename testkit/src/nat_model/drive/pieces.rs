//! Fragments, in any order.

use nat::fragments::{Fragment, Key};
use nat::tcp::Peer;
use nat::{Endpoint, FirstFragment, Refused};
use packet::checksum::Checksum;

use super::Pair;
use crate::nat_model::few::Copied;
use crate::nat_model::fragments::Piece;
use crate::nat_model::rewriting;
use crate::packets::{self, ICMP, address, header_len, ipv4_mut};

impl Pair<'_> {
    /// A fragment; held if the first one has not arrived.
    pub(super) fn piece(&mut self) {
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
        let mut after = Copied::of(&packet);
        let answer = self.nat.translate(tuple.side, &mut ipv4_mut(&mut after), Checksum::Complete, owner, self.model.now);
        match self.model.datagrams.later(key, fragment, owner, self.model.now) {
            Piece::Passes(src, dst) => {
                assert_eq!(answer.map(|translated| translated.dst), Ok(dst.address));
                rewriting::check_later(&packet, &after, src.address, dst.address);
            }
            Piece::Refused => assert_eq!((answer, *after == *packet), (Err(Refused::FragmentRefused), true)),
            Piece::Early => {
                assert_eq!((answer, *after == *packet), (Err(Refused::FragmentEarly), true));
                let expected = self.model.datagrams.hold(key, &packet, owner, self.model.now);
                let ip = ipv4_mut(&mut after);
                assert_eq!(self.nat.hold(tuple.side, ip.view(), &packet, u64::from(owner), owner, self.model.now), expected);
            }
        }
    }

    /// The fragments that waited for this one get the same endpoints.
    pub(super) fn release(&mut self, first: FirstFragment, key: Key, src: Endpoint, dst: Endpoint) {
        let mut released = Vec::new();
        self.nat.release(&first, |frame, _| released.push(frame.to_vec()));
        assert_eq!(released, self.model.datagrams.release(key));
        for packet in released {
            let mut after = Copied::of(&packet);
            assert_eq!(first.translate(&mut ipv4_mut(&mut after)), dst.address);
            rewriting::check_later(&packet, &after, src.address, dst.address);
        }
    }
}
