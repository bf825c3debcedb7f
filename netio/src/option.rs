//! Socket options that rustix does not know.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What may stand in a socket option: every bit pattern of it is a value, and it holds no padding.
///
/// # Safety
///
/// Both must be true of the type.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: two integers of equal size.
unsafe impl Plain for libc::tpacket_stats {}
// SAFETY: integers and an array of them, with nothing between.
unsafe impl Plain for libc::packet_mreq {}
// SAFETY: three words.
unsafe impl Plain for libc::ip_mreqn {}
// SAFETY: an address of 16 bytes and an integer, with nothing between or behind.
unsafe impl Plain for libc::ipv6_mreq {}
// SAFETY: integers, one behind the other.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: the same.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// Sets an option.
pub(crate) fn set<T: Plain>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: setsockopt(2) reads `len` bytes of a value that is valid for the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) }).map(drop)
}

/// Reads an option; `value` is what stays where the kernel fills in less.
pub(crate) fn get<T: Plain>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `len` bytes of a value that is valid for the call and of
    // which all bit patterns are.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// Reads an option that is a list of numbers of unknown length.
pub(crate) fn list(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<Vec<u32>> {
    let mut values = vec![0u32; 32];
    loop {
        let mut len = size_of_val(values.as_slice()) as libc::socklen_t;
        // SAFETY: getsockopt(2) writes at most `len` bytes of integers that are valid for the call.
        let read = check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, values.as_mut_ptr().cast(), &raw mut len) });
        // Where there is too little room the kernel says how much there has to be.
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

/// Lets only such packets into a socket's queue as a classic program keeps. It takes the place of
/// the one before at once: no packet meets neither.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel only reads the program, whatever the field's type says.
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: setsockopt(2) reads a `sock_fprog` and the `len` instructions that it points to; both
    // are valid for the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size)
    })
    .map(drop)
}

/// Takes a socket's filter away.
pub(crate) fn detach_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

/// -1 stands for an error in `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
