//! Machines on one underlay network, with switches that have tunnels to each other.
//!
//! ```text
//!  h1 --TAP--[ switch on machine 1 ]-- u1 ------- u2 --[ switch on machine 2 ]--TAP-- h2
//!                            192.0.2.1               192.0.2.2
//!                        2001:db8:1::1               2001:db8:1::2
//! ```
//!
//! All hosts and machines are namespaces. The switch on a machine is the daemon, or the kernel's own bridge with a
//! `vxlan` device, or there is none and a [`Peer`] of the test speaks from there. Three machines are joined by a plain
//! switch.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;

use netio::link::{self, Change};
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto};

use crate::datagrams::checksum;
use crate::host::{Host, Ip};
use crate::raw::{RawSocket, set_option};
use crate::switch::{Report, Switch};
use crate::transfer::transfer;
use crate::wait::{self, NEVER};

/// The UDP port of VXLAN.
pub(crate) const PORT: u16 = 4789;

const MACHINES: [&str; 3] = ["u1", "u2", "u3"];

/// The address of machine `number` on the underlay.
pub(crate) fn outer(ip: Ip, number: u8) -> IpAddr {
    match ip {
        Ip::V4 => Ipv4Addr::new(192, 0, 2, number).into(),
        Ip::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()).into(),
    }
}

/// The overhead of a tunnel: headers of IP, UDP, VXLAN and the inner Ethernet.
pub(crate) fn overhead(ip: Ip) -> u32 {
    if ip == Ip::V4 { 50 } else { 70 }
}

fn prefix_len(ip: Ip) -> u8 {
    if ip == Ip::V4 { 24 } else { 64 }
}

/// Gives a machine the underlay address with this number.
pub(crate) fn give(machine: &Host, ip: Ip, number: u8) {
    machine.inside(|| link::add_address(link::get(machine.name())?.index, outer(ip, number), prefix_len(ip)));
}

/// Removes it.
pub(crate) fn take(machine: &Host, ip: Ip, number: u8) {
    machine.inside(|| link::delete_address(link::get(machine.name())?.index, outer(ip, number), prefix_len(ip)));
}

/// The machines.
#[derive(Debug)]
pub(crate) struct Underlay {
    pub(crate) ip: Ip,
    machines: Vec<Host>,
    wires: Option<Switch>,
}

impl Underlay {
    /// Two machines with a cable between them, with addresses of this family.
    pub(crate) fn pair(ip: Ip) -> Underlay {
        Underlay::pair_of_mtu(ip, 1500)
    }

    pub(crate) fn pair_of_mtu(ip: Ip, mtu: u32) -> Underlay {
        Underlay::from_machine(ip, Host::new("u1"), mtu)
    }

    /// The same with an existing machine 1.
    pub(crate) fn from_machine(ip: Ip, first: Host, mtu: u32) -> Underlay {
        let second = Host::new("u2");
        first.inside(|| link::add_pair("u1", "u2", Some(second.netns().as_fd())));
        let change = Change { up: Some(true), mtu: Some(mtu), ..Change::default() };
        Underlay::addressed(ip, vec![first, second], None, change)
    }

    /// Three machines on one switch.
    pub(crate) fn three(ip: Ip) -> Underlay {
        let machines = Vec::from(MACHINES.map(Host::new));
        let wires = Switch::of(&machines.iter().collect::<Vec<_>>());
        Underlay::addressed(ip, machines, Some(wires), Change { up: Some(true), ..Change::default() })
    }

    /// One machine with the addresses of two.
    pub(crate) fn one(ip: Ip) -> Underlay {
        let machine = Host::new("lo");
        machine.set_link(Change { up: Some(true), ..Change::default() });
        for number in [1, 2] {
            give(&machine, ip, number);
        }
        let again = Host::in_namespace("lo", machine.netns().try_clone().expect("a clone"));
        Underlay { ip, machines: vec![machine, again], wires: None }
    }

    fn addressed(ip: Ip, machines: Vec<Host>, wires: Option<Switch>, change: Change<'static>) -> Underlay {
        for (machine, number) in machines.iter().zip(1..) {
            machine.set_link(change);
            machine.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
            give(machine, ip, number);
        }
        Underlay { ip, machines, wires }
    }

    /// Machine `number`, from 1.
    pub(crate) fn machine(&self, number: u8) -> &Host {
        &self.machines[usize::from(number) - 1]
    }

    pub(crate) fn address(&self, number: u8) -> IpAddr {
        outer(self.ip, number)
    }

    /// The value of `--vxlan` on machine `number` for a tunnel to the others; `more` are further keys.
    pub(crate) fn vxlan(&self, vni: u32, number: u8, others: &[u8], more: &str) -> [String; 2] {
        ["--vxlan".to_owned(), format!("vni={vni},{}{more}", self.ends(number, others))]
    }

    /// `local=` and `remote=`.
    pub(crate) fn ends(&self, number: u8, others: &[u8]) -> String {
        let others: Vec<String> = others.iter().map(|other| self.address(*other).to_string()).collect();
        format!("local={},remote={}", self.address(number), others.join("+"))
    }

    /// Starts a daemon on machine `number` with these flags.
    pub(crate) fn daemon(&self, number: u8, ports: &[String], flags: &[String]) -> Switch {
        let args: Vec<String> = ["--tap".to_owned(), ports.join(",")].iter().chain(flags).cloned().collect();
        Switch::start_inside(self.machine(number).netns().try_clone().expect("a clone"), &args)
    }

    /// The same for one host and one VXLAN tunnel, with VNI 42.
    pub(crate) fn daemon_for(&self, number: u8, others: &[u8], host: &Host) -> Switch {
        self.daemon(number, &[host.port("")], &self.vxlan(42, number, others, ""))
    }

    /// The kernel's bridge and `vxlan` device on machine `number`, with this host on a cable to the bridge.
    pub(crate) fn kernel(&self, number: u8, other: u8, host: &Host) {
        let machine = self.machine(number);
        let (local, remote) = (self.address(number), self.address(other));
        machine.inside(|| link::add_pair("p1", host.name(), Some(host.netns().as_fd())));
        ip(machine, "link add br0 type bridge");
        ip(machine, &format!("link add vx0 type vxlan id 42 local {local} remote {remote} dstport {PORT}"));
        for port in ["p1", "vx0"] {
            ip(machine, &format!("link set {port} master br0 up"));
        }
        ip(machine, "link set br0 up");
        let mtu = Some(self.machine(number).link().mtu - overhead(self.ip));
        host.set_link(Change { up: Some(true), mtu, ..Change::default() });
        // The bridge notices only after a while that a link came up.
        wait::until("ports that forward", || {
            let states = ["p1", "vx0"].map(|port| ip(machine, &format!("-d link show {port}")).contains("state forwarding"));
            (states == [true; 2]).then_some(())
        });
    }

    /// Ends what joins the machines, with every frame accounted for.
    pub(crate) fn finish(self) {
        if let Some(wires) = self.wires {
            wires.finish();
        }
    }
}

/// Runs a command of iproute2 on a machine. Returns its output.
pub(crate) fn ip(machine: &Host, words: &str) -> String {
    let output = machine.inside(|| Command::new("ip").args(words.split_whitespace()).output());
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Why there can be no machine with the kernel's tunnel.
pub(crate) fn kernel_is_missing() -> Option<String> {
    let machine = Host::quiet("try0");
    let output = machine.try_inside(|| Command::new("ip").args("link add vx0 type vxlan id 1 dstport 4789".split(' ')).output());
    match output {
        Err(error) => Some(format!("no kernel to compare with: {error} (iproute2)")),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("this kernel has no VXLAN: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Two hosts with a tunnel between them, host 1 behind machine 1, host 2 behind machine 2.
#[derive(Debug)]
pub(crate) struct Between {
    pub(crate) underlay: Underlay,
    pub(crate) hosts: [Host; 2],
    switches: Vec<Switch>,
}

impl Between {
    /// A daemon on either machine.
    pub(crate) fn daemons(underlay: Underlay) -> Between {
        let hosts = ["h1", "h2"].map(Host::new);
        let switches = vec![underlay.daemon_for(1, &[2], &hosts[0]), underlay.daemon_for(2, &[1], &hosts[1])];
        Between::configured(underlay, hosts, switches)
    }

    /// A daemon on machine 1, the kernel's switch on machine 2.
    pub(crate) fn daemon_and_kernel(underlay: Underlay) -> Between {
        let hosts = ["h1", "h2"].map(Host::new);
        underlay.kernel(2, 1, &hosts[1]);
        let switches = vec![underlay.daemon_for(1, &[2], &hosts[0])];
        Between::configured(underlay, hosts, switches)
    }

    /// Machines whose switches run.
    pub(crate) fn configured(underlay: Underlay, hosts: [Host; 2], switches: Vec<Switch>) -> Between {
        hosts[0].configure(1);
        hosts[1].configure(2);
        Between { underlay, hosts, switches }
    }

    /// The daemon on machine 1 or 2.
    pub(crate) fn switch(&self, number: usize) -> &Switch {
        &self.switches[number - 1]
    }

    /// Replaces a daemon that has ended.
    pub(crate) fn put(&mut self, number: usize, switch: Switch) -> Switch {
        std::mem::replace(&mut self.switches[number - 1], switch)
    }

    /// Packets of all sizes and streams pass in both directions, with and without offloads of the hosts.
    pub(crate) fn carries_everything(&self) {
        let [first, second] = &self.hosts;
        for (from, to) in [(first, 2), (second, 1)] {
            for inner in [Ip::V4, Ip::V6] {
                for size in [56, 1600, 3200] {
                    ping(from, Host::address(inner, to), size);
                }
            }
        }
        transfer(first, (second, 2), Ip::V4, true);
        first.turn_offloads_off();
        transfer(first, (second, 2), Ip::V6, true);
        second.turn_offloads_off();
        transfer(first, (second, 2), Ip::V4, true);
    }

    /// Ends all daemons, with every frame accounted for.
    pub(crate) fn finish(self) -> Vec<Report> {
        let reports = self.switches.into_iter().map(Switch::finish).collect();
        self.underlay.finish();
        reports
    }
}

/// Pings until a reply has as many bytes as the request.
pub(crate) fn ping(from: &Host, to: IpAddr, size: usize) {
    wait::until("an answer to a ping", || try_ping(from, to, size));
}

/// One ping, with half a second for its reply.
pub(crate) fn try_ping(from: &Host, to: IpAddr, size: usize) -> Option<()> {
    let (family, protocol, kinds) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, [8, 0]),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, [128, 129]),
    };
    let socket = raw_socket(from, family, protocol);
    socket.set_read_timeout(Some(wait::NEVER / 40)).expect("a read timeout");
    let data: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    let mut request = [&[kinds[0], 0, 0, 0, 0x70, 0x17, 0, 1][..], &data].concat();
    if to.is_ipv4() {
        // In IPv6 the kernel computes it (RFC 3542 section 3.1).
        let check = checksum(&[&request]).to_be_bytes();
        request[2..4].copy_from_slice(&check);
    }
    socket.send_to(&request, (to, 0)).ok()?;
    let mut bytes = vec![0; 65_536];
    loop {
        let len = socket.recv(&mut bytes).ok()?;
        // A raw IPv4 socket also delivers the header.
        let message = if to.is_ipv4() { &bytes[20..len] } else { &bytes[..len] };
        if message.first() == Some(&kinds[1]) && message[4..] == request[4..] {
            return Some(());
        }
    }
}

fn raw_socket(host: &Host, family: AddressFamily, protocol: Protocol) -> UdpSocket {
    host.inside(|| Ok(rustix::net::socket(family, SocketType::RAW, Some(protocol))?.into()))
}

/// A tunnel endpoint played by the test: it sends what no switch would, and sees every datagram.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Peer {
    /// On machine `at`, with underlay address `number`, which the machine gets if it is not its own. Its remote is
    /// machine 1.
    pub(crate) fn on(underlay: &Underlay, at: u8, number: u8) -> Peer {
        Peer::on_port(underlay, at, number, PORT)
    }

    pub(crate) fn on_port(underlay: &Underlay, at: u8, number: u8, port: u16) -> Peer {
        let machine = underlay.machine(at);
        if at != number {
            give(machine, underlay.ip, number);
        }
        let address = SocketAddr::new(underlay.address(number), port);
        let socket = machine.inside(|| UdpSocket::bind(address));
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20).expect("a large receive buffer");
        socket.set_read_timeout(Some(NEVER)).expect("a read timeout");
        Peer { socket, to: SocketAddr::new(underlay.address(1), port) }
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends a datagram with these bytes.
    pub(crate) fn send(&self, datagram: &[u8]) {
        self.try_send(datagram).expect("sent");
    }

    pub(crate) fn try_send(&self, datagram: &[u8]) -> io::Result<usize> {
        self.socket.send_to(datagram, self.to)
    }

    /// Sends a frame in a VXLAN datagram.
    pub(crate) fn send_frame(&self, vni: u32, frame: &[u8]) {
        self.send(&vxlan(vni, frame));
    }

    /// Sets the outer type of service or traffic class from now on.
    pub(crate) fn set_tos(&self, tos: u8) {
        let (level, name) =
            if self.to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        set_option(&self.socket, level, name, tos.into()).expect("set");
    }

    /// The next datagram and its source.
    pub(crate) fn recv(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 65_536];
        let (len, from) = self.socket.recv_from(&mut bytes).expect("a datagram in time");
        bytes.truncate(len);
        (bytes, from)
    }

    /// The frame of the next datagram.
    pub(crate) fn recv_frame(&self, vni: u32) -> Vec<u8> {
        let (bytes, _) = self.recv();
        assert_eq!(bytes[..8], vxlan(vni, &[]), "a VXLAN header of VNI {vni}");
        bytes[8..].to_vec()
    }

    /// All datagrams that have arrived.
    pub(crate) fn drain(&self) -> Vec<Vec<u8>> {
        self.socket.set_nonblocking(true).expect("set");
        let mut bytes = vec![0; 65_536];
        let mut all = Vec::new();
        while let Ok(len) = self.socket.recv(&mut bytes) {
            all.push(bytes[..len].to_vec());
        }
        self.socket.set_nonblocking(false).expect("set");
        all
    }
}

/// A VXLAN datagram (RFC 7348 section 5), built independently of the code under test.
pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[0x08, 0, 0, 0, a, b, c, 0][..], frame].concat()
}

/// The next frame here with this content; others are skipped.
pub(crate) fn arrives(socket: &RawSocket, what: &str, frame: &[u8]) {
    wait::until(what, || std::iter::from_fn(|| socket.recv()).any(|seen| seen == frame).then_some(()));
}
