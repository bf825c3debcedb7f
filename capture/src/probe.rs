//! One worker's part of one capture: selects frames and writes them into the worker's ring.
//!
//! A received frame is copied before its walk, because the walk changes it, and becomes a record when the verdict is
//! known. If only drops are captured, just the first bytes are copied: behind them a walk changes nothing but a checksum
//! at an offset that the guest chooses. The rest is copied from the frame itself once it is known to be dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use packet::ethernet::ETHERNET_LEN;
use packet::headers::MAX_TAGS;
use packet::vlan::TAG_LEN;
use packet::{icmpv4, icmpv6};

use crate::record::{Direction, HEADER_LEN, Header, Verdict};
use crate::ring::Writer;
use filter::{Filter, Subject};

/// Length of the part of a frame that a walk can change, in bytes, apart from a checksum that the guest wants completed
/// further behind. It covers all headers, and answers that are written into the frame.
const CHANGED: usize = 2048;
const LONGEST_ANSWER: usize = ETHERNET_LEN + MAX_TAGS * TAG_LEN + icmpv6::MAX_ERROR_LEN;
const _: () = assert!(CHANGED >= LONGEST_ANSWER && icmpv6::MAX_ERROR_LEN >= icmpv4::MAX_ERROR_LEN);

/// The selection of a capture: which frames, and how many bytes of each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// Only frames of this port.
    pub port: Option<u16>,
    /// Only frames that match this filter.
    pub filter: Option<Filter>,
    /// Only dropped frames.
    pub drops_only: bool,
    /// Maximum number of bytes captured of each frame.
    pub snaplen: usize,
    /// Captures one in this number of frames on average; 0 and 1 mean all. Frames are chosen before the filter is applied,
    /// but after the port is checked.
    pub sample: u32,
}

impl Default for Want {
    fn default() -> Want {
        Want { port: None, filter: None, drops_only: false, snaplen: usize::MAX, sample: 1 }
    }
}

/// Number of frames that matched a capture and were lost, by port.
#[derive(Clone, Debug)]
pub struct Lost(Arc<[AtomicU64]>);

impl Lost {
    /// Counters for this number of ports, all 0.
    #[must_use]
    pub fn new(ports: usize) -> Lost {
        Lost(std::iter::repeat_with(AtomicU64::default).take(ports).collect())
    }

    /// Number of lost frames of a port.
    #[must_use]
    pub fn of(&self, port: u16) -> u64 {
        self.0.get(usize::from(port)).map_or(0, |lost| lost.load(Ordering::Relaxed))
    }

    fn add(&self, port: u16) {
        if let Some(lost) = self.0.get(usize::from(port)) {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A frame that passes a capture point.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Nanoseconds on the switch's clock.
    pub time: u64,
    /// The port.
    pub port: u16,
    /// The frame as a filter sees it.
    pub subject: Subject<'a>,
}

/// A frame as it leaves, in three pieces: MAC addresses, VLAN tag (may be empty), and the rest.
pub type Leaving<'a> = [&'a [u8]; 3];

/// One worker's part of one capture.
#[derive(Debug)]
pub struct Probe {
    id: u64,
    want: Arc<Want>,
    writer: Writer,
    lost: Lost,
    /// Header of the frame whose verdict is awaited.
    pending: Option<Header>,
    /// Number of bytes of that frame that were copied before its walk.
    copied: usize,
    /// Number of frames to skip until the next sample.
    skip: u32,
    random: u32,
}

impl Probe {
    /// One worker's part of the capture with this number.
    #[must_use]
    pub fn new(id: u64, want: Arc<Want>, writer: Writer, lost: Lost) -> Probe {
        Probe { id, want, writer, lost, pending: None, copied: 0, skip: 0, random: 0x9e37_79b9 ^ id as u32 | 1 }
    }

    /// The capture's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A frame whose verdict will follow: it was received, or it waited in the switch. If the walk will complete a
    /// checksum in it, that checksum ends at `checksum_end`; otherwise `checksum_end` is 0.
    #[inline]
    pub fn arrives(&mut self, seen: &Seen<'_>, direction: Direction, checksum_end: usize) {
        self.pending = None;
        if !self.wants(seen) {
            return;
        }
        let frame = seen.subject.bytes;
        let header = header(seen, direction, Verdict::Passed, frame.len());
        self.pending = Some(header);
        let kept = frame.len().min(self.want.snaplen);
        let copied = if self.want.drops_only { kept.min(CHANGED.max(checksum_end)) } else { kept };
        self.copied = copied;
        if let Some(room) = self.writer.begin(HEADER_LEN + kept) {
            room[HEADER_LEN..HEADER_LEN + copied].copy_from_slice(&frame[..copied]);
        }
    }

    /// The verdict on the frame of [`Probe::arrives`]. `frame` is its memory, as the walk has changed it.
    #[inline]
    pub fn judge(&mut self, verdict: Verdict, frame: &[u8]) {
        let Some(header) = self.pending.take() else { return };
        if verdict == Verdict::Passed && (self.want.drops_only || header.direction == Direction::Within) {
            return;
        }
        if let Some(record) = self.writer.pending() {
            record[..HEADER_LEN].copy_from_slice(&Header { verdict, ..header }.to_bytes());
            if self.want.drops_only {
                let kept = record.len() - HEADER_LEN;
                if let Some(rest) = frame.get(self.copied..kept) {
                    record[HEADER_LEN + self.copied..].copy_from_slice(rest);
                }
            }
        }
        self.commit(header.port);
    }

    /// A frame that was sent, or dropped at its egress port.
    #[inline]
    pub fn leaves(&mut self, seen: &Seen<'_>, pieces: Leaving<'_>, verdict: Verdict) {
        if self.want.drops_only && verdict == Verdict::Passed || !self.wants(seen) {
            return;
        }
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let kept = len.min(self.want.snaplen);
        if let Some(room) = self.writer.begin(HEADER_LEN + kept) {
            let (head, mut rest) = room.split_at_mut(HEADER_LEN);
            head.copy_from_slice(&header(seen, Direction::Sent, verdict, len).to_bytes());
            for piece in pieces {
                let (here, behind) = rest.split_at_mut(piece.len().min(rest.len()));
                here.copy_from_slice(&piece[..here.len()]);
                rest = behind;
            }
        }
        self.commit(seen.port);
    }

    /// Counts a frame as lost because it was no longer remembered when its outcome became known.
    pub fn forget(&mut self, port: u16) {
        if self.want.port.is_none_or(|wanted| wanted == port) {
            self.writer.count_lost(1);
            self.lost.add(port);
        }
    }

    /// Ends a batch: the reader may take its records.
    #[inline]
    pub fn end_batch(&mut self) {
        self.writer.hand_over();
    }

    #[inline]
    fn wants(&mut self, seen: &Seen<'_>) -> bool {
        let Want { port, filter, sample, .. } = &*self.want;
        if port.is_some_and(|port| port != seen.port) {
            return false;
        }
        if *sample > 1 {
            if self.skip > 0 {
                self.skip -= 1;
                return false;
            }
            // Not every N-th frame: in an alternating sequence, such as received and sent, that would sample one kind only.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            self.skip = (u64::from(self.random) % (2 * u64::from(*sample) - 1)) as u32;
        }
        filter.as_ref().is_none_or(|filter| filter.matches(&seen.subject))
    }

    #[inline]
    fn commit(&mut self, port: u16) {
        if !self.writer.commit() {
            self.lost.add(port);
        }
    }
}

fn header(seen: &Seen<'_>, direction: Direction, verdict: Verdict, len: usize) -> Header {
    Header { time: seen.time, port: seen.port, direction, verdict, original_len: len as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Reader, ring};

    fn probe(want: Want) -> (Probe, Reader, Lost) {
        let (writer, reader) = ring(4, 4096);
        let lost = Lost::new(4);
        (Probe::new(1, Arc::new(want), writer, lost.clone()), reader, lost)
    }

    fn seen(port: u16, bytes: &[u8]) -> Seen<'_> {
        Seen { time: 7, port, subject: Subject { headers: None, bytes, vlan: None, vni: None } }
    }

    fn read(probe: &mut Probe, reader: &mut Reader) -> Vec<(Header, Vec<u8>)> {
        probe.end_batch();
        let mut all = Vec::new();
        while let Some(chunk) = reader.take() {
            all.extend(
                chunk.records().map(|record| Header::split(record).unwrap()).map(|(header, frame)| (header, frame.to_vec())),
            );
            reader.give_back(chunk);
        }
        all
    }

    #[test]
    fn a_received_frame_is_as_it_came_with_the_verdict_of_its_walk() {
        let (mut probe, mut reader, _) = probe(Want { port: Some(2), snaplen: 3, ..Want::default() });
        probe.arrives(&seen(1, b"other"), Direction::Received, 0);
        probe.judge(Verdict::Dropped(1), b"other");
        probe.arrives(&seen(2, b"frame"), Direction::Received, 0);
        probe.judge(Verdict::Dropped(4), b"XXXXX");
        probe.arrives(&seen(2, b"waits"), Direction::Within, 0);
        probe.judge(Verdict::Passed, b"waits");
        let all = read(&mut probe, &mut reader);
        let verdict = Verdict::Dropped(4);
        let header = Header { time: 7, port: 2, direction: Direction::Received, verdict, original_len: 5 };
        assert_eq!(all, [(header, b"fra".to_vec())]);
    }

    #[test]
    fn drops_only_has_the_whole_of_what_was_dropped_and_nothing_else() {
        let (mut probe, mut reader, _) = probe(Want { drops_only: true, ..Want::default() });
        let came: Vec<u8> = (0..3000).map(|n| n as u8).collect();
        let mut now = came.clone();
        now[..LONGEST_ANSWER].fill(0);
        probe.arrives(&seen(0, &came), Direction::Received, 0);
        probe.judge(Verdict::Passed, &now);
        probe.leaves(&seen(0, &came), [&came, &[], &[]], Verdict::Passed);
        probe.arrives(&seen(0, &came), Direction::Received, 0);
        probe.judge(Verdict::CopiesDropped(8), &now);
        let all = read(&mut probe, &mut reader);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].0.verdict, &all[0].1), (Verdict::CopiesDropped(8), &came));
    }

    #[test]
    fn what_leaves_is_put_together_and_cut() {
        let (mut probe, mut reader, _) = probe(Want { snaplen: 6, ..Want::default() });
        probe.leaves(&seen(3, b"addresses"), [b"addr", b"tag", b"rest"], Verdict::Passed);
        let all = read(&mut probe, &mut reader);
        assert_eq!((all[0].0.direction, all[0].0.original_len, &all[0].1[..]), (Direction::Sent, 11, &b"addrta"[..]));
    }

    #[test]
    fn what_finds_no_room_is_counted_at_its_port_but_not_what_was_not_wanted_in_the_end() {
        let (mut probe, reader, lost) = probe(Want { drops_only: true, ..Want::default() });
        let frame = [0; 1000];
        for n in 0..100 {
            probe.arrives(&seen(1, &frame), Direction::Received, 0);
            probe.judge(if n % 2 == 0 { Verdict::Passed } else { Verdict::Dropped(0) }, &frame);
        }
        // Four chunks with four frames each.
        assert_eq!((lost.of(1), lost.of(0), lost.of(100), reader.lost()), (50 - 16, 0, 0, 34));
    }

    #[test]
    fn a_sample_is_of_all_that_goes_by_in_turns() {
        let (mut probe, mut reader, _) = probe(Want { sample: 10, ..Want::default() });
        let mut counts = [0; 2];
        for n in 0..20_000 {
            probe.leaves(&seen(n % 2, b"x"), [b"x", &[], &[]], Verdict::Passed);
            for (header, _) in read(&mut probe, &mut reader) {
                counts[usize::from(header.port)] += 1;
            }
        }
        assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
    }
}
