//! Many frames in one system call (recvmmsg(2)).
//!
//! ```text
//!  slot
//!  | 4      | 12             | frame.len            | unused
//!  +--------+----------------+----------------------+------------
//!  | spare  | virtio-net hdr | Ethernet frame       |
//!  +--------+----------------+----------------------+------------
//!           ^ the kernel writes from here
//!  ^ and where a VLAN tag is put back, header and addresses move to here
//! ```
//!
//! The kernel has taken the outermost VLAN tag out of a frame and tells it beside the frame
//! (`PACKET_AUXDATA`, `packet_recvmsg` in net/packet/af_packet.c). Who puts it back also adds 4 to
//! the virtio-net header's `csum_start` and `hdr_len`: they count without the tag. `Batch::slots` and
//! `Batch::commit_all` of the packet room are made for this: what [`Receiver::recv`] takes and what
//! [`Receiver::frames`] gives.

use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use packet::{EtherType, Tag, VNET_LEN};
use rustix::io::Errno;

use super::{Queue, SHORT_VNET_LEN};
use crate::tap::Received;

/// Frames of one call, at most.
pub const MAX_BURST: usize = 64;

/// Bytes that are left free before a frame's virtio-net header.
pub const SPARE: usize = packet::vlan::TAG_LEN;

/// Room for one control message, in 8-byte words so that it is aligned.
const CONTROL_WORDS: usize = 5;
const CONTROL_LEN: usize = CONTROL_WORDS * 8;

// SAFETY: CMSG_SPACE only computes.
const _: () = assert!(unsafe { libc::CMSG_SPACE(size_of::<libc::tpacket_auxdata>() as u32) } as usize <= CONTROL_LEN);

/// What one worker needs to receive: the lists that recvmmsg(2) fills in, allocated once.
pub struct Receiver {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[[libc::iovec; 2]]>,
    controls: Box<[[u64; CONTROL_WORDS]]>,
    received: usize,
    /// Bytes of our virtio-net header that the kernel's has not.
    gap: usize,
    unreadable: u64,
}

// SAFETY: the pointers to slots are set by each call before it uses them and not followed after it;
// those to control buffers and pieces lead to memory that moves along.
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
    /// With all the memory that it will ever use.
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

    /// Frames that the kernel could not describe with a virtio-net header and dropped: such as are
    /// merged in a way that only the host's own stack understands.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Reads what is there into the slots, up to [`MAX_BURST`], in one call; [`frames`](Self::frames)
    /// then tells what each holds. A slot is drawn above; one that has no room behind [`SPARE`] for a
    /// virtio-net header ends the list.
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
                if received == ready { Received::More } else { Received::Drained }
            }
            Err(end) => end,
        }
    }

    /// The frames of the last [`recv`](Self::recv), one for each of the first slots: how many bytes
    /// from the slot's byte [`SPARE`] on are filled, virtio-net header included, and the VLAN tag that
    /// stood in the frame. A frame that was longer than its slot counts as 0 bytes, never in part.
    #[inline]
    pub fn frames(&self) -> impl Iterator<Item = (usize, Option<Tag>)> {
        self.headers[..self.received].iter().map(|header| {
            // SAFETY: the kernel has filled in this header, and the control buffer that it points to is
            // still ours and as it left it.
            let told = unsafe { auxiliary(&header.msg_hdr) };
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || told.is_some_and(|told| told.tp_len > told.tp_snaplen);
            let filled = if cut { 0 } else { header.msg_len as usize + self.gap };
            (filled, told.and_then(tag))
        })
    }

    /// Points the lists at the slots; how many there are.
    fn prepare<'s>(&mut self, slots: impl Iterator<Item = &'s mut [u8]>, short_header: bool) -> usize {
        let lists = self.headers.iter_mut().zip(&mut self.pieces).zip(&mut self.controls);
        let mut ready = 0;
        for (((header, pieces), control), slot) in lists.zip(slots) {
            let Some(room) = slot.get_mut(SPARE..).filter(|room| room.len() >= VNET_LEN) else { break };
            let used = if short_header {
                // No `num_buffers` on the kernel's side; on ours it is nothing.
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

    /// recvmmsg(2), past what says nothing about the frames that are there.
    fn call(&mut self, queue: &Queue, ready: usize) -> Result<usize, Received> {
        // A refusal takes one frame or one error away with it; what goes on failing is for the next turn.
        for _ in 0..=ready {
            // SAFETY: `ready` headers point to slots whose borrow outlives `recv`, which calls this, and to
            // control buffers of ours.
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
                // One frame that no virtio-net header can describe, and that the kernel has dropped.
                Some(Errno::INVAL) => self.unreadable += 1,
                // Said once when the link goes down, and that may be because it goes for ever.
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

/// What the kernel tells beside a frame.
///
/// # Safety
///
/// The kernel has filled in the header and what it points to.
#[inline]
unsafe fn auxiliary(header: &libc::msghdr) -> Option<libc::tpacket_auxdata> {
    // SAFETY: the header's control buffer is valid, as the caller promises.
    let control = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    if (control.cmsg_level, control.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a control message of this type holds one `tpacket_auxdata`, aligned or not, for which
    // the buffer has room.
    Some(unsafe { ptr::read_unaligned(libc::CMSG_DATA(control).cast()) })
}

#[inline]
fn tag(told: libc::tpacket_auxdata) -> Option<Tag> {
    if told.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let named = told.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some(Tag::new(if named { EtherType(told.tp_vlan_tpid) } else { EtherType::VLAN }, told.tp_vlan_tci))
}
