//! Ports of the host's address, reserved for a NAT so that the host's stack does not answer for them.
//!
//! Frames that the uplink receives reach the host's stack as well as the switch. Where a NAT uses the host's own address,
//! the stack does not know the connection and answers a reply with RST or port unreachable, which ends the connection.
//! A socket that is bound to the address and port prevents this: the stack finds it (`tcp_v4_rcv`, `__udp4_lib_rcv` in
//! net/ipv4), and the filter attached to it drops the packet silently. The filter is one instruction and is attached
//! before the bind, so no packet is queued.
//!
//! A TCP socket listens, because the stack finds only listening sockets for segments of any connection; no connection is
//! ever accepted. The socket is also the reservation: the kernel assigns the port to no other socket, and refuses a port
//! that a program of the host has with `AddrInUse`, even if that program is bound to all addresses. Nothing is queued, so
//! the sockets need no buffers. Each takes one file descriptor (`ulimit -n`). A filter on a TCP socket needs
//! `CAP_NET_ADMIN` on kernels since late 2025 (`SO_ATTACH_FILTER` in net/core/sock.c), a port below 1024
//! `CAP_NET_BIND_SERVICE`.
//!
//! *Cost.* Even a program of one instruction takes a page and time to load, so all sockets share one program, which needs
//! bpf(2) (`CAP_BPF`, or root in the initial user namespace). Where bpf(2) is refused, each socket has its own program.
//! Measured on Linux 6.18, 2 cores, 20,000 sockets: reserving a TCP port takes 5-6 us, releasing it 4-5 us, and it uses
//! 4.0 KB of kernel memory; a UDP port 4-6 us, 3 us and 2.7 KB. With a program of its own each takes 15-30 us and
//! 6.3 KB more.

use std::fs;
use std::io;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::gate::{Instruction, bpf};
use crate::option;
use crate::packet_socket::Filter;

/// Maximum number of sockets, and of file descriptors, that [`process_of_port`] searches.
const LOOKED_AT: usize = 100_000;

/// A port for which the host's stack sends nothing. Dropping it releases the port.
#[derive(Debug)]
pub struct Reservation {
    socket: OwnedFd,
}

/// The protocol that a port belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Reservation {
    /// Reserves a TCP port of an address of the host; with port 0 the kernel chooses one. Errors: `AddrInUse` if a
    /// program uses the port, `AddrNotAvailable` if the host does not have the address, `PermissionDenied`.
    pub fn tcp(address: Ipv4Addr, port: u16) -> io::Result<Reservation> {
        let reservation = Reservation::silent(SocketType::STREAM)?;
        // Connections of local clients to the port, which linger for a minute after their end, are not in the way.
        sockopt::set_socket_reuseaddr(&reservation.socket, true)?;
        bind(&reservation.socket, &SocketAddrV4::new(address, port))?;
        listen(&reservation.socket, 0)?;
        Ok(reservation)
    }

    /// Reserves a UDP port of an address of the host; errors as for [`tcp`](Self::tcp).
    pub fn udp(address: Ipv4Addr, port: u16) -> io::Result<Reservation> {
        let reservation = Reservation::silent(SocketType::DGRAM)?;
        bind(&reservation.socket, &SocketAddrV4::new(address, port))?;
        Ok(reservation)
    }

    fn silent(kind: SocketType) -> io::Result<Reservation> {
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        drop_everything(socket.as_fd())?;
        Ok(Reservation { socket })
    }

    /// The reserved port.
    pub fn port(&self) -> io::Result<u16> {
        let address = rustix::net::getsockname(&self.socket)?;
        Ok(SocketAddrV4::try_from(address).map_or(0, |address| address.port()))
    }
}

fn drop_everything(socket: BorrowedFd<'_>) -> io::Result<()> {
    static SHARED: OnceLock<Option<OwnedFd>> = OnceLock::new();
    if let Some(program) = SHARED.get_or_init(|| load_drop_everything().ok()) {
        return option::set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd());
    }
    option::attach_filter(socket, Filter::nothing().instructions())
}

/// Loads a socket filter that accepts 0 bytes of each packet.
fn load_drop_everything() -> io::Result<OwnedFd> {
    // `r0 = 0; exit` (RFC 9669 section 4): operation, registers, offset, immediate.
    const PROGRAM: [Instruction; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    bpf::load_program(bpf::SOCKET_FILTER, &PROGRAM, "vswitchd_drop")
}

/// The process ID and name of the process that uses a port of this namespace, on any address. Used in error messages;
/// `None` if the process is not found or not visible to us. Slow: it searches /proc.
#[must_use]
pub fn process_of_port(protocol: PortProtocol, port: u16) -> Option<(u32, String)> {
    let tables = match protocol {
        PortProtocol::Tcp => ["tcp", "tcp6"],
        PortProtocol::Udp => ["udp", "udp6"],
    };
    tables.iter().find_map(|table| {
        let table = fs::File::open(format!("/proc/thread-self/net/{table}")).ok()?;
        let lines = BufReader::new(table).lines().map_while(Result::ok).take(LOOKED_AT);
        lines.filter_map(|line| inode_of(protocol, &line, port)).find_map(process_of_socket)
    })
}

/// The inode of the socket in a line of /proc/net/tcp or udp, if it is bound to the port. Of TCP sockets only listening
/// ones count, not their connections.
fn inode_of(protocol: PortProtocol, line: &str, port: u16) -> Option<u64> {
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
    const LISTENING: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let bound = u16::from_str_radix(local, 16) == Ok(port);
    (bound && inode != 0 && (protocol == PortProtocol::Udp || state == LISTENING)).then_some(inode)
}

/// The process that has a socket of this inode open.
pub(crate) fn process_of_socket(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut looked_at = 0;
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.filter_map(Result::ok) {
            looked_at += 1;
            if looked_at > LOOKED_AT {
                return None;
            }
            if fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                return Some((pid, name.trim_end().to_owned()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net_are_parsed() {
        let listener = "   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 17263 1 0 100";
        assert_eq!(inode_of(PortProtocol::Tcp, listener, 53), Some(17263));
        assert_eq!(inode_of(PortProtocol::Tcp, listener, 54), None);
        let connection = listener.replace(" 0A ", " 01 ");
        assert_eq!(inode_of(PortProtocol::Tcp, &connection, 53), None);
        assert_eq!(inode_of(PortProtocol::Udp, &listener.replace(" 0A ", " 07 "), 53), Some(17263));
        for cut in 0..listener.len() - 15 {
            assert_eq!(inode_of(PortProtocol::Tcp, &listener[..cut], 53), None);
        }
    }
}
