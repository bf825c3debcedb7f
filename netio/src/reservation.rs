//! Ports of the host's own address, taken for a NAT so that the host's stack stays silent.
//!
//! An uplink's frames reach the host's stack as well as us. Where a NAT uses the host's own address,
//! the stack finds that nobody there knows the connection, and answers a reply from far away with RST
//! or port unreachable, which ends it. Unless somebody does: a socket bound to the address and port
//! is found (`tcp_v4_rcv`, `__udp4_lib_rcv` in net/ipv4), and the filter attached to it then drops the
//! packet without a word. The filter is one instruction, and is attached before the bind, so no
//! packet ever meets the socket without it.
//!
//! A TCP socket listens, since only listening ones are found for any segment; nobody ever connects.
//! The socket also does what a reservation is to do: the kernel gives the port to nobody else, and a
//! port that a host's program has is refused with `AddrInUse`, also where that is bound to all addresses.
//! Nothing is ever queued, so the sockets need no buffers. Each costs one descriptor: mind `ulimit -n`.
//! A filter on a TCP socket takes `CAP_NET_ADMIN` on kernels since late in 2025 (`SO_ATTACH_FILTER` in
//! net/core/sock.c), a port below 1024 `CAP_NET_BIND_SERVICE`.
//!
//! *Cost.* Loading even one instruction takes the kernel pages and time, so all sockets share one
//! program, which takes bpf(2) (`CAP_BPF`, or root's rights in the first user namespace). Where that is
//! refused each has its own. Measured on
//! Linux 6.18, 2 cores, 20,000 sockets: taking a TCP port 5-6 us, giving it back 4-5 us, 4.0 KB of
//! kernel memory; a UDP port 4-6 us, 3 us, 2.7 KB. With a program each it is 15-30 us and 6.3 KB more.

use std::fs;
use std::io;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::option::{self, check};
use crate::packet_socket::Filter;

/// Sockets of the system that [`process_of_port`] looks at, and descriptors.
const LOOKED_AT: usize = 100_000;

/// A port of which the host's stack says nothing, until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    socket: OwnedFd,
}

/// Which ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortProtocol {
    /// Those of TCP.
    Tcp,
    /// Those of UDP.
    Udp,
}

impl Reservation {
    /// A TCP port of an address of the host. `AddrInUse`: a program has it. `AddrNotAvailable`: it is
    /// no address of the host. `PermissionDenied`: rights are missing. With port 0 the kernel chooses one.
    pub fn tcp(address: Ipv4Addr, port: u16) -> io::Result<Reservation> {
        let reservation = Reservation::silent(SocketType::STREAM)?;
        bind(&reservation.socket, &SocketAddrV4::new(address, port))?;
        listen(&reservation.socket, 0)?;
        Ok(reservation)
    }

    /// A UDP port of an address of the host; errors as with [`tcp`](Self::tcp).
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

    /// The port that is taken.
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

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it (`include/uapi/linux/bpf.h`); what is not said is zero.
#[repr(C)]
struct LoadProgram {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// `BPF_PROG_LOAD`: a program that keeps 0 bytes of everything.
fn load_drop_everything() -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const SOCKET_FILTER: u32 = 1;
    // `r0 = 0; exit` (RFC 9669 section 4): operation, registers, offset, immediate.
    const PROGRAM: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let request = LoadProgram {
        program_type: SOCKET_FILTER,
        instruction_count: PROGRAM.len() as u32,
        instructions: PROGRAM.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: bpf(2) reads the request, of the length that it is told, and the program and text that
    // it points to; all are valid for the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const request, size_of::<LoadProgram>()) };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which process has a port of this namespace, on whatever address: its number and name. For people,
/// in the text of an error; `None` where it is not found or we may not see it. Slow.
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

/// The inode of a line's socket, if it is bound to the port: and, of TCP, if it is not merely one of
/// a listener's connections.
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

/// Which process holds a socket of that inode.
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
    fn lines_of_the_kernels_tables() {
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
