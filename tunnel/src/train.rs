//! Datagrams on their way out, coupled into trains.
//!
//! The kernel takes many datagrams of one flow in one call, as long as all but the last are equally long
//! (`UDP_SEGMENT`, `udp_send_skb` in `net/ipv4/udp.c`). So what a batch has for one peer, with the same source
//! port and the same outer header, is coupled:
//!
//! ```text
//!  heads (written here)                         arena (untouched)
//!  +-----------+----------------------------+   +----------------------+
//!  | VXLAN hdr | Ethernet, IP, TCP headers  | + | payload              |   one datagram
//!  +-----------+----------------------------+   +----------------------+
//!  +-----------+----------------------------------------+
//!  | VXLAN hdr | a whole small frame                    |                   another
//!  +-----------+----------------------------------------+
//! ```
//!
//! Headers and small frames are copied here, longer payloads stay slices of the arena. Small datagrams that
//! follow each other here are one piece for the kernel, however many they are.
//!
//! *Order.* A train keeps the order in which datagrams were added, and a datagram never goes into a train
//! that began before another one of its flow which is not closed. Flows with other source ports may change
//! places; they could on any wire.

use std::ops::Range;

/// A train has at most so many datagrams: older kernels refuse more (`UDP_MAX_SEGMENTS`).
pub const MAX_DATAGRAMS: usize = 64;

/// A datagram has at most so many bytes over IPv4,
pub const MAX_BYTES: usize = 65_535 - 20 - 8;

/// and a train so many: with all headers over IPv6 and Ethernet no more than 65,535. One that is longer the kernel
/// cuts before it gets to the link.
pub const MAX_TRAIN_BYTES: usize = 65_535 - 40 - 8 - 14;

/// So many trains, and so many datagrams in all of them, before they must leave.
const MAX_TRAINS: usize = 64;
/// So many datagrams [`Trains`] have at most.
pub const MAX_CARS: usize = 512;

/// Payloads up to this length are copied: a piece more costs the kernel as much.
const COPIED: usize = 256;

/// Room for the heads of as many datagrams of the usual kind.
const HEADS_LEN: usize = 64 * 1024;

/// What all datagrams of a train share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// The port of the bridge that leads to the peer.
    pub port: u16,
    /// Hash of the inner flow, of which the source port is made.
    pub flow: u16,
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// Outer time to live or hop limit.
    pub ttl: u8,
    /// May routers on the way not cut it?
    pub dont_fragment: bool,
}

/// Datagrams that leave in one call.
#[derive(Clone, Copy, Debug)]
pub struct Train {
    /// Where they go.
    pub way: Way,
    /// How many there are.
    pub datagrams: u16,
    /// Length of each but the last, in bytes.
    pub size: u16,
    /// Length of all, in bytes.
    pub bytes: u32,
    /// Frames of the switch whose last datagram is here,
    pub frames: u16,
    /// and their length as they came in.
    pub frame_bytes: u64,
    first: u16,
    last: u16,
    /// A shorter one was the last.
    is_closed: bool,
}

/// One datagram.
#[derive(Clone, Copy, Debug)]
struct Car {
    head: (u32, u32),
    body: (u32, u32),
    next: u16,
}

/// All trains of one worker's batch; empty between batches.
#[derive(Debug)]
pub struct Trains {
    heads: Box<[u8]>,
    used: usize,
    cars: Vec<Car>,
    trains: Vec<Train>,
    /// By flow: the train that was the last to take one of it, and 1.
    open: Box<[u8; 256]>,
}

impl Default for Trains {
    fn default() -> Trains {
        Trains::new()
    }
}

impl Trains {
    /// With all the memory that it will ever use.
    #[must_use]
    pub fn new() -> Trains {
        Trains {
            heads: vec![0; HEADS_LEN].into_boxed_slice(),
            used: 0,
            cars: Vec::with_capacity(MAX_CARS),
            trains: Vec::with_capacity(MAX_TRAINS),
            open: Box::new([0; 256]),
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.used = 0;
        self.cars.clear();
        self.trains.clear();
        self.open.fill(0);
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// The trains, in the order in which they began.
    #[must_use]
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Adds a datagram: `fronts`, one behind the other, and then a range of the arena. `ends` is the length
    /// of the frame that it is the last datagram of, if it is. False, and nothing is added, if there is no
    /// room: send what is there, clear, and add it again. One that is longer than any datagram finds no
    /// room ever.
    #[inline]
    #[must_use]
    pub fn add(&mut self, way: Way, fronts: [&[u8]; 2], arena: &[u8], body: Range<usize>, ends: Option<usize>) -> bool {
        let front = fronts[0].len() + fronts[1].len();
        let len = front + body.len();
        let is_copied = body.len() <= COPIED;
        let copied = front + if is_copied { body.len() } else { 0 };
        if self.cars.len() == MAX_CARS || self.used + copied > HEADS_LEN || len > MAX_BYTES {
            return false;
        }
        let Some(at) = self.train_for(way, len) else { return false };
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
        let car = self.cars.len() as u16;
        self.cars.push(Car { head: (start as u32, self.used as u32), body, next: car });
        let train = &mut self.trains[at];
        if train.datagrams == 0 {
            train.first = car;
        } else {
            self.cars[usize::from(train.last)].next = car;
        }
        train.last = car;
        train.datagrams += 1;
        train.bytes += len as u32;
        train.is_closed = len < usize::from(train.size);
        if let Some(frame) = ends {
            train.frames += 1;
            train.frame_bytes += frame as u64;
        }
        true
    }

    /// The train that takes a datagram of this length next; a new one if need be.
    #[inline]
    fn train_for(&mut self, way: Way, len: usize) -> Option<usize> {
        let slot = usize::from(way.flow as u8 ^ way.port as u8);
        if let Some(at) = usize::from(self.open[slot]).checked_sub(1) {
            let train = &self.trains[at];
            if train.way == way
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
            way,
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

    /// The bytes of a train, one datagram behind the other, in as few pieces as they lie in.
    pub fn pieces<'a>(&'a self, train: &Train, arena: &'a [u8]) -> Pieces<'a> {
        Pieces { trains: self, arena, next: Some(train.first), last: train.last, body: None }
    }

    /// The datagrams of a train: of each the head, and what of it lies in the arena.
    pub fn datagrams<'a>(&'a self, train: &Train, arena: &'a [u8]) -> impl Iterator<Item = [&'a [u8]; 2]> {
        let last = train.last;
        let cars = std::iter::successors(Some(train.first), move |at| (*at != last).then(|| self.cars[usize::from(*at)].next));
        cars.map(move |at| {
            let Car { head, body, .. } = self.cars[usize::from(at)];
            [&self.heads[range(head)], &arena[range(body)]]
        })
    }
}

/// See [`Trains::pieces`].
#[derive(Debug)]
pub struct Pieces<'a> {
    trains: &'a Trains,
    arena: &'a [u8],
    next: Option<u16>,
    last: u16,
    /// Of the datagram whose head was the last piece.
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
        let (start, mut end) = self.trains.cars[usize::from(at)].head;
        loop {
            let car = self.trains.cars[usize::from(at)];
            self.next = (at != self.last).then_some(car.next);
            end = end.max(car.head.1);
            if car.body.0 != car.body.1 {
                self.body = Some(&self.arena[range(car.body)]);
                break;
            }
            match self.next.map(|next| (next, self.trains.cars[usize::from(next)])) {
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

    fn way(port: u16, flow: u16) -> Way {
        Way { port, flow, tos: 0, ttl: 64, dont_fragment: true }
    }

    fn bytes_of(trains: &Trains, train: &Train, arena: &[u8]) -> Vec<u8> {
        trains.pieces(train, arena).flatten().copied().collect()
    }

    #[test]
    fn small_ones_are_one_piece_and_long_ones_stay_where_they_are() {
        let arena: Vec<u8> = (0..=255u8).cycle().take(4000).collect();
        let mut trains = Trains::new();
        for n in 0..3 {
            assert!(trains.add(way(1, 7), [&[9; 8], &[]], &arena, n * 100..n * 100 + 60, Some(60)));
        }
        for n in 0..2 {
            assert!(trains.add(way(1, 8), [&[9; 8], &[5; 54]], &arena, 1000 * n..1000 * n + 1000, Some(1000)));
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
    fn a_shorter_one_is_the_last_and_a_longer_one_begins_anew() {
        let arena = [0; 4000];
        let mut trains = Trains::new();
        for len in [500, 500, 400, 500, 600] {
            assert!(trains.add(way(1, 7), [&[0; 8], &[]], &arena, 0..len, None));
        }
        let shapes: Vec<_> = trains.trains().iter().map(|train| (train.size, train.datagrams, train.bytes)).collect();
        assert_eq!(shapes, [(508, 3, 1424), (508, 1, 508), (608, 1, 608)]);
    }

    #[test]
    fn limits_of_a_train() {
        let arena = vec![0; 70_000];
        let mut trains = Trains::new();
        for _ in 0..MAX_DATAGRAMS + 1 {
            assert!(trains.add(way(1, 7), [&[0; 8], &[]], &arena, 0..60, None));
        }
        assert_eq!(trains.trains().iter().map(|train| train.datagrams).collect::<Vec<_>>(), [64, 1]);
        trains.clear();
        for _ in 0..50 {
            assert!(trains.add(way(1, 7), [&[0; 8], &[]], &arena, 0..1464, None));
        }
        assert_eq!(trains.trains().iter().map(|train| train.datagrams).collect::<Vec<_>>(), [44, 6]);
        assert!(!trains.add(way(1, 7), [&[0; 8], &[]], &arena, 0..MAX_BYTES, None), "longer than any datagram");
        assert!(trains.add(way(2, 7), [&[0; 8], &[]], &arena, 0..MAX_BYTES - 8, None));
    }

    #[test]
    fn full_by_trains_by_datagrams_and_by_heads() {
        let arena = [0; 4000];
        let mut trains = Trains::new();
        let flows = (0..=u16::MAX).take_while(|flow| trains.add(way(1, *flow), [&[0; 8], &[]], &arena, 0..60, None)).count();
        assert_eq!(flows, MAX_TRAINS);
        trains.clear();
        let cars =
            std::iter::repeat_with(|| trains.add(way(1, 7), [&[0; 8], &[]], &arena, 0..60, None)).take_while(|added| *added);
        assert_eq!(cars.count(), MAX_CARS);
        trains.clear();
        let heads = std::iter::repeat_with(|| trains.add(way(1, 7), [&[0; 8], &[0; 400]], &arena, 0..1000, None));
        assert_eq!(heads.take_while(|added| *added).count(), HEADS_LEN / 408);
    }
}
