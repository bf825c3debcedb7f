//! Published ports: source addresses as the server sees them, and rules that cannot be.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;

use crate::datagrams::{Datagram, ECHO_REQUEST};
use crate::site::{
    FAR, MACHINE, Mode, NEIGHBOUR, OWN, OWN_TOO, Plan, Site, connect, guest_address, listen_on, ping, recv_from, udp_on,
};
use crate::station::Station;
use crate::switch::{Ended, daemon, run_inside};
use crate::transfer::transfer_through;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("publish/tcp_port_{word}"), move || tcp_port(mode)),
            trial(format!("publish/ranges_and_udp_{word}"), move || ranges_and_udp(mode)),
            trial(format!("publish/hairpin_to_a_published_port_{word}"), move || hairpin_to_a_published_port(mode)),
            trial(format!("publish/guest_goes_out_by_any_port_{word}"), move || guest_goes_out_by_any_port(mode)),
        ]);
    }
    trials.extend([
        trial("publish/one_address_one_guest", one_address_one_guest),
        trial("publish/port_in_use_exits_1", port_in_use_exits_1),
        trial("publish/guest_of_no_network_exits_2", guest_of_no_network_exits_2),
        trial("publish/errors_of_published", errors_of_published),
    ]);
    trials
}

fn tcp_port(mode: Mode) {
    let site = Plan::new(mode, 1).args(&["--publish", "8080:10.77.0.11:80"]).start();
    let listener = listen_on(site.guest(1), guest_address(1), 80);
    let (near, far, peer) = connect(&site.outside, &listener, SocketAddrV4::new(site.address(), 8080));
    let client = near.local_addr().expect("its address");
    assert_eq!(client, peer.into(), "the guest sees the client's address");
    transfer_through(near, far, true);
    // The next connection, while the first one's ports are in TIME-WAIT.
    let (mut near, mut far, _) = connect(&site.outside, &listener, SocketAddrV4::new(site.address(), 8080));
    near.write_all(b"again").expect("sent");
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).expect("received in time");
    // No other port is open.
    let closed = SocketAddrV4::new(site.address(), 8081);
    let refused =
        site.outside.try_inside(|| std::net::TcpStream::connect_timeout(&closed.into(), std::time::Duration::from_secs(1)));
    assert!(refused.is_err(), "{refused:?}");
    site.finish();
}

fn ranges_and_udp(mode: Mode) {
    let args = ["--publish", "7000-7010:10.77.0.11:9000-9010/udp", "--publish", "53:10.77.0.12:5353/tcp+udp"];
    let site = Plan::new(mode, 2).args(&args).start();
    let client = udp_on(&site.outside, FAR, 1234);
    for (port, n, inside) in [(7000, 1, 9000), (7005, 1, 9005), (7010, 1, 9010), (53, 2, 5353)] {
        let server = udp_on(site.guest(n.into()), guest_address(n), inside);
        let published = SocketAddrV4::new(site.address(), port);
        client.send_to(&inside.to_be_bytes(), published).expect("sent");
        let (bytes, from) = recv_from(&server);
        assert_eq!((&bytes[..], from), (&inside.to_be_bytes()[..], SocketAddrV4::new(FAR, 1234)));
        server.send_to(b"answer", from).expect("sent");
        assert_eq!(recv_from(&client), (b"answer".to_vec(), published));
    }
    let listener = listen_on(site.guest(2), guest_address(2), 5353);
    connect(&site.outside, &listener, SocketAddrV4::new(site.address(), 53));
    site.finish();
}

/// RFC 4787 REQ-9: guests reach a published port by its outside address, including the server itself.
fn hairpin_to_a_published_port(mode: Mode) {
    let site = Plan::new(mode, 2).args(&["--publish", "8080:10.77.0.11:80"]).start();
    let listener = listen_on(site.guest(1), guest_address(1), 80);
    for guest in [2, 1] {
        let (near, far, peer) = connect(site.guest(guest), &listener, SocketAddrV4::new(site.address(), 8080));
        assert_eq!(*peer.ip(), site.address(), "seen by the outside address");
        transfer_through(near, far, true);
    }
    site.finish();
}

/// The server's own connections leave from any port not published for another guest; replies of its published port
/// leave from that port.
fn guest_goes_out_by_any_port(mode: Mode) {
    let args = ["--publish", "5000:10.77.0.11:5000/udp"];
    let site = Plan::new(mode, 2).args(&args).silent().start();
    let (server, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    other.send_udp(5000, peer.at(53), b"not the server");
    assert_ne!(peer.next_udp(53).ports()[0], 5000, "this port is taken");
    server.send_udp(5000, peer.at(53), b"the server");
    assert_eq!(peer.next_udp(53).from(), SocketAddrV4::new(site.address(), 5000), "from where it is reached");
    site.finish();
}

/// All ports and protocols of an address, in both directions.
fn one_address_one_guest() {
    let pool = format!("{OWN}/24,{OWN_TOO}");
    let args = ["--uplink-address", &pool, "--uplink-gateway", "203.0.113.254", "--publish", "203.0.113.78:10.77.0.11"];
    let site = Plan::new(Mode::Shared, 2).args(&args).start();
    assert_eq!(ping(&site.outside, OWN_TOO, 1), (OWN_TOO, 63), "the guest itself answers");
    assert_eq!(ping(&site.outside, OWN, 2), (OWN, 64), "the router answers");
    let listener = listen_on(site.guest(1), guest_address(1), 777);
    let (near, far, peer) = connect(&site.outside, &listener, SocketAddrV4::new(OWN_TOO, 777));
    assert_eq!(near.local_addr().expect("its address"), peer.into());
    transfer_through(near, far, true);
    let server = udp_on(&site.outside, FAR, 53);
    for (n, address) in [(1, OWN_TOO), (2, OWN)] {
        let client = udp_on(site.guest(n.into()), guest_address(n), 99);
        client.send_to(b"who am I?", (FAR, 53)).expect("sent");
        let (_, from) = recv_from(&server);
        assert_eq!(*from.ip(), address);
        assert!(n == 2 || from.port() == 99, "a guest with its own address keeps all its ports: {from}");
        server.send_to(b"you", from).expect("sent");
        recv_from(&client);
        assert_eq!(ping(site.guest(n.into()), FAR, 7).0, FAR);
    }
    // And from inside, by its outside address.
    assert_eq!(ping(site.guest(2), OWN_TOO, 3).0, OWN_TOO);
    connect(site.guest(2), &listener, SocketAddrV4::new(OWN_TOO, 777));
    site.finish();
    one_address_all_protocols(&args);
}

fn one_address_all_protocols(args: &[&str]) {
    let site = Plan::new(Mode::Shared, 1).args(args).silent().start();
    let guest = site.guest_station(1);
    let via = packet::MacAddr([0x02, 0x76, 203, 0, 113, 77]);
    let peer = Station::new(site.wan(), 0x200, Ipv4Addr::new(203, 0, 113, 50), via);
    assert_eq!(peer.greet(OWN_TOO), via);
    peer.send(&Datagram::new(peer.ip, OWN_TOO, 132, b"some SCTP".to_vec()));
    let seen = guest.next("the packet");
    assert_eq!((seen.src, seen.protocol, &seen.payload[..]), (peer.ip, 132, &b"some SCTP"[..]));
    guest.send(&Datagram::new(guest.ip, peer.ip, 132, b"more SCTP".to_vec()));
    assert_eq!(peer.next("the answer").src, OWN_TOO);
    peer.send(&Datagram::echo(peer.ip, OWN_TOO, ECHO_REQUEST, 5, b"ping"));
    assert_eq!(guest.next("the ping").ports()[0], 5);
    site.finish();
}

/// An error about a packet that was let in by a rule leaves by the same rule.
fn errors_of_published() {
    let site = Plan::new(Mode::Own, 1).args(&["--publish", "7000:10.77.0.11:9000/udp"]).start();
    let client = udp_on(&site.outside, NEIGHBOUR, 0);
    client.connect((OWN, 7000)).expect("connected");
    client.send(b"nobody listens").expect("sent");
    let error = crate::site::error_of(&client);
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    site.finish();
}

fn port_in_use_exits_1() {
    let site = Site::start_with(Mode::Shared, 1);
    let _taken = listen_on(&site.machine, MACHINE, 8080);
    let _taken_udp = udp_on(&site.machine, Ipv4Addr::UNSPECIFIED, 8053);
    let run = |rule: &str| -> Ended {
        run_inside(site.machine.netns(), &mut daemon(&["--tap", "tap0", "--uplink", "up0", "--publish", rule]))
    };
    for (rule, says) in [("8080:10.77.0.11:80", "tcp port 8080"), ("8053:10.77.0.11:53/udp", "udp port 8053")] {
        let ended = run(rule);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let who = format!("process {}", std::process::id());
        assert!(ended.log.contains(says) && ended.log.contains(&who), "{ended:?}");
    }
    site.finish();
}

fn guest_of_no_network_exits_2() {
    let site = Site::start_with(Mode::Shared, 1);
    for rule in ["8080:10.78.0.2:80", "8080:10.77.0.1:80", "8080:10.77.0.2:80-81", "0:10.77.0.2:80", "203.0.113.1:10.77.0.2"] {
        let args = ["--tap", "tap0", "--uplink", "up0", "--publish", rule];
        let ended = run_inside(site.machine.netns(), &mut daemon(&args));
        assert_eq!(ended.code, Some(2), "{rule}: {ended:?}");
        assert!(ended.log.contains("--publish"), "{ended:?}");
    }
    site.finish();
}
