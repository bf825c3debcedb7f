//! Many datagrams, and trains of them, in one system call (recvmmsg(2)).
//!
//! The kernel says beside each message what the datagrams' TOS was, and where it has merged several, how
//! long each but the last is.
//!
//! *A length that is none.* A peer's kernel on the same machine may hand over a tunnelled super-frame whole,
//! in one datagram. If that is UDP inside (USO), the kernel tells the length of the inner segments as if it
//! were that of our datagrams (measured on Linux 6.18; `udp_cmsg_recv` looks at `SKB_GSO_UDP_L4` only). Who
//! reads the tunnel knows better: the inner packet's own length is then that of the whole payload.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use packet::Datagram;
use rustix::io::Errno;

use super::Queue;
use crate::tap::Received;

/// Messages of one call, at most.
pub const MAX_MESSAGES: usize = 16;

/// Room for one message: the longest train that the kernel makes is shorter.
const ROOM: usize = 64 << 10;

/// Distance of two rooms, so that the first bytes do not all lie in the same few sets of the caches: an odd
/// number of cache lines beyond a multiple of 4 KiB, as in `Batch::strided` of the packet room.
const STRIDE: usize = ROOM + 25 * 64;

/// Room for the two control messages that we ask for, in 8-byte words so that it is aligned.
const CONTROL_WORDS: usize = 8;
const CONTROL_LEN: usize = CONTROL_WORDS * 8;

// SAFETY: CMSG_SPACE only computes.
const _: () = assert!(2 * unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize <= CONTROL_LEN);

/// What one worker needs to receive, allocated once. Memory that no message reaches is never touched, so it
/// is address space only.
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

    /// Reads what is there, up to [`MAX_MESSAGES`], in one call; [`datagrams`](Self::datagrams) then gives it.
    /// Never [`Received::Gone`]: a UDP socket is nobody's device.
    #[inline]
    pub fn recv(&mut self, queue: &Queue) -> Received {
        self.prepare();
        self.received = self.call(queue);
        let full = self.received == MAX_MESSAGES;
        if full { Received::More } else { Received::Drained }
    }

    /// The datagrams of the last [`recv`](Self::recv), in their order. One that was longer than the room for it is
    /// an empty one.
    #[inline]
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let received = self.headers[..self.received].iter().zip(&self.addresses).zip(self.arena.chunks_exact(STRIDE));
        received.filter_map(|((header, address), room)| {
            let payload = if is_cut(header) { &[] } else { room.get(..header.msg_len as usize)? };
            // SAFETY: the kernel has filled in this header, and the control buffer that it points to is
            // still ours and as it left it.
            let told = unsafe { beside(&header.msg_hdr) };
            let segment_size = if usize::from(told.segment_size) < payload.len() { told.segment_size } else { 0 };
            Some(Datagram { from: from(address)?, tos: told.tos, segment_size, payload })
        })
    }

    /// Points the lists at the rooms; the kernel has changed the lengths the last time.
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

    /// recvmmsg(2), past errors that say nothing about the datagrams that are there; how many came.
    fn call(&mut self, queue: &Queue) -> usize {
        // An error is told once and gone; what goes on failing is for the next turn.
        for _ in 0..=MAX_MESSAGES {
            // SAFETY: the headers point to rooms, addresses and control buffers of ours, of the lengths that
            // they say.
            let count = unsafe {
                libc::recvmmsg(
                    queue.as_fd().as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    MAX_MESSAGES as libc::c_uint,
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
                // What ICMP said of a datagram that was sent: those that are there wait behind it.
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

/// Who sent it, if the kernel wrote an address of a family that we know.
#[inline]
fn from(address: &libc::sockaddr_in6) -> Option<IpAddr> {
    match libc::c_int::from(address.sin6_family) {
        libc::AF_INET => {
            // SAFETY: a `sockaddr_in` is shorter than a `sockaddr_in6` and no more strictly aligned, all its
            // bit patterns are valid, and the family says that it is one.
            let address = unsafe { ptr::from_ref(address).cast::<libc::sockaddr_in>().read() };
            Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => Some(Ipv6Addr::from(address.sin6_addr.s6_addr).to_canonical()),
        _ => None,
    }
}

/// What the kernel tells beside a message.
#[derive(Clone, Copy, Default)]
struct Beside {
    tos: u8,
    segment_size: u16,
}

/// Reads the control messages.
///
/// # Safety
///
/// The kernel has filled in the header and what it points to.
#[inline]
unsafe fn beside(header: &libc::msghdr) -> Beside {
    let mut told = Beside::default();
    // SAFETY: the header's control buffer is valid, as the caller promises.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() };
    while let Some(control) = next {
        // SAFETY: `control` lies in the header's control buffer, with its data behind it.
        let data = unsafe { libc::CMSG_DATA(control) };
        match (control.cmsg_level, control.cmsg_type) {
            // SAFETY: this one holds one byte (`ip_cmsg_recv_tos`).
            (libc::SOL_IP, libc::IP_TOS) => told.tos = unsafe { data.read() },
            // SAFETY: this one holds an int, aligned or not.
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => told.tos = unsafe { data.cast::<libc::c_int>().read_unaligned() } as u8,
            // SAFETY: this one, too (`udp_cmsg_recv`). It has no more than 16 bits.
            (libc::SOL_UDP, libc::UDP_GRO) => told.segment_size = unsafe { data.cast::<libc::c_int>().read_unaligned() } as u16,
            _ => {}
        }
        // SAFETY: both are as the kernel left them.
        next = unsafe { libc::CMSG_NXTHDR(header, control).as_ref() };
    }
    told
}
