//! The bounded queue out of the packet path: one writer, one reader, no lock, no waiting.
//!
//! A worker appends records to a chunk of memory and hands it over when the chunk is full or the batch ends. The number
//! of chunks is fixed, and they circulate. When the reader has not returned any, records are counted as lost and
//! the worker continues.
//!
//! ```text
//!            +---> full ----+           a chunk:  | len | header, bytes | len | header, bytes | ..   free   |
//!   writer --+              +--> reader                 a record                                  ^ filled
//!      ^     +-> unfinished +      |
//!      |         (0 or 1)          |    An unfinished chunk goes to the reader if there is no full one,
//!      +--------- empty <----------+    or back to the writer, which continues to fill it.
//! ```
//!
//! So at a low rate the reader sees each frame at once, and at a high rate chunks leave full, and all of the memory can
//! bridge a pause of the reader. The content of a record is opaque here.
//!
//! *Limits.* [`ring`] sets the number of chunks and their size. A record is at most four bytes shorter than a chunk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

/// Length of the length field before each record, in bytes.
const LEN: usize = 4;

/// A block of memory with records, one after the other.
#[derive(Debug)]
pub struct Chunk {
    bytes: Box<[u8]>,
    filled: usize,
    number: u64,
}

#[derive(Debug)]
struct Shared {
    full: ArrayQueue<Chunk>,
    unfinished: ArrayQueue<Chunk>,
    empty: ArrayQueue<Chunk>,
    lost: AtomicU64,
    reader_is_gone: AtomicBool,
    writer_is_gone: AtomicBool,
}

/// The worker's end.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    chunk: Option<Chunk>,
    pending: Pending,
    next_number: u64,
}

/// The reader's end.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// A chunk that was taken out of the queues already and is returned by the next [`Reader::take`].
    held: Option<Chunk>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pending {
    Nothing,
    Record(usize),
    NoRoom,
}

/// A ring with all the memory that it will ever use: `chunks` chunks (at least 2) of `bytes` bytes each.
#[must_use]
pub fn ring(chunks: usize, bytes: usize) -> (Writer, Reader) {
    let chunks = chunks.max(2);
    let shared = Arc::new(Shared {
        full: ArrayQueue::new(chunks),
        unfinished: ArrayQueue::new(1),
        empty: ArrayQueue::new(chunks),
        lost: AtomicU64::new(0),
        reader_is_gone: AtomicBool::new(false),
        writer_is_gone: AtomicBool::new(false),
    });
    for _ in 0..chunks {
        let _ = shared.empty.push(Chunk { bytes: vec![0; bytes].into(), filled: 0, number: 0 });
    }
    let writer = Writer { shared: Arc::clone(&shared), chunk: None, pending: Pending::Nothing, next_number: 0 };
    (writer, Reader { shared, held: None })
}

impl Writer {
    /// Begins a record and returns its `len` bytes. The record exists once it is committed; an uncommitted earlier one
    /// is discarded. `None` if there is no room.
    #[inline]
    pub fn begin(&mut self, len: usize) -> Option<&mut [u8]> {
        self.pending = Pending::NoRoom;
        let needs = LEN + len;
        if self.chunk.is_none() {
            self.chunk = self.fresh(true);
        }
        let chunk = self.chunk.as_mut()?;
        if chunk.filled + needs > chunk.bytes.len() {
            if chunk.filled == 0 {
                return None;
            }
            // The chunk is handed over only if an empty one can replace it.
            let next = self.fresh(false)?;
            let full = self.chunk.replace(next);
            full.and_then(|full| self.shared.full.push(full).err());
        }
        let chunk = self.chunk.as_mut().filter(|chunk| chunk.filled + needs <= chunk.bytes.len())?;
        self.pending = Pending::Record(len);
        Some(&mut chunk.bytes[chunk.filled + LEN..chunk.filled + needs])
    }

    /// The bytes of the record that was begun.
    #[inline]
    pub fn pending(&mut self) -> Option<&mut [u8]> {
        let (Pending::Record(len), Some(chunk)) = (self.pending, &mut self.chunk) else { return None };
        Some(&mut chunk.bytes[chunk.filled + LEN..chunk.filled + LEN + len])
    }

    /// Commits the record that was begun. Returns false and counts it as lost if there was no room for it.
    #[inline]
    pub fn commit(&mut self) -> bool {
        match (std::mem::replace(&mut self.pending, Pending::Nothing), &mut self.chunk) {
            (Pending::Record(len), Some(chunk)) => {
                chunk.bytes[chunk.filled..chunk.filled + LEN].copy_from_slice(&(len as u32).to_ne_bytes());
                chunk.filled += LEN + len;
                true
            }
            (Pending::Nothing, _) => true,
            _ => {
                self.count_lost(1);
                false
            }
        }
    }

    /// Counts records as lost that were never begun.
    pub fn count_lost(&self, records: u64) {
        // Only the writer changes this number.
        let before = self.shared.lost.load(Ordering::Relaxed);
        self.shared.lost.store(before + records, Ordering::Relaxed);
    }

    /// Makes all records available to the reader. To be called at the end of a batch.
    #[inline]
    pub fn hand_over(&mut self) {
        self.pending = Pending::Nothing;
        if let Some(chunk) = self.chunk.take_if(|chunk| chunk.filled > 0) {
            // The place is empty: the previous unfinished chunk was taken by the reader or by this writer.
            self.chunk = self.shared.unfinished.push(chunk).err();
        }
    }

    /// Whether the reader is gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.shared.reader_is_gone.load(Ordering::Relaxed)
    }

    /// The chunk to continue with: an empty one, or with `or_unfinished` the one that was handed over unfinished.
    fn fresh(&mut self, or_unfinished: bool) -> Option<Chunk> {
        if or_unfinished && let Some(chunk) = self.shared.unfinished.pop() {
            return Some(chunk);
        }
        let mut chunk = self.shared.empty.pop()?;
        chunk.filled = 0;
        chunk.number = self.next_number;
        self.next_number += 1;
        Some(chunk)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.hand_over();
        self.shared.writer_is_gone.store(true, Ordering::Release);
    }
}

impl Reader {
    /// The next chunk with records, to be returned with [`Reader::give_back`]. `None` if there is none at present.
    pub fn take(&mut self) -> Option<Chunk> {
        let first = self.held.take().or_else(|| self.shared.full.pop()).or_else(|| self.shared.unfinished.pop())?;
        // Between the two queries the writer may have finished a chunk and left another one unfinished.
        match self.shared.full.pop() {
            Some(other) if other.number < first.number => {
                self.held = Some(first);
                Some(other)
            }
            other => {
                self.held = other;
                Some(first)
            }
        }
    }

    /// Returns a chunk, so that the writer can use its memory again.
    pub fn give_back(&mut self, chunk: Chunk) {
        // Only chunks of this ring circulate, so there is a place for each.
        let _ = self.shared.empty.push(chunk);
    }

    /// Number of lost records since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Whether the writer is gone. Its remaining records can still be read.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.shared.writer_is_gone.load(Ordering::Acquire)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.reader_is_gone.store(true, Ordering::Relaxed);
    }
}

impl Chunk {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..self.filled];
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first_chunk::<LEN>()?;
            let (record, behind) = behind.split_at_checked(u32::from_ne_bytes(*len) as usize)?;
            rest = behind;
            Some(record)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(writer: &mut Writer, number: u32, len: usize) -> bool {
        if let Some(room) = writer.begin(len) {
            room.fill(0xee);
            room[..4].copy_from_slice(&number.to_ne_bytes());
        }
        writer.commit()
    }

    fn read(reader: &mut Reader) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some(chunk) = reader.take() {
            numbers.extend(chunk.records().map(|record| u32::from_ne_bytes(*record.first_chunk().unwrap())));
            reader.give_back(chunk);
        }
        numbers
    }

    #[test]
    fn what_is_handed_over_is_read_at_once_and_what_is_not_is_not() {
        let (mut writer, mut reader) = ring(3, 64);
        assert!(write(&mut writer, 1, 8));
        assert_eq!(read(&mut reader), []);
        writer.hand_over();
        assert_eq!(read(&mut reader), [1]);
        writer.begin(8).unwrap().fill(1);
        writer.hand_over();
        assert_eq!(read(&mut reader), [], "not committed");
        write(&mut writer, 2, 8);
        drop(writer);
        assert!(reader.is_ended());
        assert_eq!(read(&mut reader), [2]);
    }

    #[test]
    fn without_a_reader_the_first_are_kept_and_the_others_counted() {
        let (mut writer, mut reader) = ring(4, 36);
        // Three fit into a chunk, each handed over alone.
        for number in 0..100 {
            assert_eq!(write(&mut writer, number, 8), number < 12);
            writer.hand_over();
        }
        assert_eq!((read(&mut reader), reader.lost()), ((0..12).collect(), 88));
        assert!(write(&mut writer, 100, 8));
        assert!(!write(&mut writer, 101, 33), "longer than any chunk");
        writer.begin(33);
        writer.hand_over();
        assert_eq!((read(&mut reader), reader.lost()), (vec![100], 89));
        assert!(!writer.is_abandoned());
        drop(reader);
        assert!(writer.is_abandoned());
    }

    #[test]
    fn two_threads_lose_and_reorder_nothing_that_is_not_counted() {
        let (mut writer, mut reader) = ring(4, 1024);
        let mut numbers = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..200_000 {
                    write(&mut writer, number, 4 + number as usize % 40);
                    if number % 7 == 0 {
                        writer.hand_over();
                    }
                }
            });
            let mut is_ended = false;
            while !is_ended {
                is_ended = reader.is_ended();
                numbers.extend(read(&mut reader));
            }
        });
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert_eq!(numbers.len() as u64 + reader.lost(), 200_000);
    }

    proptest! {
        /// Whatever is written, handed over and read when: what comes out is what went in, in order, less what was
        /// counted.
        #[test]
        fn a_ring_is_a_bounded_queue(steps in proptest::collection::vec((0..4u8, 4..80usize), 0..300)) {
            let (mut writer, mut reader) = ring(3, 100);
            let (mut kept, mut read_back, mut lost) = (Vec::new(), Vec::new(), 0);
            for (number, (step, len)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        if write(&mut writer, number as u32, len) { kept.push(number as u32) } else { lost += 1 }
                    }
                    2 => writer.hand_over(),
                    _ => read_back.extend(read(&mut reader)),
                }
            }
            drop(writer);
            read_back.extend(read(&mut reader));
            prop_assert_eq!(read_back, kept);
            prop_assert_eq!(reader.lost(), lost);
        }
    }
}
