//! What the kernel's routes say of the way to a peer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::{link, option};

/// Any but 0, for which there is no route: nothing is sent.
const SOME_PORT: u16 = 9;

/// The way to a peer, as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// The longest packet, IP header included, in bytes: the interface's or the route's, or what an ICMP error
    /// has said of the path.
    pub mtu: u32,
    /// The address that datagrams leave with.
    pub source: IpAddr,
}

/// The way to a peer or a multicast group, from an address of ours (or whichever the route says) and out of
/// an interface. `NetworkUnreachable`, `HostUnreachable`: there is none. `NotFound`: no such interface.
pub fn path(local: Option<IpAddr>, remote: IpAddr, device: Option<&str>) -> io::Result<Path> {
    let family = if remote.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if let Some(name) = device {
        super::bind_to_device(socket.as_fd(), name).map_err(|error| match error.raw_os_error() {
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
        IpAddr::V4(_) => option::get(socket.as_fd(), libc::SOL_IP, libc::IP_MTU, 0)?,
        IpAddr::V6(_) => option::get(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_MTU, 0)?,
    };
    Ok(Path { mtu: u32::try_from(mtu).unwrap_or(0), source: super::local_address(&socket)?.ip() })
}

/// The interface that datagrams to multicast groups leave by.
pub(super) fn send_groups_to(socket: std::os::fd::BorrowedFd<'_>, ipv4: bool, index: u32) -> io::Result<()> {
    if ipv4 {
        let request = super::group_request(std::net::Ipv4Addr::UNSPECIFIED, index);
        return option::set(socket, libc::SOL_IP, libc::IP_MULTICAST_IF, request);
    }
    option::set(socket, libc::SOL_IPV6, libc::IPV6_MULTICAST_IF, index as libc::c_int)
}
