//! The host's stack on reserved ports and on others.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use libtest_mimic::Trial;
use netio::Reservation;
use netio::packet_socket::PacketSocket;
use netio::reservation::{PortProtocol, process_of_port};
use testkit::packets::{self, ACK, SYN, Tcp};

use crate::frames::{Frame, drain, ethernet, send};
use crate::host::{Host, address, pair, until};
use crate::trial;

const FREE: u16 = 41_000;
const RESERVED: u16 = 40_000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_host_is_silent_on_reserved_ports_only", the_host_is_silent_on_reserved_ports_only),
        trial("the_hosts_own_connections_are_unharmed", the_hosts_own_connections_are_unharmed),
        trial("a_port_is_reserved_until_it_is_released", a_port_is_reserved_until_it_is_released),
        trial("a_port_in_use_is_refused_and_its_program_named", a_port_in_use_is_refused_and_its_program_named),
    ]
}

/// The replies of the near host's stack to these packets, except ARP. An echo request is sent last, and its reply shows that
/// all others have been processed.
pub(crate) fn answers(near: &Host, wire: &PacketSocket, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let to = near.link().mac;
    for packet in packets {
        send(wire, &ethernet(to, packet));
    }
    send(wire, &ethernet(to, &packets::query(8, 0, address(2), address(1), &[])));
    let mut said: Vec<Frame> = Vec::new();
    until("the echo", || {
        said.append(&mut drain(wire, 0).0);
        said.iter().any(|frame| frame.bytes[12..14] == [8, 0] && frame.bytes[23] == 1 && frame.bytes[34] == 0).then_some(())
    });
    let ip = said.into_iter().filter(|frame| frame.bytes[12..14] == [8, 0]);
    ip.map(|frame| frame.bytes).filter(|bytes| !(bytes[23] == 1 && bytes[34] == 0)).collect()
}

pub(crate) fn to_port(port: u16) -> [Vec<u8>; 4] {
    let (from, to) = (|port| SocketAddrV4::new(address(2), port), SocketAddrV4::new(address(1), port));
    let segment = |flags| packets::tcp(from(80), to, &Tcp::new(flags, 1, 9), b"");
    [segment(SYN), segment(ACK), segment(SYN | ACK), packets::udp(from(53), to, b"answer")]
}

fn the_host_is_silent_on_reserved_ports_only() {
    let (near, far) = pair();
    // No limit on the errors that a host sends.
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"));
    let wire = far.open(far.spec());
    let _held = near.inside(|| Ok((Reservation::tcp(address(1), RESERVED)?, Reservation::udp(address(1), RESERVED)?)));
    assert_eq!(answers(&near, &wire, &to_port(RESERVED)), Vec::<Vec<u8>>::new());

    let said = answers(&near, &wire, &to_port(FREE));
    let resets = said.iter().filter(|bytes| bytes[23] == 6 && bytes[47] & 0x04 != 0).count();
    let unreachable = said.iter().filter(|bytes| bytes[23] == 1 && bytes[34..36] == [3, 3]).count();
    assert_eq!((resets, unreachable, said.len()), (3, 1, 4), "{said:x?}");
}

fn the_hosts_own_connections_are_unharmed() {
    let (near, far) = pair();
    let ports = 40_000..40_100;
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40200"));
    let reserve = |port| Ok((Reservation::tcp(address(1), port)?, Reservation::udp(address(1), port)?));
    let _held: Vec<_> = near.inside(|| ports.clone().map(reserve).collect());
    // The host's programs are given other ports, also those bound to all addresses.
    let listener = far.inside(|| TcpListener::bind((address(2), 0)));
    let to = listener.local_addr().expect("an address");
    let mut open = Vec::new();
    for _ in 0..50 {
        let socket = near.inside(|| UdpSocket::bind("0.0.0.0:0"));
        assert!(!ports.contains(&socket.local_addr().expect("an address").port()));
        let stream = near.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
        assert!(!ports.contains(&stream.local_addr().expect("an address").port()));
        open.push((socket, stream));
    }
}

/// The error of an attempt, if it failed.
fn refusal<T>(attempt: io::Result<T>) -> Option<ErrorKind> {
    attempt.err().map(|error| error.kind())
}

fn a_port_is_reserved_until_it_is_released() {
    const IN_USE: Option<ErrorKind> = Some(ErrorKind::AddrInUse);
    let (near, _far) = pair();
    near.inside(|| {
        let (tcp, udp) = (Reservation::tcp(address(1), 0)?, Reservation::udp(address(1), 0)?);
        let (tcp_port, udp_port) = (tcp.port()?, udp.port()?);
        for address in [address(1), Ipv4Addr::UNSPECIFIED] {
            assert_eq!(refusal(TcpListener::bind((address, tcp_port))), IN_USE);
            assert_eq!(refusal(UdpSocket::bind((address, udp_port))), IN_USE);
        }
        assert_eq!(refusal(Reservation::tcp(address(1), tcp_port)), IN_USE);
        assert_eq!(refusal(Reservation::udp(address(1), udp_port)), IN_USE);
        drop((tcp, udp));
        TcpListener::bind((address(1), tcp_port))?;
        UdpSocket::bind((address(1), udp_port))?;
        assert_eq!(refusal(Reservation::tcp(address(2), 0)), Some(ErrorKind::AddrNotAvailable));
        Ok(())
    });
}

fn a_port_in_use_is_refused_and_its_program_named() {
    let (near, _far) = pair();
    near.inside(|| {
        let own = std::process::id();
        let owner = |protocol, port| process_of_port(protocol, port).map(|(pid, name)| (pid, name.is_empty()));
        for address_of_program in ["192.0.2.1", "0.0.0.0", "::"] {
            let address_of_program: IpAddr = address_of_program.parse().expect("an address");
            let listener = TcpListener::bind((address_of_program, 0))?;
            let port = listener.local_addr()?.port();
            assert_eq!(refusal(Reservation::tcp(address(1), port)), Some(ErrorKind::AddrInUse), "{address_of_program}");
            assert_eq!(owner(PortProtocol::Tcp, port), Some((own, false)));
            let socket = UdpSocket::bind((address_of_program, 0))?;
            let port = socket.local_addr()?.port();
            assert_eq!(refusal(Reservation::udp(address(1), port)), Some(ErrorKind::AddrInUse), "{address_of_program}");
            assert_eq!(owner(PortProtocol::Udp, port), Some((own, false)));
        }
        assert_eq!(owner(PortProtocol::Tcp, 1), None);
        Ok(())
    });
}
