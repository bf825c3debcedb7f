//! A batch: the frames that were read from one port at once, in one block of memory.
//!
//! Each worker owns one arena. Frames are read into it one after the other, so that 256 small frames
//! stay in 32 KiB of the first-level cache, and four super-frames of 64 KiB in the second-level
//! cache, from the read to the write. A frame is a [`Span`] of the arena: nothing is allocated or
//! copied, and clearing the spans empties the batch.
//!
//! ```text
//!  slot, a multiple of 64 bytes, and on a cache line
//!  |
//!  v 38           12               14        frame.len
//!  +-------------+----------------+--------+---------------------+-------+----
//!  |  headroom   | virtio-net hdr | dst .. | network header ..   |  pad  | next slot
//!  +-------------+----------------+--------+---------------------+-------+----
//!                ^ the kernel reads and writes from here
//!                                          ^ 64: an untagged frame's network header begins a cache line
//! ```
//!
//! *Answers* are written into the frame that caused them: [`Batch::move_start`] makes room before a
//! frame (28 bytes for the headers of an ICMP error), [`Batch::set_len`] moves its end. The
//! virtio-net header moves along. A frame stays within its slot, so frames never overlap, and every
//! slot has room for the shortest Ethernet frame. Bytes that these calls add are zero: bytes of an
//! earlier frame must not leave with a later one ("Etherleak", CVE-2003-0001).
//!
//! *Two layouts.* A TAP returns the length of each frame before the place of the next one is chosen, so
//! slots are as long as their frames. `recvmmsg` needs room for all frames in advance: [`Batch::strided`]
//! has slots for the longest frame at fixed distances. Memory that no frame reaches is never touched, so
//! it is only address space.

use std::ops::Range;

use crate::ethernet::ADDRESSES_LEN;
use crate::vlan::{TAG_LEN, Tag};
use crate::vnet::{VNET_LEN, VnetHeader, flag, gso};

/// Maximum number of frames in a batch. The more there are, the more of them are of one flow and can be coalesced; but other ports of the
/// worker wait for all of them.
pub const MAX_FRAMES: usize = 256;

/// Number of frames in a batch while several ports have frames to read.
pub const USUAL_FRAMES: usize = 64;

/// A batch ends once it holds this number of bytes, because more would fall out of the second-level
/// cache between read and write. Strided batches have no such limit.
pub const MAX_BYTES: usize = 256 * 1024;

/// The longest frame: 64 KiB of IP behind an Ethernet header with two VLAN tags.
pub const MAX_FRAME_LEN: usize = 65_535 + 22;

/// The shortest frame on a wire, without its check sequence: each slot has room for it.
pub const MIN_FRAME_LEN: usize = 60;

/// Number of bytes by which a frame can grow at its front, if its start has not been moved.
pub const HEADROOM: usize = 32;

const SLOT_ALIGN: usize = 64;
const LEAD: usize = HEADROOM + 6;
const SLOT_LEN: usize = (LEAD + VNET_LEN + MAX_FRAME_LEN + 1).next_multiple_of(SLOT_ALIGN);

/// Distance between two slots of a strided batch, in bytes. A first-level cache has 64 sets of 64 bytes,
/// so slots at multiples of 4 KiB would all compete for the same few sets: 64 headers for 8 or 12 ways.
/// 25 additional cache lines, the length of a frame of 1500 bytes with its headroom, spread frames over
/// the sets as if they were adjacent; 25 is odd, so 64 slots begin in 64 different sets. The same holds
/// for the second-level cache.
const STRIDE: usize = SLOT_LEN.next_multiple_of(4096) + 25 * SLOT_ALIGN;

/// Where one frame lies in its batch's arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// The frame's bytes.
    #[inline(always)]
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }

    /// The virtio-net header's bytes and the frame's behind them.
    #[inline(always)]
    #[must_use]
    pub fn range_with_vnet(self) -> Range<usize> {
        self.start as usize - VNET_LEN..(self.start + self.len) as usize
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    #[must_use]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether the frame has no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// The frames that were read from one port at once.
#[derive(Debug)]
pub struct Batch {
    arena: Box<[u8]>,
    /// The first slot, which begins a cache line.
    base: usize,
    /// End of the last slot, where the next one begins.
    used: usize,
    /// No slot begins beyond this position.
    limit: usize,
    /// Maximum number of frames until the batch is cleared.
    most: usize,
    layout: Layout,
    spans: Vec<Span>,
    /// Start of each frame's slot. A slot ends where the next one begins.
    slots: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Layout {
    Packed,
    Strided { frames: usize },
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch with all the memory that it will ever use. Frames are adjacent.
    #[must_use]
    pub fn new() -> Batch {
        Batch::with_layout(Layout::Packed, MAX_BYTES + SLOT_LEN, MAX_BYTES)
    }

    /// An empty batch of `frames` slots at fixed distances, at least 1 and at most [`MAX_FRAMES`]: see
    /// [`Batch::slots`].
    #[must_use]
    pub fn strided(frames: usize) -> Batch {
        let frames = frames.clamp(1, MAX_FRAMES);
        Batch::with_layout(Layout::Strided { frames }, frames * STRIDE, (frames - 1) * STRIDE)
    }

    fn with_layout(layout: Layout, len: usize, limit: usize) -> Batch {
        let arena = vec![0; len + SLOT_ALIGN].into_boxed_slice();
        let base = arena.as_ptr().align_offset(SLOT_ALIGN) % SLOT_ALIGN;
        let (spans, slots) = (Vec::with_capacity(MAX_FRAMES), Vec::with_capacity(MAX_FRAMES));
        Batch { arena, base, used: base, limit: base + limit, most: MAX_FRAMES, layout, spans, slots }
    }

    /// Whether its slots are at fixed distances.
    #[must_use]
    pub fn is_strided(&self) -> bool {
        matches!(self.layout, Layout::Strided { .. })
    }

    /// Removes all frames.
    #[inline]
    pub fn clear(&mut self) {
        self.used = self.base;
        self.most = MAX_FRAMES;
        self.spans.clear();
        self.slots.clear();
    }

    /// Removes all frames, and takes at most this number of new ones, at least 1, until it is cleared again.
    #[inline]
    pub fn clear_for(&mut self, frames: usize) {
        self.clear();
        self.most = frames.clamp(1, MAX_FRAMES);
    }

    /// Room for the next virtio-net header and frame, or `None` when the batch is full. The room is
    /// always enough for the longest frame.
    #[inline]
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.spans.len() >= self.most || self.used > self.limit {
            return None;
        }
        Some(&mut self.arena[self.used + LEAD..self.used + SLOT_LEN])
    }

    /// Adds the first `filled` bytes of the slot as a virtio-net header and a frame. If they are shorter than a
    /// header, the frame is empty, and the pipeline drops and counts it.
    #[inline]
    pub fn commit(&mut self, filled: usize) {
        debug_assert!(self.spans.len() < MAX_FRAMES && filled <= SLOT_LEN - LEAD);
        let start = self.used + LEAD + VNET_LEN;
        let len = filled.saturating_sub(VNET_LEN);
        self.spans.push(Span { start: start as u32, len: len as u32 });
        self.slots.push(self.used as u32);
        self.used = match self.layout {
            Layout::Packed => self.base + (start - self.base + len.max(MIN_FRAME_LEN)).next_multiple_of(SLOT_ALIGN),
            Layout::Strided { .. } => self.used + STRIDE,
        };
    }

    /// Removes all frames and returns the slots of a strided batch, in order; a packed batch has none.
    /// The caller leaves the first [`TAG_LEN`] bytes of each slot free, writes a virtio-net header and a frame
    /// behind them, and calls [`Batch::commit_all`].
    pub fn slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.clear();
        let frames = match self.layout {
            Layout::Packed => 0,
            Layout::Strided { frames } => frames,
        };
        let slots = self.arena[self.base..].chunks_exact_mut(STRIDE);
        slots.take(frames).map(|slot| &mut slot[LEAD - TAG_LEN..SLOT_LEN])
    }

    /// Adds the frames that were written into [`Batch::slots`]. `filled` has, for each, the number of bytes behind
    /// the first [`TAG_LEN`], virtio-net header included. A VLAN tag that the kernel removed from a frame is
    /// inserted again, and the header's offsets, which a packet socket counts without the tag, are corrected
    /// (`packet_rcv_vnet` in `net/packet/af_packet.c`). The payload stays where it is.
    pub fn commit_all(&mut self, filled: impl IntoIterator<Item = (usize, Option<Tag>)>) {
        self.clear();
        for (filled, tag) in filled {
            if self.slot().is_none() {
                return;
            }
            self.commit(filled.min(SLOT_LEN - LEAD));
            if let Some(tag) = tag {
                self.put_back(self.spans.len() - 1, tag);
            }
        }
    }

    /// Inserts a tag behind the addresses; addresses and virtio-net header move towards the front.
    fn put_back(&mut self, index: usize, tag: Tag) {
        let growth = -(TAG_LEN as isize);
        if self.spans[index].len() < ADDRESSES_LEN {
            return;
        }
        let Some(span) = self.move_start(index, growth) else { return };
        let frame = self.frame_mut(span);
        frame.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
        frame[ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN].copy_from_slice(&tag.to_bytes());
        let mut vnet = self.vnet(span);
        if vnet.flags & flag::NEEDS_CSUM != 0 {
            vnet.csum_start = vnet.csum_start.saturating_add(TAG_LEN as u16);
        }
        if vnet.gso_type != gso::NONE {
            vnet.hdr_len = vnet.hdr_len.saturating_add(TAG_LEN as u16);
        }
        self.set_vnet(span, vnet);
    }

    /// Makes a frame end `len` bytes after its start. It can shrink, or grow with zeros to the end of its slot,
    /// which has room for at least [`MIN_FRAME_LEN`] bytes from the frame's original start. `None`, and nothing
    /// changes, if the slot is too short or there is no such frame.
    pub fn set_len(&mut self, index: usize, len: usize) -> Option<Span> {
        let room = self.room(index)?;
        let span = self.spans.get_mut(index)?;
        let (start, old) = (span.start as usize, span.len());
        if len > room.end - start {
            return None;
        }
        span.len = len as u32;
        let span = *span;
        if len > old {
            self.arena[start + old..start + len].fill(0);
        }
        Some(span)
    }

    /// Moves a frame's start by `by` bytes: a negative number adds zeros in front, a positive one removes bytes
    /// at the front. The end stays, and the virtio-net header moves along; the caller corrects its offsets. From
    /// its original start a frame can grow by [`HEADROOM`]. `None`, and nothing changes, if the headroom or the
    /// frame is too short or there is no such frame.
    pub fn move_start(&mut self, index: usize, by: isize) -> Option<Span> {
        let room = self.room(index)?;
        let span = self.spans.get_mut(index)?;
        let (old, end) = (span.range().start, span.range().end);
        let start = old.checked_add_signed(by)?;
        if start < room.start + VNET_LEN || start > end {
            return None;
        }
        *span = Span { start: start as u32, len: (end - start) as u32 };
        let span = *span;
        self.arena.copy_within(old - VNET_LEN..old, start - VNET_LEN);
        if start < old {
            self.arena[start..old].fill(0);
        }
        Some(span)
    }

    /// The slot that a frame must not leave.
    fn room(&self, index: usize) -> Option<Range<usize>> {
        let start = *self.slots.get(index)? as usize;
        let end = self.slots.get(index + 1).map_or(self.used, |next| *next as usize);
        Some(start..end)
    }

    /// Appends a copy of a frame; `false` if it is too long or the batch is full.
    pub fn push(&mut self, vnet: VnetHeader, frame: &[u8]) -> bool {
        let len = VNET_LEN + frame.len();
        match self.slot() {
            Some(slot) if slot.len() >= len => {
                slot[..VNET_LEN].copy_from_slice(&vnet.to_bytes());
                slot[VNET_LEN..len].copy_from_slice(frame);
                self.commit(len);
                true
            }
            _ => false,
        }
    }

    /// The spans of the frames, in the order of their arrival.
    #[inline(always)]
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The memory in which the spans lie.
    #[inline]
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// One frame's bytes.
    #[inline(always)]
    #[must_use]
    pub fn frame(&self, span: Span) -> &[u8] {
        &self.arena[span.range()]
    }

    /// One frame's bytes, to be changed in place.
    #[inline(always)]
    pub fn frame_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.arena[span.range()]
    }

    /// The virtio-net header before a frame.
    #[inline]
    #[must_use]
    pub fn vnet(&self, span: Span) -> VnetHeader {
        let at = span.start as usize - VNET_LEN;
        self.arena[at..].first_chunk().map_or_else(VnetHeader::default, VnetHeader::from_bytes)
    }

    /// Is the virtio-net header before a frame all zeros: a complete checksum, and nothing to segment?
    #[inline(always)]
    #[must_use]
    pub fn is_plain(&self, span: Span) -> bool {
        let at = span.start as usize - VNET_LEN;
        self.arena[at..].first_chunk() == Some(&[0; VNET_LEN])
    }

    /// Writes the virtio-net header before a frame, all twelve bytes.
    #[inline]
    pub fn set_vnet(&mut self, span: Span, vnet: VnetHeader) {
        let at = span.start as usize - VNET_LEN;
        self.arena[at..at + VNET_LEN].copy_from_slice(&vnet.to_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_one_behind_the_other_and_keep_their_headers() {
        let mut batch = Batch::new();
        let vnet = VnetHeader { flags: 1, csum_start: 34, csum_offset: 6, ..VnetHeader::default() };
        assert!(batch.push(VnetHeader::default(), &[0xaa; 60]));
        assert!(batch.push(vnet, &[0xbb; 61]));
        let (first, second) = (batch.spans()[0], batch.spans()[1]);
        assert_eq!((batch.frame(first), batch.frame(second)), (&[0xaa; 60][..], &[0xbb; 61][..]));
        assert_eq!((batch.vnet(first), batch.vnet(second)), (VnetHeader::default(), vnet));
        for network in [&batch.frame(first)[14..], &batch.frame(second)[14..]] {
            assert_eq!(network.as_ptr().align_offset(SLOT_ALIGN), 0);
        }
    }

    #[test]
    fn full_by_frames_and_by_bytes() {
        let mut batch = Batch::new();
        let small = std::iter::repeat_with(|| batch.push(VnetHeader::default(), &[0; 60])).take_while(|pushed| *pushed).count();
        assert_eq!(small, MAX_FRAMES);
        batch.clear();
        let large = std::iter::repeat_with(|| batch.push(VnetHeader::default(), &[0; MAX_FRAME_LEN]))
            .take_while(|pushed| *pushed)
            .count();
        assert_eq!(large, 4);
        batch.clear();
        assert!(!batch.push(VnetHeader::default(), &[0; MAX_FRAME_LEN + 1024]));
        assert!(batch.spans().is_empty());
    }

    #[test]
    fn less_than_a_header_is_an_empty_frame() {
        let mut batch = Batch::new();
        batch.slot().unwrap();
        batch.commit(5);
        assert!(batch.spans()[0].is_empty());
    }

    #[test]
    fn an_answer_is_written_where_the_frame_came() {
        let mut batch = Batch::new();
        let vnet = VnetHeader { flags: 2, ..VnetHeader::default() };
        for byte in [0xaa, 0xbb, 0xcc] {
            assert!(batch.push(vnet, &[byte; 100]));
        }
        let span = batch.move_start(1, -28).unwrap();
        assert_eq!(batch.frame(span), [&[0; 28][..], &[0xbb; 100]].concat());
        let span = batch.set_len(1, 30).unwrap();
        assert_eq!((batch.spans()[1], batch.vnet(span)), (span, vnet));
        assert_eq!(batch.frame(span), [&[0; 28][..], &[0xbb; 2]].concat());
        let span = batch.move_start(1, 29).unwrap();
        assert_eq!((batch.frame(span), batch.vnet(span)), (&[0xbb][..], vnet));
        for (at, byte) in [(0, 0xaa), (2, 0xcc)] {
            assert_eq!((batch.frame(batch.spans()[at]), batch.vnet(batch.spans()[at])), (&[byte; 100][..], vnet));
        }
    }

    #[test]
    fn short_frames_grow_to_what_ethernet_carries_and_show_nothing_old() {
        let mut batch = Batch::new();
        assert!(batch.push(VnetHeader::default(), &[0xee; 200]));
        batch.clear();
        assert!(batch.push(VnetHeader::default(), &[0xaa; 42]) && batch.push(VnetHeader::default(), &[0xbb; 42]));
        for (index, byte) in [(0, 0xaa), (1, 0xbb)] {
            let span = batch.set_len(index, MIN_FRAME_LEN).unwrap();
            assert_eq!(batch.frame(span), [[byte; 42].as_slice(), &[0; 18]].concat());
        }
        assert_eq!(batch.set_len(0, SLOT_LEN), None);
        assert_eq!(batch.set_len(2, 0), None);
    }

    #[test]
    fn frames_do_not_leave_their_slots() {
        let mut batch = Batch::new();
        assert!(batch.push(VnetHeader::default(), &[0xaa; 60]) && batch.push(VnetHeader::default(), &[0xbb; 60]));
        let before = [batch.spans()[0], batch.spans()[1]];
        for by in [isize::MIN, -(LEAD as isize) - 1, 61, isize::MAX] {
            assert_eq!(batch.move_start(1, by), None, "{by}");
        }
        assert_eq!(batch.move_start(2, 0), None);
        assert_eq!(batch.spans(), before);
        assert!(batch.move_start(1, -(HEADROOM as isize)).is_some());
        assert_eq!(batch.frame(before[0]), [0xaa; 60]);
    }

    #[test]
    fn slots_at_fixed_distances_take_tags_back() {
        let mut batch = Batch::strided(3);
        let vnet = VnetHeader { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1448, csum_start: 34, csum_offset: 16 };
        let frame: Vec<u8> = (0..70).collect();
        for slot in batch.slots() {
            slot[4..16].copy_from_slice(&vnet.to_bytes());
            slot[16..86].copy_from_slice(&frame);
        }
        let tag = Tag::new(crate::EtherType::VLAN, 0xb00a);
        // The last slot has a frame that is too short to have had a tag.
        batch.commit_all([(82, None), (82, Some(tag)), (12 + 11, Some(tag)), (82, None)]);
        let [plain, tagged, runt] = batch.spans() else { panic!("three slots") };
        assert_eq!((batch.frame(*plain), batch.vnet(*plain)), (&frame[..], vnet));
        assert_eq!(batch.frame(*tagged), [&frame[..12], &[0x81, 0, 0xb0, 0x0a], &frame[12..]].concat());
        assert_eq!(batch.vnet(*tagged), VnetHeader { hdr_len: 58, csum_start: 38, ..vnet });
        assert_eq!((batch.frame(*runt), batch.vnet(*runt)), (&frame[..11], vnet));
        let span = batch.move_start(1, -(HEADROOM as isize)).unwrap();
        assert_eq!((span.len(), batch.slots().count()), (74 + HEADROOM, 3));
        assert!(batch.spans().is_empty());
        assert_eq!(Batch::new().slots().count(), 0);
    }

    #[test]
    fn a_strided_batch_is_full_of_the_longest_frames() {
        let mut batch = Batch::strided(MAX_FRAMES + 1);
        assert!(batch.slots().all(|slot| slot.len() >= TAG_LEN + VNET_LEN + MAX_FRAME_LEN));
        batch.commit_all(std::iter::repeat_n((VNET_LEN + MAX_FRAME_LEN, None), MAX_FRAMES + 1));
        assert_eq!(batch.spans().len(), MAX_FRAMES);
        assert!(!batch.push(VnetHeader::default(), &[0; 60]));
        let sets: std::collections::BTreeSet<u32> = batch.spans().iter().map(|span| span.start / 64 % 64).collect();
        assert_eq!(sets.len(), 64, "no two heads in one set of the first-level cache");
    }
}
