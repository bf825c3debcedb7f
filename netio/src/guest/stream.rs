//! Frames behind their lengths, through a Unix or TCP connection: QEMU's `-netdev stream`, passt, libkrun.
//!
//! ```text
//!  | 4, big-endian | length  | 4 ..
//!  +---------------+---------+----
//!  | length        | frame   |
//! ```
//!
//! *Receiving.* One read takes what is there, many frames at once, into a buffer of the connection's own, from where
//! they are copied into a batch; the rest of a frame that has not come whole stays for the next read. Frames that
//! did not fit into the batch are in the buffer and no longer in the socket, so [`Received::More`] must be heeded:
//! no poller knows of them. A length of 0 is an empty frame, which is dropped like any that is too short. One that
//! no frame can have ends the connection, since nobody knows where the next frame begins.
//!
//! *Sending.* Many frames go in one call, from where they lie. What the socket does not take, a part of a frame
//! or whole ones, is copied into a buffer of 256 KiB, and goes first the next time, or when the socket can be
//! written to again. When that is full frames are dropped. Nobody ever waits for a peer; only several workers that
//! write at once wait for each other, one call long, since a frame must not begin within another.
//!
//! *Life.* A connection ends when its reader is dropped, whoever still has a writer.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use packet::batch::MAX_FRAME_LEN;
use packet::{Batch, VNET_LEN, VnetHeader};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown};

use super::connection::Stream;
use super::{MAX_PIECES, body, checked};
use crate::poll::{Poller, Writable};
use crate::tap::Received;

/// A frame's length, before it.
const PREFIX_LEN: usize = 4;

/// Bytes that one read takes at most: a batch of full frames, and more than the longest frame.
const ROOM: usize = 96 << 10;
const _: () = assert!(ROOM > PREFIX_LEN + MAX_FRAME_LEN);

/// Bytes that may wait for a peer besides what the socket holds.
pub const MAX_LEFT: usize = 256 << 10;
const _: () = assert!(MAX_LEFT > PREFIX_LEN + MAX_FRAME_LEN);

/// Frames of one call, at most.
const MAX_BURST: usize = 64;

impl Stream {
    /// Its two directions, with all the memory that they will ever use.
    #[must_use]
    pub fn split(self) -> (StreamReader, StreamWriter) {
        let socket = Arc::new(self.socket);
        let left = Mutex::new(Left { bytes: VecDeque::with_capacity(MAX_LEFT), watch: None, armed: false });
        let line = Line { socket: Arc::clone(&socket), left, has_left: AtomicBool::new(false) };
        let reader = StreamReader { socket, buffer: vec![0; ROOM].into(), start: 0, end: 0 };
        (reader, StreamWriter(Arc::new(line)))
    }
}

/// What a peer sends. One worker reads it. Dropped, it ends the connection.
pub struct StreamReader {
    socket: Arc<OwnedFd>,
    /// What has been read, from `start` to `end`: whole frames, and the beginning of one more.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StreamReader").field("buffered", &(self.end - self.start)).finish_non_exhaustive()
    }
}

impl AsFd for StreamReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// What stands at the front of what was read.
enum Front {
    /// A frame of so many bytes, behind its length.
    Frame(usize),
    /// Less than one.
    Part,
    /// What no frame begins with.
    Nonsense,
}

impl StreamReader {
    /// Appends frames to a batch, of one read at most. [`Received::More`]: there are frames that are no longer in
    /// the socket, so call again without waiting for it. [`Received::Gone`]: the peer has closed, or sent nonsense;
    /// frames before that have been given.
    #[inline]
    pub fn recv(&mut self, rx: &mut Batch) -> Received {
        if !self.is_whole()
            && let Err(end) = self.read()
        {
            return end;
        }
        loop {
            match self.front() {
                Front::Frame(len) => {
                    let at = self.start + PREFIX_LEN;
                    if !rx.push(VnetHeader::default(), &self.buffer[at..at + len]) {
                        return Received::More;
                    }
                    self.start = at + len;
                }
                Front::Part => return Received::Drained,
                // It stays at the front, so nothing is read any more.
                Front::Nonsense => return Received::Gone,
            }
        }
    }

    /// Is there something to give without a read?
    fn is_whole(&self) -> bool {
        !matches!(self.front(), Front::Part)
    }

    #[inline]
    fn front(&self) -> Front {
        let Some((prefix, rest)) = self.buffer[self.start..self.end].split_first_chunk() else { return Front::Part };
        match u32::from_be_bytes(*prefix) as usize {
            len if len > MAX_FRAME_LEN => Front::Nonsense,
            len if len > rest.len() => Front::Part,
            len => Front::Frame(len),
        }
    }

    /// One read, behind the part of a frame that is there. There is always room, since a part is less than the
    /// longest frame.
    fn read(&mut self) -> Result<(), Received> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match recv(&self.socket, &mut self.buffer[self.end..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(Received::Gone),
            Ok((len, _)) => {
                self.end += len;
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Err(Received::Drained),
            Err(_) => Err(Received::Gone),
        }
    }
}

/// What is sent to a peer, by any number of workers.
#[derive(Clone, Debug)]
pub struct StreamWriter(Arc<Line>);

struct Line {
    socket: Arc<OwnedFd>,
    /// Held for one call.
    left: Mutex<Left>,
    /// Is there something in `left`?
    has_left: AtomicBool,
}

impl fmt::Debug for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Line").field("has_left", &self.has_left).finish_non_exhaustive()
    }
}

/// What the socket did not take.
struct Left {
    bytes: VecDeque<u8>,
    watch: Option<Writable>,
    /// The watch will tell.
    armed: bool,
}

impl AsFd for StreamWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl StreamWriter {
    /// Sends one frame. The first piece begins with a virtio-net header, which is not sent; there are at most
    /// [`MAX_PIECES`].
    ///
    /// `EAGAIN`: no room. `ENXIO`: the peer is gone. `EMSGSIZE`: longer than any frame. `EINVAL`: no frame.
    #[inline]
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        let Some((first, rest)) = pieces.split_first().filter(|(_, rest)| rest.len() < MAX_PIECES) else {
            return Err(Errno::INVAL);
        };
        let first = first.get(VNET_LEN..).ok_or(Errno::INVAL)?;
        let len = checked(first.len() + rest.iter().map(|piece| piece.len()).sum::<usize>())?;
        let prefix = (len as u32).to_be_bytes();
        let mut all = [IoSlice::new(&[]); MAX_PIECES + 1];
        (all[0], all[1]) = (IoSlice::new(&prefix), IoSlice::new(first));
        all[2..2 + rest.len()].copy_from_slice(rest);
        let all = &all[..2 + rest.len()];
        let mut left = self.lock();
        let written = left.write(&self.0.socket, all);
        let kept = written.and_then(|written| left.keep(written, PREFIX_LEN + len, all));
        self.note(&mut left);
        kept
    }

    /// Sends many frames, each with a virtio-net header first, and tells, frame by frame and in order, how it went:
    /// see [`send`](Self::send). Other workers wait while it tells.
    pub fn send_many(&self, frames: &[IoSlice<'_>], mut sent: impl FnMut(Result<(), Errno>)) {
        for frames in frames.chunks(MAX_BURST) {
            let mut prefixes = [[0; PREFIX_LEN]; MAX_BURST];
            for (prefix, frame) in prefixes.iter_mut().zip(frames) {
                *prefix = (body(frame).map_or(0, <[u8]>::len) as u32).to_be_bytes();
            }
            // What is no frame is nothing twice, so that all others have their place.
            let mut all = [IoSlice::new(&[]); 2 * MAX_BURST];
            for ((pieces, prefix), frame) in all.chunks_exact_mut(2).zip(&prefixes).zip(frames) {
                if let Ok(body) = body(frame) {
                    pieces.copy_from_slice(&[IoSlice::new(prefix), IoSlice::new(body)]);
                }
            }
            let all = &all[..2 * frames.len()];
            let mut left = self.lock();
            let written = left.write(&self.0.socket, all);
            let mut rest = written.unwrap_or(0);
            for (frame, pieces) in frames.iter().zip(all.chunks_exact(2)) {
                sent(written.and_then(|_| body(frame)).and_then(|body| {
                    let len = PREFIX_LEN + body.len();
                    let of_it = rest.min(len);
                    rest -= of_it;
                    left.keep(of_it, len, pieces)
                }));
            }
            self.note(&mut left);
        }
    }

    /// Does something wait until the socket can be written to?
    #[inline]
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.0.has_left.load(Ordering::Relaxed)
    }

    /// How many bytes wait until the socket can be written to, at most [`MAX_LEFT`]. Waits for a worker that is just
    /// sending.
    #[must_use]
    pub fn left(&self) -> usize {
        if self.has_left() { self.lock().bytes.len() } else { 0 }
    }

    /// Sends what was left, as far as the socket takes it. `ENXIO`: the peer is gone.
    pub fn flush(&self) -> Result<(), Errno> {
        let mut left = self.lock();
        left.armed = false;
        let flushed = left.flush(&self.0.socket);
        self.note(&mut left);
        flushed
    }

    /// From now on that poller tells, with this token, when there is something left and the socket can be written
    /// to; call [`flush`](Self::flush) then. It may tell once too often. Nothing is polled while nothing is left. Another
    /// poller takes the place of this one.
    pub fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        let watch = poller.add_writable(self.as_fd(), token)?;
        let mut left = self.lock();
        (left.watch, left.armed) = (Some(watch), true);
        Ok(())
    }

    /// No poller tells any more.
    pub fn unwatch(&self) {
        self.lock().watch = None;
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits is known outside, and somebody will tell when it can go.
    #[inline]
    fn note(&self, left: &mut Left) {
        let has_left = !left.bytes.is_empty();
        self.0.has_left.store(has_left, Ordering::Relaxed);
        if has_left
            && !left.armed
            && let Some(watch) = &left.watch
        {
            left.armed = watch.arm().is_ok();
        }
    }
}

impl Left {
    /// Writes as much as the socket takes, of what was left first.
    #[inline]
    fn write(&mut self, socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.flush(socket)?;
        if self.bytes.is_empty() { write(socket, pieces) } else { Ok(0) }
    }

    #[inline]
    fn flush(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        while !self.bytes.is_empty() {
            let (front, back) = self.bytes.as_slices();
            match write(socket, &[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(0) => break,
                Ok(written) => drop(self.bytes.drain(..written)),
                Err(errno) => {
                    // What follows would begin within a frame: the end, of which the reader hears.
                    self.bytes.clear();
                    let _ = shutdown(socket, Shutdown::Both);
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// Keeps what was not written of a frame: of one that was begun all, of any other if there is room.
    #[inline]
    fn keep(&mut self, written: usize, len: usize, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        if written == len {
            return Ok(());
        }
        if self.bytes.len() + len - written > MAX_LEFT {
            return Err(Errno::AGAIN);
        }
        let mut skip = written;
        for piece in pieces {
            let of_it = skip.min(piece.len());
            self.bytes.extend(&piece[of_it..]);
            skip -= of_it;
        }
        Ok(())
    }
}

/// One call; 0 if the socket takes nothing now.
#[inline]
fn write(socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
    loop {
        match sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Ok(0),
            // Whatever else it is, nothing can follow on this connection.
            Err(_) => return Err(Errno::NXIO),
            written => return written,
        }
    }
}
