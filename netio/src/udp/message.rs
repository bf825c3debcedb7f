//! One message to be sent: its destination, its control messages, and how the pieces of a train are split into datagrams.

use std::mem;
use std::net::SocketAddr;
use std::ptr;

use rustix::io::Errno;

use super::sources::DEFAULT_TTL;

/// Size of the buffer for three control messages of one integer each, in 8-byte words so that it is aligned.
const CONTROL_WORDS: usize = 9;
// SAFETY: CMSG_SPACE only computes a length.
const CONTROL_SPACE: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize;
const _: () = assert!(3 * CONTROL_SPACE <= CONTROL_WORDS * 8);

/// Destination and outer header fields of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The peer's address and port.
    pub to: SocketAddr,
    /// The hash of the flow. Equal hashes have the same source port.
    pub source: u16,
    /// IPv4 type of service or IPv6 traffic class.
    pub tos: u8,
    /// TTL or hop limit, at least 1.
    pub ttl: u8,
    /// Length of each datagram of a train except the last, in bytes; 0 for a single datagram.
    pub segment_size: u16,
}

#[derive(Clone, Copy)]
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SendMode {
    /// As one message.
    Whole,
    /// Datagram by datagram.
    Split,
    /// Not at all: it has more pieces than a message can.
    Never,
}

/// A message in a burst. Its payload is a range of the burst's pieces.
#[derive(Clone, Copy)]
pub(super) struct Message {
    address: Address,
    address_len: libc::socklen_t,
    control: [u64; CONTROL_WORDS],
    /// Length of the control messages, without that for the segment size, in bytes.
    control_len: usize,
    pub(super) first_piece: usize,
    pub(super) pieces: usize,
    pub(super) segment_size: u16,
    pub(super) port: u16,
    pub(super) mode: SendMode,
    pub(super) result: Result<(), Errno>,
}

impl Message {
    /// An empty message.
    pub(super) fn new() -> Message {
        Message {
            // SAFETY: all-zero socket addresses are valid values.
            address: unsafe { mem::zeroed() },
            address_len: 0,
            control: [0; CONTROL_WORDS],
            control_len: 0,
            first_piece: 0,
            pieces: 0,
            segment_size: 0,
            port: 0,
            mode: SendMode::Never,
            result: Ok(()),
        }
    }

    #[inline]
    pub(super) fn address_to(&mut self, to: SocketAddr) {
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

    /// Writes control messages for what differs from the socket's defaults. That for the segment size is last.
    #[inline]
    pub(super) fn control_for(&mut self, to: &Outgoing, ipv4: bool) {
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

    /// Appends a control message.
    #[inline]
    fn put<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        const { assert!(size_of::<T>() <= size_of::<libc::c_int>()) };
        // SAFETY: CMSG_LEN only computes a length.
        let len = unsafe { libc::CMSG_LEN(size_of::<T>() as u32) };
        // SAFETY: an all-zero `cmsghdr` is a valid value.
        let mut control: libc::cmsghdr = unsafe { mem::zeroed() };
        (control.cmsg_len, control.cmsg_level, control.cmsg_type) = (len as _, level, kind);
        let Some(room) = self.control.get_mut(self.control_len / 8..).filter(|room| room.len() * 8 >= CONTROL_SPACE) else {
            return;
        };
        let header = room.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: the buffer has room for a header and a value of up to four bytes, and a `u64` is aligned at least as
        // strictly as a header.
        unsafe {
            header.write(control);
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
    }

    #[inline]
    pub(super) fn describe(&mut self, header: &mut libc::mmsghdr, pieces: &mut [libc::iovec], train: bool) {
        let control_len = self.control_len + if train { CONTROL_SPACE } else { 0 };
        header.msg_hdr.msg_name = (&raw mut self.address).cast();
        header.msg_hdr.msg_namelen = self.address_len;
        header.msg_hdr.msg_iov = pieces.as_mut_ptr();
        header.msg_hdr.msg_iovlen = pieces.len() as _;
        header.msg_hdr.msg_control = if control_len == 0 { ptr::null_mut() } else { self.control.as_mut_ptr().cast() };
        header.msg_hdr.msg_controllen = control_len as _;
    }
}

/// The remaining pieces of a train. No piece is empty.
pub(super) struct Pieces<'p> {
    pieces: &'p [libc::iovec],
    at: usize,
    /// Number of bytes already taken from the piece at `at`.
    offset: usize,
}

impl<'p> Pieces<'p> {
    pub(super) fn new(pieces: &'p [libc::iovec]) -> Pieces<'p> {
        Pieces { pieces, at: 0, offset: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.pieces.len()
    }

    /// Takes the next `bytes` bytes, or all that remain, and writes them to `into`. Returns the number of pieces.
    pub(super) fn cut(&mut self, mut bytes: usize, into: &mut [libc::iovec]) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_where_datagrams_end() {
        let bytes: Vec<u8> = (0..23).collect();
        let split = |pieces: &[&[u8]], size| {
            let pieces: Vec<libc::iovec> = pieces
                .iter()
                .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
                .collect();
            let mut rest = Pieces::new(&pieces);
            let mut into = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 8];
            let mut cuts = Vec::new();
            while !rest.is_empty() {
                let count = rest.cut(size, &mut into);
                // The bytes are contiguous, so addresses identify them.
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
