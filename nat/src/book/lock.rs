//! The lock of the book, and how to wait for it.
//!
//! An opening writes a dozen cache lines that all openings share: the book's counters, the ends of queues, the owner, the
//! wheel. If the worker that waits takes the lock as soon as it is free, two workers take turns at each packet, and these
//! lines cross between their processors each time; if it sleeps, the other one pays for waking it. So a worker that finds
//! the lock taken stays away from it for some pause, in which the other opens several connections in its own cache:
//!
//! ```text
//!  worker 1   open open open open open .......... open open open open
//!  worker 2   .....................  open open open  ........
//!             ^ taken: pauses        ^ free
//! ```
//!
//! A worker that still finds it taken after some 200 us sleeps: its holder was preempted, or many wait.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crossbeam_utils::CachePadded;

use super::Book;

/// Number of looks at the lock before a worker sleeps.
const LOOKS: usize = 24;

/// Pause after the first look, in `spin_loop` hints of some 40 ns. Each pause is twice as long as the one before.
const FIRST_PAUSE: u32 = 16;

/// The longest pause, in the same hints: about 10 us, or ten openings. Measured, new mappings of two workers against one:
/// 0.69 without pauses, 0.91 with pauses up to 128 hints, 0.95 up to 512.
const LONGEST_PAUSE: u32 = 256;

/// The book under its lock, on cache lines of its own: every packet reads what stands beside it.
#[derive(Debug)]
pub(crate) struct BookLock(CachePadded<Mutex<Book>>);

impl BookLock {
    pub(crate) fn new(book: Book) -> BookLock {
        BookLock(CachePadded::new(Mutex::new(book)))
    }

    /// The book, once nobody else has it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Book> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..LOOKS {
            match self.0.try_lock() {
                Ok(book) => return book,
                Err(TryLockError::Poisoned(book)) => return book.into_inner(),
                Err(TryLockError::WouldBlock) => (0..pause).for_each(|_| std::hint::spin_loop()),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get_mut(&mut self) -> &mut Book {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}
