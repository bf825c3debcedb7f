//! Guests as container engines make them: `guest add`, all or nothing, many at once, and none of them left in the end.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::link::Change;
use netio::{link, netns, route};
use packet::MacAddr;
use serde_json::{Value, json};

use crate::control::{exchange, json as shown, run, text};
use crate::guest::Directory;
use crate::host::Host;
use crate::site::{FAR, MACHINE, Mode, Plan, Site, assert_empty, connect, listen_on, local, ping, recv_from, udp_on};
use crate::switch::Switch;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("engine/a_guest_in_one_change", a_guest_in_one_change),
        trial("engine/nothing_is_left_of_a_guest_that_is_refused", nothing_is_left_of_a_guest_that_is_refused),
        trial(
            "engine/an_heir_of_an_address_gets_nothing_of_the_guest_before",
            an_heir_of_an_address_gets_nothing_of_the_guest_before,
        ),
        trial("engine/local_clients_of_a_guest_end_with_it", local_clients_of_a_guest_end_with_it),
        trial("engine/no_default_route_where_the_switch_runs", no_default_route_where_the_switch_runs),
        trial("engine/an_interface_for_a_container_is_silent", an_interface_for_a_container_is_silent),
        trial("engine/isolated_guests", isolated_guests),
        trial("engine/forty_at_once", forty_at_once),
        trial("engine/left_over_guests", left_over_guests),
        trial("engine/networks_and_guests_come_and_go", networks_and_guests_come_and_go),
    ]
}

/// Sends a request, and returns the status and the body of the answer. Many of them are much faster than as many commands.
pub(crate) fn request(socket: &str, method: &str, target: &str, body: Option<Value>) -> (u16, Value) {
    let body = body.map_or_else(String::new, |body| body.to_string());
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json");
    let answer = exchange(socket, format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {target}: {answer}"));
    (head[9..12].parse().expect("a status"), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[track_caller]
pub(crate) fn good(socket: &str, method: &str, target: &str, body: Option<Value>) {
    let (status, answer) = request(socket, method, target, body);
    assert_eq!(status, 200, "{method} {target}: {answer}");
}

/// A machine with an uplink, hosts without interfaces, and a switch without ports.
fn site(socket: &str, guests: usize) -> Site {
    site_with(socket, guests, &[])
}

fn site_with(socket: &str, guests: usize, more: &[&str]) -> Site {
    let mut site = Plan::new(Mode::Shared, guests).bare();
    let machine = site.machine.netns().try_clone().expect("a clone");
    site.switch = Some(Switch::start_inside(machine, &[&["--uplink", "up0", "--control", socket], more].concat()));
    site
}

/// The machine's own routes are not a guest's business, wherever it says that its interface is.
fn no_default_route_where_the_switch_runs() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site(&socket, 1);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    let of_machine = Host::in_namespace("g2", site.machine.netns().try_clone().expect("a clone"));
    for (id, interface) in [("g1", "g1".to_owned()), ("g2", of_machine.port(""))] {
        let address = format!("10.71.0.1{}/24", &id[1..]);
        text(&socket, &["guest", "add", id, "--network", "blue", "--interface", &interface, "--address", &address]);
        let routes = site.machine.inside(|| route::routes(link::get(id)?.index)).0;
        assert!(routes.iter().all(|route| route.prefix_len > 0), "{routes:?}");
    }
    assert!(site.switch.as_ref().is_some_and(|switch| switch.has_logged("no default route by it")));
    site.finish();
}

/// A guest in the words of the API, with an interface `eth0` in this namespace.
fn guest(id: &str, network: &str, netns: &File, address: &str) -> Value {
    json!({ "id": id, "network": network, "interface": format!("eth0@{}", netns::path_of(netns)), "addresses": [address] })
}

fn names_inside(netns: &File) -> Vec<String> {
    netns::inside(netns.as_fd(), link::names).expect("names")
}

fn a_guest_in_one_change() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site(&socket, 2);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    let before = shown(&socket, &["config", "show"]);
    let one = Host::in_namespace("eth0", site.guest(1).netns().try_clone().expect("a clone"));
    let lines = text(
        &socket,
        &[
            "guest",
            "add",
            "web-1",
            "--network",
            "blue",
            "--interface",
            &one.port(""),
            "--mac",
            "02:42:0a:47:00:02",
            "--address",
            "10.71.0.2/24",
            "--name",
            "web",
            "--publish",
            "8080:80/udp",
            "--label",
            "app=shop",
        ],
    );
    assert!(lines.starts_with("+ guest web-1: eth0@") && lines.ends_with("+ rule udp 8080 -> 10.71.0.2:80\n"), "{lines}");
    assert_eq!(one.mac(), MacAddr([2, 0x42, 0x0a, 0x47, 0, 2]));
    let address = Ipv4Addr::new(10, 71, 0, 2);
    assert_eq!(ping(&one, FAR, 1).0, FAR, "by the default route");
    let server = udp_on(&one, address, 80);
    udp_on(&site.outside, FAR, 0).send_to(b"in", (MACHINE, 8080)).expect("sent");
    assert_eq!(recv_from(&server).0, b"in");
    let list = shown(&socket, &["guest", "list"]);
    assert_eq!(
        (&list[0]["id"], &list[0]["network"], &list[0]["addresses"][0], &list[0]["labels"]["app"]),
        (&"web-1".into(), &"blue".into(), &"10.71.0.2/24".into(), &"shop".into())
    );
    assert!(text(&socket, &["guest", "list"]).contains("udp 8080 -> 10.71.0.2:80"));
    // A second interface of the same namespace, with a default route behind the first.
    text(&socket, &["bridge", "add", "red:gateway=10.72.0.1/24"]);
    let second = one.port("").replace("eth0", "eth1");
    text(&socket, &["guest", "add", "web-1b", "--network", "red", "--interface", &second, "--address", "10.72.0.2/24"]);
    let routes = one.inside(|| route::routes(link::get("eth1")?.index)).0;
    assert_eq!(routes.iter().find(|route| route.prefix_len == 0).map(|route| route.metric), Some(100), "{routes:?}");
    // What is published changes while the device stays.
    let index = one.link().index;
    let lines = text(&socket, &["guest", "set", "web-1", "--publish", "8081:80/udp", "--name", ""]);
    assert!(lines.contains("- rule udp 8080") && lines.contains("+ rule udp 8081"), "{lines}");
    udp_on(&site.outside, FAR, 0).send_to(b"again", (MACHINE, 8081)).expect("sent");
    assert_eq!((recv_from(&server).0.as_slice(), one.link().index), (&b"again"[..], index));
    for words in
        [&["port", "del", "--id", "web-1"][..], &["nat", "unpublish", "8081:10.71.0.2:80/udp"], &["bridge", "del", "blue"]]
    {
        assert!(!run(&socket, words).status.success(), "{words:?}");
    }
    for id in ["web-1", "web-1b"] {
        assert!(text(&socket, &["guest", "del", id]).starts_with(&format!("- guest {id}")));
        assert_eq!(text(&socket, &["guest", "del", id]), "configuration unchanged\n", "twice is fine");
    }
    wait::until("the interfaces to go", || (names_inside(one.netns()) == ["lo"]).then_some(()));
    text(&socket, &["bridge", "del", "red"]);
    assert_eq!(shown(&socket, &["config", "show"]), before);
    site.finish();
}

/// Two isolated guests of one network reach their gateway and not each other, until one of them is isolated no more.
fn isolated_guests() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site(&socket, 2);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    let hosts = [1, 2].map(|n| Host::in_namespace("eth0", site.guest(n).netns().try_clone().expect("a clone")));
    for (host, id, address) in [(&hosts[0], "one", "10.71.0.2/24"), (&hosts[1], "two", "10.71.0.3/24")] {
        let interface = host.port("");
        let words = ["guest", "add", id, "--network", "blue", "--interface", &interface, "--address", address, "--isolated"];
        text(&socket, &words);
        assert_eq!(ping(host, Ipv4Addr::new(10, 71, 0, 1), 1).0, Ipv4Addr::new(10, 71, 0, 1));
    }
    let list = shown(&socket, &["guest", "list"]);
    assert_eq!((&list[0]["isolated"], &list[1]["isolated"]), (&true.into(), &true.into()));
    let [one, two] = [2, 3].map(|last| Ipv4Addr::new(10, 71, 0, last));
    let server = udp_on(&hosts[1], two, 9);
    let client = udp_on(&hosts[0], one, 0);
    client.send_to(b"no", (two, 9)).expect("sent");
    text(&socket, &["guest", "set", "one", "--isolated=off"]);
    assert_eq!(shown(&socket, &["guest", "list"])[0]["isolated"], false);
    assert_eq!(ping(&hosts[0], two, 2).0, two);
    client.send_to(b"yes", (two, 9)).expect("sent");
    wait::until("what came late to be read", || (recv_from(&server).0 == b"yes").then_some(()));
    site.finish();
}

/// The second of two ports is in use: neither interface nor rule nor id is left, and the same guest without it is fine.
fn nothing_is_left_of_a_guest_that_is_refused() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site(&socket, 1);
    let held = site.machine.inside(|| std::net::UdpSocket::bind((MACHINE, 8443)));
    good(&socket, "POST", "/v1/bridges", Some(json!({ "bridge": "blue:gateway=10.71.0.1/24" })));
    let one = Host::in_namespace("eth0", site.guest(1).netns().try_clone().expect("a clone"));
    let wanted = |publish: &[&str]| {
        let mut guest = guest("web", "blue", one.netns(), "10.71.0.2/24");
        guest["publish"] = json!(publish);
        guest
    };
    let before = shown(&socket, &["config", "show"]);
    let (status, problem) = request(&socket, "POST", "/v1/guests", Some(wanted(&["8080:80/udp", "8443:443/udp"])));
    assert!(status == 409 && problem["detail"].as_str().is_some_and(|text| text.contains("8443")), "{status} {problem}");
    wait::until("the interface to go", || (names_inside(one.netns()) == ["lo"]).then_some(()));
    assert_eq!(shown(&socket, &["config", "show"]), before);
    assert_eq!(shown(&socket, &["port", "list"]).as_array().map(Vec::len), Some(0));
    // An address that the kernel refuses, after the interface was made: a default route by a gateway that is not on the link.
    let mut odd = guest("web", "blue", one.netns(), "10.71.0.2/32");
    odd["publish"] = json!(["8080:80/udp"]);
    assert_eq!(request(&socket, "POST", "/v1/guests", Some(odd)).0, 409);
    wait::until("the interface to go", || (names_inside(one.netns()) == ["lo"]).then_some(()));
    assert_eq!(shown(&socket, &["config", "show"]), before);
    good(&socket, "POST", "/v1/guests", Some(wanted(&["8080:80/udp"])));
    drop(held);
    let server = udp_on(&one, Ipv4Addr::new(10, 71, 0, 2), 80);
    udp_on(&site.outside, FAR, 0).send_to(b"in", (MACHINE, 8080)).expect("sent");
    assert_eq!(recv_from(&server).0, b"in");
    site.finish();
}

/// Guests that have the address `10.71.0.2` one after another, and a host outside that answers each of them.
fn an_heir_of_an_address_gets_nothing_of_the_guest_before() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site(&socket, 3);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    let address = Ipv4Addr::new(10, 71, 0, 2);
    let server = udp_on(&site.outside, FAR, 0);
    let begin = |n: usize, id: &str| {
        let host = Host::in_namespace("eth0", site.guest(n).netns().try_clone().expect("a clone"));
        good(&socket, "POST", "/v1/guests", Some(guest(id, "blue", host.netns(), "10.71.0.2/24")));
        ping(&host, FAR, 1);
        host
    };
    // Returns the outside endpoint of what the guest opens from its port 5000.
    let open = |host: &Host| {
        let client = udp_on(host, address, 5000);
        client.send_to(b"hello", (FAR, local(&server).port())).expect("sent");
        (recv_from(&server).1, client)
    };
    let gets_none = |host: &Host, outside: SocketAddrV4| {
        let heir = udp_on(host, address, 5000);
        server.send_to(b"to the guest before", outside).expect("sent");
        ping(host, FAR, 2);
        assert_empty(&heir);
    };
    let (outside, _) = open(&begin(1, "first"));
    good(&socket, "DELETE", "/v1/guests/first", None);
    let second = begin(2, "second");
    gets_none(&second, outside);
    // What the heir opens is its own, also when all workers have let go of the guest before.
    let (outside, client) = open(&second);
    text(&socket, &["guest", "set", "second", "--name", "other"]);
    thread::sleep(Duration::from_millis(1100));
    server.send_to(b"answer", outside).expect("sent");
    assert_eq!(recv_from(&client).0, b"answer");
    drop(client);
    text(&socket, &["guest", "set", "second", "--address", "10.71.0.3/24"]);
    gets_none(&begin(3, "third"), outside);
    site.finish();
}

/// Programs of the host that used its published ports hear the end, and nothing of what they had sent comes to the next guest of the
/// address, which has the same ports.
fn local_clients_of_a_guest_end_with_it() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site(&socket, 2);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24:host=on"]);
    // Of others, which stay.
    text(&socket, &["nat", "publish", "9:10.71.0.9:9"]);
    let address = Ipv4Addr::new(10, 71, 0, 2);
    let begin = |n: usize, id: &str| {
        let host = Host::in_namespace("eth0", site.guest(n).netns().try_clone().expect("a clone"));
        let mut wanted = guest(id, "blue", host.netns(), "10.71.0.2/24");
        wanted["publish"] = json!(["8080:80", "5353:53/udp"]);
        good(&socket, "POST", "/v1/guests", Some(wanted));
        ping(&host, Ipv4Addr::new(10, 71, 0, 1), 1);
        host
    };
    let first = begin(1, "first");
    let (tcp, udp) = (listen_on(&first, address, 80), udp_on(&first, address, 53));
    let client = udp_on(&site.machine, Ipv4Addr::LOCALHOST, 0);
    client.send_to(b"hello", (Ipv4Addr::LOCALHOST, 5353)).expect("sent");
    let from_client = recv_from(&udp).1;
    let (mut near, _far, from_near) = connect(&site.machine, &tcp, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));
    // Bytes that the guest's kernel does not take while its link is down.
    first.set_link(Change { up: Some(false), ..Change::default() });
    near.write_all(&[1; 1000]).expect("sent");
    good(&socket, "DELETE", "/v1/guests/first", None);
    let ended = near.read(&mut [0; 8]).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)), "the end: {ended:?}");
    let second = begin(2, "second");
    let wire = second.raw();
    client.send_to(b"again", (Ipv4Addr::LOCALHOST, 5353)).expect("sent");
    let udp = udp_on(&second, address, 53);
    client.send_to(b"again", (Ipv4Addr::LOCALHOST, 5353)).expect("sent");
    assert_ne!(recv_from(&udp).1, from_client, "a new one, although it is the same client");
    thread::sleep(Duration::from_millis(500));
    while let Some(frame) = wire.recv() {
        let is_of_before = frame.len() >= 48 && frame[12..14] == [8, 0] && frame[23] == 6;
        let is_of_before = is_of_before && frame[34..36] == from_near.port().to_be_bytes();
        // A reset has nothing in it.
        assert!(!is_of_before || frame[47] & 4 != 0, "for the guest before: {frame:02x?}");
    }
    site.finish();
}

/// An engine moves the interface into its container: the host's IPv6 stack does not speak on it before; the container's
/// does.
fn an_interface_for_a_container_is_silent() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let (machine, container) = (Host::new("g0"), netns::create().expect("a namespace"));
    let switch = Switch::start_inside(machine.netns().try_clone().expect("a clone"), &["--control", &socket]);
    good(&socket, "POST", "/v1/guests", Some(json!({ "id": "one", "interface": "g0" })));
    good(&socket, "POST", "/v1/guests", Some(json!({ "id": "two", "interface": "eth0", "addresses": ["10.77.0.9/24"] })));
    assert!(!machine.link().up);
    // Even if somebody sets it up before it is moved.
    machine.set_link(Change { up: Some(true), ..Change::default() });
    thread::sleep(Duration::from_millis(1500));
    let known = || shown(&socket, &["fdb", "show"]).as_array().expect("a list").len();
    assert_eq!((known(), switch.report().received()), (0, 0), "nobody has spoken");
    machine.inside(|| link::set(link::get("eth0")?.index, Change { netns: Some(container.as_fd()), ..Change::default() }));
    netns::inside(container.as_fd(), || link::set(link::get("eth0")?.index, Change { up: Some(true), ..Change::default() }))
        .expect("set up");
    wait::until("the container to speak", || (known() == 1).then_some(()));
    switch.finish();
}

fn forty_at_once() {
    const GUESTS: usize = 40;
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site(&socket, 0);
    good(&socket, "POST", "/v1/bridges", Some(json!({ "bridge": "blue:gateway=10.71.0.1/24" })));
    let namespaces: Vec<File> = (0..GUESTS).map(|_| netns::create().expect("a namespace")).collect();
    let all = |work: &(dyn Fn(usize, &File) + Sync)| {
        thread::scope(|scope| namespaces.iter().enumerate().for_each(|(n, netns)| drop(scope.spawn(move || work(n, netns)))));
    };
    let request_of = |n: usize, netns: &File| {
        let mut guest = guest(&format!("g-{n}"), "blue", netns, &format!("10.71.0.{}/24", n + 2));
        guest["publish"] = json!([format!("{}:80", 9000 + n)]);
        guest["addresses"] = json!([format!("10.71.0.{}/24", n + 2), format!("fd00:71::{:x}/64", n + 2)]);
        guest
    };
    all(&|n, netns| good(&socket, "POST", "/v1/guests", Some(request_of(n, netns))));
    assert_eq!(shown(&socket, &["guest", "list"]).as_array().map(Vec::len), Some(GUESTS));
    for (n, netns) in namespaces.iter().enumerate().step_by(13) {
        let host = Host::in_namespace("eth0", netns.try_clone().expect("a clone"));
        assert_eq!(ping(&host, FAR, n as u16).0, FAR);
    }
    all(&|n, _| good(&socket, "DELETE", &format!("/v1/guests/g-{n}"), None));
    assert_eq!(shown(&socket, &["port", "list"]).as_array().map(Vec::len), Some(0));
    wait::until("the interfaces to go", || namespaces.iter().all(|netns| names_inside(netns) == ["lo"]).then_some(()));
    site.finish();
}

fn left_over_guests() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let switch = Switch::start(&["--control", &socket]);
    for id in ["e:1", "e:2", "e:3", "f:1"] {
        good(&socket, "POST", "/v1/guests", Some(json!({ "id": id })));
    }
    let interfaces = |socket: &str| -> BTreeSet<String> {
        let list = shown(socket, &["guest", "list"]);
        list.as_array().expect("a list").iter().map(|one| one["interface"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(interfaces(&socket).len(), 4, "each has a name of its own");
    let lines = text(&socket, &["guest", "gc", "e:", "--keep", "e:2", "e:9"]);
    assert!(lines.contains("- guest e:1") && lines.contains("- guest e:3") && !lines.contains("e:2"), "{lines}");
    assert_eq!(interfaces(&socket).len(), 2);
    switch.finish();
}

/// Ends what waits for the flag, also if its owner panics.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Networks with a guest each, which all talk, are made and deleted again and again. Nothing is left of them, and two bystanders lose
/// none of their datagrams. `ENGINE_NETWORKS` and `ENGINE_ROUNDS` make it as large as one likes.
fn networks_and_guests_come_and_go() {
    let number = |name: &str, usual: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (networks, rounds) = (number("ENGINE_NETWORKS", 30), number("ENGINE_ROUNDS", 3));
    let directory = Directory::new();
    let socket = directory.text("control");
    // Connections touch the pages of a larger table one after another, which is no loss of memory.
    let site = site_with(&socket, 2, &["--nat", "max-connections=1024"]);
    good(&socket, "POST", "/v1/bridges", Some(json!({ "bridge": "calm:gateway=10.9.0.1/24" })));
    let calm = [1, 2].map(|n| Host::in_namespace("eth0", site.guest(n).netns().try_clone().expect("a clone")));
    for (n, host) in calm.iter().enumerate() {
        let address = format!("10.9.0.{}/24", n + 2);
        good(&socket, "POST", "/v1/guests", Some(guest(&format!("calm-{n}"), "calm", host.netns(), &address)));
    }
    let [from, to] = [2, 3].map(|last| Ipv4Addr::new(10, 9, 0, last));
    ping(&calm[0], to, 1);
    let (sender, receiver) = (udp_on(&calm[0], from, 0), udp_on(&calm[1], to, 7000));
    let namespaces: Vec<File> = (0..networks).map(|_| netns::create().expect("a namespace")).collect();
    let ends = AtomicBool::new(false);
    let end = Ending(&ends);
    let server = udp_on(&site.outside, FAR, 0);
    thread::scope(|scope| {
        let talk = scope.spawn(|| {
            let (mut sent, mut received) = (0_u32, 0_u32);
            while !ends.load(Ordering::Relaxed) {
                sender.send_to(&sent.to_be_bytes(), (to, 7000)).expect("sent");
                sent += 1;
                received += u32::from(recv_from(&receiver).0 == (sent - 1).to_be_bytes());
                thread::sleep(Duration::from_millis(2));
            }
            (sent, received)
        });
        let end = end;
        // Once every part of the allocator was used.
        let mut usual = None;
        for round in 0..rounds {
            for (n, netns) in namespaces.iter().enumerate() {
                let (high, low) = (n / 250, n % 250);
                let bridge = format!("n{n}:gateway=10.{}.{low}.1/24", 64 + high);
                good(&socket, "POST", "/v1/bridges", Some(json!({ "bridge": bridge })));
                let address = format!("10.{}.{low}.2/24", 64 + high);
                good(&socket, "POST", "/v1/guests", Some(guest(&format!("guest-{n}"), &format!("n{n}"), netns, &address)));
            }
            for (n, netns) in namespaces.iter().enumerate() {
                let address = Ipv4Addr::new(10, 64 + (n / 250) as u8, (n % 250) as u8, 2);
                let host = Host::in_namespace("eth0", netns.try_clone().expect("a clone"));
                udp_on(&host, address, 0).send_to(&(n as u32).to_be_bytes(), local(&server)).expect("sent");
                assert_eq!(recv_from(&server).0, (n as u32).to_be_bytes(), "round {round}: of network {n}");
            }
            for n in 0..networks {
                good(&socket, "DELETE", &format!("/v1/guests/guest-{n}"), None);
                good(&socket, "DELETE", &format!("/v1/bridges/n{n}"), None);
            }
            let is_clean = || namespaces.iter().all(|netns| names_inside(netns) == ["lo"]);
            wait::until("the interfaces to go", || is_clean().then_some(()));
            let left = |words: &[&str]| shown(&socket, words).as_array().map(Vec::len);
            assert_eq!(
                (left(&["port", "list"]), left(&["guest", "list"]), left(&["bridge", "list"])),
                (Some(2), Some(2), Some(2))
            );
            // What went is given back to the kernel at a tick, three seconds later at most.
            thread::sleep(Duration::from_secs(if round == 0 { 0 } else { 3 }));
            let memory = site.switch().memory();
            println!("round {round}: {memory} KiB");
            if round > 0 {
                let usual = *usual.get_or_insert(memory);
                assert!(memory <= usual + 1024, "round {round}: {memory} KiB, {usual} after the second");
            }
        }
        drop(end);
        let (sent, received) = talk.join().expect("no panic");
        assert_eq!(sent, received, "datagrams of the bystanders");
    });
    let addresses = [IpAddr::V4(from), IpAddr::V4(to)];
    assert!(addresses.iter().all(|address| text(&socket, &["guest", "list"]).contains(&address.to_string())));
    site.finish();
}
