//! The gate without bpf(2): a filter of traffic control with a classic BPF program (tc-bpf(8)).
//!
//! It needs `CAP_NET_ADMIN` and `CONFIG_NET_CLS_BPF`, and works in user namespaces. It stands where the gate of
//! [`Gate`](super::Gate) does, but a classic program can neither read memory of ours nor ask for sockets: the ports are
//! constants in it, and each change replaces the program, in one message and atomically.
//!
//! ```text
//!  VLAN 0, IPv4 to the address?  not a later fragment?  TCP or UDP?    for each range of ports:
//!      ldh, ldb, jeq ..                                                  jge first, next | jgt last, next | ret DROP
//! ```
//!
//! Filters belong to a queueing discipline, `clsact`, which is made if the interface has none, and stays. Ours have a priority of
//! their own ([`PRIORITY`]), and each process a number there ([`HANDLES`]), so that two processes do not replace each other's.
//! A filter is removed when the value is dropped. If the process is killed it stays, and drops packets for nobody:
//! [`TrafficFilter::remove_left`] removes such ones.
//!
//! *Whose is it?* As long as a process has a number, it listens at an abstract socket of the network namespace that the number
//! names ([`Claim`]). Where nobody listens, or somebody other than root and our own user, the filter of this number is left over.

use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::fd::OwnedFd;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use packet::PortSet;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use rustix::process::{Uid, geteuid};

/// Maximum number of port ranges of one protocol, of a program's 4096 instructions (`BPF_MAXINSNS`).
pub const MAX_RANGES: usize = 640;

/// The place of the filter among others: before them.
const PRIORITY: u32 = 1;
/// Its number at this place: one for each process that uses the interface.
const HANDLES: Range<u32> = 0x7673..0x767b;

const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const ERROR: u16 = 2;

const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

/// Handle and parents of the queueing discipline (`include/uapi/linux/pkt_sched.h`).
const CLSACT: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// Attributes of the filter (`TCA_BPF_*`).
const PROGRAM_LEN: u16 = 4;
const PROGRAM: u16 = 5;
const FLAGS: u16 = 8;
/// The program's result is what happens to the packet.
const DIRECT_ACTION: u32 = 1;

/// Results of the program (`TC_ACT_*`).
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;

const VLAN_ID: u32 = 0xfff;

/// Offsets in the frame, from its Ethernet header on.
const ETHER_TYPE: u32 = 12;
const NETWORK: u32 = 14;
const FRAGMENT: u32 = NETWORK + 6;
const PROTOCOL: u32 = NETWORK + 9;
const DESTINATION: u32 = NETWORK + 16;
const DESTINATION_PORT: u32 = NETWORK + 2;
const FRAGMENT_OFFSET: u32 = 0x1fff;

/// A filter on an interface.
#[derive(Debug)]
pub struct TrafficFilter {
    interface: u32,
    handle: u32,
    /// Says that the number is in use. `None` if somebody else has the name of that.
    _claim: Option<Claim>,
}

impl TrafficFilter {
    /// Puts a filter on an interface of the calling thread's namespace, which drops nothing yet. Filters that killed processes left
    /// there are removed.
    pub fn attach(interface: u32) -> io::Result<TrafficFilter> {
        TrafficFilter::remove_left(interface);
        let mut claims = HANDLES.map(|handle| (handle, Claim::on(interface, handle)));
        let (handle, claim) = claims.find(|(_, claim)| !matches!(claim, Claimed::Other)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrInUse, "too many other processes have a filter on this interface")
        })?;
        let claim = if let Claimed::Ours(claim) = claim { Some(claim) } else { None };
        let filter = TrafficFilter { interface, handle, _claim: claim };
        make_discipline(interface)?;
        filter.set(Ipv4Addr::UNSPECIFIED, [&PortSet::default(), &PortSet::default()])?;
        Ok(filter)
    }

    /// Removes filters from an interface that processes left which were killed.
    pub fn remove_left(interface: u32) {
        for handle in HANDLES {
            if !matches!(Claim::on(interface, handle), Claimed::Other) {
                // Usually there is no such filter.
                let _ = delete(interface, handle);
            }
        }
    }

    /// The index of the interface.
    #[must_use]
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Drops IPv4 to this address and these ports, of TCP and of UDP, instead of what it dropped before; of each protocol
    /// the first [`MAX_RANGES`] ranges.
    pub fn set(&self, address: Ipv4Addr, ports: [&PortSet; 2]) -> io::Result<()> {
        self.put(CREATE, &attributes_of(address, ports))
    }

    /// Puts the filter on the interface again if somebody has removed it. Returns whether that was so.
    pub fn keep(&self, address: Ipv4Addr, ports: [&PortSet; 2]) -> io::Result<bool> {
        let attributes = attributes_of(address, ports);
        match self.put(CREATE | EXCLUSIVE, &attributes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Ok(()) => Ok(true),
            Err(_) => {
                // Without the discipline there are no filters.
                make_discipline(self.interface)?;
                self.put(CREATE, &attributes).map(|()| true)
            }
        }
    }

    fn put(&self, flags: u16, attributes: &[u8]) -> io::Result<()> {
        talk(NEW_FILTER, flags, self.interface, self.handle, INGRESS, place(), attributes)
    }
}

impl Drop for TrafficFilter {
    fn drop(&mut self) {
        let _ = delete(self.interface, self.handle);
    }
}

fn make_discipline(interface: u32) -> io::Result<()> {
    match talk(NEW_QDISC, CREATE | EXCLUSIVE, interface, CLSACT, CLSACT_PARENT, 0, &attribute(KIND, b"clsact\0")) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn delete(interface: u32, handle: u32) -> io::Result<()> {
    talk(DELETE_FILTER, 0, interface, handle, INGRESS, place(), &attribute(KIND, b"bpf\0"))
}

/// The attributes of a filter that drops IPv4 to this address and these ports.
fn attributes_of(address: Ipv4Addr, ports: [&PortSet; 2]) -> Vec<u8> {
    let program = program(address, ports);
    let code: Vec<u8> = program.iter().flat_map(bytes_of).collect();
    let options = [
        attribute(PROGRAM_LEN, &(program.len() as u16).to_ne_bytes()),
        attribute(PROGRAM, &code),
        attribute(FLAGS, &DIRECT_ACTION.to_ne_bytes()),
    ];
    [attribute(KIND, b"bpf\0"), attribute(OPTIONS, &options.concat())].concat()
}

/// Maximum number of processes that ask whether a number is in use; none of them is answered.
const MAX_QUESTIONS: i32 = 4096;

/// A socket that listens as long as a process has a number on an interface.
#[derive(Debug)]
struct Claim {
    _socket: OwnedFd,
}

/// Who has a number.
enum Claimed {
    Ours(Claim),
    /// Another process that may have a filter.
    Other,
    /// Somebody who took the name and may have none, or the name cannot be taken.
    Nobody,
}

impl Claim {
    /// Takes a number on an interface if nobody has it.
    fn on(interface: u32, handle: u32) -> Claimed {
        let name = format!("vswitchd.filter.{interface}.{handle:x}");
        let socket =
            || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
        let (Ok(address), Ok(ours)) = (SocketAddrUnix::new_abstract_name(name.as_bytes()), socket()) else {
            return Claimed::Nobody;
        };
        match bind(&ours, &address) {
            Ok(()) => match listen(&ours, MAX_QUESTIONS) {
                Ok(()) => Claimed::Ours(Claim { _socket: ours }),
                Err(_) => Claimed::Nobody,
            },
            Err(Errno::ADDRINUSE) => match connect(&ours, &address) {
                Ok(()) => match socket_peercred(&ours) {
                    Ok(peer) if [Uid::ROOT, geteuid()].contains(&peer.uid) => Claimed::Other,
                    _ => Claimed::Nobody,
                },
                // Its queue is full, or it does not listen yet: somebody asks or begins at this moment.
                Err(Errno::AGAIN | Errno::CONNREFUSED) => Claimed::Other,
                Err(_) => Claimed::Nobody,
            },
            Err(_) => Claimed::Nobody,
        }
    }
}

/// Priority and protocol of the filter: all, since frames with a tag for the priority alone are of another than IPv4.
fn place() -> u32 {
    PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be())
}

/// The program; at most 21 instructions and three for each range.
fn program(address: Ipv4Addr, [tcp, udp]: [&PortSet; 2]) -> Vec<libc::sock_filter> {
    let line = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |size, from| line(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, from);
    let jump = |test: u32, k, jt, jf| line(libc::BPF_JMP | test | libc::BPF_K, jt, jf, k);
    let end = |with| line(libc::BPF_RET | libc::BPF_K, 0, 0, with);
    let [tcp, udp] = [tcp, udp].map(|ports| {
        let mut lines = Vec::new();
        for range in ports.ranges().iter().take(MAX_RANGES) {
            lines.push(jump(libc::BPF_JGE, (*range.start()).into(), 0, 2));
            lines.push(jump(libc::BPF_JGT, (*range.end()).into(), 1, 0));
            lines.push(end(DROP));
        }
        lines.push(end(NEXT));
        lines
    });
    let mut program = vec![
        // Frames of a VLAN belong to another interface; VLAN 0 is none. The tag is not in the frame any more.
        load(libc::BPF_W, (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG) as u32),
        jump(libc::BPF_JSET, VLAN_ID, 2, 0),
        load(libc::BPF_H, ETHER_TYPE),
        jump(libc::BPF_JEQ, libc::ETH_P_IP as u32, 1, 0),
        end(NEXT),
        load(libc::BPF_W, DESTINATION),
        jump(libc::BPF_JEQ, address.to_bits(), 1, 0),
        end(NEXT),
        load(libc::BPF_H, FRAGMENT),
        jump(libc::BPF_JSET, FRAGMENT_OFFSET, 0, 1),
        end(NEXT),
        line(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, NETWORK),
        load(libc::BPF_B, PROTOCOL),
        jump(libc::BPF_JEQ, libc::IPPROTO_TCP as u32, 3, 0),
        jump(libc::BPF_JEQ, libc::IPPROTO_UDP as u32, 1, 0),
        end(NEXT),
        // To the ports of UDP, behind those of TCP.
        line(libc::BPF_JMP | libc::BPF_JA, 0, 0, tcp.len() as u32 + 1),
        line(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, DESTINATION_PORT),
    ];
    program.extend(tcp);
    program.push(line(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, DESTINATION_PORT));
    program.extend(udp);
    program
}

fn bytes_of(line: &libc::sock_filter) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (line.code.to_ne_bytes(), line.k.to_ne_bytes());
    [a, b, line.jt, line.jf, c, d, e, f]
}

/// A netlink attribute: length, kind, value, padding to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a request of traffic control, `struct nlmsghdr` and `struct tcmsg`, and waits for its outcome.
fn talk(kind: u16, flags: u16, interface: u32, handle: u32, parent: u32, info: u32, attributes: &[u8]) -> io::Result<()> {
    let mut request = Vec::with_capacity(36 + attributes.len());
    request.extend((36 + attributes.len() as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((REQUEST_ACK | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; 4]);
    for word in [interface, handle, parent, info] {
        request.extend(word.to_ne_bytes());
    }
    request.extend(attributes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let mut answer = [0; 4096];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::TRUNC)?;
    let answer = answer.get(..len).unwrap_or(&answer);
    let kind = answer.get(4..).and_then(|bytes| bytes.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
    let code = answer.get(16..).and_then(|bytes| bytes.first_chunk()).map(|code| i32::from_ne_bytes(*code));
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel answered a request of traffic control with something else",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(program: &[libc::sock_filter]) -> usize {
        program.iter().filter(|line| u32::from(line.code) == libc::BPF_RET | libc::BPF_K && line.k == DROP).count()
    }

    #[test]
    fn programs_have_a_line_for_each_end_of_a_range() {
        let none = PortSet::default();
        let empty = program(Ipv4Addr::new(192, 0, 2, 1), [&none, &none]);
        assert_eq!((empty.len(), results(&empty)), (21, 0));
        let odd: PortSet = (0..=u16::MAX).filter(|port| port % 2 == 1).collect();
        let full = program(Ipv4Addr::new(192, 0, 2, 1), [&odd, &odd]);
        assert_eq!((full.len(), results(&full)), (21 + 6 * MAX_RANGES, 2 * MAX_RANGES));
        assert!(full.len() <= 4096);
    }

    #[test]
    fn attributes_are_padded() {
        assert_eq!(attribute(KIND, b"bpf\0"), [[8u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat(), b"bpf\0".to_vec()].concat());
        assert_eq!(attribute(PROGRAM_LEN, &[1, 2]).len(), 8);
    }
}
