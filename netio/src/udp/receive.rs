//! Receiving datagrams and trains in batches (recvmmsg(2)).
//!
//! Control messages give the TOS of each message and, if the kernel has merged several datagrams, the length of each
//! except the last.
//!
//! *A misleading length.* The kernel of a peer on the same machine may deliver a tunnelled super-frame in one datagram. If
//! the inner packet is UDP (USO), the kernel reports the length of the inner segments as if it were that of the outer
//! datagrams (measured on Linux 6.18; `udp_cmsg_recv` checks only `SKB_GSO_UDP_L4`). The `tunnel` crate detects this: the
//! length of the inner packet is then that of the whole payload.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use packet::Datagram;
use rustix::io::Errno;

use super::Queue;
use crate::tap::Received;

/// Maximum number of messages per system call.
pub const MAX_MESSAGES: usize = 16;

/// Buffer size of one message, in bytes. The kernel's longest train is shorter.
const ROOM: usize = 64 << 10;

/// Distance between two buffers, in bytes. It is an odd number of cache lines above a multiple of 4 KiB, so that the first
/// bytes of all buffers do not fall into the same few cache sets, as in `packet::Batch::strided`.
const STRIDE: usize = ROOM + 25 * 64;

/// Size of the buffer for the two requested control messages, in 8-byte words so that it is aligned.
const CONTROL_WORDS: usize = 8;
const CONTROL_LEN: usize = CONTROL_WORDS * 8;

// SAFETY: CMSG_SPACE only computes a length.
const _: () = assert!(2 * unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize <= CONTROL_LEN);

/// Buffers and lists for recvmmsg(2), allocated once for each worker. Buffers that no message reaches are never touched, so
/// they take address space only.
pub struct Receiver {
    arena: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    addresses: Box<[libc::sockaddr_in6]>,
    controls: Box<[[u64; CONTROL_WORDS]]>,
    received: usize,
}

// SAFETY: the pointers in the lists are set by each call before it uses them, and lead to memory that
// moves along.
unsafe impl Send for Receiver {}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl Default for Receiver {
    fn default() -> Receiver {
        Receiver::new()
    }
}

impl Receiver {
    /// With all the memory that it will ever use.
    #[must_use]
    pub fn new() -> Receiver {
        // SAFETY: an all-zero `mmsghdr` is a valid, empty one.
        let empty: libc::mmsghdr = unsafe { mem::zeroed() };
        // SAFETY: an all-zero `sockaddr_in6` is a valid one.
        let nobody: libc::sockaddr_in6 = unsafe { mem::zeroed() };
        Receiver {
            arena: vec![0; MAX_MESSAGES * STRIDE].into(),
            headers: vec![empty; MAX_MESSAGES].into(),
            pieces: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MAX_MESSAGES].into(),
            addresses: vec![nobody; MAX_MESSAGES].into(),
            controls: vec![[0; CONTROL_WORDS]; MAX_MESSAGES].into(),
            received: 0,
        }
    }

    /// Receives up to `most` messages, and no more than [`MAX_MESSAGES`], in one system call;
    /// [`datagrams`](Self::datagrams) then returns them.
    /// Never returns [`Received::Gone`]: a UDP socket has no device.
    #[inline]
    pub fn recv(&mut self, queue: &Queue, most: usize) -> Received {
        self.prepare();
        let most = most.clamp(1, MAX_MESSAGES);
        self.received = self.call(queue, most);
        let bytes = self.headers[..self.received].iter().map(|header| header.msg_len as usize).sum();
        queue.buffer.note(queue.as_fd(), self.received, bytes);
        let full = self.received == most;
        if full { Received::More } else { Received::Drained }
    }

    /// The datagrams of the last [`recv`](Self::recv), in order. A datagram longer than its buffer is returned empty.
    #[inline]
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let received = self.headers[..self.received].iter().zip(&self.addresses).zip(self.arena.chunks_exact(STRIDE));
        received.filter_map(|((header, address), room)| {
            let payload = if is_cut(header) { &[] } else { room.get(..header.msg_len as usize)? };
            // SAFETY: the kernel has filled in this header, and its control buffer is ours and unchanged since.
            let ancillary = unsafe { ancillary(&header.msg_hdr) };
            let segment_size = if usize::from(ancillary.segment_size) < payload.len() { ancillary.segment_size } else { 0 };
            Some(Datagram { from: from(address)?, tos: ancillary.tos, segment_size, payload })
        })
    }

    /// Points the lists at the buffers, and resets the lengths, which each call overwrites.
    fn prepare(&mut self) {
        let rooms = self.arena.chunks_exact_mut(STRIDE);
        let lists = self.headers.iter_mut().zip(&mut self.pieces).zip(&mut self.addresses).zip(&mut self.controls);
        for ((((header, piece), address), control), room) in lists.zip(rooms) {
            *piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ROOM };
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
            header.msg_hdr.msg_flags = 0;
        }
    }

    /// recvmmsg(2), repeated after errors that do not concern the queued datagrams. Returns the number of messages.
    fn call(&mut self, queue: &Queue, most: usize) -> usize {
        // Each call removes one pending error. If errors continue, the next call of `recv` goes on.
        for _ in 0..=MAX_MESSAGES {
            // SAFETY: `most` is at most their number, and the headers point to buffers, addresses and control buffers of ours, with their lengths.
            let count = unsafe {
                libc::recvmmsg(
                    queue.as_fd().as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    most as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            if let Ok(count) = usize::try_from(count) {
                return count;
            }
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::AGAIN) => return 0,
                Some(Errno::INTR) => {}
                // An ICMP error for a sent datagram; the received ones are queued behind it.
                _ => {}
            }
        }
        0
    }
}

#[inline]
fn is_cut(header: &libc::mmsghdr) -> bool {
    header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0
}

/// The sender's address, if it is IPv4 or IPv6.
#[inline]
fn from(address: &libc::sockaddr_in6) -> Option<IpAddr> {
    match libc::c_int::from(address.sin6_family) {
        libc::AF_INET => {
            // SAFETY: `sockaddr_in` is shorter than `sockaddr_in6`, its alignment is not stricter, every bit pattern is
            // valid, and the family says that the kernel wrote one.
            let address = unsafe { ptr::from_ref(address).cast::<libc::sockaddr_in>().read() };
            Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => Some(Ipv6Addr::from(address.sin6_addr.s6_addr).to_canonical()),
        _ => None,
    }
}

/// The control messages of one message.
#[derive(Clone, Copy, Default)]
struct Ancillary {
    tos: u8,
    segment_size: u16,
}

/// Reads the control messages.
///
/// # Safety
///
/// The kernel has filled in the header and what it points to.
#[inline]
unsafe fn ancillary(header: &libc::msghdr) -> Ancillary {
    let mut ancillary = Ancillary::default();
    // SAFETY: the caller guarantees that the header's control buffer is valid.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() };
    while let Some(control) = next {
        // SAFETY: `control` is in the header's control buffer, followed by its data.
        let data = unsafe { libc::CMSG_DATA(control) };
        match (control.cmsg_level, control.cmsg_type) {
            // SAFETY: this message holds one byte (`ip_cmsg_recv_tos`).
            (libc::SOL_IP, libc::IP_TOS) => ancillary.tos = unsafe { data.read() },
            // SAFETY: this message holds an int, possibly unaligned.
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => ancillary.tos = unsafe { data.cast::<libc::c_int>().read_unaligned() } as u8,
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: this message holds an int (`udp_cmsg_recv`), whose value has at most 16 bits.
                ancillary.segment_size = unsafe { data.cast::<libc::c_int>().read_unaligned() } as u16;
            }
            _ => {}
        }
        // SAFETY: header and control buffer are as the kernel left them.
        next = unsafe { libc::CMSG_NXTHDR(header, control).as_ref() };
    }
    ancillary
}
