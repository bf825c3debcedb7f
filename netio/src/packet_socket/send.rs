//! Sending frames in batches (sendmmsg(2)).

use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use packet::VNET_LEN;
use rustix::io::Errno;

use super::{SHORT_VNET_LEN, Writer};

/// Maximum number of frames per system call.
pub const MAX_BURST: usize = 64;

/// Maximum number of pieces of one frame.
pub const MAX_PIECES: usize = 127;

/// The lists that sendmmsg(2) reads, allocated once for each worker.
pub struct Sender {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[[libc::iovec; 2]]>,
}

// SAFETY: the pointers in the lists are set by `Burst::push` before they are used, and are not used between bursts.
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
    /// Allocates all memory that it will ever use.
    #[must_use]
    pub fn new() -> Sender {
        // SAFETY: an all-zero `mmsghdr` is a valid, empty one.
        let empty: libc::mmsghdr = unsafe { mem::zeroed() };
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Sender { headers: vec![empty; MAX_BURST].into(), pieces: vec![[nothing; 2]; MAX_BURST].into() }
    }

    /// Starts a burst of frames to one interface.
    pub fn burst<'m, 'f>(&'m mut self, writer: &'m Writer) -> Burst<'m, 'f> {
        Burst { sender: self, writer, len: 0, frames: PhantomData }
    }
}

/// Frames that are collected to be sent by [`flush`](Self::flush). Dropping it discards them.
#[derive(Debug)]
pub struct Burst<'m, 'f> {
    sender: &'m mut Sender,
    writer: &'m Writer,
    len: usize,
    frames: PhantomData<&'f [u8]>,
}

impl<'f> Burst<'_, 'f> {
    /// Appends a frame or super-frame, with its virtio-net header first. `false` if there are [`MAX_BURST`] frames already:
    /// flush, then push the frame again.
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

    /// Number of collected frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no frame is collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends the collected frames, and calls `sent` with the result of each, in order. After a refused frame the next ones
    /// are sent nevertheless.
    #[inline]
    pub fn flush(&mut self, mut sent: impl FnMut(Result<(), Errno>)) {
        let mut at = 0;
        while at < self.len {
            // SAFETY: the headers up to `len` were set by `push`, and point to frames that are borrowed for the lifetime
            // of this burst.
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
    /// Sends one frame or super-frame in one system call. The first piece contains the whole virtio-net header; there are
    /// at most [`MAX_PIECES`] pieces.
    ///
    /// `ENETDOWN`: the link is down. `ENXIO`: the link was deleted. `EAGAIN`, `ENOBUFS`: the queue is full. `EMSGSIZE`: the
    /// frame is longer than the MTU and not a super-frame. `EINVAL`: invalid virtio-net header.
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

    /// [`send`](Self::send) for kernels whose virtio-net header has 10 bytes.
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
    // The kernel only reads the bytes, although the field is a mutable pointer.
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
