//! Socket options that neither socket2 nor rustix has: those of packet sockets, of UDP offload, and a few that
//! return structures. Everything else is set through the typed functions of those two crates.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{SockFilter, SockRef};

/// A type that a socket option can consist of.
///
/// # Safety
///
/// Every bit pattern must be a valid value of the type, and the type must have no padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: two integers of equal size.
unsafe impl Plain for libc::tpacket_stats {}
// SAFETY: integers and an array of them, with nothing between.
unsafe impl Plain for libc::packet_mreq {}
// SAFETY: an array of integers.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// Sets an option (setsockopt(2)).
pub(crate) fn set<T: Plain>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: setsockopt(2) reads `len` bytes of a value that is valid for the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) }).map(drop)
}

/// Reads an option (getsockopt(2)). Where the kernel writes fewer bytes, the rest of `value` stays as it was.
pub(crate) fn get<T: Plain>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `len` bytes into a value that is valid for the call, and every bit pattern
    // is a value of it.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// Reads an option that is a list of 32-bit numbers, of any length.
pub(crate) fn list(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<Vec<u32>> {
    let mut values = vec![0u32; 32];
    loop {
        let mut len = size_of_val(values.as_slice()) as libc::socklen_t;
        // SAFETY: getsockopt(2) writes at most `len` bytes of integers that are valid for the call.
        let read = check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, values.as_mut_ptr().cast(), &raw mut len) });
        // With ERANGE the kernel reports the length that it needs.
        let count = len as usize / size_of::<u32>();
        match read {
            Ok(_) => {
                values.truncate(count);
                return Ok(values);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > values.len() => values.resize(count, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Attaches a classic BPF program: only packets that it accepts enter the socket's queue. It replaces the previous
/// program atomically, so every packet is filtered by one of the two.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    // socket2 passes the length on as 16 bits.
    if program.len() > usize::from(u16::MAX) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let program: Vec<SockFilter> = program.iter().map(|line| SockFilter::new(line.code, line.jt, line.jf, line.k)).collect();
    SockRef::from(&socket).attach_filter(&program)
}

/// Detaches the socket's filter.
pub(crate) fn detach_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).detach_filter()
}

/// Turns -1 into the error in `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
