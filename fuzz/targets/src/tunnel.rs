//! Tunnels: any frames and datagrams through a switch with VXLAN peers and through a tunnel of IP packets.

use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;

use packet::offload::Judged;
use packet::vlan::VlanId;
use packet::{Batch, Datagram, Features, Headers, Ipv4Prefix, Offload, Timestamp, VNET_LEN, VnetHeader};
use tunnel::{Framing, FramingKind, Locals, Peers, Train, Trains, Vni, peers, train, vxlan};
use vswitch::{
    BridgeId, Counters, DropReason, Egress, Encapsulation, Inbox, IpTunnel, MacTable, MacTableConfig, Pipeline, Port,
    PortCounters, PortId, PortKind, PortVlan, ReceivingSocket, SendError, StormLimits, Transmit, VlanSet,
};

use crate::Reader;
use crate::frame::make_sound;

/// Two links, two peers of VXLAN network 1 and one of network 2, a TUN device with a peer, and three sockets.
const LINKS: [u16; 2] = [0, 1];
const PEERS: [u16; 3] = [2, 3, 4];
const TUN: u16 = 5;
const IP_PEER: u16 = 6;
const SOCKETS: [(u16, FramingKind); 3] = [(7, FramingKind::Vxlan), (8, FramingKind::Ethernet), (9, FramingKind::Ip)];
const BARE_PEER: u16 = 10;
const PORTS: usize = 11;

/// Largest packet inside a tunnel, in bytes.
const MTU: u32 = 600;

/// Longest datagram: such a packet after the headers of VXLAN and Ethernet.
const MAX_DATAGRAM: usize = MTU as usize + 8 + 14;

/// Records of a control byte and frames or datagrams. Nothing passes from one tunnel into another, no datagram is too
/// long, the kernel would accept each train, and the frame counters balance after every batch.
pub fn tunnel(data: &[u8]) {
    let mut input = Reader(data);
    let counters = Arc::new(Counters::new(PORTS));
    let mut switch = Switch::new(&counters);
    let mut now = 0;
    while !input.is_empty() {
        let control = input.u8();
        now += u64::from(control & 4) * 30;
        let time = Timestamp::from_secs(now);
        let count = 1 + usize::from(control >> 4);
        match control & 3 {
            0 | 1 => switch.frames(&mut input, LINKS[usize::from(control & 1)], count, time, control & 8 != 0),
            2 => switch.frames(&mut input, TUN, count, time, false),
            _ => switch.datagrams(&mut input, count, time),
        }
        assert_balance(&counters);
    }
}

struct Switch {
    pipeline: Pipeline,
    egress: Egress,
    batch: Batch,
    inbox: Inbox,
}

impl Switch {
    fn new(counters: &Arc<Counters>) -> Switch {
        let table = Arc::new(MacTable::new(MacTableConfig { size: 16, ports: PORTS, ..MacTableConfig::default() }));
        let mut pipeline = Pipeline::new(table, PORTS, Arc::clone(counters));
        for (id, port) in ports() {
            pipeline.set_port(PortId(id), Some(port));
        }
        for (id, socket) in endpoints() {
            pipeline.set_receiving_socket(PortId(id), Some(socket));
        }
        let routes = vec![(Ipv4Prefix::new([10, 0, 0, 0].into(), 8), PortId(IP_PEER))];
        let tunnel = Arc::new(IpTunnel::new(PortId(TUN), routes));
        for id in [TUN, IP_PEER] {
            pipeline.set_ip_tunnel(PortId(id), Some(Arc::clone(&tunnel)));
        }
        Switch { pipeline, egress: Egress::new(PORTS), batch: Batch::new(), inbox: Inbox::new() }
    }

    fn frames(&mut self, input: &mut Reader<'_>, ingress: u16, count: usize, now: Timestamp, refuse: bool) {
        self.batch.clear();
        for _ in 0..count {
            let Some((vnet, frame)) = read_frame(input, ingress == TUN) else { break };
            if !self.batch.push(vnet, &frame) {
                break;
            }
        }
        self.pipeline.process(PortId(ingress), &mut self.batch, now, &mut self.egress);
        let out = Out { from_tunnel: false, has_errors: true, refuse, ingress };
        self.pipeline.transmit(&self.batch, &mut self.egress, out);
    }

    fn datagrams(&mut self, input: &mut Reader<'_>, count: usize, now: Timestamp) {
        let control = input.u8();
        let (id, kind) = SOCKETS[usize::from(control) % SOCKETS.len()];
        let Switch { pipeline, egress, inbox, .. } = self;
        let mut carry = |inbox: &mut Inbox| {
            let out = Out { from_tunnel: true, has_errors: false, refuse: false, ingress: id };
            pipeline.process_tunnel(PortId(id), inbox, now, egress);
            pipeline.transmit(inbox.batch(), egress, out);
        };
        inbox.clear();
        for _ in 0..count {
            let Some((_, frame)) = read_frame(input, kind == FramingKind::Ip) else { break };
            let (header, host) = (input.u8(), input.u8());
            let vni = Vni::new(u32::from(header >> 6)).unwrap_or_else(vni);
            let front = if header & 1 != 0 { vxlan::encode(vni).to_vec() } else { Vec::new() };
            let payload = [front, frame].concat();
            let segment_size = if header & 2 != 0 { input.u16() & 0x7ff } else { 0 };
            let datagram = Datagram { from: address(host & 3), tos: host >> 6, segment_size, payload: &payload };
            inbox.decapsulate(datagram, kind, MTU, &mut carry);
        }
        carry(inbox);
    }
}

fn vni() -> Vni {
    Vni::new(1).unwrap_or_else(|| unreachable!("24 bits"))
}

fn network(number: u32) -> Framing {
    Framing::Vxlan(Vni::new(number).unwrap_or_else(vni))
}

fn address(host: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, host])
}

fn ports() -> Vec<(u16, Port)> {
    let ten = VlanId::new(10).unwrap_or_default();
    let link = |vlan, features| Port {
        bridge: BridgeId::default(),
        vlan,
        mtu: 1500,
        features,
        coalesce: vswitch::Coalesce::Flows,
        bursts: false,
        kind: PortKind::Link,
        limits: StormLimits::NONE,
        guard: None,
        isolated: false,
    };
    let peer = |vlan, kind| Port { mtu: MTU, kind, ..link(vlan, Features::NONE) };
    let vxlan = Encapsulation::vxlan(vni());
    let inherit = Encapsulation { tos: None, ttl: None, dont_fragment: None, learns: false, ..vxlan };
    let bare = Encapsulation { framing: Framing::Ethernet, ..vxlan };
    let packets = Encapsulation { framing: Framing::Ip, ..vxlan };
    vec![
        (LINKS[0], link(PortVlan::default(), Features::ALL)),
        (LINKS[1], link(PortVlan::native_untagged(ten, VlanSet::all()), Features::NONE)),
        (PEERS[0], peer(PortVlan::default(), PortKind::Peer(vxlan))),
        (PEERS[1], peer(PortVlan::default(), PortKind::Peer(inherit))),
        (PEERS[2], peer(PortVlan::access(ten), PortKind::Peer(Encapsulation { framing: network(2), ..vxlan }))),
        (TUN, Port { kind: PortKind::Tun, ..link(PortVlan::default(), Features::ALL) }),
        (IP_PEER, peer(PortVlan::default(), PortKind::IpPeer(packets))),
        (BARE_PEER, peer(PortVlan::default(), PortKind::Peer(bare))),
    ]
}

fn endpoints() -> impl Iterator<Item = (u16, ReceivingSocket)> {
    let peer = |framing, host, port| peers::Peer { framing, address: address(host), port };
    let known = [
        peer(network(1), 1, PEERS[0]),
        peer(network(1), 2, PEERS[1]),
        peer(network(2), 1, PEERS[2]),
        peer(Framing::Ethernet, 1, BARE_PEER),
        peer(Framing::Ip, 1, IP_PEER),
    ];
    SOCKETS.into_iter().map(move |(id, kind)| {
        let peers: Vec<_> = known.iter().copied().filter(|peer| peer.framing.kind() == kind).collect();
        let peers = Arc::new(Peers::new(&peers, &[]).unwrap_or_default());
        (
            id,
            ReceivingSocket {
                framing: kind,
                peers,
                locals: Arc::new(Locals::new(vxlan::PORT, [address(0)])),
                strangers: Arc::default(),
            },
        )
    })
}

/// A frame, or a packet without one; with correct checksums if its control byte says so.
fn read_frame(input: &mut Reader<'_>, is_packet: bool) -> Option<(VnetHeader, Vec<u8>)> {
    if input.is_empty() {
        return None;
    }
    let control = input.u8();
    let mut vnet = if control & 8 != 0 { VnetHeader::from_bytes(&input.array::<VNET_LEN>()) } else { VnetHeader::default() };
    let len = usize::from(input.u16()) & 0xfff;
    // A long one may consist of zeros after its first bytes.
    let given = if control & 16 != 0 { usize::from(input.u8()).min(len) } else { len };
    let ethernet: &[u8] = if is_packet { &ETHERNET } else { &[] };
    let mut frame = [ethernet, input.bytes(given)].concat();
    if control & 16 != 0 {
        frame.resize(ethernet.len() + len, 0);
    }
    if control & 1 != 0 {
        let sound = make_sound(&mut frame, control & 2 != 0);
        if control & 4 != 0 {
            vnet = VnetHeader { csum_start: sound.csum_start.saturating_sub(ethernet.len() as u16), ..sound };
        }
    }
    frame.drain(..ethernet.len());
    Some((vnet, frame))
}

/// An Ethernet header, to correct a packet's checksums.
const ETHERNET: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];

/// The receiver of frames and datagrams.
struct Out {
    from_tunnel: bool,
    /// The batch came from a tunnel; an error about a packet that is too long may go back to it.
    has_errors: bool,
    refuse: bool,
    ingress: u16,
}

impl Transmit for Out {
    fn send(&mut self, port: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
        assert!(LINKS.contains(&port.0) || port.0 == TUN, "a frame for a peer, or a socket");
        assert!(self.has_errors || port.0 != self.ingress);
        let write: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let (front, frame) = write.split_at(VNET_LEN);
        let vnet = VnetHeader::from_bytes(front.try_into().unwrap_or(&[0; VNET_LEN]));
        assert_eq!(vnet.to_bytes(), front, "stale bytes in the header");
        let headers = if port.0 == TUN { Headers::of_packet(frame) } else { parse(frame) };
        let Ok(Judged::Accept(offload)) = Offload::judge(vnet, &headers, frame.len()) else { panic!("bad header: {vnet:?}") };
        if self.refuse && offload.segmentation.is_some() { Err(SendError::Invalid) } else { Ok(()) }
    }

    fn send_trains(&mut self, trains: &Trains, arena: &[u8], mut sent: impl FnMut(&Train, Result<(), SendError>)) {
        for train in trains.trains() {
            assert!(!self.from_tunnel, "from a tunnel into one");
            let port = train.outer.port;
            let front = if PEERS.contains(&port) { vxlan::VXLAN_LEN } else { 0 };
            assert!(PEERS.contains(&port) || [IP_PEER, BARE_PEER].contains(&port));
            let datagrams: Vec<Vec<u8>> = trains.datagrams(train, arena).map(|pieces| pieces.concat()).collect();
            let together: Vec<u8> = trains.pieces(train, arena).flatten().copied().collect();
            assert_eq!(together, datagrams.concat());
            assert!(together.len() <= train::MAX_TRAIN_BYTES && datagrams.len() <= train::MAX_DATAGRAMS);
            let Some((last, others)) = datagrams.split_last() else { panic!("an empty train") };
            assert!(others.iter().all(|datagram| datagram.len() == usize::from(train.size)));
            assert!(last.len() <= usize::from(train.size));
            for datagram in &datagrams {
                assert!(datagram.len() <= MAX_DATAGRAM, "{} bytes", datagram.len());
                if port != IP_PEER {
                    parse(&datagram[front..]);
                }
            }
            sent(train, if self.refuse { Err(SendError::Drop(DropReason::PeerUnreachable)) } else { Ok(()) });
        }
    }
}

fn parse(frame: &[u8]) -> Headers {
    Headers::parse(frame).unwrap_or_else(|malformed| panic!("malformed frame written: {malformed:?}"))
}

fn assert_balance(counters: &Counters) {
    let sum = |count: &dyn Fn(&PortCounters) -> u64| -> u64 {
        (0..PORTS as u16).filter_map(|id| counters.port(PortId(id))).map(count).sum()
    };
    let entered = sum(&|port| port.rx_frames.load() + port.copies.load() + port.made.load());
    let dropped = sum(&PortCounters::all_dropped);
    let left = sum(&|port| port.tx_frames.load() + port.taken.load());
    assert_eq!(entered, left + dropped, "frames in + copies + made differ from frames out + drops + taken");
}
