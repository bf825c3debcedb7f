//! A ring of records from a worker to a reader, without locks and without waiting.
//!
//! The worker appends records to a chunk of memory, and hands the chunk over when it is full or when its batch ends. The
//! reader returns empty chunks. Their number is fixed: if none is empty, records are counted as lost and the worker
//! continues.
//!
//! ```text
//!            +---> full ----+           a chunk:  | len | header, bytes | len | header, bytes | ..   free   |
//!   writer --+              +--> reader                 a record                                  ^ filled
//!      ^     +-> unfinished +      |
//!      |         (0 or 1)          |    The reader takes the unfinished chunk if no full one is there;
//!      +--------- empty <----------+    otherwise the writer takes it back and continues to fill it.
//! ```
//!
//! At a low rate each record is read at once. At a high rate chunks are handed over full, so all memory is available to
//! bridge a pause of the reader. The ring does not interpret the records.
//!
//! *Limits.* The number of chunks and their size are fixed when the [`ring`] is created. The maximum length of a record is
//! the size of a chunk less four bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

/// Length of the length field before each record, in bytes.
const LEN: usize = 4;

/// A chunk of memory with records.
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

/// The worker's end of a ring.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    chunk: Option<Chunk>,
    pending: Pending,
    next_number: u64,
}

/// The reader's end of a ring.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// A chunk taken too early: an earlier one was found after it.
    held: Option<Chunk>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pending {
    Nothing,
    Record(usize),
    NoRoom,
}

/// Creates a ring with at least 2 chunks of this size in bytes, and allocates all its memory.
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
    /// Starts a record of this length and returns its bytes; [`commit`](Self::commit) completes it. Discards a record that was
    /// not committed. `None` if there is no room.
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
            // Hand the full chunk over only if there is an empty one to continue with.
            let next = self.fresh(false)?;
            let full = self.chunk.replace(next);
            full.and_then(|full| self.shared.full.push(full).err());
        }
        let chunk = self.chunk.as_mut().filter(|chunk| chunk.filled + needs <= chunk.bytes.len())?;
        self.pending = Pending::Record(len);
        Some(&mut chunk.bytes[chunk.filled + LEN..chunk.filled + needs])
    }

    /// The bytes of the started record.
    #[inline]
    pub fn pending(&mut self) -> Option<&mut [u8]> {
        let (Pending::Record(len), Some(chunk)) = (self.pending, &mut self.chunk) else { return None };
        Some(&mut chunk.bytes[chunk.filled + LEN..chunk.filled + LEN + len])
    }

    /// Completes the started record. If there was no room for it, counts it as lost and returns false.
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

    /// Counts records as lost that were not started.
    pub fn count_lost(&self, records: u64) {
        // Only this writer changes the number.
        let before = self.shared.lost.load(Ordering::Relaxed);
        self.shared.lost.store(before + records, Ordering::Relaxed);
    }

    /// Hands the completed records over to the reader. Call this at the end of each batch.
    #[inline]
    pub fn hand_over(&mut self) {
        self.pending = Pending::Nothing;
        if let Some(chunk) = self.chunk.take_if(|chunk| chunk.filled > 0) {
            // The slot is empty: its chunk was taken, by the reader or by `fresh`, before this one was filled.
            self.chunk = self.shared.unfinished.push(chunk).err();
        }
    }

    /// True if the reader was dropped.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.shared.reader_is_gone.load(Ordering::Relaxed)
    }

    /// The chunk to continue with: the unfinished one that was handed over, or an empty one.
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
    /// The next chunk with records; return it with [`Reader::give_back`]. `None` if there are no records.
    pub fn take(&mut self) -> Option<Chunk> {
        let first = self.held.take().or_else(|| self.shared.full.pop()).or_else(|| self.shared.unfinished.pop())?;
        // Between the two look-ups the writer may have handed over full chunks and then an unfinished one.
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

    /// Returns a chunk to the writer.
    pub fn give_back(&mut self, chunk: Chunk) {
        // The queue has room for all chunks of the ring.
        let _ = self.shared.empty.push(chunk);
    }

    /// Number of records lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// True if the writer was dropped. Its records can still be read.
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
    fn only_committed_records_that_were_handed_over_are_read() {
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
    fn a_full_ring_keeps_old_records_and_counts_new_ones() {
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
    fn two_threads_keep_order_and_count_losses() {
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
