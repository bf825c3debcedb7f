//! The host as a neighbour of its guests: by their addresses, by the gateway's and by its own, and never by the uplink.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::link;
use rustix::net::{AddressFamily, SocketType};

use crate::control::{json, text};
use crate::guest::Directory;
use crate::host::{Host, bound_in_time};
use crate::raw::RawSocket;
use crate::site::{
    FAR, GATEWAY, MACHINE, Mode, NEIGHBOUR, NEXT_HOP, Plan, Site, add_route, assert_empty, connect, error_of, forwards, give,
    guest_address, hears_all, listen_on, ping, recv_from, take, udp_on,
};
use crate::switch::Switch;
use crate::transfer::transfer_through;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("neighbour/host_to_guest", host_to_guest),
        trial("neighbour/guest_to_host", guest_to_host),
        trial("neighbour/nothing_of_it_without", nothing_of_it_without),
        trial("neighbour/others_do_not_pass_through_the_host", others_do_not_pass_through_the_host),
        trial("neighbour/new_addresses_of_the_host", new_addresses_of_the_host),
        trial("neighbour/networks_that_come_and_go", networks_that_come_and_go),
        trial("neighbour/published_ports_for_the_host_itself", published_ports_for_the_host_itself),
        trial("neighbour/published_datagrams_for_the_host_itself", published_datagrams_for_the_host_itself),
        trial("neighbour/published_ports_without_bpf", published_ports_without_bpf),
        trial("neighbour/without_the_right_to_make_a_device", without_the_right_to_make_a_device),
    ]
}

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Long enough for what arrives, short enough for what does not.
const SHORT: Duration = Duration::from_millis(300);

/// A site whose host is a neighbour, and what is on the wire from now on.
fn site(socket: &str, guests: usize) -> (Site, RawSocket) {
    let args = ["--control", socket, "--publish", "8080:10.77.0.11:80"];
    let site = Plan::new(Mode::Shared, guests).args(&args).start();
    assert_eq!(text(socket, &["bridge", "set", "br0:host=on"]), "~ gateway 10.77.0.1/24: host off -> on\n");
    let wire = site.wan();
    (site, wire)
}

/// No IP packet has come by the wire.
fn assert_silent(wire: &RawSocket) {
    while let Some(frame) = wire.recv() {
        assert_ne!(frame[12..14], [8, 0], "on the wire: {frame:02x?}");
    }
}

/// A connection from an address of the host's choice.
fn connect_from(host: &Host, address: Ipv4Addr, to: SocketAddrV4) -> TcpStream {
    let stream = host.inside(|| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(address, 0))?;
        rustix::net::connect(&socket, &to)?;
        Ok(TcpStream::from(socket))
    });
    bound_in_time(&stream);
    stream
}

fn host_to_guest() {
    let directory = Directory::new();
    let (site, wire) = site(&directory.text("control"), 1);
    let listener = listen_on(site.guest(1), guest_address(1), 80);
    let to = SocketAddrV4::new(guest_address(1), 80);
    let (near, far, peer) = connect(&site.machine, &listener, to);
    assert_eq!(*peer.ip(), GATEWAY, "as a neighbour in the guest's network");
    transfer_through(near, far, true);
    let near = connect_from(&site.machine, MACHINE, to);
    let (far, peer) = listener.accept().expect("a connection");
    bound_in_time(&far);
    assert_eq!(peer, near.local_addr().expect("its address"), "an address that a program has bound is kept");
    transfer_through(near, far, true);
    // Datagrams that need fragments, and an error from the guest's kernel.
    let (server, client) = (udp_on(site.guest(1), guest_address(1), 53), udp_on(&site.machine, ANY, 0));
    let long = vec![7; 8000];
    client.send_to(&long, (guest_address(1), 53)).expect("sent");
    let (bytes, from) = recv_from(&server);
    assert_eq!((bytes.len(), *from.ip()), (8000, GATEWAY));
    server.send_to(&long, from).expect("sent");
    assert_eq!(recv_from(&client).0.len(), 8000);
    let closed = hears_all(udp_on(&site.machine, ANY, 0));
    closed.connect((guest_address(1), 5)).expect("connected");
    closed.send(b"?").expect("sent");
    assert_eq!(error_of(&closed).kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ping(&site.machine, guest_address(1), 3), (guest_address(1), 64), "no hop between");
    // A guest that is not there: the router's error reaches the program.
    let nobody = hears_all(udp_on(&site.machine, ANY, 0));
    nobody.connect((guest_address(9), 53)).expect("connected");
    nobody.send(b"?").expect("sent");
    assert_eq!(error_of(&nobody).kind(), ErrorKind::HostUnreachable);
    assert_silent(&wire);
    site.finish();
}

fn guest_to_host() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let (site, wire) = site(&socket, 2);
    let listener = listen_on(&site.machine, ANY, 9999);
    let service = udp_on(&site.machine, ANY, 9999);
    for host in [GATEWAY, MACHINE] {
        let (near, far, peer) = connect(site.guest(1), &listener, SocketAddrV4::new(host, 9999));
        assert_eq!(peer, near.local_addr().expect("its address").to_string().parse().expect("IPv4"), "the guest's own address");
        assert_eq!(*peer.ip(), guest_address(1));
        transfer_through(near, far, true);
        let client = udp_on(site.guest(1), guest_address(1), 0);
        client.send_to(&[5; 6000], (host, 9999)).expect("sent");
        let (bytes, from) = recv_from(&service);
        assert_eq!((bytes.len(), *from.ip()), (6000, guest_address(1)));
        service.send_to(&bytes, from).expect("sent");
        assert_eq!(recv_from(&client).0, bytes);
        let closed = site.guest(1).try_inside(|| TcpStream::connect_timeout(&SocketAddrV4::new(host, 9).into(), wait::NEVER));
        assert_eq!(closed.map(drop).map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused), "the host says so");
        assert_eq!(ping(site.guest(1), host, 4).0, host);
    }
    assert_eq!(json(&socket, &["conntrack", "list"])["total"], 0, "none of it is translated");
    // A published port goes before a service of the host, and mappings of guests do.
    let published = listen_on(site.guest(1), guest_address(1), 80);
    let (_, _, peer) = connect(site.guest(2), &published, SocketAddrV4::new(MACHINE, 8080));
    assert_eq!(*peer.ip(), MACHINE, "translated as before");
    let hole = udp_on(site.guest(2), guest_address(2), 7777);
    let far = udp_on(&site.outside, FAR, 53);
    assert_silent(&wire);
    hole.send_to(b"open", (FAR, 53)).expect("sent");
    let mapped = recv_from(&far).1;
    let caller = udp_on(site.guest(1), guest_address(1), 7778);
    hole.send_to(b"open", (MACHINE, 7778)).expect("sent");
    caller.send_to(b"hello", mapped).expect("sent");
    let shown = json(&socket, &["show"]);
    let port = shown["ports"].as_array().expect("a list").iter().find(|port| port["kind"] == "host").expect("a port").clone();
    assert_eq!((&port["name"], &port["state"], &port["bridge"]), (&"vswitch0".into(), &"up".into(), &serde_json::Value::Null));
    let story = json(&socket, &["trace", &format!("port=vswitch0,src={GATEWAY},dst={},tcp,dport=80", guest_address(1))]);
    let kinds: Vec<&str> = story["steps"].as_array().expect("steps").iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(kinds[..3], ["arrived", "from_host", "route_inside"], "{story}");
    assert_eq!(story["verdict"]["verdict"], "sent", "{story}");
    let tap = json(&socket, &["port", "list"])[0]["name"].as_str().expect("a name").to_owned();
    let story = json(&socket, &["trace", &format!("port={tap},src={},dst={GATEWAY},tcp,dport=9999", guest_address(1))]);
    assert_eq!(
        (&story["verdict"]["verdict"], story["verdict"]["text"].as_str()),
        (&"sent".into(), Some("sent through vswitch0"))
    );
    site.finish();
}

/// What is refused or lost where the host is no neighbour, and again once it is none any more.
fn nothing_of_it_without() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let args = ["--control", &socket, "--publish", "8080:10.77.0.11:80"];
    let site = Plan::new(Mode::Shared, 1).args(&args).start();
    let inside = listen_on(site.guest(1), guest_address(1), 80);
    let service = listen_on(&site.machine, ANY, 9999);
    let reaches = |from: &Host, to: Ipv4Addr, port: u16| {
        from.try_inside(|| TcpStream::connect_timeout(&SocketAddrV4::new(to, port).into(), SHORT)).is_ok()
    };
    let has_device = || site.machine.try_inside(|| link::get("vswitch0")).is_ok();
    let all = |device: bool, reach: bool| {
        assert_eq!(has_device(), device);
        for (from, to, port) in
            [(&site.machine, guest_address(1), 80), (site.guest(1), GATEWAY, 9999), (site.guest(1), MACHINE, 9999)]
        {
            assert_eq!(reaches(from, to, port), reach, "{to}:{port}");
        }
    };
    all(false, false);
    text(&socket, &["bridge", "set", "br0:host=on"]);
    all(true, true);
    // A network that reaches nothing has no host either.
    text(&socket, &["bridge", "set", "br0:routing=none"]);
    wait::until("the device to go", || (!has_device()).then_some(()));
    all(false, false);
    text(&socket, &["bridge", "set", "br0:routing=outside"]);
    all(true, true);
    text(&socket, &["bridge", "set", "br0:host=off"]);
    wait::until("the device to go", || (!has_device()).then_some(()));
    all(false, false);
    drop((inside, service));
    site.finish();
}

/// The host forwards, and its neighbour knows the way to the guests' network.
fn others_do_not_pass_through_the_host() {
    let directory = Directory::new();
    let (site, _) = site(&directory.text("control"), 1);
    forwards(&site.machine);
    add_route(&site.outside, Ipv4Addr::new(10, 77, 0, 0), 24, MACHINE);
    let inside = udp_on(site.guest(1), guest_address(1), 80);
    inside.set_read_timeout(Some(SHORT)).expect("set");
    for from in [NEIGHBOUR, FAR] {
        udp_on(&site.outside, from, 0).send_to(b"in", (guest_address(1), 80)).expect("sent");
    }
    site.switch().settle("both to be dropped", |report| report.dropped("vswitch0", "not_from_host") == 2);
    // As if from the host itself: its kernel believes nobody who says so.
    for forged in [MACHINE, GATEWAY] {
        give(&site.outside, forged, 32);
        udp_on(&site.outside, forged, 0).send_to(b"forged", (guest_address(1), 80)).expect("sent");
        take(&site.outside, forged, 32);
    }
    let received = inside.recv(&mut [0; 64]);
    assert_eq!(received.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    // And it reaches the host.
    udp_on(&site.machine, ANY, 0).send_to(b"mine", (guest_address(1), 80)).expect("sent");
    assert_eq!(inside.recv(&mut [0; 64]).expect("received"), 4);
    site.finish();
}

/// An address that the host gets later is the host's at once.
fn new_addresses_of_the_host() {
    let directory = Directory::new();
    let (site, _) = site(&directory.text("control"), 1);
    let later = Ipv4Addr::new(203, 0, 113, 50);
    give(&site.machine, later, 24);
    let inside = udp_on(site.guest(1), guest_address(1), 80);
    inside.set_read_timeout(Some(SHORT)).expect("set");
    let host = udp_on(&site.machine, later, 0);
    let from = wait::until("a datagram from the new address", || {
        host.send_to(b"later", (guest_address(1), 80)).expect("sent");
        inside.recv_from(&mut [0; 64]).ok().map(|(_, from)| from)
    });
    assert_eq!(from.ip(), later);
    // Somebody deletes the device, or takes it down and up, which takes its routes.
    let reaches_again = |site: &Site| {
        let client = udp_on(&site.machine, ANY, 0);
        wait::until("the host to reach its guest again", || {
            let _ = client.send_to(b"again", (guest_address(1), 80));
            inside.recv_from(&mut [0; 64]).ok().filter(|(_, from)| from.ip() == GATEWAY)
        });
    };
    reaches_again(&site);
    site.machine.inside(|| link::delete(link::get("vswitch0")?.index));
    reaches_again(&site);
    for up in [false, true] {
        site.machine.inside(|| link::set(link::get("vswitch0")?.index, link::Change { up: Some(up), ..link::Change::default() }));
    }
    reaches_again(&site);
    site.finish();
}

/// Each network has its own setting, and its own address of the host.
fn networks_that_come_and_go() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let (site, wire) = site(&socket, 2);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24:host=on"]);
    text(&socket, &["bridge", "add", "red:gateway=10.72.0.1/24"]);
    let blue = Host::quiet("b1");
    let red = Host::quiet("r1");
    for (host, bridge, net) in [(&blue, "blue", 71), (&red, "red", 72)] {
        text(&socket, &["port", "add", &host.port(&format!(":bridge={bridge}"))]);
        give(host, Ipv4Addr::new(10, net, 0, 2), 24);
        crate::site::default_route(host, Ipv4Addr::new(10, net, 0, 1));
    }
    let service: TcpListener = listen_on(&site.machine, ANY, 9999);
    let reaches = |from: &Host, to: [u8; 4], port: u16| {
        from.try_inside(|| TcpStream::connect_timeout(&SocketAddrV4::new(to.into(), port).into(), SHORT)).is_ok()
    };
    assert!(reaches(&blue, [10, 71, 0, 1], 9999) && reaches(&blue, [10, 77, 0, 1], 9999), "by each gateway with the host");
    assert!(!reaches(&blue, [10, 72, 0, 1], 9999), "not by one without");
    assert!(!reaches(&red, [10, 72, 0, 1], 9999) && !reaches(&red, [10, 77, 0, 1], 9999), "no guest of a network without");
    let inside = listen_on(&blue, Ipv4Addr::new(10, 71, 0, 2), 80);
    let (_, _, peer) = connect(&site.machine, &inside, SocketAddrV4::new(Ipv4Addr::new(10, 71, 0, 2), 80));
    assert_eq!(*peer.ip(), Ipv4Addr::new(10, 71, 0, 1));
    assert_eq!(json(&socket, &["bridge", "list"])[1]["gateways"][0]["host"], true);
    assert_silent(&wire);
    text(&socket, &["port", "del", "b1"]);
    text(&socket, &["bridge", "del", "blue"]);
    let addresses = site.machine.inside(|| netio::route::addresses(link::get("vswitch0")?.index));
    assert_eq!(addresses, [(GATEWAY, 32)], "the others' address went with the network");
    drop(service);
    site.finish();
}

/// By the address that is shared and by both loopback ones, with nothing bound, or another program.
fn published_ports_for_the_host_itself() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let (site, wire) = site(&socket, 1);
    let listener = listen_on(site.guest(1), guest_address(1), 80);
    let published = [IpAddr::from(MACHINE), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let reach = || {
        for address in published {
            let near = site.machine.connect((address, 8080).into());
            let (far, peer) = listener.accept().expect("a connection");
            bound_in_time(&far);
            assert_eq!(peer.ip(), GATEWAY, "spliced, from the gateway's address");
            transfer_through(near, far, true);
        }
    };
    reach();
    assert_silent(&wire);
    // Another program binds the port, as podman does for its own.
    let other = listen_on(&site.machine, ANY, 8080);
    reach();
    let (_, _, peer) = connect(&site.outside, &listener, SocketAddrV4::new(MACHINE, 8080));
    assert_eq!(*peer.ip(), NEXT_HOP, "and from outside, as before");
    // A port beside it, and another loopback address, are the host's.
    other.set_nonblocking(true).expect("set");
    let elsewhere = site.machine.connect(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 8080).into());
    wait::until("the other program to have it", || other.accept().ok());
    drop((elsewhere, other));
    // The guest's service ends: so does the client's connection, which has nobody to speak to.
    drop(listener);
    let mut near = site.machine.connect((MACHINE, 8080).into());
    assert!(matches!(near.read(&mut [0; 8]), Ok(0) | Err(_)), "the end");
    let refused = |why: &str| {
        for address in published {
            let refused = site.machine.try_inside(|| TcpStream::connect_timeout(&(address, 8080).into(), SHORT));
            assert!(refused.is_err(), "{address} {why}");
        }
    };
    text(&socket, &["bridge", "set", "br0:host=off"]);
    refused("without the host");
    text(&socket, &["bridge", "set", "br0:host=on"]);
    text(&socket, &["nat", "unpublish", "8080:10.77.0.11:80"]);
    refused("without a rule");
    // The connections of a moment ago are no reason to refuse it.
    text(&socket, &["nat", "publish", "8080:10.77.0.11:80"]);
    site.finish();
}

/// Clients of UDP have each their own address at the guest, and answers come from where they sent to. Nothing is bound there.
fn published_datagrams_for_the_host_itself() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let rule = "5353:10.77.0.11:53/udp";
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket, "--publish", rule]).start();
    text(&socket, &["bridge", "set", "br0:host=on"]);
    let wire = site.wan();
    let guest = udp_on(site.guest(1), guest_address(1), 53);
    let other = udp_on(&site.machine, ANY, 5353);
    let published = [IpAddr::from(MACHINE), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let client_of = |address: IpAddr| {
        let any: IpAddr = if address.is_ipv4() { ANY.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = site.machine.inside(|| UdpSocket::bind((any, 0)));
        client.set_read_timeout(Some(wait::NEVER)).expect("set");
        client
    };
    let mut seen = Vec::new();
    for address in published {
        let (one, connected) = (client_of(address), client_of(address));
        connected.connect((address, 5353)).expect("connected");
        for len in [0, 1, 8000, 60_000] {
            one.send_to(&vec![1; len], (address, 5353)).expect("sent");
            connected.send(&vec![2; len]).expect("sent");
            for _ in 0..2 {
                let (bytes, from) = recv_from(&guest);
                assert_eq!((bytes.len(), *from.ip()), (len, GATEWAY));
                guest.send_to(&bytes, from).expect("sent");
                seen.push(from.port());
            }
            let mut answer = vec![0; 65_536];
            let (received, from) = one.recv_from(&mut answer).expect("an answer");
            assert_eq!((&answer[..received], from), (&vec![1; len][..], (address, 5353).into()));
            let received = connected.recv(&mut answer).expect("an answer from where it is connected to");
            assert_eq!(answer[..received], vec![2; len]);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 2 * published.len(), "one port a client");
    assert_silent(&wire);
    assert_empty(&other);
    // From outside it is as before, and no other address of the host is served.
    let outside = udp_on(&site.outside, NEXT_HOP, 0);
    outside.send_to(b"out", (MACHINE, 5353)).expect("sent");
    assert_eq!(*recv_from(&guest).1.ip(), NEXT_HOP);
    client_of(MACHINE.into()).send_to(b"mine", (Ipv4Addr::new(127, 0, 0, 2), 5353)).expect("sent");
    assert_eq!(recv_from(&other).0, b"mine");
    // Without the rule the port is the other program's at once, also for a client of before.
    let client = client_of(MACHINE.into());
    client.send_to(b"in", (Ipv4Addr::LOCALHOST, 5353)).expect("sent");
    assert_eq!(recv_from(&guest).0, b"in");
    text(&socket, &["nat", "unpublish", rule]);
    client.send_to(b"mine", (Ipv4Addr::LOCALHOST, 5353)).expect("sent");
    assert_eq!(recv_from(&other).0, b"mine");
    assert_empty(&guest);
    site.finish();
}

/// They are bound at the loopback addresses, unless another program has one: that keeps it, and when it ends the guest gets it.
fn published_ports_without_bpf() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).bare();
    let with_few_rights = |program: &str| {
        let mut command = Command::new("setpriv");
        ["--bounding-set", "--inh-caps", "--ambient-caps"].iter().for_each(|what| {
            command.arg(format!("{what}=-all,+net_admin,+net_raw"));
        });
        command.arg(program);
        command
    };
    let rules = ["--publish", "8080:10.77.0.11:80", "--publish", "5353:10.77.0.11:53/udp"];
    let args = [&["--tap", "tap0", "--uplink", "up0", "--control", &socket][..], &rules].concat();
    let other = site.machine.inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)));
    let switch = Switch::start_by(site.machine.netns().try_clone().expect("a clone"), with_few_rights, &args);
    text(&socket, &["bridge", "set", "br0:host=on"]);
    // The switch may not enter the guest's namespace.
    let netns = site.guest(1).netns().try_clone().expect("a clone");
    site.machine
        .inside(|| link::set(link::get("tap0")?.index, link::Change { netns: Some(netns.as_fd()), ..Default::default() }));
    let guest = Host::in_namespace("tap0", netns);
    guest.set_link(link::Change { up: Some(true), ..Default::default() });
    give(&guest, guest_address(1), 24);
    let (tcp, udp) = (listen_on(&guest, guest_address(1), 80), udp_on(&guest, guest_address(1), 53));
    wait::until("the problem to be told", || switch.has_logged("cannot bind a published port at 127.0.0.1").then_some(()));
    drop(other);
    let reached = || site.machine.try_inside(|| TcpStream::connect((Ipv6Addr::LOCALHOST, 8080)));
    drop(wait::until("the port to be bound", || reached().ok()));
    drop(tcp.accept());
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let near = site.machine.connect((address, 8080).into());
        let (far, peer) = tcp.accept().expect("a connection");
        bound_in_time(&far);
        assert_eq!(peer.ip(), GATEWAY);
        transfer_through(near, far, true);
        let client = site.machine.inside(|| UdpSocket::bind((address, 0)));
        client.set_read_timeout(Some(wait::NEVER)).expect("set");
        client.connect((address, 5353)).expect("connected");
        client.send(&[3; 5000]).expect("sent");
        let (bytes, from) = recv_from(&udp);
        assert_eq!((bytes.len(), *from.ip()), (5000, GATEWAY));
        udp.send_to(&bytes[..4000], from).expect("sent");
        assert_eq!(client.recv(&mut [0; 8000]).expect("an answer"), 4000);
    }
    text(&socket, &["nat", "unpublish", rules[1]]);
    text(&socket, &["nat", "unpublish", rules[3]]);
    wait::until("the ports to be free", || {
        let tcp = site.machine.try_inside(|| TcpListener::bind((ANY, 8080))).is_ok();
        (tcp && site.machine.try_inside(|| UdpSocket::bind((ANY, 5353))).is_ok()).then_some(())
    });
    assert_eq!(switch.times_logged("published ports are bound"), 1);
    switch.finish();
}

/// The switch does without, and says so once.
fn without_the_right_to_make_a_device() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket]).start();
    // All names are taken, which is as good a refusal.
    site.machine.inside(|| {
        (0..100).try_for_each(|n| {
            if n % 2 == 0 { link::add_pair(&format!("vswitch{n}"), &format!("vswitch{}", n + 1), None) } else { Ok(()) }
        })
    });
    text(&socket, &["bridge", "set", "br0:host=on"]);
    assert_eq!(ping(site.guest(1), GATEWAY, 1).0, GATEWAY);
    assert!(site.switch().has_logged("no TUN device: the host is no neighbour of its guests"));
    let problems = json(&socket, &["show"])["problems"].to_string();
    assert!(problems.contains("no TUN device could be made"), "{problems}");
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24:host=on"]);
    assert_eq!(site.switch().times_logged("no TUN device"), 1);
    site.finish();
}
