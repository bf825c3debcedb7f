//! What plain sockets cannot do: frames that bypass the stack, persistent TAPs, hosts without offloads, processes
//! without capabilities. Contains all `unsafe` of these tests.

use std::ffi::{c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use packet::VnetHeader;

/// The offloads of an interface: `ETHTOOL_S..` of `linux/ethtool.h`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Ethtool {
    TxChecksum = 0x17,
    Tso = 0x1f,
    Gso = 0x24,
    Gro = 0x2c,
}

/// The virtio-net header of a packet socket has no `num_buffers`.
const SHORT_VNET_LEN: usize = 10;

/// Larger than the longest super-frame.
const LONGEST: usize = 128 * 1024;

const CAP_NET_ADMIN: libc::c_ulong = 12;

/// Frames on one interface, bypassing the stack (packet(7)). Does not block.
#[derive(Debug)]
pub(crate) struct RawSocket {
    fd: OwnedFd,
    vnet: bool,
}

impl RawSocket {
    /// A socket on an interface of the calling thread's namespace.
    pub(crate) fn open(interface: &str) -> io::Result<RawSocket> {
        RawSocket::bind(interface, false)
    }

    /// A socket whose frames carry a virtio-net header each, so that super-frames pass too.
    pub(crate) fn open_with_vnet(interface: &str) -> io::Result<RawSocket> {
        RawSocket::bind(interface, true)
    }

    fn bind(interface: &str, vnet: bool) -> io::Result<RawSocket> {
        let index = netio::link::get(interface)?.index;
        // SAFETY: socket(2) takes no pointers. Protocol 0: nothing arrives before the bind.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
        // SAFETY: the descriptor is new, so nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)?;
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        if vnet {
            set_option(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        }
        // SAFETY: an all-zero `sockaddr_ll` is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as c_int;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: bind(2) reads `len` bytes of an address that is valid for the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(RawSocket { fd, vnet })
    }

    /// Sends one frame out of the interface.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        assert!(!self.vnet, "this socket's frames go with a header");
        Ok(rustix::net::send(&self.fd, frame, rustix::net::SendFlags::empty()).map(drop)?)
    }

    /// Sends one frame or super-frame out of the interface.
    pub(crate) fn send_with_vnet(&self, vnet: VnetHeader, frame: &[u8]) -> io::Result<()> {
        assert!(self.vnet, "this socket's frames go without a header");
        let message = [&vnet.to_bytes()[..SHORT_VNET_LEN], frame].concat();
        Ok(rustix::net::send(&self.fd, &message, rustix::net::SendFlags::empty()).map(drop)?)
    }

    /// The next frame received on the interface, with the VLAN tag that it had on the wire; `None` if there is none
    /// now.
    pub(crate) fn recv(&self) -> Option<Vec<u8>> {
        self.recv_with_vnet().map(|(_, frame)| frame)
    }

    /// The next frame and its virtio-net header, which is empty if the socket was opened without.
    pub(crate) fn recv_with_vnet(&self) -> Option<(VnetHeader, Vec<u8>)> {
        let mut bytes = vec![0; LONGEST];
        let mut control = [0u64; 16];
        let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: an all-zero `msghdr` is a valid, empty one.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast::<c_void>();
        message.msg_controllen = size_of_val(&control);
        loop {
            // SAFETY: the message's buffers are valid for the call, with the lengths that it names.
            let len = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
            match usize::try_from(len) {
                Ok(len) => bytes.truncate(len),
                // A link that was set down reports an error once.
                Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENETDOWN) => continue,
                Err(_) => return None,
            }
            break;
        }
        let frame = bytes.split_off(if self.vnet { SHORT_VNET_LEN } else { 0 });
        bytes.resize(packet::VNET_LEN, 0);
        let vnet = bytes.first_chunk().filter(|_| self.vnet).map_or_else(VnetHeader::default, VnetHeader::from_bytes);
        Some((vnet, with_tag(frame, stripped_tag(&message))))
    }
}

/// The VLAN tag that the kernel removed from a received frame.
fn stripped_tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the kernel filled in the message's control buffer and its length.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a control message of this type holds one `tpacket_auxdata`, aligned or not.
    let aux: libc::tpacket_auxdata = unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let [a, b] = aux.tp_vlan_tpid.to_be_bytes();
    let [c, d] = aux.tp_vlan_tci.to_be_bytes();
    Some([a, b, c, d])
}

fn with_tag(mut frame: Vec<u8>, tag: Option<[u8; 4]>) -> Vec<u8> {
    if let Some(tag) = tag {
        frame.splice(12..12, tag);
    }
    frame
}

/// Sets an integer option of a socket.
pub(crate) fn set_option(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: setsockopt(2) reads one int, which is valid for the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) }).map(drop)
}

/// Reads an integer option of a socket.
pub(crate) fn option(socket: &impl AsRawFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let (mut value, mut len) = (0, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: getsockopt(2) writes at most `len` bytes, the size of the int, which is valid for the call.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// Turns an offload of an interface of the calling thread's namespace on or off.
pub(crate) fn ethtool(interface: &str, what: Ethtool, on: bool) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("[::]:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    // `struct ethtool_value`.
    let mut value = [what as u32, u32::from(on)];
    let mut request = named_request(interface);
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL with these commands reads one `ethtool_value`; both it and the `ifreq` are
    // valid for the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) }).map(drop)
}

/// Makes a persistent TAP in the calling thread's namespace.
pub(crate) fn make_persistent_tap(name: &str) -> io::Result<()> {
    make_persistent(name, 0)
}

/// Makes a persistent TAP that several processes or threads can each have a queue of.
pub(crate) fn make_persistent_multi_queue_tap(name: &str) -> io::Result<()> {
    make_persistent(name, libc::IFF_MULTI_QUEUE)
}

fn make_persistent(name: &str, flags: libc::c_int) -> io::Result<()> {
    let device: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = named_request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is valid for the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) })?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST as libc::Ioctl, 1 as libc::c_ulong) }).map(drop)
}

/// Makes the command run without `CAP_NET_ADMIN`, whoever starts it.
pub(crate) fn without_net_admin(command: &mut Command) -> &mut Command {
    // SAFETY: the closure makes one system call and allocates nothing, as is due between fork and exec.
    unsafe { command.pre_exec(|| check(libc::prctl(libc::PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0)).map(drop)) }
}

/// Moves the calling thread, and what it starts from now on, into a mount namespace of its own.
pub(crate) fn leave_mounts() -> io::Result<()> {
    // SAFETY: unshare(2) is unsafe where it splits what threads share and code relies on, such as the
    // descriptor table; mounts and the working directory of a thread of its own are no such thing.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}

fn named_request(interface: &str) -> libc::ifreq {
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
