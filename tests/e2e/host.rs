//! A host: a network namespace with the interface of one TAP, and sockets inside.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use netio::link::{self, Change, Link};
use netio::netns;
use packet::MacAddr;

use crate::raw::{Ethtool, RawSocket, ethtool, set_option};
use crate::wait::NEVER;

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ip {
    V4,
    V6,
}

/// One namespace; gone when dropped, unless a process or device still refers to it.
#[derive(Debug)]
pub(crate) struct Host {
    name: &'static str,
    netns: File,
}

impl Host {
    /// A host whose stack sends nothing unasked, so that every frame can be counted. `name` is the name of its
    /// interface.
    pub(crate) fn quiet(name: &'static str) -> Host {
        let host = Host::new(name);
        host.inside(|| fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
        host
    }

    /// A host that speaks IPv4 and IPv6.
    pub(crate) fn new(name: &'static str) -> Host {
        Host { name, netns: netns::create().expect("a namespace") }
    }

    /// A host in an existing namespace.
    pub(crate) fn in_namespace(name: &'static str, netns: File) -> Host {
        Host { name, netns }
    }

    /// The name of its interface.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its namespace.
    pub(crate) fn netns(&self) -> &File {
        &self.netns
    }

    /// Its port for the command line, with `keys` such as `:vlan=10`.
    pub(crate) fn port(&self, keys: &str) -> String {
        format!("{}@{}{keys}", self.name, netns::path_of(&self.netns))
    }

    /// Runs `work` in the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        self.try_inside(work).unwrap_or_else(|error| panic!("in host {}: {error}", self.name))
    }

    /// Runs `work` in the namespace and returns its error.
    pub(crate) fn try_inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        netns::inside(self.netns.as_fd(), work)
    }

    /// Gives the interface the addresses of [`Host::address`] with this number.
    pub(crate) fn configure(&self, number: u8) {
        self.inside(|| {
            let index = link::get(self.name)?.index;
            link::add_address(index, Host::address(Ip::V4, number), 24)?;
            if fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name))?.trim() == "0" {
                link::add_address(index, Host::address(Ip::V6, number), 64)?;
            }
            Ok(())
        });
    }

    /// The addresses of host `number`, from the ranges for benchmarks and documentation.
    pub(crate) fn address(ip: Ip, number: u8) -> IpAddr {
        match ip {
            Ip::V4 => Ipv4Addr::new(198, 18, 0, number).into(),
            Ip::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// The state of its interface.
    pub(crate) fn link(&self) -> Link {
        self.inside(|| link::get(self.name))
    }

    /// Changes its interface.
    pub(crate) fn set_link(&self, change: Change<'_>) {
        let index = self.link().index;
        self.inside(|| link::set(index, change));
    }

    /// The MAC address of its interface.
    pub(crate) fn mac(&self) -> MacAddr {
        self.link().mac
    }

    /// Turns off all offloads: the stack computes checksums and segments before frames reach the TAP, and receives
    /// frames one by one.
    pub(crate) fn turn_offloads_off(&self) {
        self.inside(|| {
            for what in [Ethtool::Gro, Ethtool::Tso, Ethtool::Gso, Ethtool::TxChecksum] {
                ethtool(self.name, what, false)?;
            }
            Ok(())
        });
    }

    /// A packet socket on its interface.
    pub(crate) fn raw(&self) -> RawSocket {
        self.inside(|| RawSocket::open(self.name))
    }

    /// A TCP listener on a port of the kernel's choice.
    pub(crate) fn listen(&self, ip: Ip, number: u8) -> TcpListener {
        self.inside(|| TcpListener::bind((Host::address(ip, number), 0)))
    }

    /// A TCP connection.
    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        let stream = self.inside(|| TcpStream::connect_timeout(&to, NEVER));
        bound_in_time(&stream);
        stream
    }

    /// A UDP socket on a port of the kernel's choice, with a receive buffer for everything that a test sends at once.
    pub(crate) fn udp(&self, ip: Ip, number: u8) -> UdpSocket {
        let socket = self.inside(|| UdpSocket::bind((Host::address(ip, number), 0)));
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20).expect("a large receive buffer");
        socket.set_read_timeout(Some(NEVER)).expect("a read timeout");
        socket
    }
}

/// Sets a time limit for reads and writes.
pub(crate) fn bound_in_time(stream: &TcpStream) {
    stream.set_read_timeout(Some(NEVER)).expect("a read timeout");
    stream.set_write_timeout(Some(NEVER)).expect("a write timeout");
}
