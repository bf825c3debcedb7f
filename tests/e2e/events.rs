//! `vswitchctl events`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use libtest_mimic::Trial;
use netio::link::Change;
use packet::MacAddr;
use serde_json::Value;

use crate::control::{json, pair};
use crate::frames::{frame, station};
use crate::guest::Directory;
use crate::host::Host;
use crate::raw::RawSocket;
use crate::site::{FAR, MACHINE, Mode, Plan, guest_address, udp_on};
use crate::switch::Switch;
use crate::{program, trial, trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("events/links", links),
        trial("events/guests", guests),
        trial("events/stations", stations),
        trial_with("events/loops", without_ip, loops),
        trial("events/full", full),
        trial("events/uplink", uplink),
        trial("events/vswitchctl", vswitchctl),
        trial("events/readers", readers),
    ]
}

/// A reader of events, from its start on.
pub(crate) struct Follower {
    lines: BufReader<UnixStream>,
    unread: VecDeque<Value>,
}

impl Follower {
    pub(crate) fn new(socket: &str) -> Follower {
        let mut stream = UnixStream::connect(socket).expect("connected");
        stream.set_read_timeout(Some(wait::NEVER)).expect("set");
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).expect("a line") > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
        Follower { lines, unread: VecDeque::new() }
    }

    /// The next event of this type; events before it are discarded.
    pub(crate) fn next(&mut self, kind: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("a line") > 0, "the end instead of {kind}");
            if let Some(json) = line.strip_prefix("data: ") {
                self.unread.push_back(serde_json::from_str(json).expect("JSON"));
            }
            while let Some(event) = self.unread.pop_front() {
                if event["type"] == kind {
                    return event;
                }
            }
        }
    }
}

fn links() {
    let directory = Directory::new();
    let (switch, [a, _b], socket) = pair(&directory);
    let mut follower = Follower::new(&socket);
    a.set_link(Change { up: Some(false), ..Change::default() });
    let down = follower.next("port_down");
    assert_eq!(down["port"], "a");
    a.set_link(Change { up: Some(true), ..Change::default() });
    let up = follower.next("port_up");
    assert_eq!((&up["port"], &up["mtu"]), (&"a".into(), &1500.into()));
    assert!(up["sequence"].as_u64() > down["sequence"].as_u64());
    let time = up["time"].as_str().expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == "2026-11-21T14:05:06.789Z".len(), "{time}");
    switch.finish();
}

fn guests() {
    let directory = Directory::new();
    let (socket, door) = (directory.text("control"), directory.text("guests"));
    let switch = Switch::start(&["--port", &format!("stream:{door}"), "--control", &socket]);
    let mut follower = Follower::new(&socket);
    let guest = UnixStream::connect(&door).expect("connected");
    let came = follower.next("guest_came");
    assert_eq!(came["port"], format!("{door}#1"));
    assert!(came["guest"].as_str().is_some_and(|guest| guest.contains("process")), "{came}");
    drop(guest);
    assert_eq!(follower.next("guest_went")["port"], format!("{door}#1"));
    switch.finish();
}

/// One address at two ports, over and over: reported a few times a second, with the number of moves.
fn stations() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::quiet);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    let mut follower = Follower::new(&socket);
    let [a, b] = hosts.each_ref().map(Host::raw);
    let background = crate::exchange::Background::run(move || {
        for raw in [&a, &b] {
            raw.send(&frame(MacAddr::BROADCAST, station(1), b"here")).expect("sent");
        }
    });
    let moved = follower.next("mac_moved");
    assert_eq!((&moved["mac"], &moved["vlan"]), (&station(1).to_string().into(), &0.into()));
    let ways = [("a", "b"), ("b", "a")].map(|(from, to)| moved["from"] == from && moved["to"] == to);
    assert!(ways.contains(&true), "{moved}");
    wait::until("moves that were counted only", || (follower.next("mac_moved")["more"].as_u64() > Some(0)).then_some(()));
    background.end();
    switch.finish();
}

/// Why no bridge of the kernel can be made here.
fn without_ip() -> Option<String> {
    let found = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_err().then(|| "there is no ip".to_owned())
}

/// A guest bridges its two ports. One of them is blocked, which is an event and a problem, and everybody else goes on; once the
/// bridge is gone, the port is released.
fn loops() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let one = Host::quiet("one");
    let two = Host::in_namespace("two", one.netns().try_clone().expect("the same namespace"));
    let [asker, answerer] = ["asker", "answerer"].map(Host::quiet);
    let ports = [&one, &two, &asker, &answerer].map(|host| host.port("")).join(",");
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    let ip = |words: &str| {
        let status = one.inside(|| Command::new("ip").args(words.split(' ')).status());
        assert!(status.success(), "ip {words}");
    };
    ip("link add loop0 type bridge mcast_snooping 0");
    ip("link set one master loop0");
    ip("link set two master loop0");
    ip("link set loop0 up");
    let mut follower = Follower::new(&socket);
    let [asks, answers] = [&asker, &answerer].map(Host::raw);
    // The bridge's ports begin to forward some time after they are up.
    let asker_too = asker.raw();
    let background = crate::exchange::Background::run(move || {
        asker_too.send(&frame(MacAddr::BROADCAST, station(1), b"round and round")).expect("sent");
        std::thread::sleep(std::time::Duration::from_millis(50));
    });
    let blocked = follower.next("port_blocked");
    background.end();
    assert!(blocked["port"] == "one" || blocked["port"] == "two", "{blocked}");
    assert!(blocked["mac"] == station(1).to_string() && blocked["seconds"] == 2, "{blocked}");
    let problems = || json(&socket, &["show"])["problems"].to_string();
    assert!(problems().contains("is blocked for"), "{}", problems());
    // Known stations are served meanwhile. While a loop is found again after a release, a frame may be lost in it.
    let arrives = |from: &RawSocket, to: &RawSocket, bytes: &[u8]| {
        wait::until("the frame", || {
            from.send(bytes).expect("sent");
            std::iter::from_fn(|| to.recv()).find(|got| got == bytes)
        });
    };
    arrives(&answers, &asks, &frame(station(1), station(2), b"answer"));
    ip("link del loop0");
    let released = follower.next("port_released");
    assert_eq!(released["port"], blocked["port"]);
    // It stays in the health lines for a while, as a loop lasts longer than a block.
    wait::until("no block", || (!problems().contains("is blocked for")).then_some(()));
    assert!(problems().contains("was blocked until"), "{}", problems());
    arrives(&asks, &answers, &frame(MacAddr::BROADCAST, station(1), b"once"));
    let report = switch.finish();
    assert!(report.dropped("one", "loop_blocked") + report.dropped("two", "loop_blocked") > 0, "{report:?}");
}

fn full() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let nat = "ports=50000-50001";
    let plan = Plan::new(Mode::Own, 1).args(&["--control", &socket, "--mac-table-size", "10", "--nat", nat]);
    let site = plan.start();
    let mut follower = Follower::new(&socket);
    // The state at the start is not an event; the state one second later is the reference.
    let raw = site.guest(1).raw();
    let mut number = 0;
    let mut told = std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let table = follower.next("mac_table_full");
            (table, follower)
        });
        while !told.is_finished() {
            number += 1;
            raw.send(&frame(MacAddr::BROADCAST, station(number % 200), b"me too")).expect("sent");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        told.join().expect("no panic")
    });
    assert_eq!(told.0["entries"], 10);
    // More local ports than outside ports. Connections without an answer would give way to new ones.
    let server = udp_on(&site.outside, FAR, 5000);
    let sockets: Vec<_> = (0..5u16).map(|n| udp_on(site.guest(1), guest_address(1), 4000 + n)).collect();
    for (number, socket) in sockets.iter().enumerate() {
        socket.send_to(b"out", (FAR, 5000)).expect("sent");
        if number < 2 {
            let (_, mapped) = server.recv_from(&mut [0; 8]).expect("received");
            server.send_to(b"back", mapped).expect("sent");
            socket.recv(&mut [0; 8]).expect("answered");
        }
    }
    assert_eq!(told.1.next("nat_ports_exhausted")["mappings"], 2);
    site.finish();
}

/// Events of the uplink and of published ports.
fn uplink() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket]).start();
    let mut follower = Follower::new(&socket);
    json(&socket, &["nat", "publish", "9090:10.77.0.11:90"]);
    let rule = follower.next("rule_changed");
    assert_eq!(rule["action"], "add");
    assert!(rule.to_string().contains("9090"), "{rule}");
    assert_eq!(follower.next("config_applied")["changes"], 1);
    site.machine.set_link(Change { up: Some(false), ..Change::default() });
    let changed = follower.next("uplink_changed");
    assert_eq!(
        (&changed["interface"], &changed["state"], &changed["outside"]),
        (&"up0".into(), &"down".into(), &MACHINE.to_string().into())
    );
    site.finish();
}

/// One line for each event, as text and as JSON, until the daemon ends.
fn vswitchctl() {
    let directory = Directory::new();
    let (switch, [a, _b], socket) = pair(&directory);
    let follow = |form: &str| {
        let mut command = Command::new(program::vswitchctl());
        command.args(["--socket", &socket, "events", "-o", form]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("vswitchctl runs")
    };
    let mut followers = ["table", "json"].map(follow);
    let lines = followers.each_mut().map(|child| {
        let (lines, out) = (Arc::<Mutex<Vec<String>>>::default(), child.stdout.take().expect("its output"));
        let read = Arc::clone(&lines);
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| read.lock().expect("the lines").push(line));
        });
        lines
    });
    // The readers may not be connected yet, so the link goes down more than once.
    let mut up = true;
    let [text, json] = lines;
    wait::until("an event in both forms", || {
        up = !up;
        a.set_link(Change { up: Some(up), ..Change::default() });
        // A link's state is compared once a second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let has_text = text.lock().expect("the lines").iter().any(|line| line.ends_with("Z port a is down"));
        (has_text && !json.lock().expect("the lines").is_empty()).then_some(())
    });
    switch.finish();
    let json = json.lock().expect("the lines");
    let first: Value = serde_json::from_str(&json[0]).expect("JSON");
    assert!(first["type"].as_str().is_some_and(|kind| kind.starts_with("port_")), "{json:?}");
    for mut child in followers {
        assert_eq!(child.wait().expect("its end").code(), Some(1));
        let mut said = String::new();
        child.stderr.take().expect("its errors").read_to_string(&mut said).expect("text");
        assert!(said.contains("the switch has ended"), "{said}");
    }
}

/// The number of readers is limited; a place is free again when one leaves, and all end with the daemon.
fn readers() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    let mut followers: Vec<Follower> = (0..16).map(|_| Follower::new(&socket)).collect();
    let refused = crate::control::exchange(&socket, b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("too many"), "{refused}");
    assert_eq!(json(&socket, &["port", "list"])[0]["name"], "a");
    followers.pop();
    wait::until("the place of one that went", || {
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("a status");
        status.ends_with(b"200").then_some(())
    });
    switch.finish();
}
