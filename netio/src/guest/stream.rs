//! Frames in a Unix or TCP stream, each after its length: QEMU `-netdev stream`, passt, libkrun.
//!
//! ```text
//!  | 4, big-endian | length  | 4 ..
//!  +---------------+---------+----
//!  | length        | frame   |
//! ```
//!
//! *Receiving.* One read takes many frames into a buffer of the connection, from which they are copied into a batch. The
//! beginning of an incomplete frame stays in the buffer for the next read. Frames that did not fit into the batch are in
//! the buffer and no longer in the socket, so after [`Received::More`] the caller must call again: no poller reports them.
//! A length of 0 is an empty frame, dropped like every frame that is too short. A length above that of any frame ends the
//! connection, since the start of the next frame is unknown.
//!
//! *Sending.* Many frames are written in one system call, without a copy. What the socket does not take, whole frames or a
//! part of one, is copied into a backlog of 256 KiB, which is sent before any later frame, or when the socket becomes
//! writable. When the backlog is full, frames are dropped. No worker waits for a peer; workers that write at the same time
//! wait for each other, for one system call, since frames must not be interleaved.
//!
//! *End.* The connection ends when its reader is dropped, even if writers exist.

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

/// Length of the length field, in bytes.
const PREFIX_LEN: usize = 4;

/// Size of the receive buffer, in bytes: a batch of full frames, and more than the longest frame.
const ROOM: usize = 96 << 10;
const _: () = assert!(ROOM > PREFIX_LEN + MAX_FRAME_LEN);

/// Maximum size of the backlog, in bytes, in addition to the socket's send buffer.
pub const MAX_BACKLOG: usize = 256 << 10;
const _: () = assert!(MAX_BACKLOG > PREFIX_LEN + MAX_FRAME_LEN);

/// Maximum number of frames per system call.
const MAX_BURST: usize = 64;

impl Stream {
    /// Splits the connection into its two directions, and allocates all memory that they will ever use.
    #[must_use]
    pub fn split(self) -> (StreamReader, StreamWriter) {
        let socket = Arc::new(self.socket);
        let backlog = Mutex::new(Backlog { bytes: VecDeque::with_capacity(MAX_BACKLOG), watch: None, armed: false });
        let connection = Connection { socket: Arc::clone(&socket), backlog, has_backlog: AtomicBool::new(false) };
        let reader = StreamReader { socket, buffer: vec![0; ROOM].into(), start: 0, end: 0 };
        (reader, StreamWriter(Arc::new(connection)))
    }
}

/// The receiving direction, used by one worker. Dropping it ends the connection.
pub struct StreamReader {
    socket: Arc<OwnedFd>,
    /// Bytes `start..end` are received: whole frames, then perhaps the beginning of one.
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

/// What the received bytes begin with.
enum Front {
    /// A whole frame of this length, after its length field.
    Frame(usize),
    /// An incomplete frame.
    Part,
    /// An impossible length.
    Nonsense,
}

impl StreamReader {
    /// Appends frames to a batch, with at most one read. [`Received::More`]: the buffer contains further frames, so call
    /// again without polling the socket. [`Received::Gone`]: the peer closed the connection or sent an impossible length;
    /// earlier frames have been returned.
    #[inline]
    pub fn recv(&mut self, rx: &mut Batch) -> Received {
        if !self.has_buffered()
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
                // It is not removed, so nothing is read any more.
                Front::Nonsense => return Received::Gone,
            }
        }
    }

    /// True if the buffer begins with a whole frame or an impossible length.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
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

    /// Reads once, after the incomplete frame in the buffer. There is always room, since an incomplete frame is shorter than
    /// the longest frame.
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

/// The sending direction, shared by any number of workers.
#[derive(Clone, Debug)]
pub struct StreamWriter(Arc<Connection>);

struct Connection {
    socket: Arc<OwnedFd>,
    /// Locked for one system call.
    backlog: Mutex<Backlog>,
    /// True if the backlog is not empty.
    has_backlog: AtomicBool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection").field("has_backlog", &self.has_backlog).finish_non_exhaustive()
    }
}

/// Bytes that the socket did not take.
struct Backlog {
    bytes: VecDeque<u8>,
    watch: Option<Writable>,
    /// The watch will report writability.
    armed: bool,
}

impl AsFd for StreamWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl StreamWriter {
    /// Sends one frame. The first piece begins with a virtio-net header, which is not sent; there are at most
    /// [`MAX_PIECES`] pieces.
    ///
    /// `EAGAIN`: the backlog is full. `ENXIO`: the connection has ended. `EMSGSIZE`: the frame is too long. `EINVAL`: the
    /// frame is empty or has no virtio-net header.
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
        let mut backlog = self.lock();
        let written = backlog.write(&self.0.socket, all);
        let kept = written.and_then(|written| backlog.keep(written, PREFIX_LEN + len, all));
        self.note(&mut backlog);
        kept
    }

    /// Sends many frames, each with a virtio-net header first, and calls `sent` with the result of each, in order; for the
    /// errors see [`send`](Self::send). Other workers wait during these calls.
    pub fn send_many(&self, frames: &[IoSlice<'_>], mut sent: impl FnMut(Result<(), Errno>)) {
        for frames in frames.chunks(MAX_BURST) {
            let mut prefixes = [[0; PREFIX_LEN]; MAX_BURST];
            for (prefix, frame) in prefixes.iter_mut().zip(frames) {
                *prefix = (body(frame).map_or(0, <[u8]>::len) as u32).to_be_bytes();
            }
            // An invalid frame has two empty pieces, so that the others keep their places.
            let mut all = [IoSlice::new(&[]); 2 * MAX_BURST];
            for ((pieces, prefix), frame) in all.chunks_exact_mut(2).zip(&prefixes).zip(frames) {
                if let Ok(body) = body(frame) {
                    pieces.copy_from_slice(&[IoSlice::new(prefix), IoSlice::new(body)]);
                }
            }
            let all = &all[..2 * frames.len()];
            let mut backlog = self.lock();
            let written = backlog.write(&self.0.socket, all);
            let mut rest = written.unwrap_or(0);
            for (frame, pieces) in frames.iter().zip(all.chunks_exact(2)) {
                sent(written.and_then(|_| body(frame)).and_then(|body| {
                    let len = PREFIX_LEN + body.len();
                    let of_it = rest.min(len);
                    rest -= of_it;
                    backlog.keep(of_it, len, pieces)
                }));
            }
            self.note(&mut backlog);
        }
    }

    /// True if the backlog is not empty.
    #[inline]
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.0.has_backlog.load(Ordering::Relaxed)
    }

    /// The length of the backlog in bytes, at most [`MAX_BACKLOG`]. Waits for a worker that is sending.
    #[must_use]
    pub fn backlog(&self) -> usize {
        if self.has_backlog() { self.lock().bytes.len() } else { 0 }
    }

    /// Sends the backlog, as far as the socket takes it. `ENXIO`: the connection has ended.
    pub fn flush(&self) -> Result<(), Errno> {
        let mut backlog = self.lock();
        backlog.armed = false;
        let flushed = backlog.flush(&self.0.socket);
        self.note(&mut backlog);
        flushed
    }

    /// Makes the poller report with this token when there is a backlog and the socket is writable; then call
    /// [`flush`](Self::flush). There may be a report without a backlog. The socket is polled only while there is a backlog.
    /// Replaces an earlier poller.
    pub fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        let watch = poller.add_writable(self.as_fd(), token)?;
        let mut backlog = self.lock();
        (backlog.watch, backlog.armed) = (Some(watch), true);
        Ok(())
    }

    /// Stops the reports to a poller.
    pub fn unwatch(&self) {
        self.lock().watch = None;
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.0.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes whether there is a backlog, and requests a report if there is one.
    #[inline]
    fn note(&self, backlog: &mut Backlog) {
        let has_backlog = !backlog.bytes.is_empty();
        self.0.has_backlog.store(has_backlog, Ordering::Relaxed);
        if has_backlog
            && !backlog.armed
            && let Some(watch) = &backlog.watch
        {
            backlog.armed = watch.arm().is_ok();
        }
    }
}

impl Backlog {
    /// Writes the backlog, then as many of these bytes as the socket takes. Returns the number of the latter.
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
                    // Later frames would begin within this one, so the connection ends, for the reader too.
                    self.bytes.clear();
                    let _ = shutdown(socket, Shutdown::Both);
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// Adds the unwritten part of a frame to the backlog, if there is room. There always is for the rest of a partly written
    /// frame.
    #[inline]
    fn keep(&mut self, written: usize, len: usize, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        if written == len {
            return Ok(());
        }
        if self.bytes.len() + len - written > MAX_BACKLOG {
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

/// Writes once. Returns 0 if the socket's buffer is full.
#[inline]
fn write(socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
    loop {
        match sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Ok(0),
            // After any other error the connection cannot be used.
            Err(_) => return Err(Errno::NXIO),
            written => return written,
        }
    }
}
