//! Paths that fail and recover; addresses and ports that are not available.

use libtest_mimic::Trial;
use netio::link::{self, Change};
use packet::MacAddr;

use crate::control::{json, run};
use crate::frames::{frame, station};
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::switch::{Ended, Report, Switch, daemon, run_inside};
use crate::transfer::transfer;
use crate::tunnel_site::{Between, Peer, Underlay, give, ip, kernel_is_missing, ping, take, try_ping};
use crate::{trial, trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("tunnel_faults/underlay_down_and_up", underlay_down_and_up),
        trial("tunnel_faults/address_taken_and_given_ipv4", || address_taken_and_given(Ip::V4)),
        trial("tunnel_faults/address_taken_and_given_ipv6", || address_taken_and_given(Ip::V6)),
        trial("tunnel_faults/a_route_only_later", a_route_only_later),
        trial("tunnel_faults/peer_ends_and_starts_again", peer_ends_and_starts_again),
        trial("tunnel_faults/host_goes", host_goes),
        trial("tunnel_faults/the_far_end_is_wrong", the_far_end_is_wrong),
        trial("tunnel_faults/device_missing_at_the_start", device_missing_at_the_start),
        trial("tunnel_faults/a_tunnel_by_its_own_bridge", a_tunnel_by_its_own_bridge),
        trial("tunnel_faults/port_held_by_another_daemon", port_held_by_another_daemon),
        trial_with("tunnel_faults/port_held_by_the_kernel", kernel_is_missing, port_held_by_the_kernel),
    ]
}

/// Host 1 sends requests to host 2 until this reason is counted on machine 1.
fn asks_until(between: &Between, what: &str, is_so: impl Fn(&Report) -> bool) {
    wait::until(what, || {
        assert_eq!(try_ping(&between.hosts[0], Host::address(Ip::V4, 2), 56), None, "there is no way");
        let report = between.switch(1).report();
        is_so(&report).then_some(())
    });
}

/// Each host gets a reply from the other, and a stream arrives.
fn carries_again(between: &Between) {
    for inner in [Ip::V4, Ip::V6] {
        ping(&between.hosts[0], Host::address(inner, 2), 56);
        ping(&between.hosts[1], Host::address(inner, 1), 56);
    }
    transfer(&between.hosts[0], (&between.hosts[1], 2), Ip::V4, true);
}

/// A wrong VNI or address at the far end is named here, and when a peer was last heard.
fn the_far_end_is_wrong() {
    let directory = Directory::new();
    let (underlay, hosts, socket) = (Underlay::pair(Ip::V4), ["h1", "h2"].map(Host::quiet), directory.text("control"));
    let here = |remote: &str| {
        let value = format!("vni=42,local=192.0.2.1,remote={remote}");
        underlay.daemon(1, &[hosts[0].port("")], &["--vxlan".to_owned(), value, "--control".to_owned(), socket.clone()])
    };
    let far = |vni: u32| underlay.daemon(2, &[hosts[1].port("")], &underlay.vxlan(vni, 2, &[1], ""));
    let speak = || hosts[1].raw().send(&frame(MacAddr::BROADCAST, station(2), b"anybody?")).expect("sent");
    for (remote, vni, say) in [
        ("192.0.2.2", 43, "tunnel vxlan42: 192.0.2.2 sends with VNI 43, and VNI 42 is expected: is the far end's vni right?"),
        ("192.0.2.9", 42, "tunnel vxlan42: 192.0.2.2 sends, and is no remote of it: add it to remote="),
    ] {
        let switches = [here(remote), far(vni)];
        wait::until("the fault to be named", || {
            speak();
            let problems = json(&socket, &["show"])["problems"].to_string();
            problems.contains(say).then_some(())
        });
        assert_eq!(json(&socket, &["tunnel", "list"])[0]["peers"][0]["last_heard"], serde_json::Value::Null);
        let doctor = run(&socket, &["doctor"]);
        assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
        assert!(String::from_utf8_lossy(&doctor.stdout).contains(say), "{doctor:?}");
        switches.into_iter().for_each(|switch| drop(switch.finish()));
    }
    let switches = [here("192.0.2.2"), far(42)];
    wait::until("the peer to be heard", || {
        speak();
        json(&socket, &["tunnel", "list"])[0]["peers"][0]["last_heard"].is_u64().then_some(())
    });
    assert_eq!(json(&socket, &["show"])["problems"], serde_json::json!([]));
    switches.into_iter().for_each(|switch| drop(switch.finish()));
    underlay.finish();
}

/// Datagrams that cannot be sent are counted and do not stop the rest of the switch.
fn underlay_down_and_up() {
    let between = Between::daemons(Underlay::pair(Ip::V4));
    carries_again(&between);
    let machine = between.underlay.machine(1);
    machine.set_link(Change { up: Some(false), ..Change::default() });
    asks_until(&between, "frames without a way", |report| report.dropped_for("peer_unreachable") > 0);
    wait::until("a message about it", || between.switch(1).has_logged("peer=192.0.2.2").then_some(()));
    machine.set_link(Change { up: Some(true), ..Change::default() });
    carries_again(&between);
    wait::until("a message about it", || between.switch(1).has_logged("there is a way to the peer again").then_some(()));
    let reports = between.finish();
    assert_eq!(reports[0].lost(), reports[0].dropped_for("peer_unreachable"), "{:?}", reports[0]);
}

/// The machine loses the address that its sockets are bound to, and regains it.
fn address_taken_and_given(ip: Ip) {
    let between = Between::daemons(Underlay::pair(ip));
    carries_again(&between);
    let machine = between.underlay.machine(1);
    take(machine, ip, 1);
    asks_until(&between, "frames without a source", |report| report.dropped_for("peer_unreachable") > 0);
    give(machine, ip, 1);
    carries_again(&between);
    between.finish();
}

/// At the start there is no route, whether the local address is configured or not; a warning says so, and once there
/// is a route it is used.
fn a_route_only_later() {
    for local in ["", ",local=192.0.2.1"] {
        let underlay = Underlay::pair(Ip::V4);
        take(underlay.machine(1), Ip::V4, 1);
        let hosts = ["h1", "h2"].map(Host::new);
        let flags = ["--vxlan".to_owned(), format!("vni=42,remote=192.0.2.2{local}")];
        let switches = vec![underlay.daemon(1, &[hosts[0].port("")], &flags), underlay.daemon_for(2, &[1], &hosts[1])];
        wait::until("a message about it", || switches[0].has_logged("no route to").then_some(()));
        give(underlay.machine(1), Ip::V4, 1);
        let between = Between::configured(underlay, hosts, switches);
        carries_again(&between);
        between.finish();
    }
}

/// The other daemon ends, and its machine reports the port as unreachable. Another daemon with another host replaces
/// it.
fn peer_ends_and_starts_again() {
    let mut between = Between::daemons(Underlay::pair(Ip::V4));
    carries_again(&between);
    let idle = Host::quiet("h3");
    for number in [3, 4] {
        let elsewhere = between.underlay.vxlan(43, 2, &[1], ",port=4790");
        let nobody = between.underlay.daemon(2, &[idle.port("")], &elsewhere);
        between.put(2, nobody).finish();
        assert_eq!(try_ping(&between.hosts[0], Host::address(Ip::V4, number), 56), None, "nobody is there");
        let host = Host::new("h2");
        let again = between.underlay.daemon_for(2, &[1], &host);
        between.put(2, again).finish();
        host.configure(number);
        between.hosts[1] = host;
        ping(&between.hosts[0], Host::address(Ip::V4, number), 56);
        transfer(&between.hosts[0], (&between.hosts[1], number), Ip::V6, true);
    }
    between.finish();
}

/// A host's device disappears: the others on that machine go on.
fn host_goes() {
    let underlay = Underlay::pair(Ip::V4);
    let hosts = ["h1", "h2"].map(Host::new);
    let third = Host::new("h3");
    let ports = [hosts[1].port(""), third.port("")];
    let switches = vec![underlay.daemon_for(1, &[2], &hosts[0]), underlay.daemon(2, &ports, &underlay.vxlan(42, 2, &[1], ""))];
    third.configure(3);
    let between = Between::configured(underlay, hosts, switches);
    ping(&between.hosts[0], Host::address(Ip::V4, 3), 56);
    third.inside(|| link::delete(link::get("h3")?.index));
    assert_eq!(try_ping(&between.hosts[0], Host::address(Ip::V4, 3), 56), None, "it is gone");
    carries_again(&between);
    between.finish();
}

fn refused(machine: &Host, args: &[&str]) -> Ended {
    let ended = run_inside(machine.netns(), &mut daemon(args));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(!ended.output.contains("ready"), "{ended:?}");
    ended
}

fn device_missing_at_the_start() {
    let underlay = Underlay::pair(Ip::V4);
    let ended = refused(underlay.machine(1), &["--tap", "tap0", "--vxlan", "vni=42,remote=192.0.2.2,dev=none0"]);
    assert!(ended.log.contains("vxlan42") && ended.log.contains("there is no interface none0"), "{ended:?}");
}

/// A flood into the tunnel would come out of it again, without end.
fn a_tunnel_by_its_own_bridge() {
    let underlay = Underlay::pair(Ip::V4);
    for port in [&["--uplink", "u1", "--uplink-mode", "bridge"][..], &["--port", "packet:u1"]] {
        let args = [&["--tap", "tap0", "--vxlan", "vni=42,remote=192.0.2.2"][..], port].concat();
        let ended = refused(underlay.machine(1), &args);
        assert!(ended.log.contains("vxlan42") && ended.log.contains("u1"), "{ended:?}");
    }
}

/// The error says so, and the first daemon keeps the port.
fn port_held_by_another_daemon() {
    let between = Between::daemons(Underlay::pair(Ip::V4));
    let machine = between.underlay.machine(1);
    for tunnel in ["vni=43,local=192.0.2.1,remote=192.0.2.2", "vni=43,remote=192.0.2.2"] {
        let ended = refused(machine, &["--tap", "tap0", "--vxlan", tunnel]);
        assert!(ended.log.contains("UDP port 4789") && ended.log.contains("is in use by vswitchd"), "{ended:?}");
    }
    carries_again(&between);
    // Another port is independent, and so are the source ports that both use.
    let other: Switch = {
        let host = Host::quiet("h3");
        between.underlay.daemon(1, &[host.port("")], &between.underlay.vxlan(43, 1, &[2], ",port=4790"))
    };
    carries_again(&between);
    other.finish();
    between.finish();
}

fn port_held_by_the_kernel() {
    let underlay = Underlay::pair(Ip::V4);
    let machine = underlay.machine(1);
    ip(machine, "link add vx0 type vxlan id 42 local 192.0.2.1 remote 192.0.2.2 dstport 4789");
    ip(machine, "link set vx0 up");
    let ended = refused(machine, &["--tap", "tap0", "--vxlan", "vni=43,local=192.0.2.1,remote=192.0.2.2"]);
    assert!(ended.log.contains("UDP port 4789") && ended.log.contains("in use"), "{ended:?}");
    ip(machine, "link delete vx0");
    let (host, peer) = (Host::quiet("h1"), Peer::on(&underlay, 2, 2));
    let switch = underlay.daemon_for(1, &[2], &host);
    drop(peer);
    switch.finish();
}
