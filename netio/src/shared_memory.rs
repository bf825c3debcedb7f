//! Memory that outlives the process: a file without a name (memfd_create(2)), which whoever gets its descriptor maps too.
//!
//! The file is sealed, so that nobody can shorten it under a mapping. It is reached through atomics alone, and reads and writes as
//! any memory does; what a process that was killed had stored, the next one finds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};

/// A file in memory, mapped.
#[derive(Debug)]
pub struct SharedMemory {
    file: OwnedFd,
    at: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the memory is mapped until this is dropped, and is reached through atomics alone.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Memory of this many bytes, all zero, which costs nothing until it is used. The name is for people.
    pub fn create(name: &str, len: usize) -> io::Result<SharedMemory> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, len as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        SharedMemory::map(file, len)
    }

    /// Maps what another process made. An error if it is something else.
    pub fn open(file: OwnedFd) -> io::Result<SharedMemory> {
        if !fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is not sealed"));
        }
        let len = usize::try_from(fstat(&file)?.st_size).map_err(io::Error::other)?;
        SharedMemory::map(file, len)
    }

    fn map(file: OwnedFd, len: usize) -> io::Result<SharedMemory> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no memory that is in use. The file cannot be shortened.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        match NonNull::new(at) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED => Ok(SharedMemory { file, at, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// A number of words from this byte on, which is a multiple of eight. `None` if they are not all there.
    #[must_use]
    pub fn words(&self, from: usize, count: usize) -> Option<&[AtomicU64]> {
        self.has_room(from, count, size_of::<u64>()).then(|| {
            // SAFETY: these bytes are mapped for reading and writing as long as `self` lives, and `from` is aligned, as the mapping
            // is. All bit patterns are valid, and others may change them at any time.
            unsafe { std::slice::from_raw_parts(self.at.as_ptr().byte_add(from).cast(), count) }
        })
    }

    /// The same of words of 32 bits.
    #[must_use]
    pub fn half_words(&self, from: usize, count: usize) -> Option<&[AtomicU32]> {
        self.has_room(from, count, size_of::<u32>()).then(|| {
            // SAFETY: as in `words`.
            unsafe { std::slice::from_raw_parts(self.at.as_ptr().byte_add(from).cast(), count) }
        })
    }

    fn has_room(&self, from: usize, count: usize, size: usize) -> bool {
        let end = count.checked_mul(size).and_then(|len| len.checked_add(from));
        from.is_multiple_of(size_of::<u64>()) && end.is_some_and(|end| end <= self.len)
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and the borrows of its words have ended.
        unsafe { libc::munmap(self.at.as_ptr(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn another_process_finds_what_was_stored() {
        let memory = SharedMemory::create("test", 8192).unwrap();
        memory.words(4096, 2).unwrap()[1].store(7 << 32 | 5, Ordering::Relaxed);
        let again = SharedMemory::open(memory.as_fd().try_clone_to_owned().unwrap()).unwrap();
        drop(memory);
        assert_eq!(again.byte_len(), 8192);
        let halves: Vec<u32> = again.half_words(4104, 2).unwrap().iter().map(|half| half.load(Ordering::Relaxed)).collect();
        assert_eq!(halves, if cfg!(target_endian = "little") { [5, 7] } else { [7, 5] });
        assert!(again.words(8192, 0).is_some() && again.words(8184, 1).is_some());
        for (from, count) in [(8185, 0), (8184, 2), (8192, 1), (1 << 40, 1), (0, usize::MAX), (8, usize::MAX / 8)] {
            assert!(again.words(from, count).is_none(), "{from} {count}");
        }
        assert!(rustix::fs::ftruncate(&again, 4096).is_err(), "it cannot be shortened");
    }

    #[test]
    fn something_else_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(SharedMemory::open(file.into()).is_err());
        let open = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(SharedMemory::open(open).is_err(), "its maker could shorten it");
    }
}
