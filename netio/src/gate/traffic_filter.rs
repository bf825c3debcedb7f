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
//! Filters belong to a queueing discipline, `clsact`, which is made if the interface has none, and stays. The filter has a
//! place of its own ([`PRIORITY`], [`HANDLE`]): a filter that a killed process left is replaced at the next start. It is
//! removed when the value is dropped.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use packet::PortSet;
use rustix::net::RecvFlags;

/// Maximum number of port ranges of one protocol, of a program's 4096 instructions (`BPF_MAXINSNS`).
pub const MAX_RANGES: usize = 640;

/// The place of the filter among others: before them.
const PRIORITY: u32 = 1;
/// Its number at this place.
const HANDLE: u32 = 0x7673;

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
}

impl TrafficFilter {
    /// Puts a filter on an interface of the calling thread's namespace, which drops nothing yet.
    pub fn attach(interface: u32) -> io::Result<TrafficFilter> {
        let kind = attribute(KIND, b"clsact\0");
        match talk(NEW_QDISC, CREATE | EXCLUSIVE, interface, CLSACT, CLSACT_PARENT, 0, &kind) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let filter = TrafficFilter { interface };
        filter.set(Ipv4Addr::UNSPECIFIED, [&PortSet::default(), &PortSet::default()])?;
        Ok(filter)
    }

    /// The index of the interface.
    #[must_use]
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Drops IPv4 to this address and these ports, of TCP and of UDP, instead of what it dropped before; of each protocol
    /// the first [`MAX_RANGES`] ranges.
    pub fn set(&self, address: Ipv4Addr, ports: [&PortSet; 2]) -> io::Result<()> {
        let program = program(address, ports);
        let code: Vec<u8> = program.iter().flat_map(bytes_of).collect();
        let options = [
            attribute(PROGRAM_LEN, &(program.len() as u16).to_ne_bytes()),
            attribute(PROGRAM, &code),
            attribute(FLAGS, &DIRECT_ACTION.to_ne_bytes()),
        ];
        let attributes = [attribute(KIND, b"bpf\0"), attribute(OPTIONS, &options.concat())].concat();
        talk(NEW_FILTER, CREATE, self.interface, HANDLE, INGRESS, place(), &attributes)
    }
}

impl Drop for TrafficFilter {
    fn drop(&mut self) {
        let _ = talk(DELETE_FILTER, 0, self.interface, HANDLE, INGRESS, place(), &attribute(KIND, b"bpf\0"));
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
