//! The ports that programs of the host use, by sock_diag(7).
//!
//! One request per protocol and family returns a message for each socket in the wanted states:
//!
//! ```text
//!  0        4        8          24         40     44        52         68      72
//! +--------+--------+----------+----------+------+---------+----------+-------+------------
//! | family | ports  | local    | remote   | inter| cookie  | timers.. | inode | attributes
//! | state  |        | address  | address  | face |         |          |       |
//! +--------+--------+----------+----------+------+---------+----------+-------+------------
//! ```
//!
//! Only sockets that an IPv4 packet to the address can reach count: bound to it or to all addresses, and to no other
//! interface. Sockets of IPv6 receive IPv4 as well, unless they say that they do not.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use packet::PortSet;
use rustix::net::RecvFlags;

use crate::reservation::PortProtocol;

/// The state that sockets are wanted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketState {
    /// A TCP listener, or a UDP socket that is not connected: any host may send to it.
    Waiting,
    /// A TCP connection, also one that is opening or was closed lately; not for UDP.
    Connected,
}

/// Maximum number of messages read of a list.
const MAX_MESSAGES: usize = 2_000_000;

/// Room for messages. The kernel fills up to 32 KiB (`NLMSG_GOODSIZE` of a reader that has as much).
const BUFFER: usize = 32 << 10;

const HEADER_LEN: usize = 16;
const SOCKET_LEN: usize = 72;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x1 | 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// States of sockets (`include/net/tcp_states.h`).
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;
const ALL: u32 = 0xfff;
const NONE: u32 = 0;

/// The attribute that says whether a socket of IPv6 receives IPv6 only.
const V6ONLY: u16 = 11;

/// Adds to `ports` those of the host's sockets in this state that an IPv4 packet to `address` on `interface` can reach.
pub fn collect(
    protocol: PortProtocol,
    state: SocketState,
    address: Ipv4Addr,
    interface: u32,
    ports: &mut PortSet,
) -> io::Result<()> {
    let states = match (state, protocol) {
        (SocketState::Waiting, PortProtocol::Tcp) => 1 << LISTEN,
        (SocketState::Waiting, PortProtocol::Udp) => 1 << CLOSE,
        (SocketState::Connected, PortProtocol::Tcp) => ALL & !(1 << LISTEN | 1 << CLOSE),
        (SocketState::Connected, PortProtocol::Udp) => NONE,
    };
    if states == NONE {
        return Ok(());
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        list(family as u8, protocol, states, |socket| {
            if let Some(port) = port_of(socket, address, interface) {
                ports.insert(port);
            }
        })?;
    }
    Ok(())
}

/// Visits the sockets of a family, each as the kernel describes it.
fn list(family: u8, protocol: PortProtocol, states: u32, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.send(&request(family, protocol, states), 0)?;
    let mut bytes = vec![0; BUFFER];
    let mut left = MAX_MESSAGES;
    loop {
        let (len, _) = rustix::net::recv(&socket, &mut bytes[..], RecvFlags::empty())?;
        let mut rest = bytes.get(..len).unwrap_or_default();
        while let Some((kind, message, next)) = first_message(rest) {
            match kind {
                SOCK_DIAG_BY_FAMILY => visit(message),
                // Protocols that the kernel does not have.
                ERROR => return refusal(message),
                DONE => return Ok(()),
                _ => {}
            }
            left -= 1;
            if left == 0 {
                return Ok(());
            }
            rest = next;
        }
    }
}

fn refusal(message: &[u8]) -> io::Result<()> {
    let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    // A kernel without IPv6 has no such sockets.
    if code == -libc::ENOENT { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// The request: `struct nlmsghdr`, `struct inet_diag_req_v2`.
fn request(family: u8, protocol: PortProtocol, states: u32) -> [u8; 72] {
    let mut request = [0; 72];
    let protocol = if protocol == PortProtocol::Tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    request[..4].copy_from_slice(&72u32.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request[HEADER_LEN] = family;
    request[HEADER_LEN + 1] = protocol as u8;
    request[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&states.to_ne_bytes());
    request
}

/// The kind and content of the first message, and what follows it.
fn first_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let message = bytes.get(HEADER_LEN..len)?;
    Some((kind, message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The port of a socket, if an IPv4 packet to the address on the interface can reach it.
fn port_of(socket: &[u8], address: Ipv4Addr, interface: u32) -> Option<u16> {
    let (fixed, attributes) = socket.split_first_chunk::<SOCKET_LEN>()?;
    let port = u16::from_be_bytes([fixed[4], fixed[5]]);
    let bound_to = u32::from_ne_bytes([fixed[40], fixed[41], fixed[42], fixed[43]]);
    let local: [u8; 16] = *fixed[8..].first_chunk()?;
    let local = match libc::c_int::from(fixed[0]) {
        libc::AF_INET => Some(Ipv4Addr::new(local[0], local[1], local[2], local[3])),
        _ if Ipv6Addr::from(local).is_unspecified() && !is_ipv6_only(attributes) => Some(Ipv4Addr::UNSPECIFIED),
        _ => Ipv6Addr::from(local).to_ipv4_mapped(),
    };
    let reaches = local.is_some_and(|local| local.is_unspecified() || local == address);
    (reaches && port != 0 && (bound_to == 0 || bound_to == interface)).then_some(port)
}

fn is_ipv6_only(mut attributes: &[u8]) -> bool {
    while let Some([a, b, c, d]) = attributes.first_chunk() {
        let (len, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        if kind == V6ONLY {
            return attributes.get(4).is_some_and(|value| *value != 0);
        }
        if len < 4 {
            return false;
        }
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn socket(family: libc::c_int, local: &[u8], port: u16, interface: u32) -> Vec<u8> {
        let mut socket = vec![0; SOCKET_LEN];
        socket[0] = family as u8;
        socket[4..6].copy_from_slice(&port.to_be_bytes());
        socket[8..8 + local.len()].copy_from_slice(local);
        socket[40..44].copy_from_slice(&interface.to_ne_bytes());
        socket
    }

    #[test]
    fn sockets_that_a_packet_reaches() {
        let v4 = |local: [u8; 4], interface| port_of(&socket(libc::AF_INET, &local, 53, interface), OURS, 7);
        assert_eq!(v4([0; 4], 0), Some(53));
        assert_eq!(v4([192, 0, 2, 1], 7), Some(53));
        assert_eq!((v4([127, 0, 0, 53], 0), v4([0; 4], 8)), (None, None));
        let v6 = |local: [u8; 16], attributes: &[u8]| {
            let mut socket = socket(libc::AF_INET6, &local, 443, 0);
            socket.extend(attributes);
            port_of(&socket, OURS, 7)
        };
        let attribute = |kind: u16, value: u8| {
            let [a, b] = kind.to_ne_bytes();
            let [c, d] = 5u16.to_ne_bytes();
            [c, d, a, b, value, 0, 0, 0]
        };
        assert_eq!(v6([0; 16], &[]), Some(443));
        assert_eq!(v6([0; 16], &attribute(V6ONLY, 0)), Some(443));
        assert_eq!(v6([0; 16], &[attribute(8, 3), attribute(V6ONLY, 1)].concat()), None);
        assert_eq!(v6(OURS.to_ipv6_mapped().octets(), &[]), Some(443));
        assert_eq!(v6(Ipv6Addr::LOCALHOST.octets(), &[]), None);
    }

    #[test]
    fn cut_messages() {
        let whole = socket(libc::AF_INET, &[0; 4], 53, 0);
        for len in 0..whole.len() {
            assert_eq!(port_of(&whole[..len], OURS, 7), None);
        }
        assert!(!is_ipv6_only(&[0, 0, 0, 0, 1]) && !is_ipv6_only(&[5]));
        let mut message = [0; 20];
        message[..4].copy_from_slice(&20u32.to_ne_bytes());
        message[4..6].copy_from_slice(&DONE.to_ne_bytes());
        assert_eq!(first_message(&message), Some((DONE, &[0; 4][..], &[][..])));
        assert_eq!((first_message(&message[..19]), first_message(&[0; 16])), (None, None));
    }

    #[test]
    fn sockets_of_this_process_are_found() {
        let bound = |state, protocol| {
            let mut ports = PortSet::default();
            collect(protocol, state, Ipv4Addr::LOCALHOST, 1, &mut ports).unwrap();
            ports
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("[::]:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ports = [listener.local_addr(), socket.local_addr(), client.local_addr()].map(|address| address.unwrap().port());
        let tcp = bound(SocketState::Waiting, PortProtocol::Tcp);
        assert!(tcp.contains(ports[0]) && !tcp.contains(ports[2]));
        assert!(bound(SocketState::Waiting, PortProtocol::Udp).contains(ports[1]));
        assert!(bound(SocketState::Connected, PortProtocol::Tcp).contains(ports[2]));
    }
}
