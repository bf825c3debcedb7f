//! Switches on several hosts, joined by a VXLAN network in simulated time.
//!
//! ```text
//!  stations --- ports 0 and 1 -+                    +- ports 0 and 1 --- stations
//!                      host 0  +- 3, 4 ..   3, 4 .. +  host 1
//!                              +- 2 <-- UDP --> 2 --+
//! ```
//!
//! Port 2 is the receiving socket. Each other host is a port from 3 on, in the order of the host numbers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use packet::{Datagram, VnetHeader};
use tunnel::{Framing, FramingKind, Locals, Peers, Vni, peers, vxlan};
use vswitch::{Encapsulation, Port, PortId, PortKind, PortVlan, ReceivingSocket};

use crate::bridge::{Bridge, Sent, Write, port};

/// Port number of the receiving socket.
pub const ENDPOINT: u16 = 2;

/// Port number of the first peer.
pub const PEER: u16 = 3;

/// Largest IP packet between two hosts.
pub const PATH_MTU: usize = 1500;
/// Largest packet inside the tunnel: [`PATH_MTU`] less IPv4, UDP, VXLAN and Ethernet headers.
pub const MTU: u32 = 1450;

/// Length of the outer IPv4 and UDP headers.
const HEADERS_LEN: usize = 28;

/// The VXLAN network of all hosts.
pub fn vni() -> Vni {
    Vni::new(0x12_3456).unwrap()
}

/// Outer IP address of a host.
pub fn address(host: usize) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(192, 0, 2, 1 + host as u8))
}

/// A port to a peer.
pub fn peer_port(vlan: PortVlan, encapsulation: Encapsulation) -> Port {
    Port { mtu: MTU, kind: PortKind::Peer(encapsulation), ..port(vlan) }
}

/// A port to a peer with the default encapsulation.
pub fn plain_peer() -> Port {
    peer_port(PortVlan::default(), Encapsulation::vxlan(vni()))
}

/// A bridge with two links, a receiving socket at port 2 and these peers.
pub fn host_with(links: [Port; 2], peers: Vec<(Port, IpAddr)>, own: IpAddr) -> Bridge {
    let named = |(n, (port, address)): (usize, &(Port, IpAddr))| peers::Peer {
        framing: port.encapsulation().map_or(Framing::Ethernet, |encapsulation| encapsulation.framing),
        address: *address,
        port: PEER + n as u16,
    };
    let known: Vec<peers::Peer> = peers.iter().enumerate().map(named).collect();
    let socket = ReceivingSocket {
        framing: FramingKind::Vxlan,
        peers: Arc::new(Peers::new(&known, &[]).unwrap()),
        locals: Arc::new(Locals::new(vxlan::PORT, [own])),
        strangers: Arc::default(),
    };
    let [first, second] = links;
    let mut bridge = Bridge::new([first, second, plain_peer()].into_iter().chain(peers.into_iter().map(|(port, _)| port)));
    bridge.pipeline.set_port(PortId(ENDPOINT), None);
    bridge.pipeline.set_receiving_socket(PortId(ENDPOINT), Some(socket));
    bridge
}

/// A train of one or more datagrams between two hosts.
#[derive(Clone, Debug)]
pub struct Flying {
    /// Sending host.
    pub from: usize,
    /// Receiving host.
    pub to: usize,
    /// The datagrams.
    pub sent: Sent,
}

/// Hosts in a full mesh of tunnels.
pub struct Overlay {
    /// The hosts' bridges.
    pub hosts: Vec<Bridge>,
    /// All datagrams sent since [`Overlay::ways`] was last called.
    pub log: Vec<Flying>,
    /// Whether the receiving kernel merges each train (UDP GRO).
    pub merges: bool,
}

impl Overlay {
    /// Hosts in one VXLAN network that carries all VLANs.
    pub fn new(hosts: usize) -> Overlay {
        Overlay::with(hosts, |_| [port(PortVlan::default()), port(PortVlan::default())], |_, _| plain_peer())
    }

    /// `links` makes the first two ports of a host, `peer` the first host's port to the second.
    pub fn with(hosts: usize, links: impl Fn(usize) -> [Port; 2], peer: impl Fn(usize, usize) -> Port) -> Overlay {
        let host = |own: usize| {
            let others = (0..hosts).filter(|other| *other != own);
            host_with(links(own), others.map(|other| (peer(own, other), address(other))).collect(), address(own))
        };
        Overlay { hosts: (0..hosts).map(host).collect(), log: Vec::new(), merges: false }
    }

    /// Sends plain frames into a port of one host, and delivers datagrams until there are none left. Returns what each host
    /// wrote to its links.
    pub fn run(&mut self, host: usize, ingress: u16, frames: &[Vec<u8>]) -> Vec<(usize, Write)> {
        let frames: Vec<_> = frames.iter().map(|frame| (VnetHeader::default(), frame.clone())).collect();
        self.run_with(host, ingress, &frames)
    }

    /// Like [`Overlay::run`], for frames with virtio-net headers.
    pub fn run_with(&mut self, host: usize, ingress: u16, frames: &[(VnetHeader, Vec<u8>)]) -> Vec<(usize, Write)> {
        let writes = self.hosts[host].run_with(ingress, frames, |_, _, _| Ok(()));
        let mut all: Vec<(usize, Write)> = writes.into_iter().map(|write| (host, write)).collect();
        loop {
            let flying: Vec<Flying> = (0..self.hosts.len()).flat_map(|from| self.take_sent(from)).collect();
            if flying.is_empty() {
                all.sort_by_key(|(host, (port, ..))| (*host, *port));
                return all;
            }
            for Flying { from, to, sent } in &flying {
                let writes = self.arrive(*from, *to, sent);
                all.extend(writes.into_iter().map(|write| (*to, write)));
            }
            self.log.extend(flying);
        }
    }

    fn take_sent(&mut self, from: usize) -> Vec<Flying> {
        let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != from).collect();
        let sent = std::mem::take(&mut self.hosts[from].sent);
        let longest = sent.iter().flat_map(|sent| &sent.datagrams).map(Vec::len).max().unwrap_or(0);
        assert!(longest + HEADERS_LEN <= PATH_MTU, "longer than the path MTU");
        sent.into_iter().map(|sent| Flying { from, to: others[usize::from(sent.outer.port - PEER)], sent }).collect()
    }

    fn arrive(&mut self, from: usize, to: usize, sent: &Sent) -> Vec<Write> {
        let (from, tos) = (address(from), sent.outer.tos);
        if self.merges && sent.datagrams.len() > 1 {
            let payload = sent.datagrams.concat();
            let segment_size = sent.datagrams[0].len() as u16;
            return self.hosts[to].receive(
                ENDPOINT,
                FramingKind::Vxlan,
                MTU,
                &[Datagram { from, tos, segment_size, payload: &payload }],
            );
        }
        let datagrams: Vec<Datagram<'_>> =
            sent.datagrams.iter().map(|payload| Datagram { from, tos, segment_size: 0, payload }).collect();
        self.hosts[to].receive(ENDPOINT, FramingKind::Vxlan, MTU, &datagrams)
    }

    /// Sender and receiver of each datagram since the last call, sorted.
    pub fn ways(&mut self) -> Vec<(usize, usize)> {
        let flew = std::mem::take(&mut self.log);
        let mut ways: Vec<(usize, usize)> =
            flew.iter().flat_map(|flying| vec![(flying.from, flying.to); flying.sent.datagrams.len()]).collect();
        ways.sort_unstable();
        ways
    }
}

/// Host and port of each write.
pub fn places(writes: &[(usize, Write)]) -> Vec<(usize, u16)> {
    writes.iter().map(|(host, (port, ..))| (*host, port.0)).collect()
}

/// A VXLAN datagram (UDP payload).
pub fn datagram(vni: Vni, frame: &[u8]) -> Vec<u8> {
    [&vxlan::encode(vni)[..], frame].concat()
}
