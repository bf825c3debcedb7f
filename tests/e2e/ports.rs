//! Ports on interfaces of other owners: TAPs that a monitor holds, and veths.

use std::fs;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::{Layer, Tap, TapSpec};
use packet::{MacAddr, VNET_LEN};

use crate::exchange::Echo;
use crate::frames::{DOT1Q, frame, is_ours, station, tagged};
use crate::host::{Host, Ip};
use crate::monitor::{Cable, Monitor, hold_tap};
use crate::raw::{RawSocket, make_persistent_multi_queue_tap, make_persistent_tap};
use crate::switch::{Ended, Switch, daemon, run_inside};
use crate::transfer::transfer;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("ports/packet_between_namespaces", packet_between_namespaces),
        trial("ports/packet_without_offloads", packet_without_offloads),
        trial("ports/packet_carries_tags", packet_carries_tags),
        trial("ports/packet_device_deleted_and_made_anew", packet_device_deleted_and_made_anew),
        trial("ports/packet_follows_its_mtu", packet_follows_its_mtu),
        trial("ports/held_tap_joined_from_its_network_side", held_tap_joined_from_its_network_side),
        trial("ports/host_is_silent_on_a_held_tap", host_is_silent_on_a_held_tap),
        trial("ports/host_is_silent_no_longer_than_the_switch", host_is_silent_no_longer_than_the_switch),
        trial("ports/attach_auto", attach_auto),
        trial("ports/multi_queue_taps", multi_queue_taps),
        trial("ports/monitor_gone_and_back", || monitor_gone_and_back("--tap", "held:attach=auto")),
        trial("ports/monitor_gone_and_back_packet", || monitor_gone_and_back("--port", "packet:held")),
        trial("ports/wrong_ports_exit_2", wrong_ports_exit_2),
        trial("ports/missing_devices_exit_1", missing_devices_exit_1),
    ]
}

/// The switch's machine, and a host at the other end of a veth; both ends are up.
pub(crate) fn at_a_veth(machine: &Host, inner: &str, host: &Host) {
    machine.inside(|| link::add_pair(inner, host.name(), Some(host.netns().as_fd())));
    machine.inside(|| link::set(link::get(inner)?.index, Change { up: Some(true), ..Change::default() }));
    host.set_link(Change { up: Some(true), ..Change::default() });
}

pub(crate) fn start(machine: &Host, args: &[&str]) -> Switch {
    Switch::start_inside(machine.netns().try_clone().expect("a clone"), args)
}

fn packet_between_namespaces() {
    let (machine, a, b) = (Host::quiet("machine"), Host::new("a"), Host::new("b"));
    at_a_veth(&machine, "va", &a);
    let switch = start(&machine, &["--port", "packet:va", "--tap", &b.port("")]);
    assert!(switch.summary().iter().any(|line| line.starts_with("port va: all VLANs, mtu 1500, offload checksum")));
    a.configure(1);
    b.configure(2);
    for ip in [Ip::V4, Ip::V6] {
        transfer(&a, (&b, 2), ip, true);
        transfer(&b, (&a, 1), ip, false);
    }
    let report = switch.finish();
    assert!(report.writes_of("va") <= report.received_by("b"), "super-frames cross whole: {report:?}");
    assert_eq!(report.lost(), 0, "{report:?}");
}

fn packet_without_offloads() {
    let (machine, a, b) = (Host::quiet("machine"), Host::new("a"), Host::new("b"));
    at_a_veth(&machine, "va", &a);
    at_a_veth(&machine, "vb", &b);
    a.turn_offloads_off();
    let switch = start(&machine, &["--port", "packet:va:offload=off:gro=off", "--port", "packet:vb"]);
    a.configure(1);
    b.configure(2);
    transfer(&a, (&b, 2), Ip::V4, true);
    transfer(&b, (&a, 1), Ip::V6, true);
    let report = switch.finish();
    assert_eq!(report.lost(), 0, "{report:?}");
}

fn next(socket: &RawSocket) -> Vec<u8> {
    wait::until("a frame", || socket.recv().filter(|frame| is_ours(frame)))
}

fn packet_carries_tags() {
    let (machine, a, b, c) = (Host::quiet("machine"), Host::quiet("a"), Host::quiet("b"), Host::quiet("c"));
    at_a_veth(&machine, "va", &a);
    at_a_veth(&machine, "vb", &b);
    let switch = start(&machine, &["--port", "packet:va", "--port", "packet:vb:vlan=10", "--tap", &c.port(":trunks=10")]);
    let sockets = [&a, &b, &c].map(Host::raw);
    let hello = frame(MacAddr::BROADCAST, station(1), b"hello");
    let with_tag = tagged(&hello, DOT1Q, 10);
    sockets[0].send(&with_tag).expect("sent");
    assert_eq!((next(&sockets[1]), next(&sockets[2])), (hello.clone(), with_tag.clone()));
    let hello = frame(MacAddr::BROADCAST, station(2), b"hello too");
    sockets[1].send(&hello).expect("sent");
    let with_tag = tagged(&hello, DOT1Q, 10);
    assert_eq!((next(&sockets[0]), next(&sockets[2])), (with_tag.clone(), with_tag));
    switch.finish();
}

fn packet_device_deleted_and_made_anew() {
    let (machine, a, b) = (Host::quiet("machine"), Host::quiet("a"), Host::quiet("b"));
    at_a_veth(&machine, "va", &a);
    let switch = start(&machine, &["--port", "packet:va", "--tap", &b.port("")]);
    for round in 0..3 {
        let (near, far) = (a.raw(), b.raw());
        let hello = frame(MacAddr::BROADCAST, station(round), b"hello");
        wait::until("a frame from the device", || {
            near.send(&hello).expect("sent");
            far.recv().filter(|frame| *frame == hello)
        });
        wait::until("a frame to the device", || {
            far.send(&frame(MacAddr::BROADCAST, station(100), b"hello")).expect("sent");
            near.recv().filter(|frame| is_ours(frame))
        });
        machine.inside(|| link::delete(link::get("va")?.index));
        wait::until("its entries' end", || (switch.report().table("entries") == 1).then_some(()));
        at_a_veth(&machine, "va", &a);
    }
    switch.finish();
}

fn packet_follows_its_mtu() {
    let (machine, a, b) = (Host::quiet("machine"), Host::quiet("a"), Host::quiet("b"));
    at_a_veth(&machine, "va", &a);
    let switch = start(&machine, &["--port", "packet:va", "--tap", &b.port(":mtu=4000")]);
    let (near, far) = (a.raw(), b.raw());
    let long = frame(MacAddr::BROADCAST, station(1), &[0x55; 3000]);
    far.send(&long).expect("sent");
    switch.settle("a drop", |report| report.dropped("b", "too_long") + report.dropped("va", "too_long") == 1);
    for host in [&machine, &a] {
        let name = if host.name() == "a" { "a" } else { "va" };
        host.inside(|| link::set(link::get(name)?.index, Change { mtu: Some(4000), ..Change::default() }));
    }
    wait::until("the new MTU", || switch.has_logged("link is up port=\"va\" mtu=4000").then_some(()));
    far.send(&long).expect("sent");
    assert_eq!(next(&near), long);
    switch.finish();
}

/// The monitor holds the TAP's only user side; its guest reaches others with all offloads.
fn held_tap_joined_from_its_network_side() {
    let (machine, guest, other) = (Host::new("machine"), Host::new("guest"), Host::new("other"));
    let held = hold_tap(&machine, "held", true);
    let switch = start(&machine, &["--port", "packet:held", "--tap", &other.port("")]);
    let _monitor = Monitor::of(&guest, Cable::Tap(held));
    guest.configure(1);
    other.configure(2);
    for ip in [Ip::V4, Ip::V6] {
        transfer(&guest, (&other, 2), ip, true);
        transfer(&other, (&guest, 1), ip, false);
    }
    let report = switch.finish();
    assert!(report.received_by("held") < 10_000, "super-frames cross whole: {report:?}");
}

/// The host speaks neither ARP nor IPv6 on a monitor's TAP while the switch runs, and as before when it has ended; a
/// veth is left unchanged.
fn host_is_silent_on_a_held_tap() {
    let (machine, peer) = (Host::new("machine"), Host::new("peer"));
    let _held = hold_tap(&machine, "held", true);
    at_a_veth(&machine, "va", &peer);
    let ipv6_is_on =
        |name: &str| machine.inside(|| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"))).trim() == "0";
    let state = |name: &str| (machine.inside(|| link::get(name)).arp, ipv6_is_on(name));
    let before = state("held");
    assert_eq!(before, (true, true));
    let switch = start(&machine, &["--port", "packet:held", "--port", "packet:va"]);
    assert_eq!(state("held"), (false, false));
    assert_eq!(state("va"), (true, true));
    switch.finish();
    assert_eq!(state("held"), before);
    // An address on the interface means that the host uses it.
    machine.inside(|| link::add_address(link::get("held")?.index, Host::address(Ip::V4, 9), 24));
    let switch = start(&machine, &["--port", "packet:held"]);
    wait::until("a message about it", || switch.has_logged("this interface has an IPv4 address of the host's").then_some(()));
    assert_eq!(state("held"), before);
    switch.finish();
}

/// After a kill, too: at the end of the next switch that has the port, and at the start of one that does not.
fn host_is_silent_no_longer_than_the_switch() {
    let machine = Host::new("machine");
    let _held = hold_tap(&machine, "held", true);
    let state = || {
        let link = machine.inside(|| link::get("held"));
        let ipv6 = machine.inside(|| fs::read_to_string("/proc/sys/net/ipv6/conf/held/disable_ipv6"));
        (link.arp, ipv6.trim() == "0", link.further_names.len())
    };
    let ports = ["--port", "packet:held"];
    assert_eq!(state(), (true, true, 0));
    // Dropping it kills it.
    drop(start(&machine, &ports));
    assert_eq!(state(), (false, false, 1));
    let switch = start(&machine, &ports);
    assert_eq!(state(), (false, false, 1));
    // Another switch beside it leaves a port in use alone.
    start(&machine, &["--tap", "tap0"]).finish();
    assert_eq!(state(), (false, false, 1));
    switch.finish();
    assert_eq!(state(), (true, true, 0));
    drop(start(&machine, &ports));
    let switch = start(&machine, &["--tap", "tap0"]);
    assert_eq!(state(), (true, true, 0));
    switch.finish();
    // What was off before stays off.
    machine.inside(|| link::set(link::get("held")?.index, Change { arp: Some(false), ..Change::default() }));
    drop(start(&machine, &ports));
    start(&machine, &ports).finish();
    assert_eq!(state(), (false, true, 0));
}

/// A TAP that no process holds is opened by the switch; one that is held is joined from its network side.
fn attach_auto() {
    let (machine, guest, other) = (Host::new("machine"), Host::new("guest"), Host::new("other"));
    let held = hold_tap(&machine, "held", true);
    let tap = format!("held:attach=auto,free:attach=auto,{}", other.port(""));
    let switch = start(&machine, &["--tap", &tap]);
    wait::until("a message about it", || switch.has_logged("joining its network side, as packet:held").then_some(()));
    assert!(!switch.has_logged("as packet:free"));
    let _monitor = Monitor::of(&guest, Cable::Tap(held));
    guest.configure(1);
    other.configure(2);
    transfer(&guest, (&other, 2), Ip::V4, true);
    switch.finish();
    // Without a network side to join, the error names the fix.
    let _held = hold_tap(&machine, "mine", true);
    let ended = run(&machine, &["--tap", "mine"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.log.contains("join it from its network side with --port packet:mine"), "{ended:?}");
}

/// A TAP with several queues is taken if nobody holds it, by however many workers, and so is one with a single queue where there
/// are more workers. If another process holds a queue, no further one is opened beside it, and the TAP's network side is joined
/// instead where that is asked for.
fn multi_queue_taps() {
    let (machine, other) = (Host::quiet("machine"), Host::quiet("other"));
    machine.inside(|| make_persistent_multi_queue_tap("many").and_then(|()| make_persistent_tap("one")));
    for (name, workers) in [("many", "1"), ("many", "2"), ("one", "2")] {
        let switch = start(&machine, &["--tap", name, "--workers", workers]);
        assert!(machine.inside(|| link::get(name)).carrier, "{name} is held");
        switch.finish();
        assert!(!machine.inside(|| link::get(name)).carrier, "{name} is left, and stays");
    }
    let switch = start(&machine, &["--tap", "many", "--tap", &other.port(""), "--workers", "1"]);
    let raw = machine.inside(|| RawSocket::open("many"));
    let call = frame(MacAddr::BROADCAST, station(1), b"by its only queue");
    let far = other.raw();
    raw.send(&call).expect("sent");
    assert_eq!(wait::until("a frame", || far.recv()), call);
    switch.finish();
    // Held from here on, by one of its queues.
    let spec = |name: &str| TapSpec {
        name: name.to_owned(),
        netns: None,
        layer: Layer::Ethernet,
        queues: 1,
        mtu: None,
        tx_queue_len: 1000,
        offload: false,
        mac: None,
    };
    let held = machine.inside(|| Ok(Tap::open(&spec("many")))).expect("a queue");
    for workers in ["1", "2"] {
        let ended = run(&machine, &["--tap", "many", "--workers", workers]);
        assert_eq!(ended.code, Some(1), "{workers} workers: {ended:?}");
        assert!(ended.log.contains("many is held by another process"), "{ended:?}");
        assert!(ended.log.contains("--port packet:many"), "{ended:?}");
    }
    for workers in ["1", "3"] {
        let tap = format!("many:attach=auto,{}", other.port(""));
        let switch = start(&machine, &["--tap", &tap, "--workers", workers]);
        wait::until("a message about it", || switch.has_logged("joining its network side, as packet:many").then_some(()));
        let far = other.raw();
        let frame = [vec![0; VNET_LEN], call.clone()].concat();
        held.queues()[0].send(&[std::io::IoSlice::new(&frame)]).expect("sent");
        assert_eq!(wait::until("a frame", || far.recv()), call);
        switch.finish();
    }
    // The name of a link of another kind says so.
    let ended = run(&machine, &["--tap", "lo:attach=auto"]);
    assert!(ended.log.contains("lo exists already and is not a TAP"), "{ended:?}");
}

/// A TAP that ends with its monitor is left to the next monitor, and joined again when that has created it.
fn monitor_gone_and_back(flag: &str, port: &str) {
    let (machine, guest, other) = (Host::new("machine"), Host::new("guest"), Host::new("other"));
    let mut held = hold_tap(&machine, "held", true);
    let switch = start(&machine, &["--tap", &other.port(""), flag, port]);
    other.configure(2);
    for _ in 0..3 {
        let monitor = Monitor::of(&guest, Cable::Tap(held));
        guest.configure(1);
        let echo = Echo::on(&other, Ip::V4, 2);
        echo.asked_from(&guest, Ip::V4, 1).ask_within(Duration::from_millis(200), 50);
        drop(monitor);
        // Time for the switch to look for the device a few times.
        wait::until("its end", || (switch.report().table("entries") <= 1).then_some(()));
        thread::sleep(Duration::from_millis(500));
        assert!(!machine.inside(link::names).contains(&"held".to_owned()), "the switch has made one itself");
        held = hold_tap(&machine, "held", true);
    }
    switch.finish();
}

fn run(machine: &Host, args: &[&str]) -> Ended {
    run_inside(machine.netns(), &mut daemon(args))
}

fn wrong_ports_exit_2() {
    let machine = Host::quiet("machine");
    for (args, say) in [
        (vec!["--port", "packet"], "write packet:WHERE"),
        (vec!["--port", "pakcet:eth0"], "unknown kind of port 'pakcet': did you mean 'packet'?"),
        (vec!["--port", "tap:tap0"], "is --tap tap0"),
        (vec!["--port", "packet:eth0", "--port", "packet:eth0"], "--port packet:eth0: eth0 is named twice"),
        (vec!["--port", "packet:eth0", "--uplink", "eth0"], "--uplink: eth0 is a port of the bridge"),
        (vec!["--port", "packet:eth0:vlna=10"], "did you mean 'vlan'?"),
    ] {
        let ended = run(&machine, &args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(ended.log.contains(say), "{args:?}: not said: {say}\n{}", ended.log);
    }
}

fn missing_devices_exit_1() {
    let machine = Host::quiet("machine");
    for (args, say) in [
        (vec!["--port", "packet:eth7"], "there is no interface eth7 in this network namespace"),
        (vec!["--check", "--port", "packet:eth7"], "there is no interface eth7 in this network namespace"),
        (vec!["--port", "packet:lo"], "lo is not an Ethernet interface"),
    ] {
        let ended = run(&machine, &args);
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert!(ended.log.contains(say), "{args:?}: not said: {say}\n{}", ended.log);
    }
}
