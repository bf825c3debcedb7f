//! The route to a peer: its path MTU and source address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use socket2::SockRef;

use crate::link;

/// Destination port of the route look-up: any except 0. Nothing is sent.
const SOME_PORT: u16 = 9;

/// The present path to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// The path MTU in bytes, including the IP header: that of the interface or route, or less after an ICMP error.
    pub mtu: u32,
    /// The source address of datagrams to the peer.
    pub source: IpAddr,
}

/// Looks up the path to a peer or multicast group, from a local address (`None`: the route's) and through an interface.
/// Errors: `NetworkUnreachable`, `HostUnreachable`, or `NotFound` if the interface does not exist.
pub fn path(local: Option<IpAddr>, remote: IpAddr, device: Option<&str>) -> io::Result<Path> {
    let family = if remote.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if let Some(name) = device {
        super::bind_to_device(SockRef::from(&socket), name).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => io::Error::new(io::ErrorKind::NotFound, error),
            _ => error,
        })?;
        send_groups_to(socket.as_fd(), remote.is_ipv4(), link::get(name)?.index)?;
    }
    if let Some(local) = local.filter(|local| !local.is_unspecified()) {
        bind(&socket, &SocketAddr::new(local, 0))?;
    }
    connect(&socket, &SocketAddr::new(remote, SOME_PORT))?;
    let mtu = match remote {
        IpAddr::V4(_) => sockopt::ip_mtu(&socket)?,
        IpAddr::V6(_) => sockopt::ipv6_mtu(&socket)?,
    };
    Ok(Path { mtu, source: super::local_address(&socket)?.ip() })
}

/// Sets the interface that datagrams to multicast groups leave through.
pub(super) fn send_groups_to(socket: BorrowedFd<'_>, ipv4: bool, index: u32) -> io::Result<()> {
    if ipv4 {
        return Ok(sockopt::set_ip_multicast_if_with_ifindex(socket, &Ipv4Addr::UNSPECIFIED, &Ipv4Addr::UNSPECIFIED, index)?);
    }
    SockRef::from(&socket).set_multicast_if_v6(index)
}
