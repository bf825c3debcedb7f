//! Sending datagrams and trains in batches (sendmmsg(2)).
//!
//! One system call serves one socket, and a burst uses as many sockets as it has flows. So messages are collected and
//! grouped by source port, those of a port in order. The results are reported in the order in which the messages were pushed.
//!
//! A train that the kernel refuses is sent again datagram by datagram: its pieces are split where the datagrams end.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use super::message::{Message, Pieces, SendMode};
use super::sources::Writer;

pub use super::message::Outgoing;

/// Maximum number of messages in a burst.
pub const MAX_MESSAGES: usize = 64;

/// Maximum number of pieces in a burst, and in one message (`UIO_MAXIOV`).
pub const MAX_PIECES: usize = 1024;

/// Maximum number of datagrams in a train (`UDP_MAX_SEGMENTS` before Linux 6.9). Longer trains are sent datagram by datagram.
pub const MAX_SEGMENTS: usize = 64;

/// Maximum length of a train or datagram over IPv4, in bytes. Longer trains are sent datagram by datagram.
pub const MAX_PAYLOAD: usize = 65_535 - 20 - 8;

/// `ENOTSUPP` of the kernel (`include/linux/errno.h`), which some drivers return instead of `EOPNOTSUPP`.
const ENOTSUPP: Errno = Errno::from_raw_os_error(524);

/// Lists for sendmmsg(2), allocated once for each worker.
pub struct Sender {
    messages: Box<[Message]>,
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    /// For a train that is split: its datagrams, and its pieces, of which each split between two datagrams makes one more.
    cut_headers: Box<[libc::mmsghdr]>,
    cut_pieces: Box<[libc::iovec]>,
}

// SAFETY: the pointers in the lists are set before they are used, by `Burst::push` or while flushing, and are not used
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
    /// Allocates all memory that it will ever use.
    #[must_use]
    pub fn new() -> Sender {
        // SAFETY: an all-zero `mmsghdr` is a valid, empty one.
        let empty: libc::mmsghdr = unsafe { mem::zeroed() };
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Sender {
            messages: vec![Message::new(); MAX_MESSAGES].into(),
            headers: vec![empty; MAX_MESSAGES].into(),
            pieces: vec![nothing; MAX_PIECES].into(),
            cut_headers: vec![empty; MAX_SEGMENTS].into(),
            cut_pieces: vec![nothing; MAX_PIECES + MAX_SEGMENTS].into(),
        }
    }

    /// Starts a burst of messages.
    pub fn burst<'m, 'f>(&'m mut self, writer: &'m Writer) -> Burst<'m, 'f> {
        Burst { sender: self, writer, len: 0, pieces: 0, payloads: PhantomData }
    }
}

/// Messages that are collected to be sent by [`flush`](Self::flush). Dropping it discards them.
#[derive(Debug)]
pub struct Burst<'m, 'f> {
    sender: &'m mut Sender,
    writer: &'m Writer,
    len: usize,
    pieces: usize,
    payloads: PhantomData<&'f [u8]>,
}

impl<'f> Burst<'_, 'f> {
    /// Appends a message whose payload is the concatenation of these pieces. `false` if there would be more than
    /// [`MAX_MESSAGES`] or [`MAX_PIECES`]: flush, then push it again. An empty burst accepts every message; one that can
    /// never be sent is reported by `flush` as `EMSGSIZE`.
    #[inline]
    #[must_use]
    pub fn push(&mut self, to: &Outgoing, pieces: impl IntoIterator<Item = &'f [u8]>) -> bool {
        let Some(message) = self.sender.messages.get_mut(self.len) else { return false };
        let mut room = self.sender.pieces[self.pieces..].iter_mut();
        let (mut count, mut bytes, mut fits) = (0, 0, true);
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            let Some(slot) = room.next() else {
                fits = false;
                break;
            };
            // The kernel only reads the bytes, although the field is a mutable pointer.
            *slot = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
            bytes += piece.len();
            count += 1;
        }
        if !fits && self.len > 0 {
            return false;
        }
        let train = to.segment_size != 0 && bytes > usize::from(to.segment_size);
        let whole =
            !train || self.writer.segments() && bytes <= MAX_PAYLOAD && bytes <= MAX_SEGMENTS * usize::from(to.segment_size);
        message.mode = match (fits, whole) {
            (false, _) => SendMode::Never,
            (true, true) => SendMode::Whole,
            (true, false) => SendMode::Split,
        };
        message.port = self.writer.port(to.source);
        message.segment_size = if train { to.segment_size } else { 0 };
        (message.first_piece, message.pieces) = (self.pieces, count);
        message.address_to(to.to);
        message.control_for(to, self.writer.is_ipv4());
        self.pieces += count;
        self.len += 1;
        true
    }

    /// Number of collected messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no message is collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends the collected messages, and calls `sent` with index and result of each, in the order of pushing. After a refused
    /// message the next ones are sent nevertheless. `EMSGSIZE`: too long for the path, and not to be fragmented. `EAGAIN`,
    /// `ENOBUFS`: the queue is full. `ENETUNREACH`, `EHOSTUNREACH`, `EINVAL`: no route, or not from this address. A train
    /// that is sent datagram by datagram ends with the first error, which is its result.
    #[inline]
    pub fn flush(&mut self, mut sent: impl FnMut(usize, Result<(), Errno>)) {
        // Port, index, and whether it is sent whole: sorted by port, and by index within a port.
        let mut keys = [0u32; MAX_MESSAGES];
        for (index, (key, message)) in keys.iter_mut().zip(&self.sender.messages[..self.len]).enumerate() {
            *key = u32::from(message.port) << 8 | (index as u32) << 1 | u32::from(message.mode == SendMode::Whole);
        }
        let keys = &mut keys[..self.len];
        keys.sort_unstable();
        for group in keys.chunk_by(|a, b| a >> 8 == b >> 8) {
            self.send_group(group);
        }
        for (index, message) in self.sender.messages[..self.len].iter().enumerate() {
            sent(index, message.result);
        }
        (self.len, self.pieces) = (0, 0);
    }

    /// Sends the messages of one port.
    fn send_group(&mut self, group: &[u32]) {
        let Some(first) = group.first() else { return };
        let socket = self.writer.socket((first >> 8) as u16);
        for run in group.chunk_by(|a, b| is_whole(*a) && is_whole(*b)) {
            let first = place(run[0]);
            match self.sender.messages[first].mode {
                SendMode::Whole => self.send_run(socket, run),
                SendMode::Split => self.sender.messages[first].result = self.sender.send_split(socket, first),
                SendMode::Never => self.sender.messages[first].result = Err(Errno::MSGSIZE),
            }
        }
    }

    /// Messages of one socket, each as it is.
    fn send_run(&mut self, socket: BorrowedFd<'_>, run: &[u32]) {
        self.sender.describe(run);
        let (mut at, mut again) = (0, true);
        while at < run.len() {
            // SAFETY: `describe` has set as many headers, which point to messages and pieces of the sender; those
            // point to payloads that are borrowed for as long as this burst lives.
            let count = match unsafe { send_messages(socket, &mut self.sender.headers[at..run.len()]) } {
                // The pending error of an earlier datagram, which is reported once.
                Err(Errno::CONNREFUSED) if again => {
                    again = false;
                    continue;
                }
                Err(Errno::AGAIN) => {
                    // The queue is full for the following messages as well.
                    self.tell(&run[at..], Err(Errno::AGAIN));
                    return;
                }
                Err(errno) => {
                    let result = self.send_refused(socket, place(run[at]), errno);
                    self.tell(&run[at..=at], result);
                    1
                }
                Ok(count) => {
                    self.tell(&run[at..at + count], Ok(()));
                    count
                }
            };
            (at, again) = (at + count, true);
        }
    }

    fn tell(&mut self, keys: &[u32], result: Result<(), Errno>) {
        keys.iter().for_each(|key| self.sender.messages[place(*key)].result = result);
    }

    /// Sends a refused train datagram by datagram, if the error was about trains.
    #[cold]
    fn send_refused(&mut self, socket: BorrowedFd<'_>, index: usize, errno: Errno) -> Result<(), Errno> {
        let train = self.sender.messages[index].segment_size != 0;
        let (curable, never) = match errno {
            Errno::IO | Errno::OPNOTSUPP | ENOTSUPP => (true, true),
            // Older kernels return this for a length above the MTU, even where datagrams may be fragmented.
            Errno::INVAL => (true, !self.writer.may_fragment()),
            Errno::MSGSIZE => (self.writer.may_fragment(), false),
            _ => (false, false),
        };
        if !(train && curable) {
            return Err(errno);
        }
        self.sender.send_split(socket, index)?;
        if never {
            self.writer.train_refused();
        }
        Ok(())
    }
}

impl Sender {
    /// Fills in a header for each of these messages.
    #[inline]
    fn describe(&mut self, run: &[u32]) {
        for (header, key) in self.headers.iter_mut().zip(run) {
            let message = &mut self.messages[place(*key)];
            let pieces = &mut self.pieces[message.first_piece..message.first_piece + message.pieces];
            message.describe(header, pieces, message.segment_size != 0);
        }
    }

    /// Sends the datagrams of a train one by one, up to the first error.
    #[cold]
    fn send_split(&mut self, socket: BorrowedFd<'_>, index: usize) -> Result<(), Errno> {
        let message = &mut self.messages[index];
        let pieces = &self.pieces[message.first_piece..message.first_piece + message.pieces];
        let mut rest = Pieces::new(pieces);
        while !rest.is_empty() {
            let (mut datagrams, mut used) = (0, 0);
            while datagrams < MAX_SEGMENTS && !rest.is_empty() {
                let count = rest.cut(message.segment_size.into(), &mut self.cut_pieces[used..]);
                message.describe(&mut self.cut_headers[datagrams], &mut self.cut_pieces[used..used + count], false);
                (datagrams, used) = (datagrams + 1, used + count);
            }
            let mut at = 0;
            while at < datagrams {
                // SAFETY: these headers were just filled in. They point to this message and to split pieces, which point
                // into payloads that are borrowed for the lifetime of the burst.
                at += unsafe { send_messages(socket, &mut self.cut_headers[at..datagrams]) }?;
            }
        }
        Ok(())
    }
}

fn is_whole(key: u32) -> bool {
    key & 1 != 0
}

/// The index of a key's message in the burst.
fn place(key: u32) -> usize {
    (key as usize & 0xff) >> 1
}

/// sendmmsg(2). Returns the number of messages sent, at least one.
///
/// # Safety
///
/// Each header points to an address, pieces and control messages that are valid for the call.
unsafe fn send_messages(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
    loop {
        // SAFETY: guaranteed by the caller.
        let count = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, libc::MSG_DONTWAIT as _)
        };
        if let Ok(count) = usize::try_from(count) {
            return Ok(count);
        }
        match Errno::from_io_error(&io::Error::last_os_error()) {
            Some(Errno::INTR) => {}
            errno => return Err(errno.unwrap_or(Errno::IO)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use crate::link::{self, Change};
    use crate::udp::{ChecksumPolicy, Sources, SourcesSpec};
    use crate::{netns, option};

    /// The kernel refuses every train of a socket without checksums. Passes without testing anything if the process may not
    /// create a namespace.
    #[test]
    fn a_refused_train_goes_datagram_by_datagram_and_after_a_few_none_is_tried() {
        let Ok(netns) = netns::create() else { return };
        let home = netns::inside(netns.as_fd(), || {
            link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() })?;
            let local = [127, 0, 0, 1].into();
            let spec = SourcesSpec { local, device: None, dont_fragment: true, checksum: ChecksumPolicy::On, count: 1 };
            let peer = UdpSocket::bind((local, 0))?;
            peer.set_nonblocking(true)?;
            Ok((peer, Sources::open(&spec).expect("a source")))
        });
        let Ok((peer, sources)) = home else { return };
        let writer = sources.writer();
        option::set(writer.socket(0), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("an option");
        let to = Outgoing { to: peer.local_addr().expect("an address"), source: 0, tos: 0, ttl: 9, segment_size: 1000 };
        let bytes: Vec<u8> = (0..2700).map(|at| (at % 251) as u8).collect();
        let mut sender = Sender::new();
        for round in 0..5 {
            let mut burst = sender.burst(writer);
            assert!(burst.push(&Outgoing { segment_size: 0, ..to }, [&b"before"[..]]));
            assert!(burst.push(&to, bytes.chunks(600)));
            assert!(burst.push(&Outgoing { segment_size: 0, ..to }, [&b"after"[..]]));
            burst.flush(|_, result| assert_eq!(result, Ok(())));
            let mut room = [0; 4000];
            let datagrams: Vec<Vec<u8>> =
                std::iter::from_fn(|| peer.recv(&mut room).ok().map(|len| room[..len].to_vec())).collect();
            let expected = [b"before", &bytes[..1000], &bytes[1000..2000], &bytes[2000..], b"after"];
            assert_eq!(datagrams, expected);
            assert_eq!(writer.segments(), round < 2, "after round {round}");
        }
    }
}
