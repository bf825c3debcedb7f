//! Cache lines in one piece of memory.

use std::ops::Range;

use zerocopy::FromZeros;

/// Cache lines of words that are zero until they are used. The allocator returns untouched zero memory only without an
/// alignment, so the lines begin at the first aligned position.
pub(crate) struct Lines<T: 'static> {
    words: Words<T>,
    base: usize,
}

/// Memory of the allocator, or memory that was lent for good. Both are a pointer and a length, so that it costs nothing to tell them
/// apart.
enum Words<T: 'static> {
    Own(Box<[T]>),
    Lent(&'static [T]),
}

impl<T: FromZeros> Lines<T> {
    /// `None` if the machine lacks the memory.
    pub(crate) fn new<const WORDS: usize>(lines: usize) -> Option<Lines<T>> {
        let words = <[T]>::new_box_zeroed_with_elems((lines + 1) * WORDS).ok()?;
        let base = words.as_ptr().align_offset(WORDS * size_of::<T>()) % WORDS;
        Some(Lines { words: Words::Own(words), base })
    }

    /// Lines in memory that is all zero, begins at a line and has room for them; `None` if it does not.
    pub(crate) fn lent<const WORDS: usize>(lines: usize, words: &'static [T]) -> Option<Lines<T>> {
        let is_aligned = words.as_ptr().align_offset(WORDS * size_of::<T>()) == 0;
        (is_aligned && words.len() >= lines * WORDS).then_some(Lines { words: Words::Lent(words), base: 0 })
    }

    /// Makes all words zero. False if they are lent.
    pub(crate) fn clear(&mut self) -> bool {
        let Words::Own(words) = &mut self.words else { return false };
        words.zero();
        true
    }

    #[inline(always)]
    fn words(&self) -> &[T] {
        match &self.words {
            Words::Own(words) => words,
            Words::Lent(words) => words,
        }
    }

    /// Where they are.
    pub(crate) fn memory(&self) -> Range<*const u8> {
        let Range { start, end } = self.words().as_ptr_range();
        start.cast()..end.cast()
    }

    /// One line.
    #[inline(always)]
    pub(crate) fn get<const WORDS: usize>(&self, line: usize) -> &[T; WORDS] {
        &self.words()[self.base..].as_chunks().0[line]
    }
}
