//! What outlives the process, with a state directory: devices, connections, what verbs made.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netio::link::{self, Change, Link};
use netio::netns;
use netio::route::{self, Route};
use rustix::process::{Pid, Signal, kill_process};

use crate::control::{json, run};
use crate::exchange::{Background, Echo};
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::site::{
    FAR, MACHINE, Mode, NEXT_HOP, Plan, Site, assert_empty, connect, default_route, give, guest_address, listen_on, local, ping,
    recv_from, take, udp_on,
};
use crate::switch::{Switch, daemon, run_inside};
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("outlives/one_daemon_a_directory", one_daemon_a_directory),
        trial("outlives/devices_and_what_guests_gave_them", devices_and_what_guests_gave_them),
        trial("outlives/a_guest_that_has_changed", a_guest_that_has_changed),
        trial("outlives/a_tunnel_with_another_address", a_tunnel_with_another_address),
        trial("outlives/a_holder_that_was_killed", a_holder_that_was_killed),
        trial("outlives/a_start_that_fails_takes_nothing", a_start_that_fails_takes_nothing),
        trial("outlives/a_namespace_in_other_words", a_namespace_in_other_words),
        trial("outlives/a_holder_and_then_a_manager", a_holder_and_then_a_manager),
        trial("outlives/what_verbs_own", what_verbs_own),
        trial("outlives/what_verbs_owned_before_the_file", what_verbs_owned_before_the_file),
        trial("outlives/state_that_cannot_be_read_or_written", state_that_cannot_be_read_or_written),
        trial("outlives/upgrade_that_is_refused", upgrade_that_is_refused),
        trial("outlives/connections_shared", || connections(Mode::Shared, 2)),
        trial("outlives/connections_own", || connections(Mode::Own, 2)),
        trial("outlives/two_ends_without_an_address", two_ends_without_an_address),
        trial("outlives/connections_of_whom_they_belonged_to", connections_of_whom_they_belonged_to),
    ]
}

fn one_daemon_a_directory() {
    let (directory, host) = (Directory::new(), Host::quiet("a"));
    let state = directory.text("state");
    let switch = Switch::start(&["--control", "none", "--state", &state, "--tap", &host.port("")]);
    assert!(switch.summary().contains(&format!("state in {state}")), "{:?}", switch.summary());
    let netns = netns::create().expect("a namespace");
    let second = run_inside(&netns, &mut daemon(&["--control", "none", "--state", &state, "--tap", "b"]));
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.log.contains(&format!("the state directory {state} is in use by another daemon, process ")), "{second:?}");
    assert_eq!(netns::inside(netns.as_fd(), link::names).expect("its links"), ["lo"], "nothing was made");
    switch.finish();
    // A file is in the way.
    let netns = netns::create().expect("a namespace");
    let file = directory.text("file");
    fs::write(&file, "").expect("written");
    let refused = run_inside(&netns, &mut daemon(&["--control", "none", "--state", &file, "--tap", "b"]));
    assert!(refused.code == Some(1) && refused.log.contains(&format!("state directory {file}: ")), "{refused:?}");
}

/// Everything that a guest sees of its interface.
fn seen_by(host: &Host) -> (Link, Vec<Route>) {
    host.inside(|| {
        let link = link::get(host.name())?;
        let routes = route::routes(link.index)?.0;
        // Counters go on.
        Ok((Link { tx_dropped: 0, tun: None, ..link }, routes))
    })
}

/// The process that holds descriptors for this state directory.
fn holder_of(state: &str) -> Option<Pid> {
    let socket = Path::new(state).join("holder");
    let is_it = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == socket.as_os_str().as_encoded_bytes())
    };
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Pid::from_raw(pids.into_iter().find(is_it)?)
}

/// Two guests in namespaces of their own, one of them with several queues, and one in the daemon's.
struct Guests {
    own: Host,
    others: [Host; 2],
    args: Vec<String>,
}

impl Guests {
    fn new(directory: &Directory) -> Guests {
        let (own, others) = (Host::quiet("own"), [Host::quiet("a"), Host::quiet("b")]);
        let taps = format!("own,{},{}", others[0].port(""), others[1].port(":mtu=1400"));
        let args =
            ["--control", &directory.text("control"), "--state", &directory.text("state"), "--tap", &taps, "--workers", "2"];
        Guests { own, others, args: args.map(str::to_owned).to_vec() }
    }

    fn start(&self) -> Switch {
        Switch::start_inside(self.own.netns().try_clone().expect("a clone"), &self.args)
    }

    fn all(&self) -> [&Host; 3] {
        [&self.own, &self.others[0], &self.others[1]]
    }

    fn configure(&self) {
        for (host, number) in self.all().into_iter().zip(1..) {
            host.configure(number);
            crate::site::add_route(host, Ipv4Addr::new(10, 9, 0, 0), 16, Ipv4Addr::new(198, 18, 0, 99));
        }
    }

    /// Each reaches the next one.
    fn talk(&self) {
        let all = self.all();
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let echo = Echo::on(all[to], Ip::V4, to as u8 + 1);
            echo.asked_from(all[from], Ip::V4, from as u8 + 1).ask_within(std::time::Duration::from_millis(200), 50);
        }
    }

    fn expect_no_device(&self) {
        for host in self.all() {
            wait::until("the device to go", || host.try_inside(|| link::get(host.name())).is_err().then_some(()));
        }
    }
}

/// Index, MAC address, carrier, addresses and routes are what they were, while no process runs and with the next one. A device goes
/// with its port, and all of them with the switch.
fn devices_and_what_guests_gave_them() {
    let directory = Directory::new();
    let guests = Guests::new(&directory);
    let (state, socket) = (directory.text("state"), directory.text("control"));
    let mut switch = guests.start();
    guests.configure();
    guests.talk();
    let before = guests.all().map(seen_by);
    assert!(before.iter().all(|(link, routes)| link.carrier && routes.len() == 2), "{before:?}");
    for round in 0..3 {
        if round == 1 {
            switch.finish();
        } else {
            switch.kill();
        }
        assert_eq!(guests.all().map(seen_by), before, "while no switch runs, {round}");
        switch = guests.start();
        assert_eq!(guests.all().map(seen_by), before, "with the next one, {round}");
        guests.talk();
    }
    assert!(run(&socket, &["port", "del", "a"]).status.success());
    wait::until("the device to go", || guests.others[0].try_inside(|| link::get("a")).is_err().then_some(()));
    assert!(run(&socket, &["port", "add", &guests.others[0].port("")]).status.success());
    // The others know it by that.
    guests.others[0].set_link(Change { mac: Some(before[1].0.mac), ..Change::default() });
    guests.others[0].configure(2);
    switch.kill();
    assert!(guests.others[0].link().carrier, "one that a verb added");
    let switch = guests.start();
    guests.talk();
    assert_eq!(json(&socket, &["port", "list"]).as_array().map(Vec::len), Some(3));
    assert!(holder_of(&state).is_some());
    assert!(run(&socket, &["stop"]).status.success());
    drop(switch);
    guests.expect_no_device();
    wait::until("the holder's end", || holder_of(&state).is_none().then_some(()));
}

/// While no switch runs, its MAC address, its address or both become others, with and without a holder of the device.
fn a_guest_that_has_changed() {
    let directory = Directory::new();
    let (state, socket, file) = (directory.text("state"), directory.text("control"), directory.text("v.toml"));
    let (own, host) = (Host::quiet("own"), Host::quiet("eth0"));
    let gateway = Ipv4Addr::new(10, 71, 0, 1);
    let start = |mac: u8, address: u8| {
        let netns = netns::path_of(host.netns());
        let guest = format!(
            "[bridge.blue]\ngateway = '{gateway}/24'\n[[guest]]\nid = 'a'\nnetwork = 'blue'\ninterface = 'eth0'\n\
             netns = '{netns}'\nmac = '02:00:00:00:00:{mac:02x}'\naddress = ['10.71.0.{address}/24']\n"
        );
        fs::write(&file, guest).expect("written");
        let own = own.netns().try_clone().expect("a clone");
        let switch = Switch::start_inside(own, &["--config", &file, "--state", &state, "--control", &socket]);
        assert_eq!(host.link().mac.to_string(), format!("02:00:00:00:00:{mac:02x}"));
        let addresses = host.inside(|| route::addresses(link::get("eth0")?.index));
        assert_eq!(addresses, [(Ipv4Addr::new(10, 71, 0, address), 24)]);
        assert_eq!(ping(&host, gateway, 1).0, gateway);
        switch
    };
    let mut switch = start(2, 2);
    let (mut mac, mut address, mut index) = (2, 2, host.link().index);
    for (next_mac, next_address, has_holder) in
        [(3, 2, true), (3, 3, true), (4, 4, true), (4, 4, true), (5, 4, false), (5, 5, false), (5, 5, false)]
    {
        if !has_holder {
            kill_process(holder_of(&state).expect("a holder"), Signal::KILL).expect("killed");
        }
        switch.kill();
        switch = start(next_mac, next_address);
        // As with `guest set`, only a device that is made anew has other addresses.
        assert_eq!(host.link().index == index, next_address == address, "{mac} {address} -> {next_mac} {next_address}");
        (mac, address, index) = (next_mac, next_address, host.link().index);
    }
    switch.finish_by(Signal::INT);
}

/// A tunnel's TUN device has the address of now, with and without a holder of the device; and is the same one if that has not changed.
fn a_tunnel_with_another_address() {
    let directory = Directory::new();
    let (state, host) = (directory.text("state"), Host::quiet("tun0"));
    host.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
    let start = |address: u8| {
        let tunnel = format!("tun=tun0,address=10.9.0.{address}/24,route=10.9.1.0/24@192.0.2.2");
        let args = ["--control", "none", "--state", &state, "--udp-ip", &tunnel];
        let switch = Switch::start_inside(host.netns().try_clone().expect("a clone"), &args);
        assert_eq!(host.inside(|| route::addresses(link::get("tun0")?.index)), [(Ipv4Addr::new(10, 9, 0, address), 24)]);
        (switch, host.link().index)
    };
    let (mut switch, mut index) = start(1);
    let mut before = 1;
    for (address, has_holder) in [(1, true), (2, true), (2, false), (3, false)] {
        if !has_holder {
            kill_process(holder_of(&state).expect("a holder"), Signal::KILL).expect("killed");
        }
        switch.kill();
        let now = start(address);
        assert_eq!(now.1 == index, address == before, "{before} -> {address}");
        (switch, index) = now;
        before = address;
    }
    switch.finish_by(Signal::INT);
}

/// Without it the carrier goes while no switch runs, and nothing else; the next switch knows its devices all the same.
fn a_holder_that_was_killed() {
    let directory = Directory::new();
    let guests = Guests::new(&directory);
    let state = directory.text("state");
    let switch = guests.start();
    guests.configure();
    let before = guests.all().map(seen_by);
    let first = holder_of(&state).expect("a holder");
    kill_process(first, Signal::KILL).expect("killed");
    let second = wait::until("another holder", || holder_of(&state).filter(|pid| *pid != first));
    wait::until("the descriptors to be held again", || {
        let held = fs::read_dir(format!("/proc/{}/fd", second.as_raw_nonzero())).ok()?;
        (held.count() >= 6).then_some(())
    });
    switch.kill();
    assert_eq!(guests.all().map(seen_by), before);
    kill_process(second, Signal::KILL).expect("killed");
    wait::until("the carrier to go", || (!guests.own.link().carrier).then_some(()));
    let switch = guests.start();
    assert_eq!(guests.all().map(seen_by), before);
    guests.talk();
    switch.finish_by(Signal::INT);
    guests.expect_no_device();
}

/// Devices of before stay for the next start, and those that this one made do not.
fn a_start_that_fails_takes_nothing() {
    let directory = Directory::new();
    let mut guests = Guests::new(&directory);
    guests.start().kill();
    let before = guests.all().map(seen_by);
    let further = Host::quiet("further");
    let args = guests.args.clone();
    guests.args.extend(["--tap".to_owned(), further.port(""), "--tap".to_owned(), "lo".to_owned()]);
    let failed = run_inside(guests.own.netns(), &mut daemon(&guests.args));
    assert_eq!(failed.code, Some(1), "{failed:?}");
    wait::until("the new device to go", || further.try_inside(|| link::get("further")).is_err().then_some(()));
    assert_eq!(guests.all().map(seen_by), before);
    guests.args = args;
    let switch = guests.start();
    assert_eq!(guests.all().map(seen_by), before);
    switch.finish_by(Signal::INT);
    guests.expect_no_device();
}

/// The longest time without progress of something that goes on all the time.
#[derive(Clone, Debug, Default)]
struct Gap(Arc<Mutex<(Option<Instant>, Duration)>>);

impl Gap {
    fn progress(&self) {
        let mut state = self.0.lock().expect("a gap");
        let now = Instant::now();
        state.1 = state.0.map_or(Duration::ZERO, |last| now - last).max(state.1);
        state.0 = Some(now);
    }

    fn longest(&self) -> Duration {
        self.0.lock().expect("a gap").1
    }
}

/// Bytes that go one way through a connection without end, each the low byte of its place.
struct Stream {
    gap: Gap,
    threads: [Background; 2],
    /// The sender's end, which is not closed before the receiver has ended.
    open: TcpStream,
    received: Arc<AtomicU64>,
}

impl Stream {
    fn start(mut from: TcpStream, mut to: TcpStream) -> Stream {
        let (gap, received) = (Gap::default(), Arc::new(AtomicU64::new(0)));
        from.set_write_timeout(Some(wait::NEVER)).expect("set");
        to.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
        let open = from.try_clone().expect("a clone");
        let mut sent = 0_u64;
        let sending = Background::run(move || {
            let bytes: Vec<u8> = (sent..sent + 4096).map(|at| at as u8).collect();
            from.write_all(&bytes).expect("a connection that is not reset");
            sent += bytes.len() as u64;
            thread::sleep(Duration::from_millis(2));
        });
        let (seen, count) = (gap.clone(), Arc::clone(&received));
        let receiving = Background::run(move || {
            let mut bytes = [0; 65_536];
            let got = match to.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                got => got.expect("a connection that is not reset"),
            };
            let from = count.fetch_add(got as u64, Ordering::Relaxed);
            assert!(got > 0 && bytes[..got].iter().zip(from..).all(|(byte, at)| *byte == at as u8), "{got} bytes from {from}");
            seen.progress();
        });
        Stream { gap, received, threads: [sending, receiving], open }
    }

    fn goes_on(&self) {
        let before = self.received.load(Ordering::Relaxed);
        wait::until("bytes after the start", || (self.received.load(Ordering::Relaxed) > before + 65_536).then_some(()));
    }
}

/// Numbered datagrams of a guest, 500 a second, and the answers to them.
fn datagrams(site: &Site) -> (Gap, Arc<AtomicU64>, [Background; 2]) {
    let (far, near) = (udp_on(&site.outside, FAR, 5353), udp_on(site.guest(1), guest_address(1), 0));
    near.connect((FAR, 5353)).expect("connected");
    let asks = near.try_clone().expect("a clone");
    let mut number = 0_u64;
    let asking = Background::run(move || {
        number += 1;
        let _ = asks.send(&number.to_be_bytes());
        let mut bytes = [0; 8];
        far.set_read_timeout(Some(Duration::from_millis(2))).expect("set");
        if let Ok((len, from)) = far.recv_from(&mut bytes) {
            let _ = far.send_to(&bytes[..len], from);
        }
        thread::sleep(Duration::from_millis(1));
    });
    let (gap, count) = (Gap::default(), Arc::new(AtomicU64::new(0)));
    let (seen, counted) = (gap.clone(), Arc::clone(&count));
    near.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let hearing = Background::run(move || {
        let mut bytes = [0; 8];
        if near.recv(&mut bytes).is_ok() {
            seen.progress();
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (gap, count, [asking, hearing])
}

/// A process that never had an outside address leaves the connections that it found.
fn two_ends_without_an_address() {
    let directory = Directory::new();
    let mut site = Plan::new(Mode::Shared, 1).args(&["--state", &directory.text("state")]).start();
    let far = listen_on(&site.outside, FAR, 80);
    let (near, far, _) = connect(site.guest(1), &far, SocketAddrV4::new(FAR, 80));
    let stream = Stream::start(near, far);
    stream.goes_on();
    take(&site.machine, MACHINE, 24);
    site.restart_after_kill();
    site.restart();
    site.restart_after_kill();
    assert!(!site.switch().has_logged("are taken over"));
    give(&site.machine, MACHINE, 24);
    default_route(&site.machine, NEXT_HOP);
    wait::until("the connection", || site.switch().has_logged("are taken over connections=1 ").then_some(()));
    stream.goes_on();
    // From now on it is in the table of this process.
    site.restart_after_kill();
    wait::until("the connection", || site.switch().has_logged("are taken over connections=1 ").then_some(()));
    stream.goes_on();
    let Stream { threads, open, .. } = stream;
    threads.into_iter().for_each(Background::end);
    drop(open);
    site.finish();
}

/// Uploads and downloads of guests, a published port under load and numbered datagrams go on over `kill -9`, SIGTERM with a start, and
/// an upgrade: none is reset, none hears a wrong byte. No packet of them makes the host answer.
fn connections(mode: Mode, rounds: usize) {
    let directory = Directory::new();
    let (state, socket) = (directory.text("state"), directory.text("control"));
    let args = ["--state", &state, "--control", &socket, "--publish", "8080:10.77.0.12:80"];
    let mut site = Plan::new(mode, 2).args(&args).start();
    let far = listen_on(&site.outside, FAR, 80);
    let inside = listen_on(site.guest(2), guest_address(2), 80);
    let (up, up_far, _) = connect(site.guest(1), &far, SocketAddrV4::new(FAR, 80));
    let (down, down_far, _) = connect(site.guest(1), &far, SocketAddrV4::new(FAR, 80));
    let (client, server, _) = connect(&site.outside, &inside, SocketAddrV4::new(site.address(), 8080));
    let streams = [Stream::start(up, up_far), Stream::start(down_far, down), Stream::start(client, server)];
    let (gap, count, asking) = datagrams(&site);
    streams.iter().for_each(Stream::goes_on);
    for round in 0..3 * rounds {
        match round % 3 {
            0 => site.restart_after_kill(),
            1 => site.restart(),
            _ => {
                assert!(run(&socket, &["upgrade"]).status.success());
            }
        }
        let are_there = "connections of the process before are taken over connections=4";
        let times = 1 + usize::from(round % 3 == 2);
        wait::until("the connections to be taken over", || (site.switch().times_logged(are_there) == times).then_some(()));
        streams.iter().for_each(Stream::goes_on);
        let before = count.load(Ordering::Relaxed);
        wait::until("datagrams after the start", || (count.load(Ordering::Relaxed) > before + 50).then_some(()));
    }
    let longest: Vec<Duration> = streams.iter().map(|stream| stream.gap.longest()).collect();
    println!("{mode:?}: longest gaps: TCP {longest:?}, datagrams {:?}", gap.longest());
    let open = streams.map(|stream| {
        stream.threads.into_iter().for_each(Background::end);
        stream.open
    });
    asking.into_iter().for_each(Background::end);
    drop(open);
    site.switch.take().expect("it runs").finish_by(Signal::INT);
}

/// While no switch runs, one guest gives its address to another, and the network of a second one becomes another bridge's. What outside
/// hosts send to them does not reach their heirs, and a third guest loses nothing.
fn connections_of_whom_they_belonged_to() {
    let directory = Directory::new();
    let (state, socket, file) = (directory.text("state"), directory.text("control"), directory.text("v.toml"));
    let site = Plan::new(Mode::Shared, 3).bare();
    let hosts = [1, 2, 3].map(|n| Host::in_namespace("eth0", site.guest(n).netns().try_clone().expect("a clone")));
    let addresses = [Ipv4Addr::new(10, 71, 0, 2), Ipv4Addr::new(10, 72, 0, 2), Ipv4Addr::new(10, 71, 0, 3)];
    let start = |first: &str, second: &str| {
        let mut text = format!(
            "[uplink]\ninterface = 'up0'\n[bridge.blue]\ngateway = '10.71.0.1/24'\n[bridge.{second}]\ngateway = '10.72.0.1/24'\n"
        );
        for ((host, address), (id, network)) in hosts.iter().zip(addresses).zip([(first, "blue"), ("b", second), ("c", "blue")]) {
            let netns = netio::netns::path_of(host.netns());
            text += &format!("[[guest]]\nid = '{id}'\nnetwork = '{network}'\ninterface = 'eth0'\nnetns = '{netns}'\n");
            text += &format!("address = ['{address}/24']\n");
        }
        std::fs::write(&file, text).expect("written");
        let machine = site.machine.netns().try_clone().expect("a clone");
        Switch::start_inside(machine, &["--config", &file, "--state", &state, "--control", &socket])
    };
    let server = udp_on(&site.outside, FAR, 0);
    let sockets = |port: u16| [0, 1, 2].map(|n| udp_on(&hosts[n], addresses[n], port));
    let switch = start("a", "red");
    let clients = sockets(5000);
    let outside = clients.each_ref().map(|client| {
        client.send_to(b"hello", (FAR, local(&server).port())).expect("sent");
        recv_from(&server).1
    });
    drop(clients);
    switch.kill();
    let switch = start("heir", "green");
    wait::until("the connections to be taken over", || switch.has_logged("are taken over connections=1 ").then_some(()));
    assert!(switch.has_logged("refused=0 moved=2 torn=0"));
    let clients = sockets(5000);
    // With the next packet that comes after them, all that is to come is there.
    for to in outside {
        server.send_to(b"to the guest before", to).expect("sent");
    }
    assert_eq!(recv_from(&clients[2]).0, b"to the guest before");
    for (n, client) in clients.iter().enumerate().take(2) {
        ping(&hosts[n], FAR, 1);
        assert_empty(client);
    }
    switch.finish_by(Signal::INT);
}

/// Bridges of verbs, with their ports, and ports with an id are there after the next start, and a port whose namespace has gone does
/// not prevent it.
fn what_verbs_own() {
    let directory = Directory::new();
    let guests = Guests::new(&directory);
    let socket = directory.text("control");
    let mut switch = guests.start();
    let (blue, gone) = (Host::quiet("blue0"), Host::quiet("gone0"));
    let words = |words: &[&str]| assert!(run(&socket, words).status.success(), "{words:?}");
    words(&["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    words(&["bridge", "set", "blue:mac-aging-time=60"]);
    words(&["port", "add", &blue.port(":bridge=blue:id=web")]);
    words(&["port", "add", &gone.port(":id=gone")]);
    let shown = |switch: &Switch| {
        assert!(!switch.has_logged("state.json"));
        (json(&socket, &["bridge", "list"]), json(&socket, &["port", "list"]).as_array().map(Vec::len))
    };
    let before = (shown(&switch), seen_by(&blue));
    for round in 0..2 {
        if round == 0 {
            switch.kill();
        } else {
            drop(switch.finish());
        }
        switch = guests.start();
        assert_eq!((shown(&switch), seen_by(&blue)), before, "{round}");
    }
    switch.kill();
    drop(gone);
    let switch = guests.start();
    assert_eq!(shown(&switch).1, before.0.1, "it waits for its device");
    words(&["port", "del", "--id", "web"]);
    words(&["bridge", "del", "blue"]);
    switch.kill();
    let switch = guests.start();
    assert_eq!(json(&socket, &["bridge", "list"]).as_array().map(Vec::len), Some(1), "deleted for good");
    switch.finish_by(Signal::INT);
}

/// A file that claims what verbs have made changes nothing but its owner, and the next start knows that.
fn what_verbs_owned_before_the_file() {
    let (directory, host) = (Directory::new(), Host::quiet("a"));
    let (socket, file, state) = (directory.text("control"), directory.text("vswitchd.toml"), directory.text("state"));
    let of_file = |blue: &str, id: &str| {
        let netns = netns::path_of(host.netns());
        format!("[[bridge.br0.port]]\ntap = \"a\"\nnetns = \"{netns}\"\n{id}{blue}")
    };
    fs::write(&file, of_file("", "")).expect("written");
    let args = ["--config", &file, "--control", &socket, "--state", &state];
    let switch = Switch::start(&args);
    for words in [&["bridge", "add", "blue"][..], &["port", "add", "web0:id=web"]] {
        assert!(run(&socket, words).status.success(), "{words:?}");
    }
    let web = "[[bridge.br0.port]]\ntap = \"web0\"\nid = \"web\"\n";
    fs::write(&file, of_file("[bridge.blue]\n", web)).expect("written");
    let applied = run(&socket, &["apply", &file, "--prune"]);
    assert_eq!(String::from_utf8_lossy(&applied.stdout), "configuration unchanged\n", "{applied:?}");
    let before = json(&socket, &["port", "list"]).as_array().map(Vec::len);
    switch.kill();
    let switch = Switch::start(&args);
    assert!(!switch.has_logged("state.json"), "the file has them");
    assert_eq!(json(&socket, &["port", "list"]).as_array().map(Vec::len), before);
    switch.finish_by(Signal::INT);
}

fn state_that_cannot_be_read_or_written() {
    let directory = Directory::new();
    let guests = Guests::new(&directory);
    let (socket, file) = (directory.text("control"), directory.path("state").join("state.json"));
    let switch = guests.start();
    assert!(run(&socket, &["bridge", "add", "blue"]).status.success());
    // Where it is written, there is a directory: as with a full disk.
    fs::create_dir(file.with_extension("json.new")).expect("made");
    let refused = run(&socket, &["bridge", "add", "red"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("so nothing was changed"), "{said}");
    assert_eq!(json(&socket, &["bridge", "list"]).as_array().map(Vec::len), Some(2));
    guests.configure();
    guests.talk();
    fs::remove_dir(file.with_extension("json.new")).expect("removed");
    assert!(run(&socket, &["bridge", "add", "red"]).status.success());
    switch.kill();
    let good = fs::read_to_string(&file).expect("the state");
    fs::write(&file, good.replace("\"version\": 2", "\"version\": 3")).expect("written");
    let switch = guests.start();
    let says = |problem: &str| json(&socket, &["show"])["problems"].to_string().contains(problem);
    assert!(switch.has_logged("it is of version 3, and this vswitchd reads up to version 2") && says("of version 3"));
    let aside = file.with_extension("json.refused");
    assert!(aside.exists() && !file.exists());
    guests.talk();
    switch.kill();
    // The way back.
    fs::write(&file, good).expect("written");
    let switch = guests.start();
    assert!(json(&socket, &["bridge", "list"]).as_array().map(Vec::len) == Some(3) && !says("version"));
    switch.finish_by(Signal::INT);
}

/// What cannot go on is refused before anything ends.
fn upgrade_that_is_refused() {
    let (directory, host) = (Directory::new(), Host::quiet("a"));
    let (socket, state) = (directory.text("control"), directory.text("state"));
    let is_refused = |words: &[&str], say: &str| {
        let refused = run(&socket, words);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(say), "{words:?}: {said}");
    };
    let switch = Switch::start(&["--control", &socket, "--tap", &host.port("")]);
    is_refused(&["upgrade"], "start it with --state DIR");
    switch.finish();
    let switch = Switch::start(&["--control", &socket, "--state", &state, "--tap", &host.port("")]);
    let pid = json(&socket, &["show"])["pid"].as_u64();
    is_refused(&["upgrade", "/bin/true"], "it is no vswitchd");
    is_refused(&["upgrade", "/bin/false"], "it refuses");
    let open = directory.text("open");
    fs::write(&open, "").expect("written");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    is_refused(&["upgrade", &open], "nobody else may write");
    assert!(json(&socket, &["show"])["pid"].as_u64() == pid && !switch.has_logged("another program is to go on"));
    switch.finish_by(Signal::INT);
}

/// A port is found by its interface and namespace, however that is written. What no port takes over is deleted before the next one of
/// that name is made.
fn a_namespace_in_other_words() {
    let directory = Directory::new();
    let mut guests = Guests::new(&directory);
    guests.start().kill();
    let before = guests.all().map(seen_by);
    let again = guests.others[0].netns().try_clone().expect("a clone");
    let words = |file: &fs::File| format!("a@{}", netns::path_of(file));
    let (from, to) = (words(guests.others[0].netns()), words(&again));
    assert_ne!(from, to);
    guests.args.iter_mut().for_each(|arg| *arg = arg.replace(&from, &to));
    let switch = guests.start();
    assert_eq!(guests.all().map(seen_by), before);
    switch.kill();
    // A port that is left out for one start.
    let former = guests.args.clone();
    guests.args.iter_mut().for_each(|arg| *arg = arg.replace("own,", ""));
    let switch = guests.start();
    wait::until("the device to go", || guests.own.try_inside(|| link::get("own")).is_err().then_some(()));
    switch.kill();
    guests.args = former;
    let switch = guests.start();
    assert_eq!([&guests.others[0], &guests.others[1]].map(seen_by)[..], before[1..]);
    guests.configure();
    guests.talk();
    switch.finish_by(Signal::INT);
    guests.expect_no_device();
}

/// A switch that was started by hand, and then by a service manager: the holder gives what it has, and ends.
fn a_holder_and_then_a_manager() {
    let directory = Directory::new();
    let guests = Guests::new(&directory);
    let state = directory.text("state");
    guests.start().kill();
    let before = guests.all().map(seen_by);
    let path = directory.path("notify");
    let manager = UnixDatagram::bind(&path).expect("the manager's socket");
    let heard = Background::run(move || {
        manager.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let _ = manager.recv(&mut [0; 4096]);
    });
    let managed = |program: &str| {
        let mut command = Command::new(program);
        command.env("NOTIFY_SOCKET", &path);
        command
    };
    // Before the manager has anything, a start fails.
    let wrong = [&guests.args[..], &["--tap".to_owned(), "lo".to_owned()]].concat();
    assert_eq!(run_inside(guests.own.netns(), daemon(&wrong).env("NOTIFY_SOCKET", &path)).code, Some(1));
    assert!(guests.all().map(seen_by) == before && holder_of(&state).is_some(), "it holds what it held");
    let switch = Switch::start_by(guests.own.netns().try_clone().expect("a clone"), managed, &guests.args);
    assert_eq!(guests.all().map(seen_by), before);
    assert!(holder_of(&state).is_none_or(|_| wait::until("the holder's end", || holder_of(&state).is_none().then_some(true))));
    switch.finish_by(Signal::INT);
    heard.end();
    guests.expect_no_device();
}
