//! Reconfiguration while the switch runs: what changes, what stays, and that an error changes nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libtest_mimic::Trial;
use netio::link::Change;
use netio::{link, netns};

use crate::control::{json, run, text};
use crate::exchange::Echo;
use crate::frames::{frame, is_ours, station};
use crate::guest::{Directory, StreamGuest};
use crate::host::{Host, Ip};
use crate::raw::RawSocket;
use crate::site::{FAR, GATEWAY, MACHINE, Mode, Plan, Site, connect, guest_address, listen_on, ping, udp_on};
use crate::switch::{Reloaded, Switch};
use crate::tunnel_site::Underlay;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("change/nothing_is_lost_over_100_reloads", nothing_is_lost_over_100_reloads),
        trial("change/a_port_comes_and_goes", a_port_comes_and_goes),
        trial("change/keys_change_in_place", keys_change_in_place),
        trial("change/a_device_made_anew", a_device_made_anew),
        trial("change/an_error_leaves_all_as_it_was", an_error_leaves_all_as_it_was),
        trial("change/rules_come_and_go", rules_come_and_go),
        trial("change/a_rule_for_a_port_in_use", a_rule_for_a_port_in_use),
        trial("change/what_needs_a_restart", what_needs_a_restart),
        trial("change/guests_places", guests_places),
        trial("change/numbers_are_not_used_up", numbers_are_not_used_up),
        trial("change/a_thousand_ports_later", a_thousand_ports_later),
        trial("change/verbs", verbs),
        trial("change/verbs_that_are_refused", verbs_that_are_refused),
        trial("change/apply", apply),
        trial("change/a_tunnel_comes_and_goes", a_tunnel_comes_and_goes),
        trial("change/tunnels_that_share_a_socket", tunnels_that_share_a_socket),
        trial("change/statics_of_tunnels_that_stay", statics_of_tunnels_that_stay),
        trial("change/groups_of_tunnels", groups_of_tunnels),
        trial("change/apply_where_flags_say_who_may", apply_where_flags_say_who_may),
        trial("change/nothing_is_lost_over_100_applies", nothing_is_lost_over_100_applies),
    ]
}

/// A configuration file.
struct File {
    path: PathBuf,
    _directory: Directory,
}

impl File {
    fn new(text: &str) -> File {
        let directory = Directory::new();
        let file = File { path: directory.path("v.toml"), _directory: directory };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).expect("written");
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("plain letters")
    }

    /// Writes the file and sends SIGHUP.
    fn reload(&self, switch: &Switch, text: &str) -> Reloaded {
        self.write(text);
        switch.reload()
    }
}

fn port(host: &Host, keys: &str) -> String {
    format!("[[bridge.br0.port]]\ntap = \"{}\"\nnetns = \"{}\"\n{keys}\n", host.name(), netns::path_of(host.netns()))
}

fn rule(listen: u16, guest: Ipv4Addr, port: u16) -> String {
    format!("[[publish]]\nlisten = \"{listen}\"\nto = \"{guest}:{port}\"\n")
}

/// The next frame of the test's own.
fn next(socket: &RawSocket) -> Vec<u8> {
    wait::until("a frame", || socket.recv().filter(|frame| is_ours(frame)))
}

/// An address beyond the uplink.
const TUNNEL: &str = "[[tunnel]]\ntype = \"vxlan\"\nvni = 42\nremotes = [\"203.0.113.9\"]\n";

/// Numbered datagrams from one socket to another; never more in flight than the smallest queue holds.
struct Numbered {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

impl Numbered {
    const UNDER_WAY: u64 = 64;

    fn start(from: UdpSocket, to: UdpSocket) -> Numbered {
        let (sent, received, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        from.connect(to.local_addr().expect("its address")).expect("connected");
        to.set_read_timeout(Some(Duration::from_millis(100))).expect("a read timeout");
        // While the kernel resolves a neighbour, a later datagram may overtake those that wait.
        from.send(b"who has").expect("sent");
        wait::until("the first datagram", || to.recv(&mut [0; 8]).ok());
        let (count, seen, over) = (Arc::clone(&sent), Arc::clone(&received), Arc::clone(&is_over));
        let sender = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                if number - seen.load(Ordering::Relaxed) < Numbered::UNDER_WAY {
                    from.send(&number.to_be_bytes()).expect("sent");
                    count.store(number + 1, Ordering::Relaxed);
                } else {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        });
        let (count, over) = (Arc::clone(&received), Arc::clone(&is_over));
        let receiver = thread::spawn(move || {
            let mut bytes = [0; 8];
            while !over.load(Ordering::Relaxed) {
                let Ok(8) = to.recv(&mut bytes) else { continue };
                let expected = count.load(Ordering::Relaxed);
                assert_eq!(u64::from_be_bytes(bytes), expected, "lost, twice, or in another order");
                count.store(expected + 1, Ordering::Relaxed);
            }
        });
        Numbered { sent, received, is_over, sender, receiver }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until `count` more have arrived.
    fn wait_for_more(&self, more: u64) {
        let before = self.received();
        wait::until("numbered datagrams", || (self.received() >= before + more).then_some(()));
    }

    /// Asserts that all that were sent have arrived.
    fn end(self) -> u64 {
        self.wait_for_more(Numbered::UNDER_WAY);
        self.is_over.store(true, Ordering::Relaxed);
        self.sender.join().expect("no panic");
        self.receiver.join().expect("none lost");
        self.sent.load(Ordering::Relaxed)
    }
}

/// Two guests, an uplink, and a file with further settings.
fn site_with(file: &File, guests: usize) -> Site {
    Plan::new(Mode::Shared, guests).args(&["--config", file.path()]).start()
}

fn nothing_is_lost_over_100_reloads() {
    let file = File::new("");
    let site = site_with(&file, 2);
    let third = Host::quiet("third");
    let numbered = Numbered::start(udp_on(site.guest(1), guest_address(1), 0), udp_on(site.guest(2), guest_address(2), 0));
    let listener = listen_on(&site.outside, FAR, 7000);
    let (mut near, mut far, seen) = connect(site.guest(1), &listener, SocketAddrV4::new(FAR, 7000));
    assert_eq!(*seen.ip(), MACHINE);
    let more = port(&third, "") + &rule(8080, guest_address(2), 80) + TUNNEL;
    for round in 0..100 {
        let text = if round % 2 == 0 { more.as_str() } else { "" };
        assert_eq!(file.reload(site.switch(), text), Reloaded::Changed, "round {round}");
        numbered.wait_for_more(10);
        near.write_all(&[round]).expect("sent");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("a byte");
        assert_eq!(byte[0], round, "the connection lives on");
    }
    assert!(numbered.end() > 1000);
    drop((near, far));
    let report = site.finish();
    assert_eq!((report.dropped_for("queue_full"), report.dropped_for("port_gone")), (0, 0));
}

fn a_port_comes_and_goes() {
    let [a, b, c] = ["a", "b", "c"].map(Host::quiet);
    let (base, file) = (port(&a, "") + &port(&b, ""), File::new(""));
    file.write(&base);
    let switch = Switch::start(&["--config", file.path()]);
    let more = base.clone() + &port(&c, "mtu = 1400");
    for _ in 0..3 {
        assert_eq!(file.reload(&switch, &more), Reloaded::Changed);
        assert_eq!(file.reload(&switch, &more), Reloaded::Same);
        assert_eq!(c.link().mtu, 1400);
        assert_eq!(switch.report().received_by("c"), 0, "it counts from zero");
        let (from_c, at_a) = (c.raw(), a.raw());
        let said = frame(station(1), station(3), b"hello from c");
        from_c.send(&said).expect("sent");
        assert_eq!(next(&at_a), said, "flooded");
        let report = switch.settle("one frame", |report| report.received_by("c") == 1);
        assert_eq!(report.table("entries"), 1);
        assert_eq!(file.reload(&switch, &base), Reloaded::Changed);
        wait::until("its device is gone", || c.try_inside(|| link::get("c")).err());
        let report = switch.settle("no entry of it", |report| report.table("entries") == 0);
        assert!(!report.has_port("c"));
        // To the station behind the removed port: flooded again.
        let at_b = b.raw();
        let to_c = frame(station(3), station(1), b"is anybody there?");
        a.raw().send(&to_c).expect("sent");
        assert_eq!(next(&at_b), to_c);
        assert_eq!(file.reload(&switch, &(base.clone() + "\n# the same")), Reloaded::Same);
        switch.settle("learned", |report| report.table("entries") == 1);
        // Removes the entry, for the next round.
        assert_eq!(file.reload(&switch, &(port(&a, "vlan = 5") + &port(&b, ""))), Reloaded::Changed);
        assert_eq!(file.reload(&switch, &base), Reloaded::Changed);
        switch.settle("forgotten", |report| report.table("entries") == 0);
    }
    let report = switch.finish();
    assert_eq!(report.received_by("(removed)"), 3);
}

/// VLAN, MTU and coalescing change; device and counters stay.
fn keys_change_in_place() {
    let [a, b] = ["a", "b"].map(Host::quiet);
    let file = File::new("");
    file.write(&(port(&a, "vlan = 10") + &port(&b, "vlan = 10")));
    let switch = Switch::start(&["--config", file.path()]);
    let (index, at_b) = (a.link().index, b.raw());
    let said = frame(station(2), station(1), b"hello");
    let sends = |arrives: bool, count: u64| {
        a.raw().send(&said).expect("sent");
        if arrives {
            assert_eq!(next(&at_b), said);
        }
        switch.settle("the frame", |report| report.received_by("a") == count)
    };
    sends(true, 1);
    let other = port(&a, "vlan = 20\nmtu = 9000\ngro = false") + &port(&b, "vlan = 10");
    assert_eq!(file.reload(&switch, &other), Reloaded::Changed);
    assert!(switch.has_logged("~ port a@") && switch.has_logged("access VLAN 10 -> access VLAN 20, mtu 9000, no gro"));
    assert_eq!(sends(false, 2).dropped("a", "no_destination"), 1);
    assert_eq!((a.link().index, a.link().mtu), (index, 9000));
    let back = port(&a, "vlan = 10") + &port(&b, "vlan = 10");
    assert_eq!(file.reload(&switch, &back), Reloaded::Changed);
    sends(true, 3);
    assert_eq!((a.link().index, a.link().mtu), (index, 1500));
    a.set_link(Change { mtu: Some(4000), ..Change::default() });
    let other = port(&a, "vlan = 20") + &port(&b, "vlan = 10");
    assert_eq!(file.reload(&switch, &other), Reloaded::Changed);
    assert_eq!(a.link().mtu, 4000, "an MTU that no file says");
    switch.finish();
}

/// Another kind of device with the same name: the device is replaced.
fn a_device_made_anew() {
    let [a, b] = ["a", "b"].map(Host::quiet);
    let file = File::new("");
    file.write(&(port(&a, "") + &port(&b, "")));
    let switch = Switch::start(&["--config", file.path()]);
    assert_eq!(file.reload(&switch, &(port(&a, "offload = false") + &port(&b, ""))), Reloaded::Changed);
    assert!(switch.has_logged("! port a@"));
    wait::until("the port is back", || switch.has_logged("port is back port=\"a\"").then_some(()));
    let (at_b, said) = (b.raw(), frame(station(2), station(1), b"hello"));
    a.raw().send(&said).expect("sent");
    assert_eq!(next(&at_b), said);
    switch.finish();
}

fn an_error_leaves_all_as_it_was() {
    let file = File::new("");
    let site = site_with(&file, 2);
    let [one, three] = ["one", "three"].map(Host::quiet);
    let numbered = Numbered::start(udp_on(site.guest(1), guest_address(1), 0), udp_on(site.guest(2), guest_address(2), 0));
    let ports = |keys: &str| {
        let second = format!("[[bridge.br0.port]]\ntap = \"two\"\n{keys}\n");
        port(&one, "") + &second + &port(&three, "") + &rule(8080, guest_address(1), 80)
    };
    let descriptors = site.switch().descriptors();
    for (text, say) in [
        (ports("netns = \"nowhere\""), "nowhere"),
        (ports("vlan = 4095"), "vlan is a number from 1 to 4094"),
        (ports("vlna = 10"), "v.toml:"),
        ("[[bridge.br0.port".to_owned(), "v.toml:1:"),
        (ports("") + "[[bridge.br0.port]]\npacket = \"eth99\"\n", "eth99"),
        (ports("") + "[[bridge.br0.port]]\ndgram = \"/nowhere/at/all\"\n", "/nowhere/at/all"),
        (ports("") + "[[bridge.br0.port]]\nstream = \"/nowhere/at/all\"\n", "/nowhere/at/all"),
        (ports("") + "[nat]\nports = \"2000-3000\"\n", "needs a restart: nat is "),
    ] {
        assert_eq!(file.reload(site.switch(), &text), Reloaded::Refused, "{text}");
        assert!(site.switch().has_logged(say), "not said: {say}");
        assert!(one.try_inside(|| link::get("one")).is_err() && three.try_inside(|| link::get("three")).is_err());
        assert!(!site.switch().report().has_port("one"));
        // Looking at a device in another namespace takes a descriptor for a moment, once a second.
        wait::until("as many descriptors as before", || (site.switch().descriptors() == descriptors).then_some(()));
        // The host may still hold the port.
        drop(site.machine.inside(|| TcpListener::bind((MACHINE, 8080))));
        numbered.wait_for_more(10);
    }
    // The file does not exist any more.
    fs::remove_file(&file.path).expect("removed");
    assert_eq!(site.switch().reload(), Reloaded::Refused);
    assert_eq!(file.reload(site.switch(), &ports("")), Reloaded::Changed, "the file is valid again");
    assert!(one.try_inside(|| link::get("one")).is_ok());
    numbered.end();
    site.finish();
}

fn rules_come_and_go() {
    let (web, mail) = (rule(8080, guest_address(1), 80), rule(8025, guest_address(2), 25));
    let file = File::new(&web);
    let site = site_with(&file, 2);
    let one = listen_on(site.guest(1), guest_address(1), 80);
    let two = listen_on(site.guest(2), guest_address(2), 80);
    let smtp = listen_on(site.guest(2), guest_address(2), 25);
    let refused = |port: u16| {
        let attempt = site.outside.try_inside(|| {
            std::net::TcpStream::connect_timeout(&SocketAddrV4::new(MACHINE, port).into(), Duration::from_millis(300))
        });
        assert!(attempt.is_err(), "port {port} leads somewhere");
    };
    let (mut near, mut far, _) = connect(&site.outside, &one, SocketAddrV4::new(MACHINE, 8080));
    assert_eq!(file.reload(site.switch(), &(web.clone() + &mail)), Reloaded::Changed);
    drop(connect(&site.outside, &smtp, SocketAddrV4::new(MACHINE, 8025)));
    near.write_all(b"a").expect("sent");
    far.read_exact(&mut [0]).expect("the connection by the first rule lives on");
    // The same port to another guest, and the other rule removed.
    assert_eq!(file.reload(site.switch(), &rule(8080, guest_address(2), 80)), Reloaded::Changed);
    drop(connect(&site.outside, &two, SocketAddrV4::new(MACHINE, 8080)));
    refused(8025);
    drop(site.machine.inside(|| TcpListener::bind((MACHINE, 8025))));
    assert_eq!(file.reload(site.switch(), ""), Reloaded::Changed);
    refused(8080);
    drop(site.machine.inside(|| TcpListener::bind((MACHINE, 8080))));
    site.finish();
}

/// Another program of the machine holds the second of two ports: neither is published.
fn a_rule_for_a_port_in_use() {
    let file = File::new("");
    let site = site_with(&file, 1);
    let theirs = site.machine.inside(|| TcpListener::bind((MACHINE, 8081)));
    let third = Host::quiet("third");
    let text = port(&third, "") + &rule(8080, guest_address(1), 80) + &rule(8081, guest_address(1), 81);
    assert_eq!(file.reload(site.switch(), &text), Reloaded::Refused);
    assert!(site.switch().has_logged("tcp port 8081 of 203.0.113.1 is in use by"));
    assert!(third.try_inside(|| link::get("third")).is_err());
    drop(site.machine.inside(|| TcpListener::bind((MACHINE, 8080))));
    drop(theirs);
    assert_eq!(file.reload(site.switch(), &text), Reloaded::Changed);
    let web = listen_on(site.guest(1), guest_address(1), 81);
    drop(connect(&site.outside, &web, SocketAddrV4::new(MACHINE, 8081)));
    site.finish();
}

fn what_needs_a_restart() {
    let file = File::new("");
    let site = site_with(&file, 1);
    for (text, say) in [
        ("workers = 7\n", "workers is "),
        ("[nat]\nmax-connections = 2000\n", "nat is "),
        ("busy-poll = 7\n", "busy-poll is 200, not 7"),
        ("max-ports = 7\n", "max-ports is 1024, not 7"),
    ] {
        assert_eq!(file.reload(site.switch(), text), Reloaded::Refused, "{text}");
        assert!(site.switch().has_logged(say), "not said: {say}");
    }
    assert_eq!(file.reload(site.switch(), "[nat]\ntimeouts = { udp = 200 }\nmss-clamp = false\n"), Reloaded::Changed);
    assert!(site.switch().has_logged("~ setting nat: "));
    assert_eq!(file.reload(site.switch(), ""), Reloaded::Changed);
    // A configuration that changes nothing needs none of the rights.
    assert_eq!(file.reload(site.switch(), "[bridge.br0]\nmac-table-size = 8192\n"), Reloaded::Same);
    assert_eq!(ping(site.guest(1), GATEWAY, 7).0, GATEWAY);
    site.finish();
}

/// More places at a path, fewer, and none; guests that stay are not disconnected.
fn guests_places() {
    let (a, directory) = (Host::quiet("a"), Directory::new());
    let path = directory.path("guests");
    let places = |count: u16| format!("{}[[bridge.br0.port]]\nstream = \"{}\"\nguests = {count}\n", port(&a, ""), path.display());
    let file = File::new("");
    file.write(&places(1));
    let switch = Switch::start(&["--config", file.path()]);
    let says = |guest: &mut StreamGuest<_>, number: u32| {
        let (said, at_a) = (frame(station(9), station(number), b"hello, everybody"), a.raw());
        guest.send(&said);
        assert_eq!(next(&at_a), said);
    };
    let mut first = StreamGuest::at(&path);
    says(&mut first, 1);
    assert_eq!(file.reload(&switch, &places(2)), Reloaded::Changed);
    let mut second = StreamGuest::at(&path);
    says(&mut second, 2);
    says(&mut first, 1);
    assert_eq!(file.reload(&switch, &places(1)), Reloaded::Changed);
    says(&mut first, 1);
    second.0.read_to_end(&mut Vec::new()).expect("the second has to go");
    assert_eq!(file.reload(&switch, &port(&a, "")), Reloaded::Changed);
    assert!(!path.exists(), "the socket file is removed");
    assert_eq!(file.reload(&switch, &places(1)), Reloaded::Changed);
    says(&mut StreamGuest::at(&path), 3);
    switch.finish();
}

/// At most 20 ports at once, while 1040 are added and removed in turn.
fn numbers_are_not_used_up() {
    let (a, directory) = (Host::quiet("a"), Directory::new());
    let more = format!("{}[[bridge.br0.port]]\nstream = \"{}\"\n", port(&a, ""), directory.path("guests").display());
    let file = File::new("");
    file.write(&port(&a, ""));
    let switch = Switch::start(&["--config", file.path(), "--max-ports", "20"]);
    let descriptors = switch.descriptors();
    for _ in 0..65 {
        assert_eq!(file.reload(&switch, &more), Reloaded::Changed);
        assert_eq!(file.reload(&switch, &port(&a, "")), Reloaded::Changed);
    }
    wait::until("all descriptors are closed", || (switch.descriptors() == descriptors).then_some(()));
    let too_many = more.clone() + "guests = 20\n";
    assert_eq!(file.reload(&switch, &too_many), Reloaded::Refused);
    assert!(switch.has_logged("21 ports, but there are at most 20; a guest's place is one, "));
    assert_eq!(file.reload(&switch, &more), Reloaded::Changed);
    switch.finish();
}

/// A switch that started without ports gets a thousand, and the last of them carry frames. Ports that do not exist cost nothing.
fn a_thousand_ports_later() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::quiet);
    let started = ["1024", "16384"].map(|most| {
        let socket = directory.text(most);
        let switch = Switch::start(&["--control", &socket, "--gateway", "10.0.0.1/24", "--max-ports", most, "--workers", "2"]);
        (socket, switch.memory(), switch)
    });
    let [(_, few, _), (_, many, _)] = &started;
    assert!(*many < few + 3 * 1024, "{few} KiB with room for 1024 ports, {many} with room for 16,384");
    for (socket, before, switch) in started {
        let places = |path: &str| format!("stream:{}:guests=1000", directory.text(path));
        text(&socket, &["port", "add", &places("first")]);
        for (host, number) in hosts.iter().zip(1..) {
            text(&socket, &["port", "add", &host.port("")]);
            host.configure(number);
        }
        let echo = Echo::on(&hosts[1], Ip::V4, 2);
        echo.asked_from(&hosts[0], Ip::V4, 1).ask();
        // A queue for each of two workers.
        let memory = switch.memory();
        assert!(memory < before + 12 * 1024, "{before} KiB without ports, {memory} with a thousand");
        let more = run(&socket, &["port", "add", &places("second")]);
        assert_eq!(more.status.success(), socket.ends_with("16384"), "{more:?}");
        drop(echo);
        switch.finish();
        for host in &hosts {
            wait::until("the device to go", || host.try_inside(|| link::get(host.name())).err());
        }
    }
}

/// A site with a control socket.
fn site_with_socket(socket: &str, guests: usize) -> Site {
    Plan::new(Mode::Shared, guests).args(&["--control", socket]).start()
}

/// The same from a file.
fn file_of(site: &Site) -> String {
    let ports: String = site.guests.iter().map(|guest| port(guest, "")).collect();
    ports + "[uplink]\ninterface = \"up0\"\n"
}

fn verbs() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with_socket(&socket, 2);
    let third = Host::quiet("third");
    let word = third.port(":vlan=7");
    assert_eq!(text(&socket, &["port", "add", &word]), format!("+ port {}: access VLAN 7\n", third.port("")));
    let added = json(&socket, &["port", "list"]);
    assert!(added.as_array().expect("ports").iter().any(|port| port["name"] == "third" && port["vlan"] == 7));
    assert_eq!(text(&socket, &["port", "del", "third"]), format!("- port {}: access VLAN 7\n", third.port("")));
    wait::until("its device is gone", || third.try_inside(|| link::get("third")).err());
    let guests = directory.text("guests");
    let answer = json(&socket, &["port", "add", &format!("stream:{guests}:guests=2")]);
    assert_eq!((&answer[0]["action"], &answer[0]["kind"]), (&"add".into(), &"port".into()));
    let _guest = StreamGuest::at(guests.as_ref());
    text(&socket, &["port", "del", &guests]);
    assert!(!PathBuf::from(&guests).exists());
    assert_eq!(text(&socket, &["nat", "publish", "8080:10.77.0.11:80"]), "+ rule tcp 8080 -> 10.77.0.11:80\n");
    let web = listen_on(site.guest(1), guest_address(1), 80);
    drop(connect(&site.outside, &web, SocketAddrV4::new(MACHINE, 8080)));
    assert_eq!(json(&socket, &["nat", "list"])["published"][0], "tcp 8080 -> 10.77.0.11:80");
    assert_eq!(text(&socket, &["nat", "unpublish", "8080:10.77.0.11:80/tcp"]), "- rule tcp 8080 -> 10.77.0.11:80\n");
    assert_eq!(json(&socket, &["nat", "list"])["published"].as_array().map(Vec::len), Some(0));
    site.finish();
}

fn verbs_that_are_refused() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with_socket(&socket, 1);
    let theirs = site.machine.inside(|| TcpListener::bind((MACHINE, 8080)));
    let before = text(&socket, &["show", "-o", "json"]);
    // Opening a FIFO blocks until another process opens it for writing.
    let pipe = format!("x@{}", directory.text("pipe"));
    let made = std::process::Command::new("mkfifo").arg(directory.path("pipe")).status();
    assert!(made.expect("mkfifo runs").success());
    let twice = site.guest(1).port(":vlan=7");
    let ports = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("json")["ports"].clone();
    for (words, say) in [
        (&["port", "add", &twice][..], "there is a port g1 already: remove it first"),
        (
            &["port", "add", "x@nowhere"],
            "x@nowhere: network namespace nowhere: there is none of this name in /run/netns: make it with",
        ),
        (&["port", "add", "x@pid:999999999"], "there is no such process: has it ended?"),
        (&["port", "add", &pipe], "network namespace /"),
        (&["port", "add", "x:vlna=1"], "did you mean 'vlan'?"),
        (&["port", "add", "packet:up0"], "up0 is the uplink"),
        (&["port", "del", "g2"], "there is no such port; did you mean"),
        (&["port", "del", "up0"], "the uplink is there from start to end"),
        (&["nat", "publish", "8080:10.77.0.11:80"], "is in use by"),
        (&["nat", "publish", "8081:10.77.1.11:80"], "nat publish 8081:10.77.1.11:80: "),
        (&["nat", "unpublish", "8080:10.77.0.11:80"], "there is no such rule"),
        (&["tunnel", "del", "vxlan1"], "there is no such tunnel"),
        (&["apply", "/nowhere"], "/nowhere: reading the configuration"),
    ] {
        let output = run(&socket, words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains(say), "{words:?}: {said}");
        assert_eq!(ports(&text(&socket, &["show", "-o", "json"])), ports(&before), "{words:?}");
    }
    drop(theirs);
    site.finish();
}

fn apply() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with_socket(&socket, 2);
    let third = Host::quiet("third");
    let file = File::new(&file_of(&site));
    let apply = |more: &[&str]| text(&socket, &[&["apply", file.path()], more].concat());
    assert_eq!(apply(&[]), "configuration unchanged\n");
    let more = file_of(&site) + &port(&third, "vlan = 7") + &rule(8080, guest_address(1), 80);
    file.write(&more);
    let lines = format!("+ port {}: access VLAN 7\n+ rule tcp 8080 -> 10.77.0.11:80\n", third.port(""));
    for _ in 0..2 {
        assert_eq!(apply(&["--dry-run"]), lines);
        assert!(third.try_inside(|| link::get("third")).is_err(), "a dry run makes nothing");
        drop(site.machine.inside(|| TcpListener::bind((MACHINE, 8080))));
    }
    assert_eq!(apply(&[]), lines);
    assert!(third.try_inside(|| link::get("third")).is_ok());
    // What a verb added is not in the file, and is removed.
    text(&socket, &["nat", "publish", "8081:10.77.0.12:80"]);
    assert_eq!(apply(&["--dry-run"]), "- rule tcp 8081 -> 10.77.0.12:80\n");
    assert_eq!(apply(&[]), "- rule tcp 8081 -> 10.77.0.12:80\n");
    file.write(&(more.clone() + "[nat]\nmax-connections = 2000\n"));
    for words in [&["--dry-run"][..], &[]] {
        let output = run(&socket, &[&["apply", file.path()], words].concat());
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("this needs a restart: nat is "), "{said}");
    }
    file.write(&(more + "[[publish]]\nlisten = \"9999\"\nto = \"10.77.0.11\"\n"));
    let said = String::from_utf8(run(&socket, &["apply", file.path()]).stderr).expect("text");
    assert!(said.contains("v.toml:"), "the file and the line: {said}");
    site.finish();
}

/// As a service is started: the socket and its rights by flags, everything else in the file.
fn apply_where_flags_say_who_may() {
    let (a, directory) = (Host::quiet("a"), Directory::new());
    let (socket, file) = (directory.text("control"), File::new(""));
    file.write(&port(&a, ""));
    let group = ["--control-group", "root", "--control-read-only-others"];
    let switch = Switch::start(&[&["--config", file.path(), "--control", &socket][..], &group].concat());
    assert_eq!(text(&socket, &["apply", file.path()]), "configuration unchanged\n");
    file.write(&(port(&a, "") + "[control]\nread-only-others = false\n"));
    let said = String::from_utf8(run(&socket, &["apply", file.path()]).stderr).expect("text");
    assert!(said.contains("this needs a restart: control is ") && said.contains("group root, others may read, not "), "{said}");
    switch.finish();
}

fn nothing_is_lost_over_100_applies() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with_socket(&socket, 2);
    let third = Host::quiet("third");
    let base = File::new(&file_of(&site));
    let more = File::new(&(file_of(&site) + &port(&third, "") + &rule(8080, guest_address(2), 80) + TUNNEL));
    let numbered = Numbered::start(udp_on(site.guest(1), guest_address(1), 0), udp_on(site.guest(2), guest_address(2), 0));
    for round in 0..100 {
        let file = if round % 2 == 0 { &more } else { &base };
        assert_eq!(text(&socket, &["apply", file.path()]).lines().count(), 3, "round {round}");
        numbered.wait_for_more(10);
    }
    assert!(numbered.end() > 1000);
    site.finish();
}

/// Two machines; the second one's tunnel exists all the time.
struct Machines {
    underlay: Underlay,
    here: Host,
    there: Host,
    far: Switch,
    switch: Switch,
    socket: String,
    _directory: Directory,
}

impl Machines {
    fn new() -> Machines {
        let directory = Directory::new();
        let (underlay, here, there, socket) =
            (Underlay::pair(Ip::V4), Host::quiet("here"), Host::quiet("there"), directory.text("control"));
        let far = underlay.daemon_for(2, &[1], &there);
        let switch = underlay.daemon(1, &[here.port("")], &["--control".to_owned(), socket.clone()]);
        Machines { underlay, here, there, far, switch, socket, _directory: directory }
    }

    fn word(&self, vni: u32) -> String {
        self.underlay.vxlan(vni, 1, &[2], "")[1].clone()
    }

    /// Asserts that frames pass in both directions.
    fn exchange(&self) {
        for (from, to, number) in [(&self.here, &self.there, 1), (&self.there, &self.here, 2)] {
            let (said, at) = (frame(station(9), station(number), b"through the tunnel"), to.raw());
            from.raw().send(&said).expect("sent");
            assert_eq!(next(&at), said);
        }
    }

    fn finish(self) {
        self.switch.finish();
        self.far.finish();
        self.underlay.finish();
    }
}

fn a_tunnel_comes_and_goes() {
    let site = Machines::new();
    let descriptors = site.switch.descriptors();
    for round in 1..=5 {
        let said = text(&site.socket, &["tunnel", "add", &site.word(42)]);
        assert_eq!(said, "+ tunnel vxlan42: VNI 42, port 4789, local 192.0.2.1, remote 192.0.2.2, all VLANs\n");
        site.exchange();
        assert_eq!(json(&site.socket, &["tunnel", "list"])[0]["peers"][0]["rx_frames"], 1, "counted from zero, round {round}");
        assert_eq!(site.switch.settle("learned", |report| report.table("entries") == 2).table("entries"), 2);
        assert!(text(&site.socket, &["tunnel", "del", "vxlan42"]).starts_with("- tunnel vxlan42: "));
        site.switch.settle("no entry behind it", |report| report.table("entries") == 1);
        site.here.raw().send(&frame(station(9), station(1), b"into the void")).expect("sent");
        site.switch.settle("no route", |report| report.dropped("here", "no_destination") == round);
        wait::until("its sockets are closed", || (site.switch.descriptors() == descriptors).then_some(()));
    }
    // A tunnel that cannot be added leaves nothing behind.
    let taken = site.underlay.machine(1).inside(|| UdpSocket::bind(("192.0.2.1", 4789)));
    let output = run(&site.socket, &["tunnel", "add", &site.word(42)]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("UDP port 4789 of 192.0.2.1 is in use by"), "{said}");
    drop(taken);
    // The client's own descriptor closes once the server notices the end of the connection.
    wait::until("nothing is left of it", || (site.switch.descriptors() == descriptors).then_some(()));
    text(&site.socket, &["tunnel", "add", &site.word(42)]);
    site.exchange();
    site.finish();
}

/// The second tunnel shares the first one's socket, and goes on when the first is removed.
fn tunnels_that_share_a_socket() {
    let site = Machines::new();
    text(&site.socket, &["tunnel", "add", &site.word(7)]);
    text(&site.socket, &["tunnel", "add", &site.word(42)]);
    site.exchange();
    let wide = run(&site.socket, &["tunnel", "add", "vni=8,remote=192.0.2.2"]);
    assert!(String::from_utf8(wide.stderr).expect("text").contains("leaves no room for a socket of any address beside it"));
    text(&site.socket, &["tunnel", "del", "vxlan7"]);
    site.exchange();
    assert_eq!(json(&site.socket, &["tunnel", "list"]).as_array().map(Vec::len), Some(1));
    let without_local = "[[tunnel]]\ntype = \"vxlan\"\nvni = 42\nremotes = [\"192.0.2.2\"]\n";
    let file = File::new(&(port(&site.here, "") + without_local));
    let replaced = run(&site.socket, &["apply", file.path()]);
    let said = String::from_utf8(replaced.stderr).expect("text");
    assert!(said.contains("beside it: remove vxlan42 first, then apply this"), "{said}");
    site.finish();
}

/// A socket that two tunnels share is a member of the groups of existing tunnels, and not of a refused one's.
fn groups_of_tunnels() {
    let (underlay, host, directory) = (Underlay::pair(Ip::V4), Host::quiet("here"), Directory::new());
    let (socket, file) = (directory.text("control"), File::new(""));
    let tunnel = |vni: u32, last: u8| {
        let group = format!("vni = {vni}\ngroup = \"239.0.0.{last}\"\npeers = [\"192.0.2.0/24\"]");
        format!("[[tunnel]]\ntype = \"vxlan\"\n{group}\nlocal = \"192.0.2.1\"\ndev = \"u1\"\n")
    };
    let ours = "[[tunnel]]\ntype = \"vxlan\"\nvni = 9\nport = 4790\nremotes = [\"192.0.2.1\"]\n";
    let first = port(&host, "") + &tunnel(1, 1);
    file.write(&first);
    let switch = Switch::start_inside(
        underlay.machine(1).netns().try_clone().expect("a clone"),
        &["--config", file.path(), "--control", &socket].map(str::to_owned),
    );
    let heard = || {
        let table = underlay.machine(1).inside(|| fs::read_to_string("/proc/thread-self/net/igmp"));
        (1..=3).filter(|last| table.contains(&format!("{:08X}", u32::from_ne_bytes([239, 0, 0, *last])))).collect::<Vec<u8>>()
    };
    assert_eq!(heard(), [1]);
    file.write(&(first.clone() + &tunnel(2, 2) + ours));
    let said = String::from_utf8(run(&socket, &["apply", file.path()]).stderr).expect("text");
    assert!(said.contains("is an address of this host"), "{said}");
    assert_eq!(heard(), [1], "a refused tunnel joins no group");
    file.write(&(first + &tunnel(3, 3)));
    text(&socket, &["apply", file.path()]);
    assert_eq!(heard(), [1, 3]);
    text(&socket, &["tunnel", "del", "vxlan1"]);
    assert_eq!(heard(), [3], "its socket is the other one's now");
    switch.finish();
    underlay.finish();
}

/// Static entries of a tunnel that an operator removed do not come back when another tunnel is added.
fn statics_of_tunnels_that_stay() {
    let site = Machines::new();
    let mac = |number: u32| station(number).to_string();
    let keys = format!(",mac={}@192.0.2.2+{}@192.0.2.2", mac(7), mac(8));
    text(&site.socket, &["tunnel", "add", &(site.word(42) + &keys)]);
    let statics = || {
        let entries = json(&site.socket, &["fdb", "show"]);
        let of = |entry: &serde_json::Value| format!("{} {}", entry["mac"], entry["port"]).replace('"', "");
        let mut found: Vec<String> = entries.as_array().expect("entries").iter().map(of).collect();
        found.sort_unstable();
        found
    };
    let far = |number: u32, tunnel: &str| format!("{} {tunnel}/192.0.2.2", mac(number));
    assert_eq!(statics(), [far(7, "vxlan42"), far(8, "vxlan42")]);
    text(&site.socket, &["fdb", "del", &mac(7)]);
    text(&site.socket, &["fdb", "add", &mac(8), "here"]);
    let keys = format!(",mac={}@192.0.2.2", mac(9));
    text(&site.socket, &["tunnel", "add", &(site.word(43) + &keys)]);
    assert_eq!(statics(), [format!("{} here", mac(8)), far(9, "vxlan43")]);
    site.finish();
}
