//! The address that guests share with the host: what the host's firewall, its programs and the end of the daemon do to it,
//! and the ways that keep its stack silent.

use std::collections::HashSet;
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketType, recvmsg};

use crate::control::{json, run, text};
use crate::datagrams::{ACK, Datagram, SYN};
use crate::guest::Directory;
use crate::host::Host;
use crate::nat_tcp::Pair;
use crate::site::{FAR, MACHINE, Mode, Plan, Site, connect, guest_address, listen_on, recv_from, udp_on};
use crate::switch::Switch;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("gate/firewalls_have_no_say_tcx", || firewalls("tcx")),
        trial("gate/firewalls_have_no_say_filter", || firewalls("filter")),
        trial("gate/a_guest_keeps_its_port", a_guest_keeps_its_port),
        trial("gate/nothing_is_bound_tcx", || nothing_is_bound("tcx")),
        trial("gate/nothing_is_bound_filter", || nothing_is_bound("filter")),
        trial("gate/programs_of_the_host_come_first_tcx", || programs_of_the_host_come_first("tcx")),
        trial("gate/programs_of_the_host_come_first_filter", || programs_of_the_host_come_first("filter")),
        trial("gate/the_hosts_own_connections", the_hosts_own_connections),
        trial("gate/a_filter_that_was_left", a_filter_that_was_left),
        trial("gate/a_filter_that_is_removed", a_filter_that_is_removed),
        trial("gate/two_filters", two_filters),
        trial("gate/what_the_kernel_grants", what_the_kernel_grants),
        trial("gate/nothing_is_left_after_a_kill", nothing_is_left_after_a_kill),
        trial("gate/stays_over_a_restart", stays_over_a_restart),
        trial("gate/a_published_port_in_use", a_published_port_in_use),
        trial("gate/few_descriptors", || few_descriptors(256)),
        trial("gate/some_descriptors", || few_descriptors(1024)),
    ]
}

/// A command inside a host's namespace, with this input.
fn tool(host: &Host, words: &[&str], input: &str) -> String {
    let output = host.inside(|| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().map_or(Ok(()), |mut to| to.write_all(input.as_bytes()))?;
        child.wait_with_output()
    });
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Rules of firewalls as distributions make them: an open one, those of firewalld and ufw which reject, one that resets TCP,
/// and destination NAT of the host as for Kubernetes' node ports.
const FIREWALLS: [(&str, &str); 5] = [
    ("accepts", "chain input { type filter hook input priority 0; policy accept; ct state established accept; }"),
    (
        "rejects as firewalld does",
        "chain input { type filter hook input priority 10; policy accept; ct state established,related accept; ct state invalid drop; \
         iif lo accept; reject with icmpx admin-prohibited; }",
    ),
    (
        "rejects as ufw does",
        "chain input { type filter hook input priority 0; policy drop; iif lo accept; ct state established,related accept; \
         ct state invalid drop; reject; }",
    ),
    (
        "resets",
        "chain input { type filter hook input priority 0; policy accept; ct state established accept; \
         meta l4proto tcp reject with tcp reset; reject; }",
    ),
    (
        "translates",
        "chain pre { type nat hook prerouting priority -100; ip daddr 203.0.113.1 meta l4proto { tcp, udp } \
         th dport 1024-65535 dnat ip to 127.0.0.1:9; }",
    ),
];

/// Published TCP and UDP, and guests' own TCP and UDP, ten of ten each; the host's connection tracking knows of none.
fn firewalls(gate: &str) {
    let args = ["--publish", "8080:10.77.0.11:80/tcp+udp", "--uplink-gate", gate];
    let site = Plan::new(Mode::Shared, 1).args(&args).start();
    let server = listen_on(site.guest(1), guest_address(1), 80);
    let (answering, far) = (udp_on(site.guest(1), guest_address(1), 80), listen_on(&site.outside, FAR, 80));
    let far_udp = udp_on(&site.outside, FAR, 53);
    for (name, rules) in FIREWALLS {
        tool(&site.machine, &["nft", "-f", "-"], &format!("flush ruleset\ntable inet t {{\n{rules}\n}}\n"));
        for n in 0..10_u8 {
            let published = SocketAddrV4::new(MACHINE, 8080);
            exchange(connect(&site.outside, &server, published));
            exchange(connect(site.guest(1), &far, SocketAddrV4::new(FAR, 80)));
            let client = udp_on(&site.outside, FAR, 0);
            client.send_to(&[n], published).expect("sent");
            let (bytes, from) = recv_from(&answering);
            answering.send_to(&bytes, from).expect("sent");
            assert_eq!(recv_from(&client), (vec![n], published), "{name}");
            let client = udp_on(site.guest(1), guest_address(1), 0);
            client.send_to(&[n], (FAR, 53)).expect("sent");
            let (bytes, from) = recv_from(&far_udp);
            far_udp.send_to(&bytes, from).expect("sent");
            assert_eq!(recv_from(&client).0, [n], "{name}");
        }
        assert_eq!(tool(&site.machine, &["conntrack", "-L"], ""), "", "{name}");
    }
    site.finish();
}

/// One byte each way.
fn exchange((mut near, mut far, _): (std::net::TcpStream, std::net::TcpStream, SocketAddrV4)) {
    near.set_read_timeout(Some(wait::NEVER)).expect("set");
    near.write_all(b"?").expect("sent");
    far.read_exact(&mut [0]).expect("received in time");
    far.write_all(b"!").expect("sent");
    near.read_exact(&mut [0]).expect("received in time");
}

/// From the first packet on, wherever it lies.
fn a_guest_keeps_its_port() {
    let site = Plan::new(Mode::Shared, 1).args(&["--uplink-gate", "tcx"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let ports = (1024..=65_535).step_by(646);
    let mut kept = 0;
    for port in ports {
        guest.send_udp(port, peer.at(53), b"?");
        let outer = peer.next_udp(53).from();
        guest.send(&Datagram::tcp(guest.at(port), peer.at(80), SYN, [1, 0], b""));
        let syn = peer.expect("the SYN", |segment| segment.protocol == 6);
        kept += usize::from(outer.port() == port && syn.from().port() == port);
    }
    assert_eq!(kept, 100);
    site.finish();
}

/// Neither a socket nor a descriptor for a port.
fn nothing_is_bound(gate: &str) {
    let args = ["--publish", "8080-8089:10.77.0.11:80-89/tcp+udp", "--uplink-gate", gate];
    let site = Plan::new(Mode::Shared, 1).args(&args).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let descriptors = site.switch().descriptors();
    for port in 2000..2100 {
        guest.send_udp(port, peer.at(53), b"?");
        peer.next_udp(53);
    }
    assert_eq!(tool(&site.machine, &["ss", "-Hltun"], ""), "");
    assert!(site.switch().descriptors() <= descriptors + 2, "{descriptors} before");
    site.finish();
}

/// A program of the host may bind whatever port it likes, and has it soon; the guest goes on from another.
fn programs_of_the_host_come_first(gate: &str) {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket, "--uplink-gate", gate]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"?");
    assert_eq!(peer.next_udp(53).from().port(), 5000);
    let pair = Pair::open(&guest, 6000, &peer, 80);
    assert_eq!(pair.outer.port(), 6000);
    let service = listen_on(&site.machine, MACHINE, 6000);
    let resolver = udp_on(&site.machine, "0.0.0.0".parse().expect("an address"), 5000);
    resolver.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
    wait::until("the host's programs to have their ports", || {
        let logged = |protocol: &str, port: u16| site.switch().has_logged(&format!("protocol=\"{protocol}\" port={port}"));
        (logged("tcp", 6000) && logged("udp", 5000)).then_some(())
    });
    let near =
        site.outside.try_inside(|| std::net::TcpStream::connect_timeout(&SocketAddrV4::new(MACHINE, 6000).into(), wait::NEVER));
    assert!(near.is_ok(), "{near:?}");
    service.accept().expect("a connection");
    peer.send_udp(54, SocketAddrV4::new(MACHINE, 5000), b"for the host");
    assert_eq!(wait::until("the datagram", || resolver.recv(&mut [0; 64]).ok()), 12);
    guest.send_udp(5000, peer.at(53), b"again");
    assert_ne!(peer.next_udp(53).from().port(), 5000);
    assert_eq!(json(&socket, &["show"])["uplink"]["gate"], gate);
    site.finish();
}

/// Connections of the host from ports that guests have too.
fn the_hosts_own_connections() {
    let site = Plan::new(Mode::Shared, 1).args(&["--uplink-gate", "tcx"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let listener = listen_on(&site.outside, FAR, 80);
    let servers = udp_on(&site.outside, FAR, 53);
    for port in [5000, 40_000] {
        let pair = Pair::open(&guest, port, &peer, 80);
        let near = site.machine.inside(|| {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            rustix::net::bind(&socket, &SocketAddrV4::new(MACHINE, port))?;
            rustix::net::connect(&socket, &SocketAddrV4::new(FAR, 80))?;
            Ok(std::net::TcpStream::from(socket))
        });
        let (far, from) = listener.accept().expect("a connection");
        assert_eq!(from.port(), port);
        exchange((near, far, SocketAddrV4::new(MACHINE, port)));
        pair.is_alive();
        guest.send_udp(port + 1, peer.at(53), b"?");
        peer.next_udp(53);
        let client = udp_on(&site.machine, MACHINE, port + 1);
        client.send_to(b"from the host", (FAR, 53)).expect("sent");
        servers.send_to(b"to the host", recv_from(&servers).1).expect("sent");
        assert_eq!(recv_from(&client).0, b"to the host");
    }
    site.finish();
}

/// After SIGKILL the host's stack answers again, and a listener of the host is reached.
fn nothing_is_left_after_a_kill() {
    let site = Plan::new(Mode::Shared, 1).args(&["--publish", "8080:10.77.0.11:80", "--uplink-gate", "tcx"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    Pair::open(&guest, 5000, &peer, 80).is_alive();
    let Site { machine, outside, switch, .. } = site;
    switch.expect("it runs").kill();
    assert_eq!(tool(&machine, &["tc", "qdisc", "show", "dev", "up0", "ingress"], ""), "");
    for port in [5000, 8080] {
        peer.send(&Datagram::tcp(peer.at(80), SocketAddrV4::new(MACHINE, port), ACK, [1, 1], b"late"));
        let reset = peer.expect("the host's reset", |segment| segment.protocol == 6 && segment.from().port() == port);
        assert_ne!(reset.flags() & crate::datagrams::RST, 0);
    }
    let listener = listen_on(&machine, MACHINE, 8080);
    connect(&outside, &listener, SocketAddrV4::new(MACHINE, 8080));
}

/// A filter stays after SIGKILL; the next daemon replaces it, and removes it at its end.
fn a_filter_that_was_left() {
    let site = Plan::new(Mode::Shared, 1).args(&["--uplink-gate", "filter"]).silent().start();
    let filters = |machine: &Host| tool(machine, &["tc", "filter", "show", "dev", "up0", "ingress"], "");
    assert!(filters(&site.machine).contains("direct-action"));
    let Site { machine, outside, guests, mut switch, .. } = site;
    let own = ["--uplink-address", "203.0.113.77/24"];
    let next: [&[&str]; 4] = [&["--uplink-gate", "filter"], &["--uplink-gate", "tcx"], &["--uplink-gate", "sockets"], &own];
    for (at, gate) in next.into_iter().enumerate() {
        switch.take().expect("it runs").kill();
        assert!(filters(&machine).contains("direct-action"));
        let start = |gate: &[&str]| {
            let port = guests[0].port("");
            let args = [&["--tap", &port, "--uplink", "up0", "--publish", "8080:10.77.0.11:80"], gate].concat();
            Switch::start_inside(machine.netns().try_clone().expect("a clone"), &args)
        };
        let daemon = start(gate);
        assert_eq!(filters(&machine).matches("direct-action").count(), usize::from(at == 0), "{gate:?}");
        daemon.finish();
        assert_eq!(filters(&machine), "");
        switch = Some(start(next[0]));
    }
    switch.expect("it runs").finish();
    let listener = listen_on(&machine, MACHINE, 8080);
    connect(&outside, &listener, SocketAddrV4::new(MACHINE, 8080));
}

/// What somebody has removed is there again within a second or two.
fn a_filter_that_is_removed() {
    let site = Plan::new(Mode::Shared, 1).args(&["--uplink-gate", "filter"]).silent().start();
    let filters = || tool(&site.machine, &["tc", "filter", "show", "dev", "up0", "ingress"], "").matches("direct-action").count();
    assert_eq!(filters(), 1);
    tool(&site.machine, &["tc", "qdisc", "del", "dev", "up0", "clsact"], "");
    wait::until("the filter", || (filters() == 1).then_some(()));
    wait::until("the log", || site.switch().has_logged("somebody removed the gate").then_some(()));
    site.finish();
}

/// The service manager of a daemon, which keeps descriptors.
struct Manager {
    path: String,
    socket: UnixDatagram,
    /// The gate, with its name.
    kept: Option<(String, OwnedFd)>,
}

impl Manager {
    fn new(directory: &Directory) -> Manager {
        let path = directory.text("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(wait::NEVER)).expect("set");
        Manager { path, socket, kept: None }
    }

    /// The daemon's command, with what is kept as its third descriptor, as systemd starts it.
    fn start(&self, netns: File, args: &[&str]) -> Switch {
        let by = |program: &str| {
            let take = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null";
            let mut command = Command::new(if self.kept.is_some() { "sh" } else { program });
            if let Some((name, _)) = &self.kept {
                command.args(["-c", take, program]).env("LISTEN_FDNAMES", name);
            }
            command.env("NOTIFY_SOCKET", &self.path);
            command
        };
        let kept = self.kept.as_ref().map(|(_, gate)| gate.try_clone().expect("a clone"));
        Switch::start_with(netns, by, args, kept.map_or(Stdio::null(), Stdio::from))
    }

    /// Hears the daemon until it has its gate kept, by a name that no other gate has.
    fn keep(&mut self) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut text = [0; 4096];
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut pieces = [IoSliceMut::new(&mut text)];
            let got = recvmsg(&self.socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message in time");
            let passed = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
                _ => None,
            });
            let text = String::from_utf8_lossy(&text[..got.bytes]).into_owned();
            let name = |what: &str| text.strip_prefix(what)?.strip_prefix("FDNAME=")?.strip_suffix('\n').map(str::to_owned);
            let kept = self.kept.as_ref().map(|(name, _)| name.clone());
            assert!(kept.is_none() || name("FDSTOREREMOVE=1\n") != kept, "the former one is kept until then");
            if let Some(name) = name("FDSTORE=1\n").filter(|name| name.starts_with("gate")) {
                assert_ne!(Some(&name), kept.as_ref());
                self.kept = Some((name, passed.expect("a descriptor")));
                return;
            }
        }
    }
}

/// The service manager keeps the gate while the daemon is away, and the next one takes over.
fn stays_over_a_restart() {
    let directory = Directory::new();
    let site = Plan::new(Mode::Shared, 1).silent().bare();
    let mut manager = Manager::new(&directory);
    let (machine, peer) = (&site.machine, site.stranger(50));
    let port = site.guests[0].port("");
    let args = ["--tap", &port, "--uplink", "up0", "--uplink-gate", "tcx", "--publish", "8080:10.77.0.11:80/tcp"];
    let start = |manager: &Manager| manager.start(machine.netns().try_clone().expect("a clone"), &args);
    // The host answers for the port that is not published, and so has answered for the other one.
    let is_refused = || {
        for port in [8080, 8081] {
            peer.send(&Datagram::tcp(peer.at(7), SocketAddrV4::new(MACHINE, port), ACK, [1, 1], b""));
        }
        let mut ports = Vec::new();
        while ports.last() != Some(&8081) {
            ports.push(peer.expect("a reset", |segment| segment.protocol == 6).from().port());
        }
        ports.contains(&8080)
    };
    assert!(is_refused());
    for _ in 0..2 {
        let switch = start(&manager);
        manager.keep();
        assert!(!is_refused());
        switch.kill();
        assert!(!is_refused(), "the manager keeps it");
    }
    let switch = start(&manager);
    manager.keep();
    manager.kept = None;
    assert!(!is_refused(), "its own");
    switch.finish();
    assert!(is_refused(), "nothing is left");
}

/// Two daemons share an uplink: each has its own filter, and takes only that along.
fn two_filters() {
    let site = Plan::new(Mode::Shared, 1).args(&["--uplink-gate", "filter", "--publish", "8080:10.77.0.11:80"]).silent().start();
    let filters = || tool(&site.machine, &["tc", "filter", "show", "dev", "up0", "ingress"], "").matches("direct-action").count();
    let args = ["--tap", "other0", "--uplink", "up0", "--uplink-gate", "filter", "--publish", "9090:10.88.0.11:80"];
    let args = [&args[..], &["--gateway", "10.88.0.1/24"]].concat();
    let other = Switch::start_inside(site.machine.netns().try_clone().expect("a clone"), &args);
    assert_eq!(filters(), 2);
    other.finish();
    assert_eq!(filters(), 1);
    site.finish();
}

/// Without the right to bpf(2) a filter is used, and where the filter's place is another's, sockets; each is said once, and by
/// `doctor`. Another way than the one that was asked for is not taken.
fn what_the_kernel_grants() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let Site { machine, outside: _outside, .. } = Plan::new(Mode::Shared, 0).bare();
    let with_few_rights = |program: &str| {
        let mut command = Command::new("setpriv");
        ["--bounding-set", "--inh-caps", "--ambient-caps"].iter().for_each(|what| {
            command.arg(format!("{what}=-all,+net_admin,+net_raw"));
        });
        command.arg(program);
        command
    };
    let args = ["--tap", "tap0", "--uplink", "up0", "--control", &socket];
    let start = || Switch::start_by(machine.netns().try_clone().expect("a clone"), with_few_rights, &args);
    let gate = || json(&socket, &["show"])["uplink"]["gate"].as_str().expect("a word").to_owned();
    let doctor = || String::from_utf8(run(&socket, &["doctor"]).stdout).expect("text");
    let switch = start();
    assert_eq!((gate().as_str(), switch.times_logged("no gate")), ("filter", 1));
    assert!(switch.has_logged("CAP_BPF") && doctor().contains("gate filter: "));
    switch.finish();
    let theirs = "tc filter add dev up0 ingress pref 1 protocol ip bpf da bytecode";
    tool(&machine, &theirs.split(' ').chain(["1,6 0 0 4294967295"]).collect::<Vec<_>>(), "");
    let switch = start();
    assert_eq!((gate().as_str(), switch.times_logged("no gate")), ("sockets", 2));
    assert!(doctor().contains("a firewall that rejects ends them"));
    switch.finish();
    let named = [&args[..], &["--uplink-gate", "filter"]].concat();
    let ended = crate::switch::run_inside(machine.netns(), &mut crate::switch::daemon(&named));
    assert!(ended.code == Some(1) && ended.log.contains("--uplink-gate filter: no gate on up0; it needs"), "{ended:?}");
}

/// A rule for a port that a program has is refused and the program named; a program that takes the port later gets nothing,
/// and `doctor` names it.
fn a_published_port_in_use() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket]).start();
    let holder = site.machine.inside(|| TcpListener::bind(("0.0.0.0", 8080)));
    let refused = run(&socket, &["nat", "publish", "8080:10.77.0.11:80"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("is in use by") && said.contains(&std::process::id().to_string()),
        "{said}"
    );
    drop(holder);
    text(&socket, &["nat", "publish", "8080:10.77.0.11:80"]);
    let _holder = site.machine.inside(|| TcpListener::bind(("0.0.0.0", 8080)));
    let server = listen_on(site.guest(1), guest_address(1), 80);
    exchange(connect(&site.outside, &server, SocketAddrV4::new(MACHINE, 8080)));
    let said = String::from_utf8(run(&socket, &["doctor"]).stdout).expect("text");
    assert!(said.contains("published tcp 8080") && said.contains("the guest gets all packets"), "{said}");
    site.finish();
}

/// With so few descriptors a switch starts all the same, and answers while guests want more ports than it can reserve.
fn few_descriptors(most: u64) {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 2).silent().bare();
    let ports: Vec<String> = site.guests.iter().map(|guest| guest.port(":offload=off:gro=off")).collect();
    let args = ["--tap", &ports.join(","), "--uplink", "up0", "--uplink-gate", "sockets", "--control", &socket];
    let limited = Switch::start_by(
        site.machine.netns().try_clone().expect("a clone"),
        |daemon| {
            let mut command = Command::new("setpriv");
            command.arg("--bounding-set=-sys_resource").arg("--inh-caps=-sys_resource");
            command.arg("prlimit").arg(format!("--nofile={most}:{most}")).arg(daemon);
            command
        },
        &args,
    );
    let (one, two, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    let mut outer = HashSet::new();
    for round in 0..30_000_u32 {
        for guest in [&one, &two] {
            guest.send_udp(1024 + (round * 2 % 60_000) as u16, peer.at(53), b"?");
        }
        if round % 3000 == 0 {
            assert!(!text(&socket, &["show"]).is_empty());
            outer.extend(peer.seen().iter().filter(|seen| seen.protocol == 17).map(Datagram::from));
        }
    }
    assert!(!outer.is_empty(), "guests have some ports");
    let left = most as usize - limited.descriptors();
    assert!(left >= (most as usize / 2 - 16).min(512), "{left} descriptors are left");
    assert!(limited.has_logged("cannot reserve more of the host's ports"));
    limited.finish();
}
