//! Trains: datagrams from one source port that are sent in one message.
//!
//! With `UDP_SEGMENT` the kernel accepts many datagrams in one message, if all have the same destination and header fields
//! and all except the last have the same length (`udp_send_skb` in `net/ipv4/udp.c`). The datagrams of a batch that meet
//! this become a train:
//!
//! ```text
//!  heads (copied)                               arena (borrowed)
//!  +-----------+----------------------------+   +----------------------+
//!  | VXLAN hdr | Ethernet, IP, TCP headers  | + | payload              |   one datagram
//!  +-----------+----------------------------+   +----------------------+
//!  +-----------+----------------------------------------+
//!  | VXLAN hdr | a whole small frame                    |                   another
//!  +-----------+----------------------------------------+
//! ```
//!
//! Headers and small frames are copied; longer payloads remain slices of the arena. Consecutive small datagrams are one
//! piece for the kernel.
//!
//! *Order.* Datagrams of a train keep the order in which they were added, and a datagram is never added to a train if a
//! later train of its source port is still open. Flows with different source ports may be reordered, as in any network.
//!
//! *Lengths.* A longer datagram than the first begins a train, and a shorter one ends it. Flows of two lengths that share a source port
//! and take turns have trains of two. Their frames are one port's, as a batch is, so they slow down nobody else. Several open trains a
//! source port would need the last train of each flow to keep its order.
//!
//! *Flows share trains* if they have one source port. With a train for each flow, 100 flows of small frames would be 100 messages a
//! batch, and each of them costs the kernels of both hosts as much as a full one.

use std::ops::Range;

/// Maximum number of datagrams in a train. Kernels before Linux 6.9 refuse more (`UDP_MAX_SEGMENTS`).
pub const MAX_DATAGRAMS: usize = 64;

/// Maximum length of a UDP payload over IPv4, in bytes.
pub const MAX_BYTES: usize = 65_535 - 20 - 8;

/// Maximum length of a train, in bytes, so that with the headers of UDP, IPv6 and Ethernet it has at most 65,535. The kernel
/// segments longer ones before they reach the link.
pub const MAX_TRAIN_BYTES: usize = 65_535 - 40 - 8 - 14;

/// Maximum number of trains before they must be sent.
const MAX_TRAINS: usize = 64;
/// Maximum number of datagrams in all trains before they must be sent.
pub const MAX_BATCH_DATAGRAMS: usize = 512;

/// Payloads up to this length, in bytes, are copied: another piece would cost the kernel as much.
const COPIED: usize = 256;

/// Size of the buffer for heads, in bytes: enough for [`MAX_BATCH_DATAGRAMS`] datagrams with the usual headers.
const HEADS_LEN: usize = 64 * 1024;

/// What all datagrams of a train have in common: the peer, the source port and the outer header fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OuterHeader {
    /// The bridge port of the peer.
    pub port: u16,
    /// The index of the source port, which the inner flow selects ([`source_port`](crate::entropy::source_port)).
    pub source: u16,
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// Outer TTL or hop limit.
    pub ttl: u8,
    /// True if routers must not fragment the datagrams.
    pub dont_fragment: bool,
}

/// Datagrams that are sent in one message.
#[derive(Clone, Copy, Debug)]
pub struct Train {
    /// Their destination and outer header fields.
    pub outer: OuterHeader,
    /// Number of datagrams.
    pub datagrams: u16,
    /// Length of each datagram except the last, in bytes.
    pub size: u16,
    /// Total length, in bytes.
    pub bytes: u32,
    /// Number of frames whose last datagram is in this train.
    pub frames: u16,
    /// Total length of these frames as they were received, in bytes.
    pub frame_bytes: u64,
    first: u16,
    last: u16,
    /// True after a shorter datagram, which must be the last.
    is_closed: bool,
}

/// One datagram: ranges of `heads` and of the arena, and the index of the next datagram of the train.
#[derive(Clone, Copy, Debug)]
struct Datagram {
    head: (u32, u32),
    body: (u32, u32),
    next: u16,
}

/// All trains of one worker's batch; empty between batches.
#[derive(Debug)]
pub struct Trains {
    heads: Box<[u8]>,
    used: usize,
    datagrams: Vec<Datagram>,
    trains: Vec<Train>,
    /// For each hash of a peer and a source port, the index plus 1 of the last train that took a datagram of them; 0 for none.
    open: Box<[u8; 256]>,
}

impl Default for Trains {
    fn default() -> Trains {
        Trains::new()
    }
}

impl Trains {
    /// Allocates all memory that it will ever use.
    #[must_use]
    pub fn new() -> Trains {
        Trains {
            heads: vec![0; HEADS_LEN].into_boxed_slice(),
            used: 0,
            datagrams: Vec::with_capacity(MAX_BATCH_DATAGRAMS),
            trains: Vec::with_capacity(MAX_TRAINS),
            open: Box::new([0; 256]),
        }
    }

    /// Removes all trains.
    pub fn clear(&mut self) {
        self.used = 0;
        self.datagrams.clear();
        self.trains.clear();
        self.open.fill(0);
    }

    /// True if there is no train.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// The trains, in the order in which they were started.
    #[must_use]
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Adds a datagram that consists of `fronts` and a range of the arena. If it is the last datagram of a frame, `ends` is the
    /// length of that frame. False, and nothing is added, if there is no room: send the trains, clear them, and add the
    /// datagram again. A datagram longer than [`MAX_BYTES`] is never accepted.
    #[inline]
    #[must_use]
    pub fn add(&mut self, outer: OuterHeader, fronts: [&[u8]; 2], arena: &[u8], body: Range<usize>, ends: Option<usize>) -> bool {
        let front = fronts[0].len() + fronts[1].len();
        let len = front + body.len();
        let is_copied = body.len() <= COPIED;
        let copied = front + if is_copied { body.len() } else { 0 };
        if self.datagrams.len() == MAX_BATCH_DATAGRAMS || self.used + copied > HEADS_LEN || len > MAX_BYTES {
            return false;
        }
        let Some(at) = self.train_for(outer, len) else { return false };
        let start = self.used;
        let mut copy = |bytes: &[u8]| {
            self.heads[self.used..self.used + bytes.len()].copy_from_slice(bytes);
            self.used += bytes.len();
        };
        copy(fronts[0]);
        copy(fronts[1]);
        if is_copied {
            copy(&arena[body.clone()]);
        }
        let body = if is_copied { (0, 0) } else { (body.start as u32, body.end as u32) };
        let datagram = self.datagrams.len() as u16;
        self.datagrams.push(Datagram { head: (start as u32, self.used as u32), body, next: datagram });
        let train = &mut self.trains[at];
        if train.datagrams == 0 {
            train.first = datagram;
        } else {
            self.datagrams[usize::from(train.last)].next = datagram;
        }
        train.last = datagram;
        train.datagrams += 1;
        train.bytes += len as u32;
        train.is_closed = len < usize::from(train.size);
        if let Some(frame) = ends {
            train.frames += 1;
            train.frame_bytes += frame as u64;
        }
        true
    }

    /// The index of the train for a datagram of this length. Starts a new train if no open one fits.
    #[inline]
    fn train_for(&mut self, outer: OuterHeader, len: usize) -> Option<usize> {
        let slot = usize::from((outer.source | outer.port << 6) as u8);
        if let Some(at) = usize::from(self.open[slot]).checked_sub(1) {
            let train = &self.trains[at];
            if train.outer == outer
                && !train.is_closed
                && len <= usize::from(train.size)
                && usize::from(train.datagrams) < MAX_DATAGRAMS
                && train.bytes as usize + len <= MAX_TRAIN_BYTES
            {
                return Some(at);
            }
        }
        if self.trains.len() == MAX_TRAINS {
            return None;
        }
        self.trains.push(Train {
            outer,
            datagrams: 0,
            size: len as u16,
            bytes: 0,
            frames: 0,
            frame_bytes: 0,
            first: 0,
            last: 0,
            is_closed: false,
        });
        self.open[slot] = self.trains.len() as u8;
        Some(self.trains.len() - 1)
    }

    /// The bytes of a train in as few pieces as possible.
    pub fn pieces<'a>(&'a self, train: &Train, arena: &'a [u8]) -> Pieces<'a> {
        Pieces { trains: self, arena, next: Some(train.first), last: train.last, body: None }
    }

    /// The datagrams of a train, each as its head and its slice of the arena.
    pub fn datagrams<'a>(&'a self, train: &Train, arena: &'a [u8]) -> impl Iterator<Item = [&'a [u8]; 2]> {
        let last = train.last;
        let datagrams =
            std::iter::successors(Some(train.first), move |at| (*at != last).then(|| self.datagrams[usize::from(*at)].next));
        datagrams.map(move |at| {
            let Datagram { head, body, .. } = self.datagrams[usize::from(at)];
            [&self.heads[range(head)], &arena[range(body)]]
        })
    }
}

/// Iterator over the pieces of a train: see [`Trains::pieces`].
#[derive(Debug)]
pub struct Pieces<'a> {
    trains: &'a Trains,
    arena: &'a [u8],
    next: Option<u16>,
    last: u16,
    /// The arena slice that follows the last returned head.
    body: Option<&'a [u8]>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(body) = self.body.take() {
            return Some(body);
        }
        let mut at = self.next?;
        let (start, mut end) = self.trains.datagrams[usize::from(at)].head;
        loop {
            let datagram = self.trains.datagrams[usize::from(at)];
            self.next = (at != self.last).then_some(datagram.next);
            end = end.max(datagram.head.1);
            if datagram.body.0 != datagram.body.1 {
                self.body = Some(&self.arena[range(datagram.body)]);
                break;
            }
            match self.next.map(|next| (next, self.trains.datagrams[usize::from(next)])) {
                Some((next, follower)) if follower.head.0 == end => at = next,
                _ => break,
            }
        }
        Some(&self.trains.heads[range((start, end))])
    }
}

#[inline]
fn range((start, end): (u32, u32)) -> Range<usize> {
    start as usize..end as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outer(port: u16, source: u16) -> OuterHeader {
        OuterHeader { port, source, tos: 0, ttl: 64, dont_fragment: true }
    }

    fn bytes_of(trains: &Trains, train: &Train, arena: &[u8]) -> Vec<u8> {
        trains.pieces(train, arena).flatten().copied().collect()
    }

    #[test]
    fn small_datagrams_are_copied_and_long_ones_are_not() {
        let arena: Vec<u8> = (0..=255u8).cycle().take(4000).collect();
        let mut trains = Trains::new();
        for n in 0..3 {
            assert!(trains.add(outer(1, 7), [&[9; 8], &[]], &arena, n * 100..n * 100 + 60, Some(60)));
        }
        for n in 0..2 {
            assert!(trains.add(outer(1, 8), [&[9; 8], &[5; 54]], &arena, 1000 * n..1000 * n + 1000, Some(1000)));
        }
        let [small, long] = trains.trains() else { panic!("{:?}", trains.trains()) };
        assert_eq!((small.datagrams, small.size, small.bytes, small.frames, small.frame_bytes), (3, 68, 204, 3, 180));
        assert_eq!(trains.pieces(small, &arena).count(), 1);
        let expected: Vec<u8> = (0..3).flat_map(|n| [&[9; 8][..], &arena[n * 100..n * 100 + 60]].concat()).collect();
        assert_eq!(bytes_of(&trains, small, &arena), expected);
        assert_eq!((long.datagrams, long.size), (2, 1062));
        assert_eq!(trains.pieces(long, &arena).count(), 4);
        let expected: Vec<u8> =
            (0..2).flat_map(|n| [&[9; 8][..], &[5; 54], &arena[n * 1000..n * 1000 + 1000]].concat()).collect();
        assert_eq!(bytes_of(&trains, long, &arena), expected);
        let singles: Vec<u8> = trains.datagrams(long, &arena).flatten().flatten().copied().collect();
        assert_eq!(singles, expected);
    }

    #[test]
    fn a_shorter_datagram_ends_a_train() {
        let arena = [0; 4000];
        let mut trains = Trains::new();
        for len in [500, 500, 400, 500, 600] {
            assert!(trains.add(outer(1, 7), [&[0; 8], &[]], &arena, 0..len, None));
        }
        let shapes: Vec<_> = trains.trains().iter().map(|train| (train.size, train.datagrams, train.bytes)).collect();
        assert_eq!(shapes, [(508, 3, 1424), (508, 1, 508), (608, 1, 608)]);
    }

    #[test]
    fn limits_of_a_train() {
        let arena = vec![0; 70_000];
        let mut trains = Trains::new();
        for _ in 0..MAX_DATAGRAMS + 1 {
            assert!(trains.add(outer(1, 7), [&[0; 8], &[]], &arena, 0..60, None));
        }
        assert_eq!(trains.trains().iter().map(|train| train.datagrams).collect::<Vec<_>>(), [64, 1]);
        trains.clear();
        for _ in 0..50 {
            assert!(trains.add(outer(1, 7), [&[0; 8], &[]], &arena, 0..1464, None));
        }
        assert_eq!(trains.trains().iter().map(|train| train.datagrams).collect::<Vec<_>>(), [44, 6]);
        assert!(!trains.add(outer(1, 7), [&[0; 8], &[]], &arena, 0..MAX_BYTES, None), "too long for a datagram");
        assert!(trains.add(outer(2, 7), [&[0; 8], &[]], &arena, 0..MAX_BYTES - 8, None));
    }

    #[test]
    fn limits_of_trains_datagrams_and_heads() {
        let arena = [0; 4000];
        let mut trains = Trains::new();
        let flows = (0..=u16::MAX).take_while(|flow| trains.add(outer(1, *flow), [&[0; 8], &[]], &arena, 0..60, None)).count();
        assert_eq!(flows, MAX_TRAINS);
        trains.clear();
        let datagrams =
            std::iter::repeat_with(|| trains.add(outer(1, 7), [&[0; 8], &[]], &arena, 0..60, None)).take_while(|added| *added);
        assert_eq!(datagrams.count(), MAX_BATCH_DATAGRAMS);
        trains.clear();
        let heads = std::iter::repeat_with(|| trains.add(outer(1, 7), [&[0; 8], &[0; 400]], &arena, 0..1000, None));
        assert_eq!(heads.take_while(|added| *added).count(), HEADS_LEN / 408);
    }
}
