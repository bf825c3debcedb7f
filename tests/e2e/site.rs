//! A machine with guests behind the router, its uplink, and the outside at the uplink's other end.
//!
//! ```text
//!   g1 --TAP--+---------------------+                     +-------------------------+
//!             | machine             | up0 --- veth --- wan0 | outside                 |
//!   g2 --TAP--+ 203.0.113.1  daemon |                     | .254 .9  198.51.100.7   |
//!             +---------------------+                     +-------------------------+
//!  10.77.0.11, .12 ..                 shared: 203.0.113.1; own: 203.0.113.77
//! ```
//!
//! All hosts are namespaces. The outside one is the machine's default gateway and has no route to the guests'
//! addresses: packets that reach it untranslated are lost, or seen by [`Site::wan`].

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use netio::link::{self, Change};
use netio::route;
use packet::MacAddr;
use rustix::net::{AddressFamily, SocketType, ipproto};

use crate::datagrams::{Datagram, ECHO_REPLY, ECHO_REQUEST};
use crate::host::{Host, bound_in_time};
use crate::raw::{RawSocket, set_option};
use crate::station::Station;
use crate::switch::{Report, Switch};
use crate::wait::NEVER;

/// The machine's own address on the uplink.
pub(crate) const MACHINE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The router's addresses in [`Mode::Own`].
pub(crate) const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
pub(crate) const OWN_TOO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 78);
/// The default gateway, another address on its link, and one reached by way of it.
pub(crate) const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The guests' gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The gateway's MAC address, which docs/router.md promises to be the same after each start.
pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x76, 10, 77, 0, 1]);

/// The outside address of the guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// The machine's address.
    Shared,
    /// An address of the router's own.
    Own,
}

impl Mode {
    pub(crate) const BOTH: [Mode; 2] = [Mode::Shared, Mode::Own];

    /// The word for it in a trial's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Mode::Shared => "shared",
            Mode::Own => "own",
        }
    }

    /// The outside address of the guests.
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Mode::Shared => MACHINE,
            Mode::Own => OWN,
        }
    }

    fn flags(self) -> Vec<String> {
        match self {
            Mode::Shared => Vec::new(),
            Mode::Own => vec!["--uplink-address".into(), format!("{OWN}/24"), "--uplink-gateway".into(), NEXT_HOP.to_string()],
        }
    }
}

/// The address of guest `n`.
pub(crate) fn guest_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + n)
}

/// The machine, its guests and the outside, with a running daemon.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) mode: Mode,
    pub(crate) machine: Host,
    pub(crate) outside: Host,
    pub(crate) guests: Vec<Host>,
    args: Vec<String>,
    pub(crate) switch: Option<Switch>,
}

/// A site whose daemon does not run yet.
#[derive(Debug)]
pub(crate) struct Plan {
    site: Site,
    keys: &'static str,
    /// Whether the guests' kernels have addresses; otherwise only stations of the test speak there.
    speak: bool,
}

const GUESTS: [&str; 4] = ["g1", "g2", "g3", "g4"];

impl Plan {
    pub(crate) fn new(mode: Mode, guests: usize) -> Plan {
        let machine = Host::quiet("up0");
        let outside = Host::quiet("wan0");
        machine.inside(|| link::add_pair("up0", "wan0", Some(outside.netns().as_fd())));
        for host in [&machine, &outside] {
            host.set_link(Change { up: Some(true), ..Change::default() });
            host.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
        }
        give(&machine, MACHINE, 24);
        for (address, prefix) in [(NEXT_HOP, 24), (NEIGHBOUR, 24), (FAR, 32)] {
            give(&outside, address, prefix);
        }
        default_route(&machine, NEXT_HOP);
        let guests = GUESTS[..guests].iter().map(|name| Host::quiet(name)).collect();
        let site = Site { mode, machine, outside, guests, args: Vec::new(), switch: None };
        Plan { site, keys: "", speak: true }
    }

    /// Adds flags.
    pub(crate) fn args(mut self, args: &[&str]) -> Plan {
        self.site.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Adds keys to each guest's port. With `offload=off` frames leave it as they would on a wire.
    pub(crate) fn keys(mut self, keys: &'static str) -> Plan {
        self.keys = keys;
        self
    }

    /// Turns offloads off everywhere, so that frames are captured as they would be on a wire.
    pub(crate) fn plain(self) -> Plan {
        self.site.machine.turn_offloads_off();
        self.keys(":offload=off:gro=off")
    }

    /// Leaves the guests' kernels silent: only a [`Station`] speaks there.
    pub(crate) fn silent(mut self) -> Plan {
        self.speak = false;
        self.plain()
    }

    /// Something to do before the daemon starts.
    pub(crate) fn first(self, work: impl FnOnce(&Site)) -> Plan {
        work(&self.site);
        self
    }

    /// A site without a daemon.
    pub(crate) fn bare(self) -> Site {
        self.site
    }

    pub(crate) fn start(self) -> Site {
        let Plan { mut site, keys, speak } = self;
        let ports: Vec<String> = site.guests.iter().map(|guest| guest.port(keys)).collect();
        let mut args = vec!["--tap".to_owned(), ports.join(","), "--uplink".to_owned(), "up0".to_owned()];
        args.append(&mut site.args);
        args.extend(site.mode.flags());
        site.args = args;
        site.start();
        if speak {
            site.configure_guests();
        }
        site
    }
}

impl Site {
    /// A site whose guests have addresses, without further flags.
    pub(crate) fn start_with(mode: Mode, guests: usize) -> Site {
        Plan::new(mode, guests).start()
    }

    fn start(&mut self) {
        let netns = self.machine.netns().try_clone().expect("a clone");
        self.switch = Some(Switch::start_inside(netns, &self.args));
    }

    /// Gives the guests' kernels their addresses, once their TAPs exist.
    pub(crate) fn configure_guests(&self) {
        for (guest, n) in self.guests.iter().zip(1..) {
            give(guest, guest_address(n), 24);
            default_route(guest, GATEWAY);
        }
    }

    /// Ends the daemon and starts it again.
    pub(crate) fn restart(&mut self) {
        self.switch.take().expect("it runs").finish();
        self.start();
    }

    /// Kills the daemon and starts it again.
    pub(crate) fn restart_after_kill(&mut self) {
        self.switch.take().expect("it runs").kill();
        self.start();
    }

    pub(crate) fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("it runs")
    }

    /// Guest `n`, from 1.
    pub(crate) fn guest(&self, n: usize) -> &Host {
        &self.guests[n - 1]
    }

    /// The outside address of the guests.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.mode.address()
    }

    /// The router's MAC address on the uplink.
    pub(crate) fn uplink_mac(&self) -> MacAddr {
        match self.mode {
            Mode::Shared => self.machine.mac(),
            Mode::Own => {
                let [a, b, c, d] = OWN.octets();
                MacAddr([0x02, 0x76, a, b, c, d])
            }
        }
    }

    /// A capture of everything that leaves the machine from now on.
    pub(crate) fn wan(&self) -> RawSocket {
        self.outside.raw()
    }

    /// A station on the TAP of guest `n`, with that guest's address, which the gateway knows.
    pub(crate) fn guest_station(&self, n: u8) -> Station {
        let station = Station::new(self.guest(n.into()).raw(), u32::from(n), guest_address(n), GATEWAY_MAC);
        station.greet(GATEWAY);
        station
    }

    /// A station outside, on the uplink's link.
    pub(crate) fn stranger(&self, last: u8) -> Station {
        Station::new(self.wan(), 0x100 + u32::from(last), Ipv4Addr::new(203, 0, 113, last), self.uplink_mac())
    }

    /// Ends the daemon, with every frame accounted for.
    pub(crate) fn finish(mut self) -> Report {
        self.switch.take().expect("it runs").finish()
    }
}

/// Gives a host's interface an address.
pub(crate) fn give(host: &Host, address: Ipv4Addr, prefix_len: u8) {
    host.inside(|| link::add_address(link::get(host.name())?.index, address.into(), prefix_len));
}

/// Removes an address.
pub(crate) fn take(host: &Host, address: Ipv4Addr, prefix_len: u8) {
    host.inside(|| link::delete_address(link::get(host.name())?.index, address.into(), prefix_len));
}

pub(crate) fn default_route(host: &Host, via: Ipv4Addr) {
    add_route(host, Ipv4Addr::UNSPECIFIED, 0, via);
}

pub(crate) fn add_route(host: &Host, prefix: Ipv4Addr, prefix_len: u8, via: Ipv4Addr) {
    let route = route::Route { prefix, prefix_len, gateway: Some(via), metric: 0, limits: route::Limits::default() };
    host.inside(|| route::add(link::get(host.name())?.index, route));
}

/// Lets the kernel forward packets between its interfaces.
pub(crate) fn forwards(host: &Host) {
    host.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"));
}

/// A UDP socket; for port 0 the kernel chooses one.
pub(crate) fn udp_on(host: &Host, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = host.inside(|| UdpSocket::bind((address, port)));
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20).expect("a large receive buffer");
    socket.set_read_timeout(Some(NEVER)).expect("a read timeout");
    socket
}

pub(crate) fn listen_on(host: &Host, address: Ipv4Addr, port: u16) -> TcpListener {
    host.inside(|| TcpListener::bind((address, port)))
}

/// An open connection: both ends, and the client's address as the server sees it.
pub(crate) fn connect(from: &Host, listener: &TcpListener, to: SocketAddrV4) -> (TcpStream, TcpStream, SocketAddrV4) {
    let near = from.connect(to.into());
    let (far, peer) = listener.accept().expect("a connection");
    bound_in_time(&far);
    (near, far, v4(peer))
}

pub(crate) fn v4(address: std::net::SocketAddr) -> SocketAddrV4 {
    match address {
        std::net::SocketAddr::V4(address) => address,
        std::net::SocketAddr::V6(address) => panic!("{address} is no IPv4 address"),
    }
}

/// The IPv4 address of a socket.
pub(crate) fn local(socket: &UdpSocket) -> SocketAddrV4 {
    v4(socket.local_addr().expect("its address"))
}

/// Receives one datagram. Returns its bytes and source.
pub(crate) fn recv_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddrV4) {
    let mut bytes = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut bytes).expect("a datagram in time");
    bytes.truncate(len);
    (bytes, v4(from))
}

/// The error that an ICMP message left on a connected socket.
pub(crate) fn error_of(socket: &UdpSocket) -> io::Error {
    let mut bytes = [0; 2048];
    match socket.recv(&mut bytes) {
        Ok(len) => panic!("no error but {len} bytes"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no error in time"),
        Err(error) => error,
    }
}

/// Makes this socket report transient errors too, such as "net unreachable" (ip(7), `IP_RECVERR`).
pub(crate) fn hears_all(socket: UdpSocket) -> UdpSocket {
    set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1).expect("set");
    socket
}

/// Asserts that nothing is queued at this socket now.
pub(crate) fn assert_empty(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("set");
    let mut bytes = [0; 2048];
    let received = socket.recv_from(&mut bytes);
    assert!(received.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{received:?}");
    socket.set_nonblocking(false).expect("set");
}

/// One echo request from a host's kernel. Returns the source and TTL of the reply.
pub(crate) fn ping(from: &Host, to: Ipv4Addr, id: u16) -> (Ipv4Addr, u8) {
    let socket: UdpSocket =
        from.inside(|| Ok(rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?.into()));
    socket.set_read_timeout(Some(NEVER)).expect("a read timeout");
    let request = Datagram::echo(Ipv4Addr::UNSPECIFIED, to, ECHO_REQUEST, id, b"echo echo echo");
    socket.send_to(&request.payload, (to, 0)).expect("sent");
    loop {
        let (bytes, _) = recv_from(&socket);
        let reply = Datagram::read(&bytes).expect("a packet");
        if reply.is_icmp(ECHO_REPLY, 0) && reply.ports()[0] == id {
            assert!(reply.is_sound() && reply.data() == b"echo echo echo", "{reply:?}");
            return (reply.src, reply.ttl);
        }
    }
}
