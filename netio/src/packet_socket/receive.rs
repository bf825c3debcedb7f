//! Receiving frames in batches (recvmmsg(2)).
//!
//! ```text
//!  slot
//!  | 4      | 12             | frame.len            | unused
//!  +--------+----------------+----------------------+------------
//!  | spare  | virtio-net hdr | Ethernet frame       |
//!  +--------+----------------+----------------------+------------
//!           ^ the kernel writes from here
//!  ^ if a VLAN tag is reinserted, header and addresses move to here
//! ```
//!
//! The kernel has removed the outermost VLAN tag from a frame, and passes it in a control message (`PACKET_AUXDATA`,
//! `packet_recvmsg` in net/packet/af_packet.c). Whoever reinserts the tag must add 4 to `csum_start` and `hdr_len` of the
//! virtio-net header, which count without it. `packet::Batch` does this: [`Receiver::recv`] takes the slots of
//! `Batch::slots`, and `Batch::commit_all` takes the results of [`Receiver::frames`].

use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use packet::{EtherType, Tag, VNET_LEN};
use rustix::io::Errno;

use super::{Queue, SHORT_VNET_LEN};
use crate::tap::Received;

/// Maximum number of frames per system call.
pub const MAX_BURST: usize = 64;

/// Bytes left free before the virtio-net header of each slot, for a VLAN tag.
pub const SPARE: usize = packet::vlan::TAG_LEN;

/// Size of the buffer for one control message, in 8-byte words so that it is aligned.
const CONTROL_WORDS: usize = 5;
const CONTROL_LEN: usize = CONTROL_WORDS * 8;

// SAFETY: CMSG_SPACE only computes a length.
const _: () = assert!(unsafe { libc::CMSG_SPACE(size_of::<libc::tpacket_auxdata>() as u32) } as usize <= CONTROL_LEN);

/// The lists that recvmmsg(2) fills in, allocated once for each worker.
pub struct Receiver {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[[libc::iovec; 2]]>,
    controls: Box<[[u64; CONTROL_WORDS]]>,
    received: usize,
    /// Length of our virtio-net header minus that of the kernel's, in bytes: 0 or 2.
    gap: usize,
    unreadable: u64,
}

// SAFETY: pointers to slots are set before each call and not used after it; pointers to control buffers and pieces
// refer to heap memory that this structure owns.
unsafe impl Send for Receiver {}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Receiver").field("unreadable", &self.unreadable).finish_non_exhaustive()
    }
}

impl Default for Receiver {
    fn default() -> Receiver {
        Receiver::new()
    }
}

impl Receiver {
    /// Allocates all memory that it will ever use.
    #[must_use]
    pub fn new() -> Receiver {
        // SAFETY: an all-zero `mmsghdr` is a valid, empty one.
        let empty: libc::mmsghdr = unsafe { mem::zeroed() };
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Receiver {
            headers: vec![empty; MAX_BURST].into(),
            pieces: vec![[nothing; 2]; MAX_BURST].into(),
            controls: vec![[0; CONTROL_WORDS]; MAX_BURST].into(),
            received: 0,
            gap: 0,
            unreadable: 0,
        }
    }

    /// Number of frames that the kernel dropped because a virtio-net header cannot describe them, such as frames merged
    /// in a way that only the host's stack supports.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Receives up to [`MAX_BURST`] frames into the slots, in one system call; [`frames`](Self::frames) then describes them.
    /// The layout of a slot is drawn above. A slot without room for [`SPARE`] and a virtio-net header ends the list.
    #[inline]
    pub fn recv<'s>(&mut self, queue: &Queue, slots: impl Iterator<Item = &'s mut [u8]>) -> Received {
        self.received = 0;
        self.gap = if queue.short_header { VNET_LEN - SHORT_VNET_LEN } else { 0 };
        let ready = self.prepare(slots, queue.short_header);
        if ready == 0 {
            return Received::More;
        }
        match self.call(queue, ready) {
            Ok(received) => {
                self.received = received;
                let bytes = self.headers[..received].iter().map(|header| header.msg_len as usize).sum();
                queue.buffer.note(queue.as_fd(), received, bytes);
                if received == ready { Received::More } else { Received::Drained }
            }
            Err(end) => end,
        }
    }

    /// The frames of the last [`recv`](Self::recv), in the order of the slots: the number of bytes filled from byte
    /// [`SPARE`] on, including the virtio-net header, and the VLAN tag that the kernel removed. A frame longer than its
    /// slot has 0 bytes; no frame is returned in part.
    #[inline]
    pub fn frames(&self) -> impl Iterator<Item = (usize, Option<Tag>)> {
        self.headers[..self.received].iter().map(|header| {
            // SAFETY: the kernel has filled in this header, and its control buffer is ours and unchanged since.
            let auxdata = unsafe { auxiliary(&header.msg_hdr) };
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0
                || auxdata.is_some_and(|auxdata| auxdata.tp_len > auxdata.tp_snaplen);
            let filled = if cut { 0 } else { header.msg_len as usize + self.gap };
            (filled, auxdata.and_then(tag))
        })
    }

    /// Points the lists at the slots. Returns the number of slots.
    fn prepare<'s>(&mut self, slots: impl Iterator<Item = &'s mut [u8]>, short_header: bool) -> usize {
        let lists = self.headers.iter_mut().zip(&mut self.pieces).zip(&mut self.controls);
        let mut ready = 0;
        for (((header, pieces), control), slot) in lists.zip(slots) {
            let Some(room) = slot.get_mut(SPARE..).filter(|room| room.len() >= VNET_LEN) else { break };
            let used = if short_header {
                // The kernel's header ends before `num_buffers`, which is always 0.
                let (vnet, frame) = room.split_at_mut(VNET_LEN);
                let (vnet, num_buffers) = vnet.split_at_mut(SHORT_VNET_LEN);
                num_buffers.fill(0);
                *pieces = [piece(vnet), piece(frame)];
                2
            } else {
                pieces[0] = piece(room);
                1
            };
            header.msg_hdr.msg_iov = pieces.as_mut_ptr();
            header.msg_hdr.msg_iovlen = used;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
            header.msg_hdr.msg_flags = 0;
            ready += 1;
        }
        ready
    }

    /// recvmmsg(2), repeated after errors that do not concern the queued frames.
    fn call(&mut self, queue: &Queue, ready: usize) -> Result<usize, Received> {
        // Each error removes one frame or one pending error. If errors continue, the next call of `recv` goes on.
        for _ in 0..=ready {
            // SAFETY: `ready` headers point to slots, whose borrow outlives `recv` (which calls this), and to control
            // buffers of ours.
            let count = unsafe {
                libc::recvmmsg(
                    queue.as_fd().as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    ready as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            if let Ok(count) = usize::try_from(count) {
                return Ok(count);
            }
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::AGAIN) => return Err(Received::Drained),
                Some(Errno::INTR) => {}
                // The kernel has dropped one frame that a virtio-net header cannot describe.
                Some(Errno::INVAL) => self.unreadable += 1,
                // ENETDOWN comes once when the link goes down, also when the link is being deleted.
                _ if queue.is_gone() => return Err(Received::Gone),
                _ => {}
            }
        }
        Err(Received::Drained)
    }
}

fn piece(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// The control message of a frame.
///
/// # Safety
///
/// The kernel has filled in the header and what it points to.
#[inline]
unsafe fn auxiliary(header: &libc::msghdr) -> Option<libc::tpacket_auxdata> {
    // SAFETY: the caller guarantees that the header's control buffer is valid.
    let control = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    if (control.cmsg_level, control.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a control message of this type holds one `tpacket_auxdata`, possibly unaligned, and the buffer has room
    // for it.
    Some(unsafe { ptr::read_unaligned(libc::CMSG_DATA(control).cast()) })
}

#[inline]
fn tag(auxdata: libc::tpacket_auxdata) -> Option<Tag> {
    if auxdata.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let named = auxdata.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some(Tag::new(if named { EtherType(auxdata.tp_vlan_tpid) } else { EtherType::VLAN }, auxdata.tp_vlan_tci))
}
