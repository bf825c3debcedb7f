//! The gate between an interface and the host's stack.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::Gate;
use netio::gate::{MAX_RANGES, Owner, TrafficFilter};
use netio::packet_socket::PacketSocket;
use netio::reservation::PortProtocol::{Tcp, Udp};
use packet::PortSet;
use testkit::packets;

use crate::frames::{ethernet, send};
use crate::host::{Host, address, pair, until};
use crate::reserved::{answers, to_port};
use crate::trial;

const MARKED: u16 = 40_000;
const FREE: u16 = 41_000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("gate_keeps_the_host_silent_on_marked_ports_only", silent_on_marked_ports_only),
        trial("gate_lets_the_hosts_own_sockets_have_theirs", hosts_own_sockets_have_theirs),
        trial("gate_drops_later_fragments_with_the_first", later_fragments_go_with_the_first),
        trial("gate_leaves_nothing_behind", nothing_is_left),
        trial("gate_comes_back_when_it_is_removed", comes_back),
        trial("gate_takes_a_priority_tag_for_none", priority_tags_are_none),
        trial("gate_by_a_filter_of_traffic_control", by_a_filter),
    ]
}

/// A gate on the near host's interface, for its address.
fn gate(near: &Host) -> Gate {
    let index = near.link().index;
    let gate = near.inside(|| {
        let mut gate = Gate::load()?;
        gate.attach(index)?;
        Ok(gate)
    });
    gate.set_address(Some(address(1)));
    gate
}

fn silent_on_marked_ports_only() {
    let (near, far) = pair();
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"));
    let (wire, reader) = (far.open(far.spec()), near.open(near.spec()));
    let gate = gate(&near);
    assert_eq!(answers(&near, &wire, &to_port(MARKED)).len(), 4, "no port is marked yet");
    for protocol in [Tcp, Udp] {
        gate.marks().set(protocol, MARKED, Owner::Mapping);
        assert!(gate.marks().is_marked(protocol, MARKED) && !gate.marks().is_marked(protocol, MARKED + 1));
    }
    assert_eq!(answers(&near, &wire, &to_port(MARKED)), Vec::<Vec<u8>>::new());
    // Beside it, the other protocol alone, another address.
    assert_eq!(answers(&near, &wire, &to_port(MARKED + 1)).len(), 4);
    gate.marks().set(Tcp, MARKED, Owner::Host);
    assert_eq!(answers(&near, &wire, &to_port(MARKED)).len(), 3);
    gate.set_address(Some(address(9)));
    assert_eq!(answers(&near, &wire, &to_port(MARKED)).len(), 4);
    // Packet sockets had their copies of everything.
    let mut seen = 0;
    until("all copies", || {
        let frames = crate::frames::drain(&reader, 0).0;
        seen += frames.iter().filter(|frame| matches!(frame.bytes.get(23), Some(6 | 17))).count();
        (seen == 5 * 4).then_some(())
    });
}

/// Connections of the host from a marked port go on; a listener there is not reached. A UDP socket is, unless the port is
/// published: then a connected one alone.
fn hosts_own_sockets_have_theirs() {
    let (near, far) = pair();
    let gate = gate(&near);
    let patience = Some(Duration::from_secs(5));
    let listener = far.inside(|| TcpListener::bind((address(2), 0)));
    let to = listener.local_addr().expect("an address");
    let mut stream = near.inside(|| TcpStream::connect(to));
    let (mut other, peer) = listener.accept().expect("accepted");
    gate.marks().set(Tcp, peer.port(), Owner::Mapping);
    other.write_all(b"hello").expect("sent");
    stream.set_read_timeout(patience).expect("set");
    stream.read_exact(&mut [0; 5]).expect("the connection goes on");

    let service = near.inside(|| TcpListener::bind((address(1), MARKED)));
    let at = SocketAddrV4::new(address(1), MARKED);
    let reaches = || far.inside(|| Ok(TcpStream::connect_timeout(&at.into(), Duration::from_millis(300)).is_ok()));
    assert!(reaches());
    gate.marks().set(Tcp, MARKED, Owner::Published);
    assert!(!reaches(), "the listener is not asked");
    gate.marks().set(Tcp, MARKED, Owner::Host);
    assert!(reaches());
    drop(service);

    let socket = near.inside(|| UdpSocket::bind((address(1), MARKED)));
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    let client = far.inside(|| UdpSocket::bind((address(2), 0)));
    let hears = || {
        client.send_to(b"x", at).expect("sent");
        socket.recv(&mut [0; 9]).is_ok()
    };
    for (owner, heard) in [(Owner::Host, true), (Owner::Mapping, true), (Owner::Published, false), (Owner::Host, true)] {
        gate.marks().set(Udp, MARKED, owner);
        assert_eq!(hears(), heard, "{owner:?}");
    }
    socket.connect(client.local_addr().expect("an address")).expect("connected");
    gate.marks().set(Udp, MARKED, Owner::Published);
    assert!(hears(), "a connected one expects the packet");
}

/// Packets to a port with this VLAN tag, and the number of answers.
fn answers_to_tagged(near: &Host, wire: &PacketSocket, port: u16, control: u16) -> usize {
    for packet in to_port(port) {
        let frame = ethernet(near.link().mac, &packet);
        let tag = [&0x8100u16.to_be_bytes()[..], &control.to_be_bytes()].concat();
        send(wire, &[&frame[..12], &tag, &frame[12..]].concat());
    }
    answers(near, wire, &[]).len()
}

/// A tag for the priority alone is none, for the stack and for the gate.
fn priority_tags_are_none() {
    let (near, far) = pair();
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"));
    let wire = far.open(far.spec());
    assert_eq!(answers_to_tagged(&near, &wire, MARKED, 0x6000), 4);
    let gate = gate(&near);
    gate.marks().set(Tcp, MARKED, Owner::Mapping);
    gate.marks().set(Udp, MARKED, Owner::Mapping);
    assert_eq!(answers_to_tagged(&near, &wire, MARKED, 0x6000), 0);
    drop(gate);
    let index = near.link().index;
    let filter = near.inside(|| TrafficFilter::attach(index));
    let marked = PortSet::from(MARKED..=MARKED);
    near.inside(|| filter.set(address(1), [&marked, &marked]));
    assert_eq!([0x6000, 0].map(|control| answers_to_tagged(&near, &wire, MARKED, control)), [0, 0]);
    assert_eq!(answers_to_tagged(&near, &wire, FREE, 0x6000), 4);
}

/// What the near host's stack has collected of fragments.
fn collected(near: &Host) -> u64 {
    let text = near.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (mut names, mut values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.position(|name| name == "ReasmReqds").expect("the counter");
    values.nth(at).and_then(|value| value.parse().ok()).expect("a number")
}

fn fragments(port: u16, id: u16) -> [Vec<u8>; 2] {
    let datagram = packets::udp(SocketAddrV4::new(address(2), 53), SocketAddrV4::new(address(1), port), &[7; 64]);
    [packets::fragment(&datagram, 0..32, id, true), packets::fragment(&datagram, 32..72, id, false)]
}

fn later_fragments_go_with_the_first() {
    let (near, far) = pair();
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"));
    let wire = far.open(far.spec());
    let gate = gate(&near);
    gate.marks().set(Udp, MARKED, Owner::Mapping);
    for id in 1..100 {
        assert_eq!(answers(&near, &wire, &fragments(MARKED, id)), Vec::<Vec<u8>>::new());
    }
    assert_eq!(collected(&near), 0);
    // The identification of a guest's datagram, used again for one of the host's.
    let said = answers(&near, &wire, &fragments(FREE, 7));
    assert_eq!((said.len(), collected(&near)), (1, 2), "port unreachable, about the whole datagram");
}

fn nothing_is_left() {
    let (near, far) = pair();
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"));
    let wire = far.open(far.spec());
    let mut gate = gate(&near);
    gate.marks().set(Tcp, MARKED, Owner::Published);
    gate.marks().set(Udp, MARKED, Owner::Published);
    assert_eq!(answers(&near, &wire, &to_port(MARKED)), Vec::<Vec<u8>>::new());
    let index = near.link().index;
    near.inside(|| gate.attach(index));
    assert_eq!(answers(&near, &wire, &to_port(MARKED)), Vec::<Vec<u8>>::new());
    assert!(near.inside(|| Ok(gate.attach(9999).is_err())), "no such interface");
    assert_eq!(answers(&near, &wire, &to_port(MARKED)).len(), 4);
    near.inside(|| gate.attach(index));
    assert_eq!(answers(&near, &wire, &to_port(MARKED)), Vec::<Vec<u8>>::new());
    drop(gate);
    assert_eq!(answers(&near, &wire, &to_port(MARKED)).len(), 4);
}

fn by_a_filter() {
    let (near, far) = pair();
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"));
    let wire = far.open(far.spec());
    let index = near.link().index;
    let said = |port| answers(&near, &wire, &to_port(port)).len();
    let filter = near.inside(|| TrafficFilter::attach(index));
    assert_eq!((filter.interface(), said(MARKED)), (index, 4));
    let (none, marked) = (PortSet::default(), PortSet::from(MARKED..=MARKED + 9));
    near.inside(|| filter.set(address(1), [&marked, &marked]));
    assert_eq!([MARKED - 1, MARKED, MARKED + 9, MARKED + 10].map(said), [4, 0, 0, 4]);
    // Each protocol has ports of its own, however many; another address has none.
    let many: PortSet = (0..MAX_RANGES as u16).map(|number| 1024 + 2 * number).collect();
    near.inside(|| filter.set(address(1), [&many, &none]));
    assert_eq!([1024, 1025, MARKED].map(said), [1, 4, 4]);
    near.inside(|| filter.set(address(1), [&none, &many]));
    assert_eq!([1024, 1024 + 2 * MAX_RANGES as u16 - 2, 1025].map(said), [3, 3, 4]);
    near.inside(|| filter.set(address(2), [&many, &many]));
    assert_eq!(said(1024), 4);
    // Another one does not replace it, and goes alone.
    near.inside(|| filter.set(address(1), [&many, &many]));
    let next = near.inside(|| TrafficFilter::attach(index));
    near.inside(|| next.set(address(1), [&marked, &marked]));
    assert_eq!([1024, MARKED].map(said), [0, 0]);
    near.inside(|| {
        drop(next);
        TrafficFilter::remove_left(index);
        Ok(())
    });
    assert_eq!([1024, MARKED].map(said), [0, 4]);
    assert!(!near.inside(|| filter.keep(address(1), [&many, &many])));
    near.inside(|| {
        drop(filter);
        Ok(())
    });
    assert_eq!(said(1024), 4);
}

/// Detaches a gate from its interface, as `bpftool link detach` does.
fn detach(gate: &Gate) {
    const LINK_DETACH: libc::c_int = 34;
    let link = gate.link().expect("a link").1.as_raw_fd();
    // SAFETY: bpf(2) reads the four bytes of the descriptor's number, which live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw const link, size_of_val(&link)) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn comes_back() {
    let (near, far) = pair();
    near.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"));
    let wire = far.open(far.spec());
    let mut gate = gate(&near);
    gate.marks().set(Tcp, MARKED, Owner::Published);
    let said = || answers(&near, &wire, &to_port(MARKED)).len();
    assert_eq!((near.inside(|| gate.keep()), said()), (false, 1));
    detach(&gate);
    assert_eq!(said(), 4, "it is gone");
    assert_eq!((near.inside(|| gate.keep()), said()), (true, 1));
    let index = near.link().index;
    let filter = near.inside(|| TrafficFilter::attach(index));
    let (none, marked) = (PortSet::default(), PortSet::from(MARKED..=MARKED));
    drop(gate);
    near.inside(|| filter.set(address(1), [&marked, &none]));
    assert_eq!((near.inside(|| filter.keep(address(1), [&marked, &none])), said()), (false, 1));
    near.inside(|| {
        TrafficFilter::remove_left(index);
        std::process::Command::new("tc").args(["qdisc", "del", "dev", &near.spec().interface, "clsact"]).status()
    });
    assert_eq!(said(), 4, "it is gone");
    assert_eq!((near.inside(|| filter.keep(address(1), [&marked, &none])), said()), (true, 1));
}
