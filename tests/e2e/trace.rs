//! Traces: a simulated packet has the outcome of the real one, and live traces describe real packets.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use libtest_mimic::Trial;
use packet::MacAddr;
use serde_json::Value;

use crate::frames::{frame, station};
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::raw::RawSocket;
use crate::site::{FAR, MACHINE, Mode, Plan, guest_address, recv_from, udp_on};
use crate::switch::Switch;
use crate::{control, program, trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("trace/imagined_as_it_then_is", imagined_as_it_then_is),
        trial("trace/why_it_does_not_arrive", why_it_does_not_arrive),
        trial("trace/where_it_is_known", where_it_is_known),
        trial("trace/real_packets", real_packets),
        trial("trace/a_request_before_its_reply", a_request_before_its_reply),
        trial("trace/ipv6_in_words", ipv6_in_words),
        trial("trace/readers_that_go", readers_that_go),
        trial("trace/ports_that_change", ports_that_change),
    ]
}

fn command(socket: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program::vswitchctl());
    command.args(["--socket", socket, "trace"]).args(words).stdin(Stdio::null());
    command
}

fn run(socket: &str, words: &[&str]) -> Output {
    command(socket, words).output().expect("vswitchctl runs")
}

fn text(socket: &str, words: &[&str]) -> String {
    let output = run(socket, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn json(socket: &str, words: &[&str]) -> Value {
    let text = text(socket, &[words, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

fn step<'a>(story: &'a Value, kind: &str) -> &'a Value {
    let found = story["steps"].as_array().and_then(|steps| steps.iter().find(|step| step["step"] == kind));
    found.unwrap_or_else(|| panic!("no {kind} in {story}"))
}

fn imagined_as_it_then_is() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket]).start();
    let far = udp_on(&site.outside, FAR, 5000);
    let near = udp_on(site.guest(1), guest_address(1), 4000);
    let far_address = format!("{FAR}:5000");
    // Resolves the guest and the next hop.
    let first = udp_on(site.guest(1), guest_address(1), 4001);
    first.send_to(b"first", &far_address).expect("sent");
    recv_from(&far);

    let shown = Command::new(program::vswitchctl()).args(["--socket", &socket, "port", "list", "-o", "json"]).output();
    let ports: Value = serde_json::from_slice(&shown.expect("runs").stdout).expect("json");
    let port = ports[0]["name"].as_str().expect("a name").to_owned();
    let packet = format!("port={port},src={},dst={FAR},udp,sport=4000,dport=5000,len=33", guest_address(1));
    let story = json(&socket, &[&packet]);
    assert_eq!(story["verdict"]["verdict"], "sent", "{story}");
    let imagined = step(&story, "translated")["src"].as_str().expect("an endpoint").to_owned();
    assert!(imagined.starts_with(&format!("{MACHINE}:")), "{imagined}");
    assert!(story["assumed"].as_array().expect("a list").len() >= 2, "{story}");
    let printed = text(&socket, &[&packet]);
    assert!(printed.lines().last().is_some_and(|line| line.starts_with("=> sent through ")), "{printed}");
    let words = packet.split(',').collect::<Vec<_>>();
    assert_eq!(text(&socket, &words), printed, "words by themselves, and asked again");

    near.send_to(b"hello", &far_address).expect("sent");
    let (_, from) = recv_from(&far);
    assert_eq!(from.to_string(), imagined, "the real packet has the predicted source");
    let report = site.finish();
    assert_eq!(report.nat("opened"), 2, "nothing but the real ones opened a connection");
}

fn why_it_does_not_arrive() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::quiet);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(":vlan=10"));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    let story = json(&socket, &["port=a,src=10.0.0.1,dst=10.0.0.2,tcp"]);
    assert_eq!((&story["verdict"]["verdict"], &story["verdict"]["reason"]), (&"dropped".into(), &"no_destination".into()));
    let story = json(&socket, &["port=a,vlan=10,src=10.0.0.1,dst=10.0.0.2"]);
    assert_eq!((&story["verdict"]["verdict"], &step(&story, "sent")["port"]), (&"sent".into(), &"b".into()));
    let printed = text(&socket, &["port=b,vlan=20,arp,src=10.0.0.1,dst=10.0.0.2"]);
    assert!(printed.ends_with("=> dropped: vlan_not_allowed (the ingress port does not carry its VLAN)\n"), "{printed}");
    for (words, says) in [
        ("port=c,src=10.0.0.1,dst=10.0.0.2", "there is no port 'c'"),
        ("src=10.0.0.1,dst=10.0.0.2", "port= is missing"),
        ("port=a,src=10.0.0.1,dst=10.0.0.2,dprt=80", "did you mean 'dport'?"),
        ("port=a,src=10.0.0.1,dst=10.0.0.2,dport=80", "add tcp or udp"),
        ("port=a,src=10.0.0.300,dst=10.0.0.2", "src=10.0.0.300: not an IPv4 address"),
    ] {
        let output = run(&socket, &[words]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(says), "{words}: {error}");
    }
    switch.finish();
}

/// A destination that is known in another VLAN is not reached, and the trace says where it is.
fn where_it_is_known() {
    let directory = Directory::new();
    let hosts = ["a", "b", "c"].map(Host::quiet);
    let socket = directory.text("control");
    let ports = [hosts[0].port(":vlan=10"), hosts[1].port(":vlan=20"), hosts[2].port(":trunks=10+30")].join(",");
    let gateways = "10=10.0.10.1/24,20=10.0.20.1/24";
    let switch = Switch::start(&["--tap", &ports, "--control", &socket, "--gateway", gateways]);
    let speaks = hosts[1].raw();
    wait::until("the station to be known", || {
        speaks.send(&frame(MacAddr::BROADCAST, station(2), b"here")).expect("sent");
        (switch.report().table("entries") >= 1).then_some(())
    });
    let known = format!("{} is known in VLAN 20, behind b, and this packet is in VLAN 10: without a router", station(2));
    for (packet, ends, note) in [
        (format!("port=a,src=10.0.10.9,dst=10.0.10.2,dmac={}", station(2)), "sent through c", known.as_str()),
        (
            format!("port=c,vlan=30,src=10.0.30.9,dst=10.0.20.1,dmac={}", station(9)),
            "dropped: no_destination",
            "10.0.20.1 is the gateway of VLAN 20, and this packet is in VLAN 30, which has no gateway",
        ),
        (
            "port=a,arp,src=10.0.10.9,dst=10.0.20.1".to_owned(),
            "sent through c",
            "10.0.20.1 is the gateway of VLAN 20, and this packet is in VLAN 10, whose gateway is 10.0.10.1",
        ),
        (
            format!("port=c,vlan=30,src=10.0.30.9,dst=10.0.20.7,dmac={}", station(9)),
            "dropped: no_destination",
            "10.0.20.7 is behind gateway 10.0.20.1 of VLAN 20, and this packet is in VLAN 30, which has no gateway",
        ),
    ] {
        let story = json(&socket, &[&packet]);
        assert!(story["verdict"]["text"].as_str().is_some_and(|text| text.starts_with(ends)), "{packet}: {story}");
        assert!(story["notes"][0].as_str().is_some_and(|text| text.starts_with(note)), "{packet}: {story}");
        let printed = text(&socket, &[&packet]);
        assert!(printed.lines().last().is_some_and(|line| line.starts_with(&format!("   but {note}"))), "{printed}");
    }
    // Where it is, and through the router, there is nothing to say.
    for packet in [format!("port=b,src=10.0.20.9,dst=10.0.20.8,dmac={}", station(2)), "port=a,src=10.0.10.9,dst=10.0.20.8".into()]
    {
        assert_eq!(json(&socket, &[&packet])["notes"], Value::Null, "{packet}");
    }
    switch.finish();
}

fn real_packets() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::quiet);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    let mut follows = command(&socket, &["--live", "3", "--port", "a", "ether src 02:e2:00:00:00:01", "-o", "json"]);
    let mut follows = follows.stdout(Stdio::piped()).spawn().expect("vswitchctl runs");
    let speaks = hosts[0].raw();
    wait::until("three stories to be told", || {
        hosts[1].raw().send(&frame(MacAddr::BROADCAST, station(2), b"not this one")).expect("sent");
        speaks.send(&frame(MacAddr::BROADCAST, station(1), b"this one")).expect("sent");
        follows.try_wait().expect("looked at")
    });
    let output = follows.wait_with_output().expect("ended");
    let stories = String::from_utf8(output.stdout).expect("text");
    let stories: Vec<Value> = stories.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    assert_eq!(stories.len(), 3, "{stories:?}");
    for story in &stories {
        assert_eq!((&story["port"], &story["verdict"]["verdict"]), (&"a".into(), &"sent".into()));
        assert_eq!(step(story, "sent")["port"], "b");
        assert!(story["packet"].as_str().is_some_and(|packet| packet.starts_with(&station(1).to_string())), "{story}");
    }
    switch.finish();
}

/// The stories of a ping-pong between two workers, in order, with times.
fn a_request_before_its_reply() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::new);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--workers", "2", "--tap", &ports, "--control", &socket]);
    (1..).zip(&hosts).for_each(|(n, host)| host.configure(n));
    let [near, far] = [1, 2].map(|n| hosts[usize::from(n) - 1].udp(Ip::V4, n));
    near.connect(far.local_addr().expect("an address")).expect("connected");
    let filter = ["--live", "400", "udp", "and", "host", &Host::address(Ip::V4, 1).to_string(), "-o", "json"].map(str::to_owned);
    let ping_pong = || {
        near.send(b"ping").expect("sent");
        let (_, from) = recv_from(&far);
        far.send_to(b"pong", from).expect("sent");
        recv_from(&near);
    };
    ping_pong();
    let mut follows = command(&socket, &filter.each_ref().map(String::as_str));
    let mut follows = follows.stdout(Stdio::piped()).spawn().expect("vswitchctl runs");
    let lines = BufReader::new(follows.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let told = thread::spawn(move || lines.map(|line| serde_json::from_str(&line).expect("json")).collect::<Vec<Value>>());
    wait::until("the end of the trace", || {
        ping_pong();
        follows.try_wait().expect("looked at")
    });
    let stories = told.join().expect("no panic");
    assert!(stories.len() >= 200, "too many were lost: {}", stories.len());
    let times: Vec<&str> = stories.iter().map(|story| story["time"].as_str().expect("a time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[0].len() == "2026-11-21T14:05:06.789012Z".len() && times[0].ends_with('Z'), "{}", times[0]);
    let ports = stories.iter().map(|story| story["port"].as_str().expect("a port"));
    // The worker of one port may begin to tell before the other one does.
    let ports: Vec<&str> = ports.skip_while(|port| *port == "a").collect();
    let is_in_turn = |pair: &[&str]| pair[0] != pair[1];
    assert!(ports.windows(2).all(is_in_turn), "a reply before its request: {ports:?}");
    switch.finish();
}

/// Neighbour discovery and a ping.
fn ipv6_in_words() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::new);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    let mut follows = command(&socket, &["--live", "1", "ip6"]);
    let follows = follows.stdout(Stdio::piped()).spawn().expect("vswitchctl runs");
    wait::until("the trace to begin", || control::run(&socket, &["show"]).status.success().then_some(()));
    (1..).zip(&hosts).for_each(|(n, host)| host.configure(n));
    let output = follows.wait_with_output().expect("ended");
    let said = String::from_utf8(output.stdout).expect("text");
    let first = said.lines().next().expect("a line");
    assert!(first.contains(" icmp6 ") && first.contains(" > ff02::") && !first.contains("ethertype"), "{first}");
    assert!(first.starts_with("20") && first.split(' ').next().is_some_and(|time| time.ends_with('Z')), "{first}");
    switch.finish();
}

/// A reader of live traces.
struct Reader {
    child: Child,
    stories: Receiver<Value>,
}

impl Reader {
    fn start(socket: &str, words: &[&str]) -> Reader {
        let mut command = command(socket, &[words, &["-o", "json"]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("vswitchctl runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (tell, stories) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).expect("json"));
            }
        });
        Reader { child, stories }
    }

    /// Waits for a matching story about frames that this socket sends.
    fn hears(&self, speaks: &RawSocket, is_it: impl Fn(&Value) -> bool) -> Value {
        wait::until("a story", || {
            speaks.send(&frame(MacAddr::BROADCAST, station(1), b"hear")).expect("sent");
            self.stories.try_iter().find(&is_it)
        })
    }

    /// The error message with which it ended by itself.
    fn last_words(mut self) -> String {
        wait::until("its end", || self.child.try_wait().expect("looked at"));
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        said
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A trace of a port ends with that port; a later port with the same number has a name of its own.
fn ports_that_change() {
    let directory = Directory::new();
    let hosts = ["a", "b", "c"].map(Host::quiet);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    let all = Reader::start(&socket, &["--live", "1000000"]);
    let of_b = Reader::start(&socket, &["--live", "1000000", "--port", "b"]);
    let speaks = hosts[1].raw();
    for reader in [&all, &of_b] {
        reader.hears(&speaks, |story| story["port"] == "b");
    }
    control::text(&socket, &["port", "del", "b"]);
    let said = of_b.last_words();
    assert!(said.contains("its port was removed or replaced"), "{said}");
    control::text(&socket, &["port", "add", &hosts[2].port("")]);
    let story = all.hears(&hosts[2].raw(), |story| story["port"] != "a" && story["port"] != "b");
    assert_eq!((&story["port"], &story["steps"][0]["text"]), (&"c".into(), &"comes in through c".into()));
    assert_eq!(step(&story, "sent")["port"], "a");
    drop(all);
    switch.finish();
}

/// A reader that leaves makes room for another, and the switch goes on.
fn readers_that_go() {
    let directory = Directory::new();
    let host = Host::quiet("a");
    let socket = directory.text("control");
    let switch = Switch::start(&["--tap", &host.port(""), "--control", &socket]);
    let is_refused = || {
        let mut child = command(&socket, &["--live", "1000"]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        thread::sleep(std::time::Duration::from_millis(300));
        let ended = child.try_wait().expect("looked at").is_some();
        let _ = child.kill();
        let output = child.wait_with_output().expect("ended");
        ended.then(|| assert!(String::from_utf8_lossy(&output.stderr).contains("live traces run already"), "{output:?}"))
    };
    let readers: Vec<_> = (0..4).map(|_| Reader::start(&socket, &["--live", "1000000"])).collect();
    let speaks = host.raw();
    for reader in &readers {
        reader.hears(&speaks, |_| true);
    }
    is_refused().expect("all places are taken");
    drop(readers);
    wait::until("a place to be free", || is_refused().is_none().then_some(()));
    switch.finish();
}
