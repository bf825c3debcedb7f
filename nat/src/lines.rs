//! Cache lines in one piece of memory.

use std::ops::Range;

use zerocopy::FromZeros;

/// Cache lines of words that are zero until they are used. The allocator returns untouched zero memory only without an
/// alignment, so the lines begin at the first aligned position.
pub(crate) struct Lines<T> {
    words: Box<[T]>,
    base: usize,
}

impl<T: FromZeros> Lines<T> {
    /// `None` if the machine lacks the memory.
    pub(crate) fn new<const WORDS: usize>(lines: usize) -> Option<Lines<T>> {
        let words = <[T]>::new_box_zeroed_with_elems((lines + 1) * WORDS).ok()?;
        let base = words.as_ptr().align_offset(WORDS * size_of::<T>()) % WORDS;
        Some(Lines { words, base })
    }

    /// Where they are.
    pub(crate) fn memory(&self) -> Range<*const u8> {
        let Range { start, end } = self.words.as_ptr_range();
        start.cast()..end.cast()
    }

    /// One line.
    #[inline(always)]
    pub(crate) fn get<const WORDS: usize>(&self, line: usize) -> &[T; WORDS] {
        &self.words[self.base..].as_chunks().0[line]
    }
}
