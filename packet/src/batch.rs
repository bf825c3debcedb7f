//! A batch: the frames of one drain of one port, in one piece of memory.
//!
//! Each worker owns one arena. Frames are read into it one behind the other, so that 64 small frames
//! lie in a few KiB of the first-level cache, and four super-frames of 64 KiB in the second-level
//! cache, from the read to the write. A frame is a [`Span`] of the arena: nothing is allocated,
//! nothing is copied, and forgetting the spans empties the batch.
//!
//! ```text
//!  slot, a multiple of 64 bytes
//!  |
//!  v 6    12               frame.len
//!  +----+----------------+------------------------------+-------+----
//!  |lead| virtio-net hdr | Ethernet frame               |  pad  | next slot
//!  +----+----------------+------------------------------+-------+----
//!       ^ the kernel reads and writes from here
//!                        ^ 18: the network header of an untagged frame is 4-byte aligned
//! ```

use std::ops::Range;

use crate::vnet::{VNET_LEN, VnetHeader};

/// A batch ends after so many frames,
pub const MAX_FRAMES: usize = 64;

/// or after so many bytes, whichever comes first: more would fall out of the second-level cache
/// between read and write.
pub const MAX_BYTES: usize = 256 * 1024;

/// The longest frame: 64 KiB of IP behind an Ethernet header with two VLAN tags.
pub const MAX_FRAME_LEN: usize = 65_535 + 22;

const SLOT_ALIGN: usize = 64;
const LEAD: usize = 6;
const SLOT_LEN: usize = (LEAD + VNET_LEN + MAX_FRAME_LEN + 1).next_multiple_of(SLOT_ALIGN);

/// Where one frame lies in its batch's arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// The frame's bytes.
    #[inline]
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }

    /// The virtio-net header's bytes and the frame's behind them.
    #[inline]
    #[must_use]
    pub fn range_with_vnet(self) -> Range<usize> {
        self.start as usize - VNET_LEN..(self.start + self.len) as usize
    }

    /// Length of the frame in bytes.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// No bytes at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// The frames of one drain of one port.
#[derive(Debug)]
pub struct Batch {
    arena: Box<[u8]>,
    used: usize,
    spans: Vec<Span>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch with all the memory that it will ever use.
    #[must_use]
    pub fn new() -> Batch {
        Batch { arena: vec![0; MAX_BYTES + SLOT_LEN].into_boxed_slice(), used: 0, spans: Vec::with_capacity(MAX_FRAMES) }
    }

    /// Forgets all frames.
    #[inline]
    pub fn clear(&mut self) {
        self.used = 0;
        self.spans.clear();
    }

    /// Room for the next virtio-net header and frame, or `None` when the batch is full. The room is
    /// always enough for the longest frame.
    #[inline]
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.spans.len() == MAX_FRAMES || self.used > MAX_BYTES {
            return None;
        }
        Some(&mut self.arena[self.used + LEAD..self.used + SLOT_LEN])
    }

    /// The first `filled` bytes of the slot are now a virtio-net header and a frame. Less than a
    /// header makes an empty frame, which the pipeline drops and counts.
    #[inline]
    pub fn commit(&mut self, filled: usize) {
        debug_assert!(self.spans.len() < MAX_FRAMES && filled <= SLOT_LEN - LEAD);
        let start = self.used + LEAD + VNET_LEN;
        let len = filled.saturating_sub(VNET_LEN);
        self.spans.push(Span { start: start as u32, len: len as u32 });
        self.used = (start + len).next_multiple_of(SLOT_ALIGN);
    }

    /// Appends a frame from elsewhere; `false` if it is too long or the batch is full.
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

    /// Where the frames are, in the order of their arrival.
    #[inline]
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
    #[inline]
    #[must_use]
    pub fn frame(&self, span: Span) -> &[u8] {
        &self.arena[span.range()]
    }

    /// One frame's bytes, to be changed in place.
    #[inline]
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
        assert_eq!((second.start - first.start) as usize % SLOT_ALIGN, 0);
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
}
