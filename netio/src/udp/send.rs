//! Many datagrams, and trains of them, in one system call (sendmmsg(2)).
//!
//! One call serves one socket, and a burst has as many as there are flows in it. So messages are collected, put
//! together by source port, each port's in their order, and how each went is told in the order in which they
//! came. Where a port has trains as well as single datagrams, all go through the socket for trains: one
//! call is worth more than a checksum less, and two sockets would need two, or would turn a flow's order round.
//!
//! A train that the kernel does not take is sent once more, datagram by datagram: its pieces are cut where
//! the datagrams end.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use super::sources::{DEFAULT_TTL, Writer};

/// Messages of one burst, at most.
pub const MAX_MESSAGES: usize = 64;

/// Pieces of all messages of one burst, at most, and of one message (`UIO_MAXIOV`).
pub const MAX_PIECES: usize = 1024;

/// Datagrams of one train, at most (`UDP_MAX_SEGMENTS` before Linux 6.9). Longer ones go datagram by datagram.
pub const MAX_SEGMENTS: usize = 64;

/// Bytes of one train or datagram over IPv4, at most. Longer trains go datagram by datagram.
pub const MAX_PAYLOAD: usize = 65_535 - 20 - 8;

/// Room for three control messages of one integer each, in 8-byte words so that they are aligned.
const CONTROL_WORDS: usize = 9;
// SAFETY: CMSG_SPACE only computes.
const CONTROL_SPACE: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize;
const _: () = assert!(3 * CONTROL_SPACE <= CONTROL_WORDS * 8);

/// What the kernel says for `EOPNOTSUPP` where it has a mind to (`include/linux/errno.h`).
const ENOTSUPP: Errno = Errno::from_raw_os_error(524);

/// Where a message goes, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The peer.
    pub to: SocketAddr,
    /// The flow's hash: equal ones leave from one source port.
    pub source: u16,
    /// IPv4's type of service or IPv6's traffic class.
    pub tos: u8,
    /// TTL or hop limit, at least 1.
    pub ttl: u8,
    /// Length of each datagram but the last of a train; 0: the message is one datagram.
    pub segment_size: u16,
}

#[derive(Clone, Copy)]
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// In one message.
    Whole,
    /// Datagram by datagram.
    Split,
    /// Not at all: it has more pieces than a message can have.
    Never,
}

/// What waits in a burst.
#[derive(Clone, Copy)]
struct Message {
    address: Address,
    address_len: libc::socklen_t,
    control: [u64; CONTROL_WORDS],
    /// Of the control messages that a single datagram has as well.
    control_len: usize,
    first_piece: usize,
    pieces: usize,
    segment_size: u16,
    port: u16,
    way: Way,
    result: Result<(), Errno>,
}

/// What one worker needs to send in bursts, allocated once.
pub struct Sender {
    messages: Box<[Message]>,
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    /// A train's datagrams, and its pieces: each cut between two datagrams makes one more.
    cut_headers: Box<[libc::mmsghdr]>,
    cut_pieces: Box<[libc::iovec]>,
}

// SAFETY: the pointers in the lists are set before they are used, by `Burst::push` or while flushing,
// and lead nowhere between bursts.
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
        let message = Message {
            // SAFETY: all-zero addresses are valid ones.
            address: unsafe { mem::zeroed() },
            address_len: 0,
            control: [0; CONTROL_WORDS],
            control_len: 0,
            first_piece: 0,
            pieces: 0,
            segment_size: 0,
            port: 0,
            way: Way::Never,
            result: Ok(()),
        };
        Sender {
            messages: vec![message; MAX_MESSAGES].into(),
            headers: vec![empty; MAX_MESSAGES].into(),
            pieces: vec![nothing; MAX_PIECES].into(),
            cut_headers: vec![empty; MAX_SEGMENTS].into(),
            cut_pieces: vec![nothing; MAX_PIECES + MAX_SEGMENTS].into(),
        }
    }

    /// Begins to collect messages.
    pub fn burst<'m, 'f>(&'m mut self, writer: &'m Writer) -> Burst<'m, 'f> {
        Burst { sender: self, writer, len: 0, pieces: 0, payloads: PhantomData }
    }
}

/// Messages on their way out. Those that are not flushed are not sent.
#[derive(Debug)]
pub struct Burst<'m, 'f> {
    sender: &'m mut Sender,
    writer: &'m Writer,
    len: usize,
    pieces: usize,
    payloads: PhantomData<&'f [u8]>,
}

impl<'f> Burst<'_, 'f> {
    /// Appends a message, whose payload is these pieces one behind the other. `false` if it is not taken,
    /// because there are [`MAX_MESSAGES`] or [`MAX_PIECES`] already; flush, and push it again. An empty burst
    /// takes any; what can never be sent is told when flushing, as `EMSGSIZE`.
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
            // The kernel only reads it, whatever the field's type says.
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
        message.way = match (fits, whole) {
            (false, _) => Way::Never,
            (true, true) => Way::Whole,
            (true, false) => Way::Split,
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

    /// How many messages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends what was collected and tells, message by message in the order of their coming, how it went. One
    /// that is refused does not hold up those behind it. `EMSGSIZE`: too long for the path, and not to be
    /// fragmented. `EAGAIN`, `ENOBUFS`: no room. `ENETUNREACH`, `EHOSTUNREACH`, `EINVAL`: no route, or not from this
    /// address. Of a train that is sent datagram by datagram the first error ends it, and is told.
    #[inline]
    pub fn flush(&mut self, mut sent: impl FnMut(usize, Result<(), Errno>)) {
        // Port, place, and whether it goes whole: sorted by port, and stable within one.
        let mut keys = [0u32; MAX_MESSAGES];
        for (index, (key, message)) in keys.iter_mut().zip(&self.sender.messages[..self.len]).enumerate() {
            *key = u32::from(message.port) << 8 | (index as u32) << 1 | u32::from(message.way == Way::Whole);
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

    /// Messages of one port.
    fn send_group(&mut self, group: &[u32]) {
        let Some(first) = group.first() else { return };
        let messages = &self.sender.messages;
        let trains = group.iter().any(|key| is_whole(*key) && messages[place(*key)].segment_size != 0);
        let socket = self.writer.socket((first >> 8) as u16, trains);
        for run in group.chunk_by(|a, b| is_whole(*a) && is_whole(*b)) {
            let first = place(run[0]);
            match self.sender.messages[first].way {
                Way::Whole => self.send_run(socket, run),
                Way::Split => self.sender.messages[first].result = self.sender.send_split(socket, first),
                Way::Never => self.sender.messages[first].result = Err(Errno::MSGSIZE),
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
                // What an earlier datagram met with, told once.
                Err(Errno::CONNREFUSED) if again => {
                    again = false;
                    continue;
                }
                Err(Errno::AGAIN) => {
                    // There is no room for those behind it either.
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

    /// A train that is refused may go where it is no train.
    #[cold]
    fn send_refused(&mut self, socket: BorrowedFd<'_>, index: usize, errno: Errno) -> Result<(), Errno> {
        let train = self.sender.messages[index].segment_size != 0;
        let (curable, never) = match errno {
            Errno::IO | Errno::OPNOTSUPP | ENOTSUPP => (true, true),
            // Older kernels say this of a length beyond the MTU, also where datagrams could go in fragments.
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
    /// Sets a header for each of these messages.
    #[inline]
    fn describe(&mut self, run: &[u32]) {
        for (header, key) in self.headers.iter_mut().zip(run) {
            let message = &mut self.messages[place(*key)];
            let pieces = &mut self.pieces[message.first_piece..message.first_piece + message.pieces];
            message.describe(header, pieces, message.segment_size != 0);
        }
    }

    /// A train's datagrams, each by itself, up to the first that is refused.
    #[cold]
    fn send_split(&mut self, socket: BorrowedFd<'_>, index: usize) -> Result<(), Errno> {
        let message = &mut self.messages[index];
        let pieces = &self.pieces[message.first_piece..message.first_piece + message.pieces];
        let mut rest = Pieces { pieces, at: 0, offset: 0 };
        while !rest.is_empty() {
            let (mut datagrams, mut used) = (0, 0);
            while datagrams < MAX_SEGMENTS && !rest.is_empty() {
                let count = rest.cut(message.segment_size.into(), &mut self.cut_pieces[used..]);
                message.describe(&mut self.cut_headers[datagrams], &mut self.cut_pieces[used..used + count], false);
                (datagrams, used) = (datagrams + 1, used + count);
            }
            let mut at = 0;
            while at < datagrams {
                // SAFETY: these headers were set just now, and point to this message and to cut pieces; those
                // point into payloads that are borrowed for as long as the burst that calls this.
                at += unsafe { send_messages(socket, &mut self.cut_headers[at..datagrams]) }?;
            }
        }
        Ok(())
    }
}

impl Message {
    #[inline]
    fn address_to(&mut self, to: SocketAddr) {
        match to {
            SocketAddr::V4(to) => {
                self.address.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                    sin_zero: [0; 8],
                };
                self.address_len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(to) => {
                self.address.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                    sin6_scope_id: to.scope_id(),
                };
                self.address_len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
    }

    /// Says what is not the socket's default; a train's length comes last.
    #[inline]
    fn control_for(&mut self, to: &Outgoing, ipv4: bool) {
        let (level, tos, ttl) = if ipv4 {
            (libc::SOL_IP, libc::IP_TOS, libc::IP_TTL)
        } else {
            (libc::SOL_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT)
        };
        self.control_len = 0;
        if to.tos != 0 {
            self.say(level, tos, to.tos.into());
        }
        if to.ttl != DEFAULT_TTL {
            self.say(level, ttl, to.ttl.into());
        }
        if self.segment_size != 0 {
            self.put(libc::SOL_UDP, libc::UDP_SEGMENT, self.segment_size);
        }
    }

    fn say(&mut self, level: libc::c_int, kind: libc::c_int, value: libc::c_int) {
        self.put(level, kind, value);
        self.control_len += CONTROL_SPACE;
    }

    /// Writes a control message behind those that are there.
    #[inline]
    fn put<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        const { assert!(size_of::<T>() <= size_of::<libc::c_int>()) };
        // SAFETY: CMSG_LEN only computes.
        let len = unsafe { libc::CMSG_LEN(size_of::<T>() as u32) };
        // SAFETY: an all-zero `cmsghdr` is a valid one.
        let mut control: libc::cmsghdr = unsafe { mem::zeroed() };
        (control.cmsg_len, control.cmsg_level, control.cmsg_type) = (len as _, level, kind);
        let Some(room) = self.control.get_mut(self.control_len / 8..).filter(|room| room.len() * 8 >= CONTROL_SPACE) else {
            return;
        };
        let header = room.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: there is room for a header and a value of up to four bytes behind it, and a `u64` is at least as
        // strictly aligned as a header.
        unsafe {
            header.write(control);
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
    }

    #[inline]
    fn describe(&mut self, header: &mut libc::mmsghdr, pieces: &mut [libc::iovec], train: bool) {
        let control_len = self.control_len + if train { CONTROL_SPACE } else { 0 };
        header.msg_hdr.msg_name = (&raw mut self.address).cast();
        header.msg_hdr.msg_namelen = self.address_len;
        header.msg_hdr.msg_iov = pieces.as_mut_ptr();
        header.msg_hdr.msg_iovlen = pieces.len() as _;
        header.msg_hdr.msg_control = if control_len == 0 { ptr::null_mut() } else { self.control.as_mut_ptr().cast() };
        header.msg_hdr.msg_controllen = control_len as _;
    }
}

/// What is left of a train's pieces; none of them is empty.
struct Pieces<'p> {
    pieces: &'p [libc::iovec],
    at: usize,
    /// Bytes that are taken of the piece at `at`.
    offset: usize,
}

impl Pieces<'_> {
    fn is_empty(&self) -> bool {
        self.at == self.pieces.len()
    }

    /// Takes the next so many bytes, or what is left; how many pieces they are.
    fn cut(&mut self, mut bytes: usize, into: &mut [libc::iovec]) -> usize {
        let mut count = 0;
        while bytes > 0
            && let Some((piece, to)) = self.pieces.get(self.at).zip(into.get_mut(count))
        {
            let len = bytes.min(piece.iov_len - self.offset);
            *to = libc::iovec { iov_base: piece.iov_base.cast::<u8>().wrapping_add(self.offset).cast(), iov_len: len };
            (bytes, count, self.offset) = (bytes - len, count + 1, self.offset + len);
            if self.offset == piece.iov_len {
                (self.at, self.offset) = (self.at + 1, 0);
            }
        }
        count
    }
}

fn is_whole(key: u32) -> bool {
    key & 1 != 0
}

/// Where in the burst a key's message is.
fn place(key: u32) -> usize {
    (key as usize & 0xff) >> 1
}

/// sendmmsg(2); how many were sent, at least one.
///
/// # Safety
///
/// Each header points to an address, pieces and control messages that are valid for the call.
unsafe fn send_messages(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
    loop {
        // SAFETY: the caller promises it.
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

    /// A kernel that refuses every train: it does so for a socket without checksums. Needs the right to make a
    /// namespace, and says nothing without.
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
        option::set(writer.socket(0, true), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("an option");
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

    #[test]
    fn pieces_are_cut_where_datagrams_end() {
        let bytes: Vec<u8> = (0..23).collect();
        let split = |pieces: &[&[u8]], size| {
            let pieces: Vec<libc::iovec> = pieces
                .iter()
                .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
                .collect();
            let mut rest = Pieces { pieces: &pieces, at: 0, offset: 0 };
            let mut into = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 8];
            let mut cuts = Vec::new();
            while !rest.is_empty() {
                let count = rest.cut(size, &mut into);
                // Addresses stand for the bytes: they lie one behind the other.
                let starts = into[..count].iter().map(|piece| piece.iov_base.addr() - bytes.as_ptr().addr());
                cuts.push(starts.zip(into[..count].iter().map(|piece| piece.iov_len)).collect::<Vec<_>>());
            }
            cuts
        };
        assert_eq!(split(&[&bytes], 10), [[(0, 10)], [(10, 10)], [(20, 3)]]);
        assert_eq!(split(&[&bytes[..10], &bytes[10..]], 10), [[(0, 10)], [(10, 10)], [(20, 3)]]);
        let cuts = split(&[&bytes[..1], &bytes[1..12], &bytes[12..23]], 8);
        assert_eq!(cuts, [vec![(0, 1), (1, 7)], vec![(8, 4), (12, 4)], vec![(16, 7)]]);
    }
}
