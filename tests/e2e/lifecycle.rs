//! Devices of ports that go down, disappear, move and come back, while other ports lose nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::{Layer, Received, Tap, TapSpec, netns};
use packet::{Batch, MacAddr};

use crate::exchange::{Background, Echo};
use crate::frames::{frame, is_ours, station};
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::named;
use crate::raw::{RawSocket, make_persistent_tap};
use crate::switch::{Report, Switch};
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("lifecycle/link_down_and_up", link_down_and_up),
        trial("lifecycle/device_deleted", device_deleted),
        trial("lifecycle/namespace_deleted", || named::in_own_mounts(|| namespace_deleted(false))),
        trial("lifecycle/namespace_of_a_found_device_deleted", || named::in_own_mounts(|| namespace_deleted(true))),
        trial("lifecycle/many_devices_and_their_namespace", || named::in_own_mounts(many_devices_and_their_namespace)),
        trial("lifecycle/device_moved_and_renamed", device_moved_and_renamed),
        trial("lifecycle/found_device_is_used_and_left", found_device_is_used_and_left),
    ]
}

/// Two hosts that exchange requests and replies without losing one, while the first also sends a broadcast frame every
/// millisecond.
struct Bystanders {
    asking: Background,
    calling: Background,
}

impl Bystanders {
    fn start(first: &Host, second: &Host) -> Bystanders {
        first.configure(1);
        second.configure(2);
        let echo = Echo::on(second, Ip::V4, 2);
        let mut asker = echo.asked_from(first, Ip::V4, 1);
        let asking = Background::run(move || {
            // Kept alive as long as requests are sent.
            let _ = &echo;
            asker.ask();
            thread::sleep(Duration::from_millis(1));
        });
        let calls = first.raw();
        let call = frame(MacAddr::BROADCAST, station(1), b"can anybody hear me?");
        let calling = Background::run(move || {
            calls.send(&call).expect("sent");
            thread::sleep(Duration::from_millis(1));
        });
        Bystanders { asking, calling }
    }

    /// Asserts that no reply was lost, and that another one arrives.
    fn end(self) {
        let rounds = self.asking.rounds();
        wait::until("another answer", || (self.asking.rounds() > rounds + 1).then_some(()));
        self.calling.end();
        self.asking.end();
    }
}

fn hears_a_call(socket: &RawSocket) {
    while socket.recv().is_some() {}
    wait::until("a call", || socket.recv().filter(|bytes| is_ours(bytes)));
}

/// Asserts that only this port dropped frames, and only because of its device.
fn expect_drops_only_at(report: &Report, port: &str) {
    let named: u64 = ["port_down", "port_gone"].iter().map(|reason| report.dropped(port, reason)).sum();
    assert_eq!(report.all_dropped(), named, "{report:?}");
}

/// A frame to a host whose link is down is dropped under that name. Once the switch knows, its entries are gone and
/// the frame is flooded like any unknown unicast frame. None is misdelivered.
fn link_down_and_up() {
    let hosts = ["a", "b", "c"].map(Host::quiet);
    let switch = Switch::of(&[&hosts[0], &hosts[1], &hosts[2]]);
    let [a, b, c] = [&hosts[0], &hosts[1], &hosts[2]].map(Host::raw);
    let mut sent = 0;
    for (socket, number) in [(&a, 1), (&b, 2), (&c, 3)] {
        wait::until("the station to be known", || {
            socket.send(&frame(station(9), station(number), b"here")).expect("sent");
            sent += 1;
            (switch.report().table("entries") == u64::from(number)).then_some(())
        });
    }
    let before = switch.settle("three stations", |report| report.received() == sent);
    while c.recv().is_some() {}

    hosts[1].set_link(Change { up: Some(false), ..Change::default() });
    let question = frame(station(2), station(1), b"are you there?");
    let mut asked = 0;
    let mut ask = || {
        a.send(&question).expect("sent");
        asked += 1;
        switch.settle("the question", |report| report.received() == before.received() + asked)
    };
    wait::until("the entry to go", || (ask().table("entries") == 2).then_some(()));
    let report = ask();
    let astray = std::iter::from_fn(|| c.recv()).count() as u64;
    assert!(astray > 0, "like to any stranger");
    assert_eq!(report.dropped("b", "port_down"), report.received() - before.received(), "known or flooded, each was for b too");

    hosts[1].set_link(Change { up: Some(true), ..Change::default() });
    while b.recv().is_some() {}
    wait::until("traffic again", || {
        a.send(&question).expect("sent");
        b.recv()
    });
    wait::until("the answer", || {
        b.send(&frame(station(1), station(2), b"yes")).expect("sent");
        a.recv().filter(|bytes| bytes[..6] == station(1).0 && bytes[6..12] == station(2).0)
    });
    expect_drops_only_at(&switch.finish(), "b");
}

fn device_deleted() {
    let [first, second, gone] = ["first", "second", "gone"].map(Host::quiet);
    // The port's device is in the daemon's own namespace.
    let own = gone.netns().try_clone().expect("a clone");
    let switch = Switch::start_inside(own, &["--tap", "gone", "--tap", &first.port(""), "--tap", &second.port("")]);
    let bystanders = Bystanders::start(&first, &second);
    hears_a_call(&gone.raw());
    for _ in 0..5 {
        let index = gone.link().index;
        gone.inside(|| link::delete(index));
        wait::until("the device to be back", || {
            gone.try_inside(|| link::get("gone")).ok().filter(|link| link.index != index && link.up)
        });
        hears_a_call(&gone.raw());
    }
    assert!(switch.has_logged("port is back port=\"gone\""));
    bystanders.end();
    expect_drops_only_at(&switch.finish(), "gone");
}

/// When a port's namespace is deleted, the daemon does not keep it alive; when a namespace of that name is created
/// again, the port is back in it.
fn namespace_deleted(device_is_there_before: bool) {
    let [first, second] = ["first", "second"].map(Host::quiet);
    let gone = named_host("gone", "blue");
    if device_is_there_before {
        gone.inside(|| make_persistent_tap("gone"));
    }
    let switch = Switch::between(&[first.port(""), second.port(""), "gone@blue".to_owned()]);
    let bystanders = Bystanders::start(&first, &second);
    hears_a_call(&gone.raw());

    // A device of the test in that namespace, whose disappearance shows the namespace's.
    let elsewhere = netns::create().expect("a namespace");
    let spec = TapSpec {
        name: "witness".to_owned(),
        netns: None,
        layer: Layer::Ethernet,
        queues: 1,
        mtu: None,
        tx_queue_len: 10,
        offload: false,
        mac: None,
    };
    let witness = netns::inside(elsewhere.as_fd(), || Ok(Tap::open(&spec))).expect("inside").expect("a witness");
    // It is moved there: the descriptor of a device that was made there would keep the namespace alive.
    let to = Change { netns: Some(gone.netns().as_fd()), ..Change::default() };
    netns::inside(elsewhere.as_fd(), || link::set(link::get("witness")?.index, to)).expect("moved");
    named::unname("blue");
    drop(gone);
    // Reads an event instead of asking for the device: each question holds the namespace for a moment, on one
    // processor longer than until the next question.
    let mut batch = Batch::new();
    wait::until("the namespace to go", || {
        batch.clear();
        (witness.queues()[0].recv(&mut batch) == Received::Gone).then_some(())
    });
    wait::until("the switch to know", || {
        switch.has_logged("port is gone; waiting for its device to come back port=\"gone\"").then_some(())
    });

    let back = named_host("gone", "blue");
    wait::until("the device to be back", || back.try_inside(|| link::get("gone")).ok().filter(|link| link.up));
    hears_a_call(&back.raw());
    bystanders.end();
    expect_drops_only_at(&switch.finish(), "gone");
}

/// The namespace of 200 devices goes and returns, and they are removed and added: the control socket answers all the while. At
/// the end they are deleted at once, and a device that was there before stays.
fn many_devices_and_their_namespace() {
    const TAPS: usize = 200;
    let (directory, own) = (Directory::new(), Host::quiet("own"));
    let socket = directory.text("control");
    let name_of = |n: usize| format!("t{n}");
    let host = named_host("t0", "blue");
    own.inside(|| make_persistent_tap("found"));
    let taps: Vec<String> = (0..TAPS).map(|n| format!("{}@blue", name_of(n))).collect();
    let args = ["--tap", &taps.join(","), "--tap", "found", "--control", &socket];
    let switch = Switch::start_inside(own.netns().try_clone().expect("a clone"), &args);
    let asks = socket.clone();
    let asking = Background::run(move || {
        let mut stream = UnixStream::connect(&asks).expect("connected");
        // Far longer than an answer takes, and less than to make or delete the devices one by one.
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
        stream.write_all(b"GET /v1/ports HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer while devices come and go");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        thread::sleep(Duration::from_millis(10));
    });
    let count = |host: &Host| host.inside(link::names).iter().filter(|name| name.starts_with('t')).count();
    assert_eq!(count(&host), TAPS);
    named::unname("blue");
    drop(host);
    let is_gone = |n: usize| format!("port is gone; waiting for its device to come back port=\"{}\"", name_of(n));
    wait::until("the switch to know", || (0..TAPS).all(|n| switch.has_logged(&is_gone(n))).then_some(()));
    let host = named_host("t0", "blue");
    let is_back = |n: usize| format!("port is back port=\"{}\"", name_of(n));
    wait::until("all devices to be back", || (0..TAPS).all(|n| switch.has_logged(&is_back(n))).then_some(()));
    assert_eq!(count(&host), TAPS);
    let rounds = asking.rounds();
    wait::until("another answer", || (asking.rounds() > rounds + 1).then_some(()));
    asking.end();
    let begin = Instant::now();
    switch.finish();
    // One by one they take as many times 20 ms.
    assert!(begin.elapsed() < Duration::from_secs(3), "the end took {:?}", begin.elapsed());
    assert_eq!((count(&host), own.inside(|| link::get("found")).is_tun), (0, true));
}

fn named_host(name: &'static str, namespace: &str) -> Host {
    let file: File = netns::create().expect("a namespace");
    named::name(namespace, &file);
    let host = Host::in_namespace(name, file);
    host.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
    host
}

/// A port is bound to its device, whatever name or namespace that is moved to.
fn device_moved_and_renamed() {
    let [first, second, moved] = ["first", "second", "moved"].map(Host::quiet);
    let there = Host::quiet("renamed");
    let switch = Switch::of(&[&first, &second, &moved]);
    let bystanders = Bystanders::start(&first, &second);
    hears_a_call(&moved.raw());
    moved.set_link(Change { netns: Some(there.netns().as_fd()), name: Some("renamed"), ..Change::default() });
    there.set_link(Change { up: Some(true), ..Change::default() });
    hears_a_call(&there.raw());

    // Longer than the smallest MTU, and too long from now on.
    let call = frame(MacAddr::BROADCAST, station(1), &[0x66; 1000]);
    let calls = first.raw();
    there.set_link(Change { mtu: Some(900), ..Change::default() });
    wait::until("the MTU to be noticed", || {
        calls.send(&call).expect("sent");
        (switch.report().dropped("first", "too_long") > 0).then_some(())
    });
    there.raw().send(&frame(station(2), station(3), b"I moved")).expect("sent");
    switch.settle("a frame from there", |report| report.received_by("moved") > 0);
    bystanders.end();
    let report = switch.finish();
    let named = [("moved", "port_down"), ("first", "too_long")].map(|(port, reason)| report.dropped(port, reason));
    assert_eq!(report.all_dropped(), named.iter().sum::<u64>(), "{report:?}");
}

/// A TAP prepared by the operator, down and with another MTU, works like one of the switch's own, and remains when the
/// switch ends.
fn found_device_is_used_and_left() {
    let [maker, found] = ["maker", "found"].map(Host::new);
    let index = found.inside(|| {
        make_persistent_tap("found")?;
        let link = link::get("found")?;
        link::set(link.index, Change { mtu: Some(1400), ..Change::default() })?;
        Ok(link.index)
    });
    let switch = Switch::of(&[&maker, &found]);
    assert!(
        switch.summary().iter().any(|line| line.starts_with("port found") && line.contains("mtu 1400")),
        "{:?}",
        switch.summary()
    );
    maker.configure(1);
    found.configure(2);
    // Both directions use the smaller MTU.
    maker.set_link(Change { mtu: Some(1400), ..Change::default() });
    for ip in [Ip::V4, Ip::V6] {
        crate::transfer::transfer(&maker, (&found, 2), ip, true);
    }
    switch.finish();
    assert_eq!(found.link().index, index);
}
