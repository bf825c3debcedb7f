//! Many frames in one system call (sendmmsg(2)).

use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use packet::VNET_LEN;
use rustix::io::Errno;

use super::{SHORT_VNET_LEN, Writer};

/// Frames of one call, at most.
pub const MAX_BURST: usize = 64;

/// Pieces of one frame, at most.
pub const MAX_PIECES: usize = 127;

/// What one worker needs to send whole frames in bursts: the lists that sendmmsg(2) reads, allocated
/// once.
pub struct Sender {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[[libc::iovec; 2]]>,
}

// SAFETY: the pointers in the lists are set by `Burst::push` before they are used, and lead nowhere
// between bursts.
unsafe impl Send for Sender {}

impl std::fmt::Debug for Sender {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Default for Sender {
    fn default() -> Sender {
        Sender::new()
    }
}

impl Sender {
    /// With all the memory that it will ever use.
    #[must_use]
    pub fn new() -> Sender {
        // SAFETY: an all-zero `mmsghdr` is a valid, empty one.
        let empty: libc::mmsghdr = unsafe { mem::zeroed() };
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Sender { headers: vec![empty; MAX_BURST].into(), pieces: vec![[nothing; 2]; MAX_BURST].into() }
    }

    /// Begins to collect frames for one interface.
    pub fn burst<'m, 'f>(&'m mut self, writer: &'m Writer) -> Burst<'m, 'f> {
        Burst { sender: self, writer, len: 0, frames: PhantomData }
    }
}

/// Frames on their way out of one interface. Those that are not flushed are not sent.
#[derive(Debug)]
pub struct Burst<'m, 'f> {
    sender: &'m mut Sender,
    writer: &'m Writer,
    len: usize,
    frames: PhantomData<&'f [u8]>,
}

impl<'f> Burst<'_, 'f> {
    /// Appends a frame or super-frame, a virtio-net header first. `false` if it is not taken, because
    /// there are [`MAX_BURST`] already; flush, and push it again.
    #[inline]
    #[must_use]
    pub fn push(&mut self, frame: &'f [u8]) -> bool {
        let Some((header, pieces)) = self.sender.headers.get_mut(self.len).zip(self.sender.pieces.get_mut(self.len)) else {
            return false;
        };
        let used = match frame.split_at_checked(VNET_LEN) {
            Some((vnet, frame)) if self.writer.short_header => {
                *pieces = [piece(&vnet[..SHORT_VNET_LEN]), piece(frame)];
                2
            }
            _ => {
                pieces[0] = piece(frame);
                1
            }
        };
        header.msg_hdr.msg_iov = pieces.as_mut_ptr();
        header.msg_hdr.msg_iovlen = used;
        self.len += 1;
        true
    }

    /// How many frames wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends what was collected and tells, frame by frame and in order, how it went. A frame that is
    /// refused does not hold up those behind it.
    #[inline]
    pub fn flush(&mut self, mut sent: impl FnMut(Result<(), Errno>)) {
        let mut at = 0;
        while at < self.len {
            // SAFETY: the headers up to `len` were set by `push`, and point to frames that are borrowed
            // for as long as this burst lives.
            let count = unsafe {
                libc::sendmmsg(
                    self.writer.as_fd().as_raw_fd(),
                    self.sender.headers[at..].as_mut_ptr(),
                    (self.len - at) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    (0..count).for_each(|_| sent(Ok(())));
                    at += count;
                }
                Err(_) => match Errno::from_io_error(&io::Error::last_os_error()) {
                    Some(Errno::INTR) => {}
                    errno => {
                        sent(Err(errno.unwrap_or(Errno::IO)));
                        at += 1;
                    }
                },
            }
        }
        self.len = 0;
    }
}

impl Writer {
    /// Sends one frame or super-frame, a virtio-net header first, in one call. The first piece holds
    /// at least the whole virtio-net header; there are at most [`MAX_PIECES`].
    ///
    /// `ENETDOWN`: the link is down. `ENXIO`: it is gone. `EAGAIN`, `ENOBUFS`: no room. `EMSGSIZE`: longer
    /// than the MTU and no super-frame. `EINVAL`: the virtio-net header is not taken.
    #[inline]
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        if self.short_header {
            return self.send_short(pieces);
        }
        match pieces {
            [whole] => rustix::io::write(&self.fd, whole),
            pieces => rustix::io::writev(&self.fd, pieces),
        }
        .map(drop)
    }

    /// The same where the kernel's header has 10 bytes.
    #[cold]
    fn send_short(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        let Some((first, rest)) = pieces.split_first() else { return Err(Errno::INVAL) };
        let Some((vnet, frame)) = first.split_at_checked(VNET_LEN) else { return Err(Errno::INVAL) };
        let mut short = [IoSlice::new(&[]); MAX_PIECES + 1];
        let Some(room) = short.get_mut(2..2 + rest.len()) else { return Err(Errno::INVAL) };
        room.copy_from_slice(rest);
        short[0] = IoSlice::new(&vnet[..SHORT_VNET_LEN]);
        short[1] = IoSlice::new(frame);
        rustix::io::writev(&self.fd, &short[..2 + rest.len()]).map(drop)
    }
}

fn piece(bytes: &[u8]) -> libc::iovec {
    // The kernel only reads it, whatever the field's type says.
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
