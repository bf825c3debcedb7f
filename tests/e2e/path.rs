//! Paths with a smaller MTU than their ends: fragmentation, path MTU discovery and MSS.
//!
//! ```text
//!  guest ---- router ---- outside ----(narrow)---- beyond
//! ```

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::route::{self, Limits, Route};

use crate::datagrams::{ACK, Datagram, SYN, TCP};
use crate::host::Host;
use crate::raw::set_option;
use crate::site::{
    FAR, GATEWAY, Mode, NEIGHBOUR, Plan, Site, connect, default_route, forwards, give, guest_address, listen_on, recv_from,
    udp_on,
};
use crate::station::Station;
use crate::transfer::transfer_through;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("path/a_narrow_link_beyond_{word}"), move || a_narrow_link_beyond(mode)),
            trial(format!("path/a_narrow_uplink_{word}"), move || a_narrow_uplink(mode)),
            trial(format!("path/transfer_by_a_narrow_uplink_{word}"), move || transfer_by_a_narrow_uplink(mode)),
        ]);
    }
    trials.extend([
        trial("path/traceroute", traceroute),
        trial("path/mss_is_lowered_both_ways", mss_is_lowered_both_ways),
        trial("path/mss_stays_if_clamping_is_off", mss_stays_if_clamping_is_off),
        trial("path/the_hosts_route_has_an_mtu", the_hosts_route_has_an_mtu),
        trial("path/a_guest_with_a_narrow_link", a_guest_with_a_narrow_link),
    ]);
    trials
}

const BEYOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const BEFORE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A host behind the outside one, on a link of this MTU.
fn beyond(site: &Site, mtu: u32) -> Host {
    let beyond = Host::quiet("far1");
    let before = Host::in_namespace("far0", site.outside.netns().try_clone().expect("a clone"));
    before.inside(|| link::add_pair("far0", "far1", Some(beyond.netns().as_fd())));
    for (host, address) in [(&before, BEFORE), (&beyond, BEYOND)] {
        host.set_link(Change { up: Some(true), mtu: Some(mtu), ..Change::default() });
        give(host, address, 24);
    }
    default_route(&beyond, BEFORE);
    forwards(&site.outside);
    beyond
}

/// Sets "don't fragment" on all datagrams of this socket.
fn never_fragment(socket: &UdpSocket) {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO).expect("set");
}

/// An outside router sends "fragmentation needed", and the guest's kernel accepts it.
fn a_narrow_link_beyond(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let beyond = beyond(&site, 1000);
    let server = udp_on(&beyond, BEYOND, 53);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    client.connect((BEYOND, 53)).expect("connected");
    never_fragment(&client);
    client.send(&[1; 1200]).expect("sent");
    let error = crate::site::error_of(&client);
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
    let refused = client.send(&[1; 973]).expect_err("too long, as it knows now");
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    client.send(&[2; 972]).expect("as long as the MTU of the path");
    assert_eq!(recv_from(&server).0, [2; 972]);
    // TCP discovers the path MTU without MSS clamping, in both directions.
    let listener = listen_on(&beyond, BEYOND, 80);
    let (near, far, peer) = connect(site.guest(1), &listener, SocketAddrV4::new(BEYOND, 80));
    assert_eq!(*peer.ip(), site.address());
    transfer_through(near, far, true);
    site.finish();
}

/// The router itself has the smallest MTU: it sends errors with that of its uplink, or fragments.
fn a_narrow_uplink(mode: Mode) {
    let site = narrow(Plan::new(mode, 1).silent(), 1280).start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let long = Datagram { dont_fragment: true, ..Datagram::udp(guest.at(5000), peer.at(53), &[1; 1253]) };
    guest.send(&long);
    let error = guest.next("the error");
    assert!(error.is_icmp(3, 4) && error.src == GATEWAY && error.next_hop_mtu() == 1280, "{error:?}");
    assert_eq!((error.quote().from(), error.quote().to()), (guest.at(5000), peer.at(53)));
    guest.send(&Datagram { dont_fragment: true, ..Datagram::udp(guest.at(5000), peer.at(53), &[2; 1252]) });
    assert_eq!(peer.next_udp(53).data(), [2; 1252]);
    guest.send(&Datagram { id: 4711, dont_fragment: false, ..long });
    let mut pieces = [peer.next("a piece"), peer.next("a piece")];
    assert!(pieces.iter().all(|piece| piece.is_fragment() && piece.bytes().len() <= 1280), "{pieces:?}");
    assert!(pieces[0].offset == 0 && pieces[0].id == pieces[1].id, "in order: {pieces:?}");
    let whole = pieces.each_mut().map(|piece| std::mem::take(&mut piece.payload)).concat();
    let whole = Datagram { payload: whole, more_fragments: false, ..pieces[0].clone() };
    assert!(whole.is_sound() && whole.data() == [1; 1253] && whole.src == site.address(), "{whole:?}");
    let report = site.finish();
    assert_eq!(report.dropped("g1", "fragmentation_needed"), 1);
}

fn narrow(plan: Plan, mtu: u32) -> Plan {
    plan.first(|site| {
        for host in [&site.machine, &site.outside] {
            host.set_link(Change { mtu: Some(mtu), ..Change::default() });
        }
    })
}

/// Streams through an uplink with a smaller MTU than the guests' links, and datagrams that must be fragmented.
fn transfer_by_a_narrow_uplink(mode: Mode) {
    let site = narrow(Plan::new(mode, 1).args(&["--publish", "8080:10.77.0.11:80"]), 1000).start();
    let listener = listen_on(&site.outside, FAR, 80);
    let (near, far, _) = connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 80));
    transfer_through(near, far, true);
    let listener = listen_on(site.guest(1), guest_address(1), 80);
    let (near, far, _) = connect(&site.outside, &listener, SocketAddrV4::new(site.address(), 8080));
    transfer_through(near, far, true);
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    set_option(&client, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT).expect("set");
    for size in [972, 973, 1472, 5000] {
        client.send_to(&vec![3; size], (FAR, 53)).expect("sent");
        let (bytes, from) = recv_from(&server);
        assert_eq!(bytes, vec![3; size]);
        server.send_to(&bytes, from).expect("sent");
        assert_eq!(recv_from(&client).0, bytes);
    }
    // Without clamping, errors would have lowered the segment size; with it no segment was ever too long.
    let report = site.finish();
    assert_eq!(report.dropped_for("fragmentation_needed"), 0, "{report:?}");
}

/// Every hop of a traceroute replies, the router first.
fn traceroute() {
    let site = Site::start_with(Mode::Own, 1);
    let _beyond = beyond(&site, 1500);
    for (ttl, expected) in [(1, GATEWAY), (2, Ipv4Addr::new(203, 0, 113, 254)), (3, BEYOND)] {
        let seen = site.guest(1).raw();
        let client = udp_on(site.guest(1), guest_address(1), 0);
        client.connect((BEYOND, 33_434)).expect("connected");
        client.set_ttl(ttl).expect("set");
        client.send(b"where are you?").expect("sent");
        let port = client.local_addr().expect("its address").port();
        let error = wait::until("an error", || {
            let datagram = Datagram::of_frame(&seen.recv()?)?;
            datagram.is_error().then_some(datagram)
        });
        assert_eq!((error.src, error.dst, error.quote().from().port()), (expected, guest_address(1), port));
        assert_eq!(error.quote().src, guest_address(1));
    }
    site.finish();
}

fn mss_of(segment: &Datagram) -> Option<u16> {
    assert!(segment.protocol == TCP && segment.flags() & SYN != 0, "{segment:?}");
    let at = 20 + segment.payload[20..].windows(2).position(|pair| pair == [2, 4])?;
    Some(u16::from_be_bytes([segment.payload[at + 2], segment.payload[at + 3]]))
}

fn syn(from: SocketAddrV4, to: SocketAddrV4, flags: u8, numbers: [u32; 2], mss: u16) -> Datagram {
    let [a, b] = mss.to_be_bytes();
    Datagram::tcp_with_options(from, to, flags, numbers, &[1, 3, 3, 7, 2, 4, a, b], b"")
}

/// The MSS is lowered in SYN and SYN-ACK, never raised, and the checksum is right.
fn mss_is_lowered_both_ways() {
    let site = narrow(Plan::new(Mode::Own, 1).silent(), 1280).start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    for (port, mss, expected) in
        [(5000, 1460, 1240), (5001, 1241, 1240), (5002, 1240, 1240), (5003, 536, 536), (5004, 65_495, 1240)]
    {
        guest.send(&syn(guest.at(port), peer.at(80), SYN, [1, 0], mss));
        let seen = peer.next("the SYN");
        assert_eq!(mss_of(&seen), Some(expected));
        peer.send(&syn(peer.at(80), seen.from(), SYN | ACK, [9, 2], mss));
        assert_eq!(mss_of(&guest.next("the SYN-ACK")), Some(expected));
    }
    // The option is not added where it is missing, and is left alone in segments without SYN.
    guest.send(&Datagram::tcp(guest.at(5005), peer.at(80), SYN, [1, 0], b""));
    assert_eq!(mss_of(&peer.next("a SYN without MSS")), None);
    let data = Datagram::tcp_with_options(guest.at(5000), peer.at(80), ACK, [2, 10], &[1, 1, 1, 1, 2, 4, 5, 0xb4], b"x");
    guest.send(&data);
    assert_eq!(peer.next("data").payload[20..28], data.payload[20..28]);
    site.finish();
}

fn mss_stays_if_clamping_is_off() {
    let site = narrow(Plan::new(Mode::Own, 1).args(&["--nat", "mss-clamp=off"]).silent(), 1280).start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send(&syn(guest.at(5000), peer.at(80), SYN, [1, 0], 1460));
    assert_eq!(mss_of(&peer.next("the SYN")), Some(1460));
    site.finish();
}

/// `ip route add .. mtu 1400` on the host holds for guests' packets too.
fn the_hosts_route_has_an_mtu() {
    let narrow = |site: &Site| {
        let limits = Limits { mtu: Some(1400), ..Limits::default() };
        let route = Route { prefix: Ipv4Addr::new(203, 0, 113, 50), prefix_len: 32, gateway: None, metric: 0, limits };
        let machine = &site.machine;
        machine.inside(|| route::add(link::get(machine.name())?.index, route));
    };
    let site = Plan::new(Mode::Shared, 1).silent().first(narrow).start();
    let (guest, near, far) = (site.guest_station(1), site.stranger(50), site.stranger(51));
    let long = |to: &Station| Datagram { dont_fragment: true, ..Datagram::udp(guest.at(5000), to.at(53), &[1; 1373]) };
    guest.send(&long(&near));
    let error = guest.next("the error");
    assert!(error.is_icmp(3, 4) && error.src == GATEWAY && error.next_hop_mtu() == 1400, "{error:?}");
    guest.send(&long(&far));
    assert_eq!(far.next_udp(53).data(), [1; 1373], "another route");
    for (peer, expected) in [(&near, 1360), (&far, 1460)] {
        guest.send(&syn(guest.at(5001), peer.at(80), SYN, [1, 0], 1460));
        let seen = peer.next("the SYN");
        assert_eq!(mss_of(&seen), Some(expected));
        peer.send(&syn(peer.at(80), seen.from(), SYN | ACK, [9, 2], 1460));
        assert_eq!(mss_of(&guest.next("the SYN-ACK")), Some(expected));
    }
    site.finish();
}

/// A packet from outside that is too long for the guest's link: its sender gets an error from the outside address that
/// quotes the packet as sent.
fn a_guest_with_a_narrow_link() {
    let site = Plan::new(Mode::Own, 1).keys(":mtu=1280").start();
    let client = udp_on(site.guest(1), guest_address(1), 5000);
    let server = udp_on(&site.outside, NEIGHBOUR, 53);
    client.send_to(b"question", (NEIGHBOUR, 53)).expect("sent");
    let (_, from) = recv_from(&server);
    server.connect(from).expect("connected");
    never_fragment(&server);
    server.send(&[1; 1400]).expect("sent");
    assert_eq!(crate::site::error_of(&server).raw_os_error(), Some(libc::EMSGSIZE));
    server.send(&[1; 1253]).expect_err("too long, as it knows now");
    server.send(&[2; 1252]).expect("sent");
    assert_eq!(recv_from(&client).0, [2; 1252]);
    // A packet that may be fragmented is.
    set_option(&server, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_INTERFACE).expect("set");
    server.send(&[3; 1400]).expect("sent");
    assert_eq!(recv_from(&client).0, [3; 1400]);
    site.finish();
}
