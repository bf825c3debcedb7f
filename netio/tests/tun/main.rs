//! TUN devices: IP packets to and from a namespace's stack.
//!
//! Each test creates its own network namespaces. Without the permission to do so, or without /dev/net/tun, it is reported as
//! ignored, with the reason.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};
use netio::link::{self, Change};
use netio::route::{Limits, Route};
use netio::tap::Setup;
use netio::udp::{ChecksumPolicy, Outgoing, Receiver, ReceivingSocket, ReceivingSocketSpec, Sender, Sources, SourcesSpec};
use netio::{Layer, Netns, Received, Tap, TapError, TapSpec, netns};
use packet::vnet::{flag, gso};
use packet::{Batch, VnetHeader};

/// Time limit for everything that a test waits for.
const NEVER: Duration = Duration::from_secs(10);

const OWN: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 7);
const PODS: Route = Route {
    prefix_len: 16,
    prefix: Ipv4Addr::new(10, 244, 0, 0),
    metric: 0,
    gateway: None,
    limits: Limits { mtu: None, max_segment_size: None },
};

fn main() -> ExitCode {
    let trials = vec![
        trial("packets_are_exchanged_without_an_ethernet_header", packets_are_exchanged),
        trial("super_packets_pass_whole", super_packets_pass_whole),
        trial("a_tap_is_not_opened_as_a_tun", a_tap_is_not_opened_as_a_tun),
        trial("an_address_is_set_up_and_a_route_added_once", an_address_is_set_up_and_a_route_added_once),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that needs the permission to create devices.
fn trial(name: &'static str, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::ignorable_test(name, || {
        if let Some(reason) = what_is_missing() {
            return Ok(Completion::ignored_with(reason));
        }
        run();
        Ok(Completion::Completed)
    })
}

fn what_is_missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let make = || netns::create().map(|netns| netns::inside(netns.as_fd(), || Ok(Tap::open(&spec("try0", Layer::Ip)))));
    MISSING
        .get_or_init(|| match make() {
            Ok(Ok(Ok(_))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) | Err(error) => Some(format!("{error}; needs CAP_SYS_ADMIN and CAP_NET_ADMIN")),
        })
        .as_deref()
}

fn spec(name: &str, layer: Layer) -> TapSpec {
    TapSpec {
        name: name.to_owned(),
        netns: None,
        layer,
        queues: 1,
        mtu: Some(1472),
        tx_queue_len: 1000,
        offload: true,
        mac: None,
    }
}

/// A namespace without IPv6, so that it sends nothing by itself, and its name.
fn home() -> (File, Netns) {
    let file = netns::create().expect("a namespace");
    inside(&file, || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    (file, Netns::new(&path))
}

fn inside<T: Send>(home: &File, work: impl FnOnce() -> io::Result<T> + Send) -> T {
    netns::inside(home.as_fd(), work).unwrap_or_else(|error| panic!("inside: {error}"))
}

/// A TUN in a namespace, created from outside, with an address and a route.
fn tun() -> (File, Tap) {
    let (file, netns) = home();
    // One that is made outside of it is moved there.
    let maker = netns::create().expect("a namespace");
    let spec = TapSpec { netns: Some(netns), ..spec("flannel0", Layer::Ip) };
    let setup = Setup { addresses: &[(OWN.into(), 32)], ..Setup::default() };
    let tun = inside(&maker, || Ok(Tap::open_for(&spec, &setup))).unwrap_or_else(|error| panic!("{error}"));
    inside(&maker, || tun.add_route(PODS));
    (file, tun)
}

/// Repeats an attempt until it returns a value.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + NEVER;
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {NEVER:?} for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Receives this number of packets.
fn expect(tun: &Tap, count: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut batch = Batch::new();
    let mut packets = Vec::new();
    until("packets", || {
        batch.clear();
        assert_ne!(tun.queues()[0].recv(&mut batch), Received::Gone);
        packets.extend(batch.spans().iter().map(|span| (batch.vnet(*span), batch.frame(*span).to_vec())));
        (packets.len() >= count).then_some(())
    });
    assert_eq!(packets.len(), count);
    packets
}

/// The one's complement sum (RFC 1071).
fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An IPv4 packet with UDP and a partial checksum.
fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let mut packet = [&[0x45, 0][..], &(20 + len).to_be_bytes(), &[0, 1, 0x40, 0, 64, 17, 0, 0]].concat();
    packet.extend(from.0.octets());
    packet.extend(to.0.octets());
    let sum = !fold(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = fold(&[&packet[12..20], &[0, 17], &len.to_be_bytes()].concat());
    packet.extend([from.1.to_be_bytes(), to.1.to_be_bytes(), len.to_be_bytes(), pseudo.to_be_bytes()].concat());
    packet.extend(payload);
    packet
}

/// A virtio-net header for a TUN: offsets count from the IP header.
fn unfinished(gso_type: u8, gso_size: u16) -> VnetHeader {
    let hdr_len = if gso_type == gso::NONE { 0 } else { 28 };
    VnetHeader { flags: flag::NEEDS_CSUM, gso_type, hdr_len, gso_size, csum_start: 20, csum_offset: 6 }
}

fn write(tun: &Tap, vnet: VnetHeader, packet: &[u8]) {
    tun.queues()[0].send(&[IoSlice::new(&vnet.to_bytes()), IoSlice::new(packet)]).expect("written");
}

fn packets_are_exchanged() {
    let (home, tun) = tun();
    let state = tun.state().expect("asked").expect("there");
    assert_eq!((state.name.as_str(), state.up, state.mtu), ("flannel0", true, 1472));
    let socket = inside(&home, || UdpSocket::bind("0.0.0.0:7000"));
    socket.send_to(b"hello", (FAR, 53)).expect("sent");
    let [(vnet, packet)] = &expect(&tun, 1)[..] else { panic!("one packet") };
    assert_eq!((vnet.gso_type, &packet[..4], &packet[28..]), (gso::NONE, &[0x45, 0, 0, 33][..], &b"hello"[..]));
    assert_eq!((&packet[12..16], &packet[16..20]), (&OWN.octets()[..], &FAR.octets()[..]));

    write(&tun, unfinished(gso::NONE, 0), &udp((FAR, 53), (OWN, 7000), b"answer"));
    socket.set_read_timeout(Some(NEVER)).expect("a timeout");
    let mut room = [0; 100];
    let (len, from) = socket.recv_from(&mut room).expect("an answer");
    assert_eq!((&room[..len], from), (&b"answer"[..], SocketAddr::from((FAR, 53))));
    let ethernet = [&[0x02; 12][..], &[8, 0], &udp((FAR, 53), (OWN, 7000), b"x")].concat();
    let refused = tun.queues()[0].send(&[IoSlice::new(&VnetHeader::default().to_bytes()), IoSlice::new(&ethernet)]);
    assert_eq!(refused, Err(rustix::io::Errno::INVAL));
}

fn super_packets_pass_whole() {
    let (home, tun) = tun();
    if !tun.features().uso {
        return;
    }
    let payload: Vec<u8> = (0..5100).map(|at| (at % 251) as u8).collect();
    let local = IpAddr::V4(OWN);
    let spec = SourcesSpec { local, device: None, dont_fragment: true, checksum: ChecksumPolicy::On, count: 1 };
    let sources = inside(&home, || Ok(Sources::open(&spec))).unwrap_or_else(|error| panic!("{error}"));
    let to = Outgoing { to: SocketAddr::from((FAR, 8000)), source: 0, tos: 0, ttl: 64, segment_size: 1000 };
    let mut sender = Sender::new();
    let mut burst = sender.burst(sources.writer());
    assert!(burst.push(&to, [&payload[..]]));
    burst.flush(|_, result| assert_eq!(result, Ok(())));
    let [(vnet, packet)] = &expect(&tun, 1)[..] else { panic!("one packet") };
    assert_eq!((vnet.gso_type, vnet.gso_size, vnet.csum_start, vnet.csum_offset), (gso::UDP_L4, 1000, 20, 6));
    assert!(packet[28..] == payload);

    let at = ReceivingSocketSpec { local, port: 8000, queues: 1, device: None, groups: Vec::new(), zero_checksum: false };
    let endpoint = inside(&home, || Ok(ReceivingSocket::open(&at))).unwrap_or_else(|error| panic!("{error}"));
    write(&tun, unfinished(gso::UDP_L4, 1000), &udp((FAR, 53), (OWN, 8000), &payload));
    let mut receiver = Receiver::new();
    until("a train", || {
        receiver.recv(&endpoint.queues()[0], usize::MAX);
        receiver.datagrams().next().map(|datagram| {
            assert_eq!((datagram.from, datagram.segment_size), (IpAddr::V4(FAR), 1000));
            assert!(datagram.payload == payload);
        })
    });
}

fn a_tap_is_not_opened_as_a_tun() {
    let (home, _) = home();
    inside(&home, || {
        let tap = Tap::open(&spec("dev0", Layer::Ethernet)).unwrap_or_else(|error| panic!("{error}"));
        let refused = Tap::open(&spec("dev0", Layer::Ip)).expect_err("a TAP");
        assert!(matches!(refused, TapError::NotTap { layer: Layer::Ip, .. }), "{refused}");
        assert!(refused.to_string().starts_with("dev0 exists already and is not a TUN"), "{refused}");
        drop(tap);
        let _tun = Tap::open(&spec("dev0", Layer::Ip)).unwrap_or_else(|error| panic!("{error}"));
        let refused = Tap::open(&spec("dev0", Layer::Ethernet)).expect_err("a TUN");
        assert!(refused.to_string().starts_with("dev0 exists already and is not a TAP"), "{refused}");
        let busy = Tap::open(&spec("dev0", Layer::Ip)).expect_err("one owner");
        assert!(matches!(busy, TapError::Busy { .. }), "{busy}");
        Ok(())
    });
}

fn an_address_is_set_up_and_a_route_added_once() {
    let (home, tun) = tun();
    tun.add_route(PODS).expect("it leads there");
    let index = inside(&home, || link::get("flannel0")).index;
    let addresses = inside(&home, || netio::route::addresses(index));
    assert_eq!(addresses, [(OWN, 32)]);
    // Somebody else's route is not taken for ours.
    inside(&home, || link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
    let other = Route { prefix: Ipv4Addr::new(10, 99, 0, 0), ..PODS };
    inside(&home, || netio::route::add(link::get("lo")?.index, other));
    assert_eq!(tun.add_route(other).map_err(|error| error.kind()), Err(ErrorKind::AlreadyExists));
    inside(&home, || link::delete(index));
    assert!(tun.add_route(PODS).is_err());
}
