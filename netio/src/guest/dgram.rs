//! One frame in each datagram of a Unix socket: QEMU `-netdev dgram` and vfkit `unixgram`.
//!
//! Our socket has a path, and so has the guest's. The guest's path is configured, or is that of the last sender. In the
//! latter case the guest must send first (vfkit sends the four bytes "VFKT", which are dropped as a frame that is too
//! short). A guest whose socket has no path can send, but frames cannot be sent to it; nor to a socket that belongs to another
//! user than the guest's (`target`).
//!
//! Our socket is not connected to the guest's, so a guest that restarts with a new socket is received at once.
//!
//! *Looks.* The path is looked up by a worker, when a frame is to be sent and nobody is there, or when a datagram comes from another
//! name: each at most ten times per second on average, because anybody may send such frames. No lock is held meanwhile.
//!
//! *Queues.* The kernel queues as many datagrams for a socket as `net.unix.max_dgram_qlen` permitted when the socket was
//! created (10 by default, plus one); further ones return `EAGAIN`. A guest that reads slowly loses frames earlier than
//! with a stream. If the guest is absent, sending returns `ECONNREFUSED`, or `ENOENT` if its file does not exist.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use packet::batch::{MAX_FRAME_LEN, USUAL_FRAMES};
use packet::vlan::{TAG_LEN, Tag};
use packet::{Batch, VNET_LEN};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::mounts::mount_of;
use super::target::{BEFORE_PATH, Identity, Missing, Name, Refusal, SocketName, Target, nobody};
use super::{Access, GuestError, MAX_PIECES, SocketFile, body, checked, io_error, open_socket, unix_address, widen};
use crate::tap::Received;

/// Maximum number of frames per system call.
const MAX_BURST: usize = USUAL_FRAMES;

/// Average time between two looks at a path where no guest is, and between two looks at names of senders.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of looks at once, after a second without any.
const MAX_LOOKS: u32 = 10;

/// A datagram socket with a path, connected to one guest at a time.
#[derive(Debug)]
pub struct Dgram {
    queue: DgramQueue,
    _file: SocketFile,
}

impl Dgram {
    /// Binds to the path. Replaces a socket file that no process listens on. Without a `remote`, frames are sent to the last
    /// sender.
    pub fn open(path: &Path, remote: Option<&Path>) -> Result<Dgram, GuestError> {
        // Reports an invalid path.
        remote.map(unix_address).transpose()?;
        let socket =
            open_socket(AddressFamily::UNIX, SocketType::DGRAM).map_err(|errno| io_error(path, "opening a socket", errno))?;
        widen(&socket);
        // Before there is a name to send to, so that no datagram comes without its sender's user.
        sockopt::set_socket_passcred(&socket, remote.is_none()).map_err(|errno| io_error(path, "asking for senders", errno))?;
        let file = SocketFile::bind(socket.as_fd(), path, Access::default())?;
        let guest = Guest { name: remote.map(|path| Name::Configured(path.to_owned())), ..Guest::default() };
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mount = open(directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok().and_then(mount_of);
        let shared = Socket { socket, mount, follows: remote.is_none(), guest: RwLock::new(guest) };
        Ok(Dgram { queue: DgramQueue(Arc::new(shared)), _file: file })
    }

    /// The handle for workers.
    #[must_use]
    pub fn queue(&self) -> &DgramQueue {
        &self.queue
    }
}

/// A handle to the socket. One worker receives; any worker may send.
#[derive(Clone, Debug)]
pub struct DgramQueue(Arc<Socket>);

struct Socket {
    socket: OwnedFd,
    /// The mount that our socket's file is on; it stays for as long as the socket is open.
    mount: Option<u64>,
    /// The last sender is the guest.
    follows: bool,
    guest: RwLock<Guest>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DgramSocket").field("socket", &self.socket).field("follows", &self.follows).finish_non_exhaustive()
    }
}

/// The guest's socket.
#[derive(Debug, Default)]
struct Guest {
    name: Option<Name>,
    target: Option<Arc<Target>>,
    /// Nobody has this file open as a socket any more.
    dead: Option<Identity>,
    refusal: Option<Refusal>,
    /// Looks at the name.
    looks: Looks,
    /// Looks at names of senders.
    follows: Looks,
}

/// When the next look would be if there were no bursts.
#[derive(Clone, Copy, Debug, Default)]
struct Looks(Option<Instant>);

impl Looks {
    /// Whether a look is permitted now.
    fn is_permitted(self) -> bool {
        self.0.is_none_or(|next| next < Instant::now() + LOOK_PAUSE * MAX_LOOKS)
    }

    /// Counts a look.
    fn count(&mut self) {
        let now = Instant::now();
        self.0 = Some(self.0.map_or(now, |next| next.max(now)) + LOOK_PAUSE);
    }
}

impl Guest {
    fn take(&mut self, found: Result<Target, Missing>) {
        match found {
            Ok(target) => (self.target, self.refusal) = (Some(Arc::new(target)), None),
            Err(Missing::Refused(refusal)) => self.refusal = Some(refusal),
            Err(Missing::Absent) => {}
        }
    }
}

/// Room for the user who sent a datagram (`SCM_CREDENTIALS` in unix(7)) and for nothing else, so that descriptors which are
/// sent along are discarded by the kernel.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Credentials([u8; CREDENTIALS_LEN]);

/// Length of a control message with an `ucred`.
// SAFETY: the macro computes a number.
const CREDENTIALS_LEN: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as libc::c_uint) } as usize;

/// The name of the socket that a datagram came from, if it has one, and the user who sent it.
fn sender(header: &libc::msghdr, address: &libc::sockaddr_un) -> Option<(SocketName, u32)> {
    let len = (header.msg_namelen as usize).checked_sub(BEFORE_PATH)?;
    let name = address.sun_path.get(..len).filter(|name| !name.is_empty())?;
    // SAFETY: the header is one that recvmmsg(2) has filled in; its control buffer is ours and as long as the header says.
    let control = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    let is_user = control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_CREDENTIALS;
    // SAFETY: the macro computes a number.
    let expected = unsafe { libc::CMSG_LEN(size_of::<libc::ucred>() as libc::c_uint) } as usize;
    if !is_user || (control.cmsg_len as usize) < expected {
        return None;
    }
    // SAFETY: the message is at least as long as an `ucred`, which consists of integers.
    let user = unsafe { ptr::read_unaligned(libc::CMSG_DATA(control).cast::<libc::ucred>()) }.uid;
    Some((SocketName::new(name.iter().map(|byte| *byte as u8)), user))
}

/// The lists that recvmmsg(2) fills in, allocated once for each worker.
pub struct DgramReceiver {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_un]>,
    users: Box<[Credentials]>,
}

// SAFETY: the pointers in the lists are set before each call; they refer to heap memory that this structure owns, or to
// memory that is borrowed for the call.
unsafe impl Send for DgramReceiver {}

impl fmt::Debug for DgramReceiver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DgramReceiver").finish_non_exhaustive()
    }
}

impl Default for DgramReceiver {
    fn default() -> DgramReceiver {
        DgramReceiver::new()
    }
}

impl DgramReceiver {
    /// Allocates all memory that it will ever use.
    #[must_use]
    pub fn new() -> DgramReceiver {
        DgramReceiver {
            headers: vec![no_header(); MAX_BURST].into(),
            pieces: vec![NOTHING; MAX_BURST].into(),
            names: vec![nobody(); MAX_BURST].into(),
            users: vec![Credentials([0; CREDENTIALS_LEN]); MAX_BURST].into(),
        }
    }

    /// Points the lists at the slots, after an all-zero virtio-net header, and at room for users if these are asked for.
    /// Returns the number of slots.
    fn prepare<'s>(&mut self, slots: impl Iterator<Item = &'s mut [u8]>, with_users: bool) -> usize {
        let lists = self.headers.iter_mut().zip(&mut self.pieces).zip(&mut self.names).zip(&mut self.users);
        let mut ready = 0;
        for ((((header, piece), name), user), slot) in lists.zip(slots) {
            let Some((vnet, frame)) = slot.get_mut(TAG_LEN..).and_then(|room| room.split_at_mut_checked(VNET_LEN)) else { break };
            vnet.fill(0);
            *piece = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len().min(MAX_FRAME_LEN) };
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_un>() as libc::socklen_t;
            header.msg_hdr.msg_control = ptr::from_mut(user).cast();
            header.msg_hdr.msg_controllen = if with_users { CREDENTIALS_LEN } else { 0 } as _;
            header.msg_hdr.msg_flags = 0;
            ready += 1;
        }
        ready
    }
}

const NOTHING: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

fn no_header() -> libc::mmsghdr {
    // SAFETY: an all-zero `mmsghdr` is a valid, empty one.
    unsafe { mem::zeroed() }
}

impl AsFd for DgramQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl DgramQueue {
    /// Receives datagrams into a strided batch, in one system call. Earlier contents of the batch are discarded. A datagram
    /// longer than any frame is returned empty. Never returns [`Received::Gone`]: a guest may come back.
    #[inline]
    pub fn recv(&self, receiver: &mut DgramReceiver, rx: &mut Batch, most: usize) -> Received {
        let ready = receiver.prepare(rx.slots().take(most), self.0.follows);
        let received = self.call(receiver, ready);
        let headers = &receiver.headers[..received];
        rx.commit_all(headers.iter().map(|header| {
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            (if cut { 0 } else { VNET_LEN + header.msg_len as usize }, None::<Tag>)
        }));
        if self.0.follows {
            let mut senders = headers.iter().zip(&receiver.names).rev();
            if let Some((name, user)) = senders.find_map(|(header, name)| sender(&header.msg_hdr, name)) {
                self.follow(name, user);
            }
        }
        if ready > 0 && received == ready { Received::More } else { Received::Drained }
    }

    /// recvmmsg(2). Returns the number of datagrams.
    fn call(&self, receiver: &mut DgramReceiver, ready: usize) -> usize {
        loop {
            // SAFETY: `ready` headers point to addresses of ours and to slots of a batch that `recv`, which calls this, has
            // borrowed and does not use meanwhile.
            let count = unsafe {
                libc::recvmmsg(
                    self.0.socket.as_raw_fd(),
                    receiver.headers.as_mut_ptr(),
                    ready as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            match usize::try_from(count) {
                Ok(count) => return count,
                Err(_) if Errno::from_io_error(&io::Error::last_os_error()) == Some(Errno::INTR) => {}
                Err(_) => return 0,
            }
        }
    }

    /// A datagram came from this name: it is the guest's from now on, if it is a socket of this user.
    fn follow(&self, name: SocketName, user: u32) {
        let name = Name::Sender { name, user };
        let guest = self.guest();
        let is_guest = guest.target.is_some() && guest.name.as_ref() == Some(&name);
        if is_guest || !guest.follows.is_permitted() {
            return;
        }
        drop(guest);
        let found = name.find(None, self.0.mount);
        let mut guest = self.guest_mut();
        guest.follows.count();
        if found.is_ok() {
            (guest.name, guest.dead) = (Some(name), None);
        }
        // If the name is refused, the former guest stays.
        guest.take(found);
    }

    /// True if the address of the guest is known.
    #[must_use]
    pub fn has_guest(&self) -> bool {
        self.guest().name.is_some()
    }

    /// Why frames are not sent to the last sender, or to the configured path.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.guest().refusal
    }

    fn guest(&self) -> RwLockReadGuard<'_, Guest> {
        self.0.guest.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn guest_mut(&self) -> RwLockWriteGuard<'_, Guest> {
        self.0.guest.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's socket; looks it up if it is not there yet.
    #[inline]
    fn target(&self) -> Option<Arc<Target>> {
        let guest = self.guest();
        if let Some(target) = &guest.target {
            return Some(Arc::clone(target));
        }
        let is_permitted = guest.looks.is_permitted();
        drop(guest);
        if is_permitted { self.look() } else { None }
    }

    /// Looks the guest's socket up, if it is not there yet and there were not too many looks of late.
    #[cold]
    fn look(&self) -> Option<Arc<Target>> {
        let mut guest = self.guest_mut();
        if guest.target.is_some() || !guest.looks.is_permitted() {
            return guest.target.clone();
        }
        guest.looks.count();
        let (name, dead) = (guest.name.clone()?, guest.dead);
        drop(guest);
        let found = name.find(dead, self.0.mount);
        let mut guest = self.guest_mut();
        if guest.target.is_none() && guest.name.as_ref() == Some(&name) {
            guest.take(found);
        }
        guest.target.clone()
    }

    /// Nobody is at this socket any more. Returns the new one, if the guest has one.
    fn after(&self, dead: &Arc<Target>) -> Option<Arc<Target>> {
        let mut guest = self.guest_mut();
        if guest.target.as_ref().is_some_and(|target| Arc::ptr_eq(target, dead)) {
            (guest.target, guest.dead) = (None, Some(dead.identity()));
        }
        drop(guest);
        self.look()
    }

    /// Sends one frame. The first piece begins with a virtio-net header, which is not sent; there are at most
    /// [`MAX_PIECES`] pieces.
    ///
    /// `EAGAIN`: the guest's queue is full. `ENXIO`: the guest is absent, or not known yet. `EMSGSIZE`: the frame is too long.
    /// `EINVAL`: the frame is empty or has no virtio-net header.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        let Some((first, rest)) = pieces.split_first().filter(|(_, rest)| rest.len() < MAX_PIECES) else {
            return Err(Errno::INVAL);
        };
        let first = first.get(VNET_LEN..).ok_or(Errno::INVAL)?;
        checked(first.len() + rest.iter().map(|piece| piece.len()).sum::<usize>())?;
        let mut all = [NOTHING; MAX_PIECES];
        for (to, piece) in all.iter_mut().zip(std::iter::once(first).chain(rest.iter().map(|piece| &**piece))) {
            *to = piece_of(piece);
        }
        let target = self.target().ok_or(Errno::NXIO)?;
        match self.send_to(&target, &mut all[..pieces.len()]) {
            Err(Errno::NXIO) => self.send_to(&*self.after(&target).ok_or(Errno::NXIO)?, &mut all[..pieces.len()]),
            sent => sent,
        }
    }

    fn send_to(&self, target: &Target, pieces: &mut [libc::iovec]) -> Result<(), Errno> {
        let mut header = no_header();
        header.msg_hdr = message(target, pieces);
        // SAFETY: the header points to an address and pieces that are borrowed for the call, and these to bytes that `send`,
        // which calls this, has borrowed.
        unsafe { self.send_messages(std::slice::from_mut(&mut header)) }.map(drop)
    }

    /// Sends many frames, each with a virtio-net header first, and calls `sent` with the result of each, in order; for the
    /// errors see [`send`](Self::send). After a refused frame the next ones are sent nevertheless.
    pub fn send_many(&self, frames: &[IoSlice<'_>], mut sent: impl FnMut(Result<(), Errno>)) {
        let Some(mut target) = self.target() else { return frames.iter().for_each(|_| sent(Err(Errno::NXIO))) };
        let (mut rest, mut is_first) = (frames, true);
        while let Some(first) = rest.first() {
            if let Err(errno) = body(first) {
                sent(Err(errno));
                rest = &rest[1..];
                continue;
            }
            let mut headers = [no_header(); MAX_BURST];
            let mut pieces = [NOTHING; MAX_BURST];
            let mut ready = 0;
            for ((header, piece), body) in
                headers.iter_mut().zip(&mut pieces).zip(rest.iter().map_while(|frame| body(frame).ok()))
            {
                *piece = piece_of(body);
                header.msg_hdr = message(&target, std::slice::from_mut(piece));
                ready += 1;
            }
            // SAFETY: these headers were just filled in; they point to an address and pieces of ours, and these to frames
            // that the caller has borrowed.
            let done = match unsafe { self.send_messages(&mut headers[..ready]) } {
                Ok(count) => {
                    (0..count).for_each(|_| sent(Ok(())));
                    count
                }
                // Once: somebody could make one socket after the other.
                Err(Errno::NXIO) => match self.after(&target).filter(|_| mem::take(&mut is_first)) {
                    Some(new) => {
                        target = new;
                        continue;
                    }
                    None => return rest.iter().for_each(|frame| sent(body(frame).and(Err(Errno::NXIO)))),
                },
                Err(errno) => {
                    sent(Err(errno));
                    1
                }
            };
            rest = &rest[done..];
        }
    }

    /// sendmmsg(2). Returns the number of datagrams sent, at least one.
    ///
    /// # Safety
    ///
    /// Each header points to an address and pieces that are valid for the call.
    unsafe fn send_messages(&self, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        loop {
            // SAFETY: guaranteed by the caller.
            let count = unsafe {
                libc::sendmmsg(self.0.socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, flags as _)
            };
            if let Ok(count) = usize::try_from(count) {
                return Ok(count);
            }
            match Errno::from_io_error(&io::Error::last_os_error()) {
                Some(Errno::INTR) => {}
                // The socket file was deleted, is not in use, or is of another type.
                Some(Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED | Errno::PROTOTYPE | Errno::CONNRESET) => {
                    return Err(Errno::NXIO);
                }
                errno => return Err(errno.unwrap_or(Errno::IO)),
            }
        }
    }
}

fn message(target: &Target, pieces: &mut [libc::iovec]) -> libc::msghdr {
    let (address, len) = target.address();
    let mut message = no_header().msg_hdr;
    // The kernel only reads it, although the field is a mutable pointer.
    message.msg_name = ptr::from_ref(address).cast_mut().cast();
    message.msg_namelen = len;
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    message
}

fn piece_of(bytes: &[u8]) -> libc::iovec {
    // The kernel only reads the bytes, although the field is a mutable pointer.
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
