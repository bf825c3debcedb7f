//! Datagrams of the host's programs to ports at which nothing is bound, and answers in the name of these ports.
//!
//! ```text
//!   program --> 127.0.0.1:5353 --> lo --> LocalLookup --> this socket, which is bound to a port of its own
//!           <-- from 127.0.0.1:5353 <-- lo <-- raw socket, with headers of our making
//! ```
//!
//! A datagram that the [program of local clients](crate::gate::LocalLookup) gave to the socket comes with the address and port that it
//! was sent to (`IP_ORIGDSTADDR`). A socket can only answer from the port that it is bound to, and nothing is to be bound to the wanted
//! one, so the answer is a whole packet from a raw socket (`CAP_NET_RAW`). It stays on the host, as the client's address is one of the
//! host's. The raw socket is of protocol 255, of which nothing is received. A socket that is [bound](LocalDatagrams::bound) to the wanted
//! port needs none of that.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use packet::checksum;
use packet::ipv4::{IPV4_LEN, Ipv4Header};
use packet::ipv6::{IPV6_LEN, Ipv6Header};
use packet::udp::{self, UDP_LEN};
use rustix::io::Errno;
use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, Protocol, SockAddr, Socket, Type};

use crate::option;

/// Room that an [answer](LocalDatagrams::answer) needs before its payload, in bytes.
pub const HEADROOM: usize = IPV6_LEN + UDP_LEN;

/// Where a datagram was sent to (`include/uapi/linux/in.h`, `in6.h`).
const IP_ORIGDSTADDR: libc::c_int = 20;
const IPV6_ORIGDSTADDR: libc::c_int = 74;

/// Room for a control message with an address of IPv6, in bytes.
const CONTROL_LEN: usize = 64;

/// Header of a control message: its length, level and type.
const CONTROL_HEADER: usize = size_of::<usize>() + 2 * size_of::<libc::c_int>();

const HOP_LIMIT: u8 = 64;

/// Who sent a datagram, and where to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LocalFlow {
    /// The program's address and port.
    pub client: SocketAddr,
    /// The address and port that it sent to.
    pub wanted: SocketAddr,
}

/// The sockets of one family of addresses, or of one port.
#[derive(Debug)]
pub struct LocalDatagrams {
    socket: Socket,
    /// For answers, if the socket is not bound to where the clients send to.
    raw: Option<Socket>,
}

impl AsFd for LocalDatagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl LocalDatagrams {
    /// Sockets for datagrams to addresses of IPv4.
    pub fn of_ipv4() -> io::Result<LocalDatagrams> {
        LocalDatagrams::for_other_ports(Ipv4Addr::LOCALHOST.into())
    }

    /// Sockets for datagrams to addresses of IPv6.
    pub fn of_ipv6() -> io::Result<LocalDatagrams> {
        LocalDatagrams::for_other_ports(Ipv6Addr::LOCALHOST.into())
    }

    /// A socket for datagrams to this address and port, which nobody else may have.
    pub fn bound(address: SocketAddr) -> io::Result<LocalDatagrams> {
        let (level, original) = match address {
            SocketAddr::V4(_) => (libc::SOL_IP, IP_ORIGDSTADDR),
            SocketAddr::V6(_) => (libc::SOL_IPV6, IPV6_ORIGDSTADDR),
        };
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        option::set(socket.as_fd(), level, original, 1)?;
        socket.bind(&address.into())?;
        Ok(LocalDatagrams { socket, raw: None })
    }

    fn for_other_ports(loopback: IpAddr) -> io::Result<LocalDatagrams> {
        let address = SocketAddr::new(loopback, 0);
        let LocalDatagrams { socket, .. } = LocalDatagrams::bound(address)?;
        let protocol = Protocol::from(libc::IPPROTO_RAW);
        let raw = Socket::new(Domain::for_address(address), Type::RAW.nonblocking(), Some(protocol))?;
        Ok(LocalDatagrams { socket, raw: Some(raw) })
    }

    /// Receives a datagram into `payload`. `None` if no datagram is waiting. Returns its length; and whose it is, unless the kernel
    /// does not say.
    pub fn receive(&self, payload: &mut [u8]) -> io::Result<Option<(usize, Option<LocalFlow>)>> {
        let mut control = [MaybeUninit::new(0); CONTROL_LEN];
        let mut from = SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        // SAFETY: bytes that are initialized may be seen as such that need not be; recvmsg(2) only writes to them.
        let payload = unsafe { MaybeUninitSlice::new(&mut *(std::ptr::from_mut(payload) as *mut [MaybeUninit<u8>])) };
        let mut pieces = [payload];
        let mut message = MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut pieces).with_control(&mut control);
        let len = match self.socket.recvmsg(&mut message, 0) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            received => received?,
        };
        let control_len = message.control_len();
        // SAFETY: all bytes were initialized, and the kernel has only overwritten some.
        let control = control.map(|byte| unsafe { byte.assume_init() });
        let wanted = control.get(..control_len).and_then(original_destination);
        let flow = from.as_socket().zip(wanted).map(|(client, wanted)| LocalFlow { client, wanted });
        Ok(Some((len, flow)))
    }

    /// Sends a datagram from where the client's ones went. Its payload begins at [`HEADROOM`] of `packet`; the headers are written before
    /// it. What the client's socket has no room for is lost, as always.
    pub fn answer(&self, flow: &LocalFlow, packet: &mut [u8]) -> io::Result<()> {
        let Some(raw) = &self.raw else {
            let payload = packet.get(HEADROOM..).unwrap_or_default();
            return self.socket.send_to(payload, &flow.client.into()).map(drop);
        };
        let packet = write_headers(flow, packet).ok_or(Errno::MSGSIZE)?;
        // The port is in the packet, and the kernel wants none here.
        let to = SocketAddr::new(flow.client.ip(), 0);
        raw.send_to(packet, &to.into()).map(drop)
    }
}

/// The packet of an answer. `None` if it is too long.
fn write_headers<'p>(flow: &LocalFlow, packet: &'p mut [u8]) -> Option<&'p [u8]> {
    let length = u16::try_from(packet.len().checked_sub(HEADROOM)? + UDP_LEN).ok()?;
    let at = HEADROOM - UDP_LEN;
    packet[at + udp::field::SRC_PORT..][..2].copy_from_slice(&flow.wanted.port().to_be_bytes());
    packet[at + udp::field::DST_PORT..][..2].copy_from_slice(&flow.client.port().to_be_bytes());
    packet[at + udp::field::LENGTH..][..2].copy_from_slice(&length.to_be_bytes());
    packet[at + udp::field::CHECKSUM..][..2].fill(0);
    let (addresses, start) = match (flow.wanted.ip(), flow.client.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total_len = length.checked_add(IPV4_LEN as u16)?;
            let (tos, id, dont_fragment, ttl) = (0, 0, true, HOP_LIMIT);
            let header = Ipv4Header { tos, total_len, id, dont_fragment, ttl, protocol: udp::PROTOCOL, src, dst };
            packet[at - IPV4_LEN..at].copy_from_slice(&header.to_bytes());
            (at - 8..at, at - IPV4_LEN)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (traffic_class, payload_len, hop_limit) = (0, length, HOP_LIMIT);
            let header = Ipv6Header { traffic_class, payload_len, next_header: udp::PROTOCOL, hop_limit, src, dst };
            packet[at - IPV6_LEN..at].copy_from_slice(&header.to_bytes());
            (at - 32..at, at - IPV6_LEN)
        }
        _ => return None,
    };
    let pseudo_header = checksum::pseudo_header(&packet[addresses], udp::PROTOCOL, length.into());
    let check = match !checksum::add(pseudo_header, checksum::sum(&packet[at..])) {
        // Zero stands for none (RFC 768).
        0 => 0xffff,
        check => check,
    };
    packet[at + udp::field::CHECKSUM..][..2].copy_from_slice(&check.to_be_bytes());
    packet.get(start..)
}

/// The destination in control messages.
fn original_destination(mut control: &[u8]) -> Option<SocketAddr> {
    loop {
        let len = usize::from_ne_bytes(*control.first_chunk()?);
        let mut fields = control.get(size_of::<usize>()..CONTROL_HEADER)?.chunks_exact(size_of::<libc::c_int>());
        let mut field = || fields.next()?.first_chunk().map(|bytes| libc::c_int::from_ne_bytes(*bytes));
        let (level, kind) = (field()?, field()?);
        let data = control.get(CONTROL_HEADER..len)?;
        let port = || data.get(2..)?.first_chunk().map(|port| u16::from_be_bytes(*port));
        match (level, kind) {
            // `struct sockaddr_in`: family, port, address.
            (libc::SOL_IP, IP_ORIGDSTADDR) => {
                return Some(SocketAddr::from((*data.get(4..)?.first_chunk::<4>()?, port()?)));
            }
            // `struct sockaddr_in6`: family, port, flow, address.
            (libc::SOL_IPV6, IPV6_ORIGDSTADDR) => {
                return Some(SocketAddr::from((*data.get(8..)?.first_chunk::<16>()?, port()?)));
            }
            _ => control = control.get(len.next_multiple_of(size_of::<usize>())..)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use packet::{Headers, Transport};

    use super::*;

    fn flow(client: &str, wanted: &str) -> LocalFlow {
        LocalFlow { client: client.parse().unwrap(), wanted: wanted.parse().unwrap() }
    }

    fn packet_with(payload: &[u8]) -> Vec<u8> {
        [&[0xaa; HEADROOM][..], payload].concat()
    }

    #[test]
    fn an_answer_on_literal_bytes() {
        let mut packet = packet_with(b"abc");
        let packet = write_headers(&flow("127.0.0.1:5000", "127.0.0.1:53"), &mut packet).unwrap();
        let ip = [0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x3c, 0xcc, 127, 0, 0, 1, 127, 0, 0, 1];
        let udp = [0, 53, 0x13, 0x88, 0, 11, 0x29, 0xb6, b'a', b'b', b'c'];
        assert_eq!(packet, [&ip[..], &udp].concat());
    }

    #[test]
    fn answers_of_both_families_are_whole() {
        for (client, wanted) in [("10.0.0.1:5000", "127.0.0.1:53"), ("[fd00::1]:5000", "[::1]:53")] {
            for len in [0, 1, 1000] {
                let payload = vec![7; len];
                let mut packet = packet_with(&payload);
                let packet = write_headers(&flow(client, wanted), &mut packet).unwrap();
                let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
                let frame = [&[0; 12][..], &ethertype, packet].concat();
                let headers = Headers::parse(&frame).unwrap();
                assert_eq!(headers.transport, Transport::Udp);
                let datagram = &frame[usize::from(headers.l4)..];
                assert_eq!(datagram[UDP_LEN..], payload);
                let pseudo_header = checksum::pseudo_header(headers.addresses(&frame), udp::PROTOCOL, datagram.len());
                assert_eq!(checksum::add(pseudo_header, checksum::sum(datagram)), 0xffff);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let longest = 65_535 - IPV4_LEN - UDP_LEN;
        for (len, is_taken) in [(longest, true), (longest + 1, false), (70_000, false)] {
            let mut packet = packet_with(&vec![0; len]);
            assert_eq!(write_headers(&flow("127.0.0.1:5000", "127.0.0.1:53"), &mut packet).is_some(), is_taken, "{len}");
        }
        assert!(write_headers(&flow("127.0.0.1:5000", "127.0.0.1:53"), &mut [0; HEADROOM - 1]).is_none());
        assert!(write_headers(&flow("127.0.0.1:5000", "[::1]:53"), &mut packet_with(b"")).is_none());
    }

    #[test]
    fn destinations_in_control_messages() {
        let message = |level: libc::c_int, kind: libc::c_int, data: &[u8]| {
            let mut bytes = (CONTROL_HEADER + data.len()).to_ne_bytes().to_vec();
            bytes.extend([level.to_ne_bytes(), kind.to_ne_bytes()].concat());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
            bytes
        };
        let v4 = message(libc::SOL_IP, IP_ORIGDSTADDR, &[2, 0, 0, 53, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut address = [0; 28];
        (address[0], address[3], address[23]) = (10, 53, 1);
        let v6 = message(libc::SOL_IPV6, IPV6_ORIGDSTADDR, &address);
        let other = message(libc::SOL_SOCKET, 1, &[0; 5]);
        for (bytes, expected) in
            [(&v4, "127.0.0.1:53"), (&v6, "[::1]:53"), (&[&other[..], &v4].concat(), "127.0.0.1:53")] as [(&Vec<u8>, &str); 3]
        {
            assert_eq!(original_destination(bytes), Some(expected.parse().unwrap()));
        }
        assert_eq!(original_destination(&other), None);
        for len in 0..CONTROL_HEADER + 8 {
            assert_eq!(original_destination(&v4[..len]), None, "{len} bytes");
        }
        assert_eq!(original_destination(&[0; CONTROL_LEN]), None);
        assert_eq!(original_destination(&[0xff; CONTROL_LEN]), None);
    }
}
