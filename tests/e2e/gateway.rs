//! The gateway as guests see it: ARP, ping, ICMP errors, and routes between networks.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;
use netio::link::Change;
use packet::MacAddr;

use crate::datagrams::{Datagram, ECHO_REQUEST, TIME_EXCEEDED, UNREACHABLE};
use crate::frames::{DOT1Q, station, tagged};
use crate::host::Host;
use crate::site::{
    FAR, GATEWAY, GATEWAY_MAC, Mode, OWN, Plan, Site, connect, default_route, error_of, give, guest_address, hears_all,
    listen_on, ping, recv_from, take, udp_on,
};
use crate::station::{ArpMessage, Station, flush};
use crate::switch::{Switch, daemon, run_inside};
use crate::transfer::transfer_through;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("gateway/answers_arp", answers_arp),
        trial("gateway/a_probe_teaches_nothing", a_probe_teaches_nothing),
        trial("gateway/answers_ping", answers_ping),
        trial("gateway/ttl_runs_out", ttl_runs_out),
        trial("gateway/nothing_else_is_there", nothing_else_is_there),
        trial("gateway/no_route", no_route),
        trial("gateway/networks_of_both_sides_differ", networks_of_both_sides_differ),
        trial("gateway/an_unresolved_neighbour", an_unresolved_neighbour),
        trial("gateway/the_first_datagram_arrives", the_first_datagram_arrives),
        trial("gateway/a_scan_is_bounded", a_scan_is_bounded),
        trial("gateway/cannot_be_spoofed", cannot_be_spoofed),
        trial("gateway/errors_are_few", errors_are_few),
        trial("gateway/no_error_about_errors", no_error_about_errors),
        trial("gateway/routes_between_vlans", routes_between_vlans),
        trial("gateway/trunk_to_gateway_is_tagged", trunk_to_gateway_is_tagged),
        trial("gateway/a_neighbour_moves", a_neighbour_moves),
        trial("gateway/a_published_guest_comes_back_elsewhere", a_published_guest_comes_back_elsewhere),
    ]
}

fn silent(guests: usize) -> Site {
    Plan::new(Mode::Own, guests).silent().start()
}

fn answers_arp() {
    let site = silent(2);
    let guest = site.guest_station(1);
    assert_eq!(guest.greet(GATEWAY), GATEWAY_MAC);
    // Traffic within the network is bridged: the gateway sends no ARP request for it.
    let other = site.guest_station(2);
    other.arps();
    guest.send_frame(&ArpMessage::request((guest.mac, guest.ip), other.ip).frame(MacAddr::BROADCAST, guest.mac));
    let asked = wait::until("the question", || other.arps().into_iter().find(|arp| arp.operation == 1));
    assert_eq!((asked.sender, asked.target.1), ((guest.mac, guest.ip), other.ip));
    let answer = wait::until("the answer", || guest.arps().into_iter().find(|arp| arp.operation == 2));
    assert_eq!(answer.sender, (other.mac, other.ip));
    site.finish();
}

/// RFC 5227: a probe is answered, and adds no neighbour for the address that it probes.
fn a_probe_teaches_nothing() {
    let site = silent(1);
    let guest = Station::new(site.guest(1).raw(), 1, guest_address(1), GATEWAY_MAC);
    let probe = ArpMessage::request((guest.mac, Ipv4Addr::UNSPECIFIED), GATEWAY);
    guest.send_frame(&probe.frame(MacAddr::BROADCAST, guest.mac));
    let answer = wait::until("the answer", || guest.arps().into_iter().find(|arp| arp.operation == 2));
    assert_eq!((answer.sender, answer.target), ((GATEWAY_MAC, GATEWAY), (guest.mac, Ipv4Addr::UNSPECIFIED)));
    // If 0.0.0.0 or the guest were a known neighbour, the gateway would not send an ARP request.
    guest.send(&Datagram::echo(guest.ip, GATEWAY, ECHO_REQUEST, 1, b"echo"));
    guest.next("the reply");
    guest.send_udp(5000, SocketAddrV4::new(FAR, 99), b"refused, which has to find back");
    guest.expect("the error", |error| error.is_icmp(UNREACHABLE, 3));
    site.finish();
}

fn answers_ping() {
    let site = Site::start_with(Mode::Own, 1);
    assert_eq!(ping(site.guest(1), GATEWAY, 5), (GATEWAY, 64));
    assert_eq!(ping(site.guest(1), OWN, 6).0, OWN, "its outside address, from inside");
    assert_eq!(ping(&site.outside, OWN, 7), (OWN, 64));
    site.finish();
    let site = silent(1);
    let guest = site.guest_station(1);
    for data in [&[][..], &[1], &[2; 1472]] {
        guest.send(&Datagram::echo(guest.ip, GATEWAY, ECHO_REQUEST, 9, data));
        assert_eq!(guest.next("the reply").data(), data);
    }
    let mut bad = Datagram::echo(guest.ip, GATEWAY, ECHO_REQUEST, 9, b"bad");
    bad.payload[2] ^= 1;
    guest.send(&bad);
    guest.send(&Datagram::echo(guest.ip, GATEWAY, ECHO_REQUEST, 10, b"mark"));
    assert_eq!(guest.next("the mark").data(), b"mark");
    site.finish();
}

/// As traceroute: the gateway is the first hop and quotes the guest's packet.
fn ttl_runs_out() {
    let site = silent(1);
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    for ttl in [0, 1] {
        let sent = Datagram { ttl, ..Datagram::udp(guest.at(33_434), SocketAddrV4::new(FAR, 33_434), &[3; 1000]) };
        guest.send(&sent);
        let error = guest.next("the error");
        assert!(error.is_icmp(TIME_EXCEEDED, 0) && error.src == GATEWAY && error.dst == guest.ip, "{error:?}");
        assert_eq!(error.payload[8..], sent.bytes()[..error.payload.len() - 8], "as it was sent");
        assert!(error.payload.len() + 20 <= 576, "RFC 1812 section 4.3.2.3");
    }
    let sent = Datagram { ttl: 2, ..Datagram::udp(guest.at(5000), peer.at(53), b"just enough") };
    guest.send(&sent);
    let seen = peer.next_udp(53);
    assert_eq!(seen.ttl, 1);
    // From outside: the error comes from the outside address and quotes the packet as sent.
    let late = Datagram { ttl: 1, ..Datagram::udp(peer.at(53), seen.from(), b"too far") };
    peer.send(&late);
    let error = peer.next("the error");
    assert!(error.is_icmp(TIME_EXCEEDED, 0) && error.src == OWN, "{error:?}");
    assert_eq!(error.quote(), late);
    let report = site.finish();
    assert_eq!((report.dropped("g1", "ttl_exceeded"), report.dropped("up0", "ttl_exceeded")), (2, 1));
}

fn nothing_else_is_there() {
    let site = Site::start_with(Mode::Own, 1);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    client.connect((GATEWAY, 53)).expect("connected");
    client.send(b"name server?").expect("sent");
    assert_eq!(error_of(&client).kind(), ErrorKind::ConnectionRefused);
    let refused = site.guest(1).try_inside(|| std::net::TcpStream::connect_timeout(&(GATEWAY, 80).into(), wait::NEVER));
    assert_eq!(refused.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
    site.finish();
    let site = silent(1);
    let guest = site.guest_station(1);
    guest.send(&Datagram::new(guest.ip, GATEWAY, 47, vec![0; 40]));
    assert!(guest.next("the error").is_icmp(UNREACHABLE, 2));
    site.finish();
}

/// Without a route the network is unreachable; a packet to an address that cannot be a host's gets no error at all.
fn no_route() {
    let args = ["--uplink-address", "203.0.113.77/24"];
    // The uplink has no gateway, and the machine no default route.
    let site = Plan::new(Mode::Shared, 1).args(&args).silent().first(drop_default_route).start();
    let guest = site.guest_station(1);
    let sent = Datagram::udp(guest.at(5000), SocketAddrV4::new(FAR, 53), b"where to?");
    guest.send(&sent);
    let error = guest.next("the error");
    assert!(error.is_icmp(UNREACHABLE, 0) && error.src == GATEWAY && error.quote() == sent, "{error:?}");
    // Nor is there a way to what is on the host's own link alone, such as a cloud's metadata server.
    guest.send_udp(5000, SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80), b"credentials?");
    assert!(guest.next("the error").is_icmp(UNREACHABLE, 13));
    for nowhere in [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 5], [255, 255, 255, 255], [240, 0, 0, 1], [10, 77, 0, 255]] {
        guest.send_udp(5000, SocketAddrV4::new(nowhere.into(), 53), b"nowhere");
    }
    guest.send(&Datagram::echo(guest.ip, GATEWAY, ECHO_REQUEST, 9, b"mark"));
    assert_eq!(guest.next("the mark alone").data(), b"mark");
    let report = site.finish();
    assert_eq!((report.dropped("g1", "no_route"), report.dropped("g1", "martian_destination")), (1, 6));
    assert_eq!(report.dropped("g1", "link_local_address"), 1);
}

/// An address is inside or outside, not both, or the daemon does not start.
fn networks_of_both_sides_differ() {
    let site = Plan::new(Mode::Shared, 0).bare();
    for (gateway, own, code) in
        [("203.0.113.200/24", None, 1), ("203.0.0.1/16", None, 1), ("192.0.2.1/24", Some("192.0.2.9/24"), 2)]
    {
        let mut args = vec!["--tap", "tap0", "--uplink", "up0", "--gateway", gateway];
        args.extend(own.iter().flat_map(|own| ["--uplink-address", own]));
        let ended = run_inside(site.machine.netns(), &mut daemon(&args));
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.log.contains("--gateway") || ended.log.contains("--uplink-address"), "{ended:?}");
    }
}

fn drop_default_route(site: &Site) {
    // A link that goes down loses its routes; only the connected route comes back.
    for up in [false, true] {
        site.machine.set_link(netio::link::Change { up: Some(up), ..Default::default() });
    }
}

/// After three ARP requests without a reply the guest gets an error; it quotes the packet as sent, before translation.
fn an_unresolved_neighbour() {
    for mode in Mode::BOTH {
        let site = Plan::new(mode, 2).silent().start();
        let (guest, wan) = (site.guest_station(1), site.wan());
        let nobody = Ipv4Addr::new(203, 0, 113, 66);
        let sent = Datagram::udp(guest.at(5000), SocketAddrV4::new(nobody, 53), b"anybody?");
        guest.send(&sent);
        let error = guest.next("the error");
        assert!(error.is_icmp(UNREACHABLE, 1) && error.src == GATEWAY, "{error:?}");
        let quote = error.quote();
        assert_eq!(quote, Datagram { ttl: quote.ttl, ..sent });
        let asked = std::iter::from_fn(|| wan.recv()).filter_map(|frame| ArpMessage::of_frame(&frame));
        let asked = asked.filter(|arp| arp.target.1 == nobody && arp.sender == (site.uplink_mac(), site.address()));
        assert_eq!(asked.count(), 3, "{mode:?}");
        // The same inside.
        let sent = Datagram::udp(guest.at(5000), SocketAddrV4::new(guest_address(2), 53), b"anybody?");
        guest.send(&sent);
        let error = guest.next("the error");
        assert!(error.is_icmp(UNREACHABLE, 1) && error.src == GATEWAY, "{error:?}");
        assert_eq!(error.quote().dst, guest_address(2));
        site.finish();
    }
}

/// One datagram, sent once, to an address that is not resolved yet.
fn the_first_datagram_arrives() {
    for mode in Mode::BOTH {
        let site = Site::start_with(mode, 1);
        let server = udp_on(&site.outside, FAR, 53);
        udp_on(site.guest(1), guest_address(1), 0).send_to(b"the only one", (FAR, 53)).expect("sent");
        assert_eq!(recv_from(&server).0, b"the only one");
        site.finish();
    }
}

/// A guest that scans its network causes no ARP storm, and others are not affected.
fn a_scan_is_bounded() {
    let site = silent(2);
    let (guest, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    other.send_udp(5000, peer.at(53), b"known");
    let outer = peer.next_udp(53).from();
    let wan = site.wan();
    for round in 0..20 {
        for last in 100..250 {
            guest.send_udp(5000, SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, last), 53), &[round]);
        }
        other.send_udp(5000, peer.at(53), b"known");
        peer.next_udp(53);
        peer.send_udp(53, outer, b"known");
        other.next("the answer");
    }
    let asked = std::iter::from_fn(|| wan.recv()).filter(|frame| ArpMessage::of_frame(frame).is_some()).count();
    assert!(asked <= 1000, "{asked} requests for 3000 packets to 150 addresses");
    let report = site.finish();
    assert!(report.dropped("g1", "neighbour_queue_full") > 1000, "{report:?}");
}

/// Guests cannot spoof the gateway or the outside address.
fn cannot_be_spoofed() {
    let site = silent(2);
    let (guest, victim, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    victim.arps();
    for operation in [1, 2] {
        let claim = ArpMessage { operation, sender: (guest.mac, GATEWAY), target: (MacAddr([0; 6]), GATEWAY) };
        guest.send_frame(&claim.frame(MacAddr::BROADCAST, guest.mac));
        guest.send_frame(&claim.frame(victim.mac, guest.mac));
        let claim = ArpMessage { operation, sender: (peer.mac, OWN), target: (MacAddr([0; 6]), OWN) };
        peer.send_frame(&claim.frame(MacAddr::BROADCAST, peer.mac));
    }
    // From the gateway's MAC address, and from its IP address.
    guest.send_frame(&Datagram::udp(guest.at(1), victim.at(1), b"x").frame(victim.mac, GATEWAY_MAC));
    guest.send(&Datagram::udp(SocketAddrV4::new(GATEWAY, 1), peer.at(1), b"x"));
    guest.send(&Datagram::udp(SocketAddrV4::new(FAR, 1), peer.at(1), b"not its own address"));
    guest.send_udp(5000, peer.at(53), b"all goes on");
    peer.next_udp(53);
    victim.send_udp(5000, peer.at(53), b"all goes on");
    let outer = peer.next_udp(53).from();
    assert_eq!(flush(&peer, &victim, 53, outer), []);
    assert!(victim.arps().iter().all(|arp| arp.sender != (guest.mac, GATEWAY)));
    let report = site.finish();
    assert_eq!((report.dropped("g1", "gateway_spoofed"), report.dropped("g1", "martian_source")), (5, 2));
    assert_eq!(report.dropped("up0", "gateway_spoofed"), 2);
}

/// RFC 1812 section 4.3.2.8: a burst of ten ICMP errors, then ten a second.
fn errors_are_few() {
    let site = silent(1);
    let guest = site.guest_station(1);
    // At most as many as the queue of a TAP holds.
    for n in 0..900_u16 {
        guest.send(&Datagram { ttl: 1, id: n, ..Datagram::udp(guest.at(5000), SocketAddrV4::new(FAR, 53), b"x") });
    }
    site.switch().settle("all to be dropped", |report| report.dropped("g1", "ttl_exceeded") == 900);
    let errors = guest.seen().len();
    // Ten more for each second that a slow machine takes.
    assert!((10..200).contains(&errors), "{errors}");
    site.finish();
}

/// RFC 1812 section 4.3.2.7.
fn no_error_about_errors() {
    let site = silent(1);
    let guest = site.guest_station(1);
    let far = SocketAddrV4::new(FAR, 53);
    let about = Datagram::udp(far, guest.at(5000), b"x").bytes();
    guest.send(&Datagram { ttl: 1, ..Datagram::error(guest.ip, FAR, [3, 3], 0, &about) });
    guest.send(&Datagram { ttl: 1, offset: 800, ..Datagram::udp(guest.at(5000), far, b"a later fragment") });
    guest.send(&Datagram { src: Ipv4Addr::UNSPECIFIED, ttl: 1, ..Datagram::udp(guest.at(5000), far, b"x") });
    let multicast = MacAddr([1, 0, 0x5e, 0, 0, 5]);
    guest.send_frame(&Datagram { ttl: 1, ..Datagram::udp(guest.at(5000), far, b"x") }.frame(multicast, guest.mac));
    guest.send(&Datagram::echo(guest.ip, GATEWAY, ECHO_REQUEST, 9, b"mark"));
    assert_eq!(guest.next("the mark alone").data(), b"mark");
    site.finish();
}

/// Two networks on VLANs of one bridge, routed and not translated, without an uplink.
fn routes_between_vlans() {
    let (ten, twenty) = (Host::quiet("ten"), Host::quiet("twenty"));
    let ports = format!("{},{}", ten.port(":vlan=10"), twenty.port(":vlan=20"));
    let switch = Switch::start(&["--tap", &ports, "--gateway", "10=10.0.10.1/24,20=10.0.20.1/24"]);
    let (a, b) = (Ipv4Addr::new(10, 0, 10, 2), Ipv4Addr::new(10, 0, 20, 2));
    for (host, address, via) in [(&ten, a, [10, 0, 10, 1]), (&twenty, b, [10, 0, 20, 1])] {
        give(host, address, 24);
        default_route(host, via.into());
    }
    assert_eq!(ping(&ten, b, 1), (b, 63));
    assert_eq!(ping(&ten, [10, 0, 20, 1].into(), 2), ([10, 0, 20, 1].into(), 64));
    let listener = crate::site::listen_on(&twenty, b, 80);
    let (near, far, peer) = crate::site::connect(&ten, &listener, SocketAddrV4::new(b, 80));
    assert_eq!(*peer.ip(), a, "not translated");
    transfer_through(near, far, true);
    // Without an uplink there is no route out.
    let client = hears_all(udp_on(&ten, a, 0));
    client.connect((FAR, 53)).expect("connected");
    client.send(b"out?").expect("sent");
    assert_eq!(error_of(&client).raw_os_error(), Some(libc::ENETUNREACH));
    switch.finish();
}

/// A trunk carries the gateway's VLAN with its tag, in both directions.
fn trunk_to_gateway_is_tagged() {
    let host = Host::quiet("trunk");
    let switch = Switch::start(&["--tap", &host.port(":trunks=10+20:offload=off"), "--gateway", "10=10.0.10.1/24"]);
    let socket = host.raw();
    let (mac, ip, gateway) = (station(1), Ipv4Addr::new(10, 0, 10, 2), Ipv4Addr::new(10, 0, 10, 1));
    let request = ArpMessage::request((mac, ip), gateway).frame(MacAddr::BROADCAST, mac);
    for vid in [20, 10] {
        socket.send(&tagged(&request, DOT1Q, vid)).expect("sent");
    }
    let reply = wait::until("the reply", || socket.recv());
    assert_eq!(reply[12..18], [0x81, 0, 0, 10, 8, 6], "on VLAN 10 alone");
    let via = MacAddr([0x02, 0x76, 10, 0, 10, 1]);
    let echo = Datagram::echo(ip, gateway, ECHO_REQUEST, 1, b"echo").frame(via, mac);
    socket.send(&tagged(&echo, DOT1Q, 0x600a)).expect("sent");
    let reply = wait::until("the reply", || socket.recv());
    assert_eq!((&reply[12..16], &reply[..6]), (&[0x81, 0, reply[14], 10][..], &mac.0[..]));
    switch.finish();
}

/// A guest goes, and another one comes with its address, another MAC address and no announcement: its published port is
/// reached.
fn a_published_guest_comes_back_elsewhere() {
    let site = Plan::new(Mode::Own, 2).args(&["--publish", "80:10.77.0.11:80"]).start();
    let web = SocketAddrV4::new(site.address(), 80);
    let first = listen_on(site.guest(1), guest_address(1), 80);
    connect(&site.outside, &first, web);
    site.guest(1).set_link(Change { up: Some(false), ..Change::default() });
    take(site.guest(2), guest_address(2), 24);
    give(site.guest(2), guest_address(1), 24);
    default_route(site.guest(2), GATEWAY);
    let second = listen_on(site.guest(2), guest_address(1), 80);
    let (near, far, _) = connect(&site.outside, &second, web);
    transfer_through(near, far, true);
    site.finish();
}

/// A guest whose MAC address changes announces it by ARP, and is reached at the new one.
fn a_neighbour_moves() {
    let site = silent(2);
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"here");
    let outer = peer.next_udp(53).from();
    let moved = Station::new(site.guest(2).raw(), 77, guest.ip, GATEWAY_MAC);
    let claim = ArpMessage::request((moved.mac, moved.ip), moved.ip);
    moved.send_frame(&claim.frame(MacAddr::BROADCAST, moved.mac));
    moved.send_udp(5000, peer.at(53), b"here now");
    peer.next_udp(53);
    peer.send_udp(53, outer, b"to you");
    assert_eq!(moved.next("the answer").data(), b"to you");
    site.finish();
}
