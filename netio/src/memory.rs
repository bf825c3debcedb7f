//! Large tables in memory: advice to the kernel, and to the allocator.
//!
//! A table of a million connections is 88 MiB, 22,000 small pages: more than the processor's cache of addresses holds, so a packet
//! of a random connection waits for two page walks beside its two cache lines. With huge pages, most of these walks fall away.
//!
//! A table is mostly zeros that nobody has touched, which the kernel need not provide. The allocator keeps that only for blocks that it
//! maps each by itself; a block that it takes from its heap it has to clear, which touches all of it. Which blocks it maps, glibc adapts
//! to those that were freed: after the first large one, tables of less than 32 MiB come from the heap.

use std::io;
use std::ops::Range;

/// Size of a page of all machines that this program runs on, in bytes, or a divisor of it.
const PAGE: usize = 4096;

/// Blocks of at least this size are mapped each by itself, in bytes. Below, the two pages that a block wastes weigh more.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 << 10;

/// Makes the allocator map large blocks each by itself from now on: such a block takes up the memory that is used of it, and gives it
/// back when it is freed. Other allocators than glibc's do so by themselves, and are left alone.
pub fn map_large_blocks() {
    // SAFETY: mallopt changes a setting of the allocator, under its own lock; blocks that exist stay what they are.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives the kernel back what the allocator keeps of freed memory. Small blocks that are still in use, here and there, would else keep
/// a page each.
pub fn give_back() {
    // SAFETY: malloc_trim touches no block in use, and takes the allocator's locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks for huge pages behind this memory, now or when it is first used. An error if the kernel has none.
pub fn prefer_huge_pages(memory: &Range<*const u8>) -> io::Result<()> {
    let start = (memory.start as usize).next_multiple_of(PAGE);
    let Some(len) = (memory.end as usize).checked_sub(start).map(|len| len / PAGE * PAGE).filter(|len| *len > 0) else {
        return Ok(());
    };
    // SAFETY: the advice changes no byte of any memory and no right to it, whatever the range: the kernel replaces pages by a
    // larger one with the same contents. It refuses a range that is not mapped.
    let result = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_HUGEPAGE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contents_stay() {
        let table: Vec<u64> = (0..1 << 20).collect();
        let Range { start, end } = table.as_ptr_range();
        // A kernel without huge pages says so.
        let advised = prefer_huge_pages(&(start.cast()..end.cast()));
        assert!(advised.is_ok() || advised.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)));
        assert!(table.iter().copied().eq(0..1 << 20));
        assert!(prefer_huge_pages(&(start.cast()..start.cast())).is_ok(), "nothing");
        let nowhere = std::ptr::without_provenance(PAGE)..std::ptr::without_provenance(2 * PAGE);
        assert!(prefer_huge_pages(&nowhere).is_err());
    }
}
