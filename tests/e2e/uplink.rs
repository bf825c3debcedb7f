//! The uplink and its machine: the host's stack neither answers nor breaks guests' connections, and the uplink may
//! come and go.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::link::{self, Change};
use packet::MacAddr;

use crate::datagrams::{ACK, Datagram, ECHO_REQUEST, RST, SYN, TCP};
use crate::exchange::Background;
use crate::frames::{DOT1Q, frame, station, tagged};
use crate::host::{Host, bound_in_time};
use crate::nat_tcp::Pair;
use crate::raw::RawSocket;
use crate::site::{
    FAR, GATEWAY_MAC, MACHINE, Mode, NEXT_HOP, OWN, Plan, Site, connect, default_route, give, guest_address, hears_all,
    listen_on, local, ping, recv_from, take, udp_on,
};
use crate::station::{ArpMessage, mac_at};
use crate::switch::Switch;
use crate::transfer::transfer_through;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("uplink/host_is_silent_{word}"), move || host_is_silent(mode, &[])),
            trial(format!("uplink/host_is_unharmed_{word}"), move || host_is_unharmed(mode)),
            trial(format!("uplink/carrier_lost_and_found_{word}"), move || carrier_lost_and_found(mode)),
            trial(format!("uplink/interface_deleted_and_made_anew_{word}"), move || interface_deleted_and_made_anew(mode)),
        ]);
    }
    trials.extend([
        trial("uplink/host_is_silent_by_a_filter", || host_is_silent(Mode::Shared, &["--uplink-gate", "filter"])),
        trial("uplink/host_is_silent_by_sockets", || host_is_silent(Mode::Shared, &["--uplink-gate", "sockets"])),
        trial("uplink/reserved_ports_are_not_given_away", reserved_ports_are_not_given_away),
        trial("uplink/address_flaps", address_flaps),
        trial("uplink/ports_after_a_flap_tcx", || ports_after_a_flap("tcx")),
        trial("uplink/ports_after_a_flap_filter", || ports_after_a_flap("filter")),
        trial("uplink/ports_after_a_flap_sockets", || ports_after_a_flap("sockets")),
        trial("uplink/another_address", another_address),
        trial("uplink/own_address_is_announced", own_address_is_announced),
        trial("uplink/answers_for_own_addresses_only", answers_for_own_addresses_only),
        trial("uplink/priority_tags_are_taken_off", priority_tags_are_taken_off),
        trial("uplink/bridge_mode", bridge_mode),
        trial("uplink/bridge_mode_carries_tags", bridge_mode_carries_tags),
        trial("uplink/missing_interface_exits_1", missing_interface_exits_1),
    ]);
    trials
}

/// Packets that left the machine and that only its own stack can have sent about a guest's packets.
fn said_by_the_host(wan: &RawSocket, host: MacAddr) -> Vec<Datagram> {
    let frames = std::iter::from_fn(|| wan.recv());
    let sent = frames.filter(|frame| mac_at(frame, 6) == host).filter_map(|frame| Datagram::of_frame(&frame));
    sent.filter(|datagram| datagram.is_error() || datagram.protocol == TCP && datagram.flags() & RST != 0).collect()
}

/// The stack sees every reply too and must answer none: to TCP and UDP of guests, in each state of their connections,
/// and to late packets.
fn host_is_silent(mode: Mode, args: &[&str]) {
    let site = Plan::new(mode, 1).args(&["--publish", "8080:10.77.0.11:80"]).args(args).silent().start();
    let (guest, peer, wan) = (site.guest_station(1), site.stranger(50), site.wan());
    for port in (3000..3064).chain([1024, 40_000, 65_535]) {
        let pair = Pair::open(&guest, port, &peer, 80);
        pair.is_alive();
        guest.send_udp(port, peer.at(53), b"question");
        let outer = peer.next_udp(53).from();
        peer.send_udp(53, outer, b"answer");
        guest.next("the answer");
        // The stack ignores packets that NAT drops, too.
        peer.send_udp(54, outer, b"from a stranger");
        let [ours, theirs] = pair.numbers();
        pair.back(ACK, [theirs.wrapping_add(1 << 30), ours], b"out of window");
        peer.send(&Datagram::tcp(peer.at(81), pair.outer, SYN, [1, 0], b""));
        peer.send(&Datagram::tcp(peer.at(81), pair.outer, ACK, [1, 1], b"stray"));
    }
    let published = SocketAddrV4::new(site.address(), 8080);
    for flags in [SYN, ACK] {
        peer.send(&Datagram::tcp(peer.at(99), published, flags, [1, 1], b""));
    }
    assert_eq!(guest.next("the SYN").to(), guest.at(80));
    Pair::open(&guest, 9999, &peer, 80).is_alive();
    assert_eq!(guest.seen(), []);
    assert_eq!(said_by_the_host(&wan, site.machine.mac()), []);
    site.finish();
}

/// A server and a client of the host on the same address, while guests use it.
fn host_is_unharmed(mode: Mode) {
    let site = Site::start_with(mode, 2);
    let host_server = listen_on(&site.machine, MACHINE, 80);
    let listener = listen_on(&site.outside, FAR, 80);
    let at_far = SocketAddrV4::new(FAR, 80);
    let streams = [
        connect(&site.outside, &host_server, SocketAddrV4::new(MACHINE, 80)),
        connect(&site.machine, &listener, at_far),
        connect(site.guest(1), &listener, at_far),
        connect(site.guest(2), &listener, at_far),
    ];
    assert_eq!(*streams[1].2.ip(), MACHINE);
    thread::scope(|scope| {
        for (near, far, _) in streams {
            scope.spawn(move || transfer_through(near, far, true));
        }
    });
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(&site.machine, Ipv4Addr::UNSPECIFIED, 0);
    client.send_to(b"from the host", (FAR, 53)).expect("sent");
    let (_, from) = recv_from(&server);
    server.send_to(b"to the host", from).expect("sent");
    assert_eq!((*from.ip(), recv_from(&client).0), (MACHINE, b"to the host".to_vec()));
    assert_eq!(ping(&site.outside, MACHINE, 1), (MACHINE, 64));
    assert_eq!(ping(&site.machine, FAR, 2), (FAR, 64));
    site.finish();
}

/// Without a gate, the host's programs cannot bind a port that a guest's mapping uses.
fn reserved_ports_are_not_given_away() {
    let site = Plan::new(Mode::Shared, 1).args(&["--uplink-gate", "sockets"]).start();
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    client.send_to(b"x", (FAR, 53)).expect("sent");
    let (_, outer) = recv_from(&server);
    let taken = site.machine.try_inside(|| std::net::UdpSocket::bind((MACHINE, outer.port())));
    assert_eq!(taken.expect_err("it is a guest's").kind(), std::io::ErrorKind::AddrInUse);
    let listener = listen_on(&site.outside, FAR, 80);
    let (_near, _far, peer) = connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 80));
    let taken = site.machine.try_inside(|| TcpListener::bind((MACHINE, peer.port())));
    assert_eq!(taken.expect_err("it is a guest's").kind(), std::io::ErrorKind::AddrInUse);
    // The kernel chooses other ports.
    for _ in 0..200 {
        let socket = udp_on(&site.machine, MACHINE, 0);
        assert_ne!(local(&socket).port(), outer.port());
    }
    site.finish();
}

/// The address goes and comes back, as with a DHCP client that is restarted, during a stream.
fn address_flaps() {
    let site = Site::start_with(Mode::Shared, 1);
    let listener = listen_on(&site.outside, FAR, 80);
    let (mut near, mut far, peer) = connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 80));
    let chatter = Background::run(move || {
        let mut bytes = [0; 1000];
        near.write_all(&[7; 1000]).expect("sent");
        far.read_exact(&mut bytes).expect("received in time");
        far.write_all(&bytes).expect("sent");
        near.read_exact(&mut bytes).expect("received in time");
        assert_eq!(bytes, [7; 1000]);
    });
    for flap in 0..20 {
        take(&site.machine, MACHINE, 24);
        // Within the time in which changes are combined, and longer than that.
        thread::sleep(Duration::from_millis(if flap % 2 == 0 { 10 } else { 150 }));
        give(&site.machine, MACHINE, 24);
        default_route(&site.machine, NEXT_HOP);
        thread::sleep(Duration::from_millis(50));
    }
    let rounds = chatter.rounds();
    wait::until("the stream to go on", || (chatter.rounds() > rounds + 10).then_some(()));
    chatter.end();
    let server = udp_on(&site.outside, FAR, 53);
    udp_on(site.guest(1), guest_address(1), 0).send_to(b"new", (FAR, 53)).expect("sent");
    assert_eq!(recv_from(&server).1.ip(), peer.ip());
    assert_eq!(site.finish().nat("flushed"), 0);
}

/// Requests for ports while the address was away do not exhaust the ports once it is back.
fn ports_after_a_flap(gate: &str) {
    let site = Plan::new(Mode::Shared, 1).args(&["--uplink-gate", gate]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(999, peer.at(53), b"known");
    peer.next_udp(53);
    take(&site.machine, MACHINE, 24);
    (2000..2600).for_each(|port| guest.send_udp(port, peer.at(53), b"meanwhile"));
    thread::sleep(Duration::from_millis(200));
    give(&site.machine, MACHINE, 24);
    default_route(&site.machine, NEXT_HOP);
    let mut seen = std::collections::HashSet::new();
    for port in 10_000..13_000_u16 {
        // Sent again if it came before the address was back.
        let outer = wait::until("a port", || {
            guest.send_udp(port, peer.at(54), &port.to_be_bytes());
            let answers = wait::for_at_most(Duration::from_millis(20), || {
                let mut seen = peer.seen();
                seen.retain(|seen| seen.data() == port.to_be_bytes());
                seen.pop()
            });
            answers.map(|seen| seen.from())
        });
        seen.insert(outer);
    }
    assert_eq!(seen.len(), 3000);
    assert!(!site.switch().has_logged("no more ports"));
    site.finish();
}

/// New flows use the new address, and none the old one.
fn another_address() {
    let site = Site::start_with(Mode::Shared, 1);
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(site.guest(1), guest_address(1), 5000);
    client.send_to(b"one", (FAR, 53)).expect("sent");
    assert_eq!(*recv_from(&server).1.ip(), MACHINE);
    take(&site.machine, MACHINE, 24);
    let new = Ipv4Addr::new(203, 0, 113, 2);
    give(&site.machine, new, 24);
    default_route(&site.machine, NEXT_HOP);
    server.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let from = wait::until("the new address", || {
        client.send_to(b"two", (FAR, 53)).expect("sent");
        let mut bytes = [0; 9];
        let (_, from) = server.recv_from(&mut bytes).ok()?;
        (from.ip() == new).then_some(from)
    });
    server.send_to(b"three", from).expect("sent");
    assert_eq!(recv_from(&client).0, b"three");
    let report = site.finish();
    assert_eq!((report.nat("connections"), report.nat("flushed")), (1, 1));
}

/// One request and its reply over a stream through the uplink.
fn one_round(near: &mut TcpStream, far: &mut TcpStream) {
    let mut bytes = [0; 5];
    near.write_all(b"hello").expect("sent");
    far.read_exact(&mut bytes).expect("received in time");
    far.write_all(&bytes).expect("sent");
    near.read_exact(&mut bytes).expect("received in time");
}

/// The cable is pulled and plugged in, and the interface is set down and up.
fn carrier_lost_and_found(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let listener = listen_on(&site.outside, FAR, 80);
    let (mut near, mut far, _) = connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 80));
    one_round(&mut near, &mut far);
    for host in [&site.outside, &site.machine] {
        host.set_link(Change { up: Some(false), ..Change::default() });
        thread::sleep(Duration::from_millis(300));
        host.set_link(Change { up: Some(true), ..Change::default() });
        if host.name() == "up0" {
            default_route(host, NEXT_HOP);
        }
        one_round(&mut near, &mut far);
    }
    site.finish();
}

/// The interface is replaced by another of the same name, as after its driver was reloaded.
fn interface_deleted_and_made_anew(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let listener = listen_on(&site.outside, FAR, 80);
    let (mut near, mut far, _) = connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 80));
    one_round(&mut near, &mut far);
    let index = site.machine.link().index;
    site.machine.inside(|| link::delete(index));
    wait::until("the daemon to notice", || {
        site.switch().has_logged("the uplink is gone; waiting for an interface of this name uplink=\"up0\"").then_some(())
    });
    let client = hears_all(udp_on(site.guest(1), guest_address(1), 0));
    client.connect((FAR, 9)).expect("connected");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let error = wait::until("an error", || {
        let error = client.send(b"no way out").and_then(|_| client.recv(&mut [0; 9])).expect_err("nobody answers");
        (error.kind() != std::io::ErrorKind::WouldBlock).then_some(error)
    });
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
    site.machine.inside(|| link::add_pair("up0", "wan0", Some(site.outside.netns().as_fd())));
    for host in [&site.machine, &site.outside] {
        host.set_link(Change { up: Some(true), ..Change::default() });
    }
    for (address, prefix) in [(NEXT_HOP, 24), (FAR, 32)] {
        give(&site.outside, address, prefix);
    }
    give(&site.machine, MACHINE, 24);
    default_route(&site.machine, NEXT_HOP);
    one_round(&mut near, &mut far);
    bound_in_time(&near);
    site.finish();
}

/// The address is announced as soon as it is there (RFC 5227 section 3).
fn own_address_is_announced() {
    let plan = Plan::new(Mode::Own, 1);
    let mut wan = None;
    let site = plan.first(|site| wan = Some(site.wan())).start();
    let wan = wan.expect("opened before the start");
    let announced = wait::until("the announcement", || {
        let arp = ArpMessage::of_frame(&wan.recv()?)?;
        (arp.target.1 == OWN && arp.sender.1 == OWN).then_some(arp)
    });
    assert_eq!(announced.sender.0, site.uplink_mac());
    site.finish();
}

/// The router answers ARP for its addresses, the host for its own, neither for others.
fn answers_for_own_addresses_only() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let peer = site.stranger(50);
    assert_eq!(peer.greet(OWN), site.uplink_mac());
    assert_eq!(peer.greet(MACHINE), site.machine.mac());
    for nobody in [Ipv4Addr::new(203, 0, 113, 79), Ipv4Addr::new(10, 77, 0, 1), guest_address(1)] {
        peer.send_frame(&ArpMessage::request((peer.mac, peer.ip), nobody).frame(MacAddr::BROADCAST, peer.mac));
    }
    peer.greet(OWN);
    let answered = peer.arps().into_iter().filter(|arp| arp.operation == 2 && arp.sender.1 != OWN).count();
    assert_eq!(answered, 0);
    // Inside addresses are not reachable from outside, even by frames sent to the router's MAC address.
    let guest = site.guest_station(1);
    peer.send_udp(53, guest.at(5000), b"straight in");
    peer.send(&Datagram::echo(peer.ip, GATEWAY_IP, ECHO_REQUEST, 1, b"gateway?"));
    assert_eq!(guest.greet(GATEWAY_IP), GATEWAY_MAC);
    peer.send(&Datagram::echo(peer.ip, OWN, ECHO_REQUEST, 1, b"mark"));
    assert_eq!(peer.next("the mark alone").data(), b"mark");
    assert_eq!(guest.seen(), []);
    site.finish();
}

/// Frames with a priority tag are taken as a kernel takes them; those of another VLAN are dropped and counted.
fn priority_tags_are_taken_off() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let peer = site.stranger(50);
    peer.greet(OWN);
    let ping = |tag: u16, data: &[u8]| {
        let frame = Datagram::echo(peer.ip, OWN, ECHO_REQUEST, 1, data).frame(peer.via, peer.mac);
        peer.send_frame(&[&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat());
    };
    ping(7, b"another VLAN");
    ping(0xa000, b"priority");
    assert_eq!(peer.next("the reply").data(), b"priority");
    site.switch().settle("the other to be dropped", |report| report.dropped("up0", "vlan_not_allowed") == 1);
    site.finish();
}

const GATEWAY_IP: Ipv4Addr = crate::site::GATEWAY;

/// A machine whose uplink is a port of the bridge: guests are hosts of the outer network.
fn bridged(guests: &[&Host], keys: &str) -> (Host, Host, Switch) {
    let (machine, outside) = (Host::quiet("up0"), Host::quiet("wan0"));
    machine.inside(|| link::add_pair("up0", "wan0", Some(outside.netns().as_fd())));
    for host in [&machine, &outside] {
        host.set_link(Change { up: Some(true), ..Change::default() });
    }
    let ports: Vec<String> = guests.iter().map(|guest| guest.port(keys)).collect();
    let netns = machine.netns().try_clone().expect("a clone");
    let args = ["--tap", &ports.join(","), "--uplink", "up0", "--uplink-mode", "bridge"];
    let switch = Switch::start_inside(netns, &args);
    (machine, outside, switch)
}

fn bridge_mode() {
    let (one, two) = (Host::quiet("b1"), Host::quiet("b2"));
    let (_machine, outside, switch) = bridged(&[&one, &two], "");
    let addresses = [11, 12].map(|last| Ipv4Addr::new(203, 0, 113, last));
    for (guest, address) in [&one, &two].into_iter().zip(addresses) {
        give(guest, address, 24);
    }
    give(&outside, NEXT_HOP, 24);
    let wan = outside.raw();
    for (guest, address) in [&one, &two].into_iter().zip(addresses) {
        assert_eq!(ping(guest, NEXT_HOP, 1), (NEXT_HOP, 64));
        assert_eq!(ping(&outside, address, 2), (address, 64));
        let listener = listen_on(&outside, NEXT_HOP, 80);
        let (near, far, peer) = connect(guest, &listener, SocketAddrV4::new(NEXT_HOP, 80));
        assert_eq!(*peer.ip(), address);
        transfer_through(near, far, true);
    }
    let macs: Vec<MacAddr> = std::iter::from_fn(|| wan.recv()).map(|frame| mac_at(&frame, 6)).collect();
    assert!(macs.contains(&one.mac()) && macs.contains(&two.mac()), "with MAC addresses of their own");
    switch.finish();
}

/// VLAN tags pass the uplink in both directions, and the VLAN of an access port is a tag there.
fn bridge_mode_carries_tags() {
    let (trunk, access) = (Host::quiet("b1"), Host::quiet("b2"));
    let (machine, outside) = (Host::quiet("up0"), Host::quiet("wan0"));
    machine.inside(|| link::add_pair("up0", "wan0", Some(outside.netns().as_fd())));
    for host in [&machine, &outside] {
        host.set_link(Change { up: Some(true), ..Change::default() });
    }
    let ports = format!("{},{}", trunk.port(""), access.port(":vlan=10"));
    let netns = machine.netns().try_clone().expect("a clone");
    let switch = Switch::start_inside(netns, &["--tap", &ports, "--uplink", "up0", "--uplink-mode", "bridge"]);
    let (inner, plain, wan) = (trunk.raw(), access.raw(), outside.raw());
    let next = |socket: &RawSocket| wait::until("a frame", || socket.recv().filter(|frame| crate::frames::is_ours(frame)));
    let hello = |n: u32, text: &[u8]| frame(MacAddr::BROADCAST, station(n), text);
    for vid in [10, 20, 0x6014] {
        inner.send(&tagged(&hello(1, b"out"), DOT1Q, vid)).expect("sent");
        assert_eq!(next(&wan), tagged(&hello(1, b"out"), DOT1Q, vid));
        wan.send(&tagged(&hello(2, b"in"), DOT1Q, vid)).expect("sent");
        assert_eq!(next(&inner), tagged(&hello(2, b"in"), DOT1Q, vid));
    }
    assert_eq!((next(&plain), next(&plain)), (hello(1, b"out"), hello(2, b"in")), "those of VLAN 10, without tag");
    plain.send(&hello(3, b"access")).expect("sent");
    assert_eq!(next(&wan), tagged(&hello(3, b"access"), DOT1Q, 10));
    switch.finish();
}

fn missing_interface_exits_1() {
    let netns = netio::netns::create().expect("a namespace");
    let ended = crate::switch::run_inside(&netns, &mut crate::switch::daemon(&["--tap", "tap0", "--uplink", "up9"]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.log.contains("up9"), "{ended:?}");
}
