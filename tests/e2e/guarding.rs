//! What ports let pass: guarded and isolated ones.

use std::time::Duration;

use libtest_mimic::Trial;
use packet::MacAddr;
use packet::arp::Arp;

use crate::control::{json, run, text};
use crate::frames::{frame, is_ours, station};
use crate::guest::Directory;
use crate::host::Host;
use crate::raw::RawSocket;
use crate::switch::Switch;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("guarding/claims_of_another_are_dropped", claims_of_another_are_dropped),
        trial("guarding/a_tap_with_an_id_is_its_own_station", a_tap_with_an_id_is_its_own_station),
        trial("guarding/isolated_ports_reach_others_only", isolated_ports_reach_others_only),
    ]
}

/// An ARP message with the Ethernet header of its sender.
fn arp(from: MacAddr, message: Arp) -> Vec<u8> {
    [&MacAddr::BROADCAST.0[..], &from.0, &[8, 6], &message.to_bytes(), &[0; 18]].concat()
}

fn is_silent(socket: &RawSocket) -> bool {
    std::thread::sleep(Duration::from_millis(50));
    std::iter::from_fn(|| socket.recv()).all(|frame| !is_ours(&frame))
}

/// A guest with its own MAC address, which the TAP gets, claims that of another, and another's IP address by ARP.
fn claims_of_another_are_dropped() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let [a, b] = ["a", "b"].map(Host::quiet);
    let own = station(1);
    let keys = format!(":mac={own}:guard=10.0.0.1");
    let switch = Switch::start(&["--tap", &format!("{},{}", a.port(&keys), b.port("")), "--control", &socket]);
    assert_eq!(a.mac(), own, "the TAP has the MAC address of the station");
    let (near, far) = (a.raw(), b.raw());
    let claim = Arp::announcement(own, [10, 0, 0, 9].into());
    near.send(&arp(own, claim)).expect("sent");
    near.send(&arp(station(2), Arp::announcement(station(2), [10, 0, 0, 1].into()))).expect("sent");
    let honest = arp(own, Arp::announcement(own, [10, 0, 0, 1].into()));
    near.send(&honest).expect("sent");
    assert_eq!(wait::until("what it may send", || far.recv().filter(|frame| frame[12..14] == [8, 6])), honest);
    text(&socket, &["port", "set", "a", "guard=10.0.0.1+10.0.0.9"]);
    near.send(&arp(own, claim)).expect("sent");
    wait::until("what it may send now", || far.recv().filter(|frame| *frame == arp(own, claim)));
    text(&socket, &["port", "set", "a", "addresses=10.0.0.1"]);
    let report = switch.settle("drops", |report| report.dropped("a", "guard_mac") == 1 && report.dropped("a", "guard_arp") == 1);
    assert_eq!(report.table("entries"), 1, "{report:?}");
    let port = &json(&socket, &["port", "list"])[0];
    assert_eq!((&port["guard"], &port["mac"]), (&true.into(), &own.to_string().into()));
    assert!(text(&socket, &["port", "list"]).contains("10.0.0.1"));
    let story = text(&socket, &["trace", &format!("port=a,smac={own},src=10.0.0.9,dst=10.0.0.2,udp,dport=53")]);
    assert!(story.contains("dropped: guard_ip") && story.contains("'port set PORT addresses=ADDRESS+..'"), "{story}");
    switch.finish();
}

/// A port with an id is guarded: its guest has the MAC address that its TAP was made with, also after it has changed it.
fn a_tap_with_an_id_is_its_own_station() {
    let [a, b] = ["a", "b"].map(Host::quiet);
    let own = station(1);
    let switch = Switch::between(&[a.port(&format!(":id=web:mac={own}")), b.port("")]);
    let (near, far) = (a.raw(), b.raw());
    near.send(&frame(MacAddr::BROADCAST, station(7), b"claimed")).expect("sent");
    near.send(&frame(MacAddr::BROADCAST, own, b"own")).expect("sent");
    let next = wait::until("its own", || far.recv().filter(|frame| is_ours(frame)));
    assert_eq!((&next[6..12], a.mac()), (&own.0[..], own));
    let changed = netio::link::Change { mac: Some(station(7)), ..netio::link::Change::default() };
    a.set_link(changed);
    near.send(&frame(MacAddr::BROADCAST, station(7), b"claimed")).expect("sent");
    switch.settle("drops", |report| report.dropped("a", "guard_mac") == 2);
    switch.finish();
}

fn isolated_ports_reach_others_only() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let [a, b, c] = ["a", "b", "c"].map(Host::quiet);
    let switch = Switch::start(&[
        "--tap",
        &format!("{},{},{}", a.port(":isolated=on"), b.port(":isolated=on"), c.port("")),
        "--control",
        &socket,
    ]);
    let sockets = [&a, &b, &c].map(Host::raw);
    let all = frame(MacAddr::BROADCAST, station(1), b"to all");
    sockets[0].send(&all).expect("sent");
    assert_eq!(wait::until("the frame", || sockets[2].recv().filter(|frame| is_ours(frame))), all);
    assert!(is_silent(&sockets[1]), "a flood leaves isolated ports out");
    sockets[2].send(&frame(MacAddr::BROADCAST, station(3), b"to all")).expect("sent");
    for socket in &sockets[..2] {
        wait::until("a frame of a port that is not isolated", || socket.recv().filter(|frame| is_ours(frame)));
    }
    sockets[1].send(&frame(station(1), station(2), b"to one")).expect("sent");
    switch.settle("a drop", |report| report.dropped("b", "port_isolated") == 1);
    let words = format!("port=b,smac={},dmac={},src=10.0.0.2,dst=10.0.0.1,udp,dport=53", station(2), station(1));
    let story = text(&socket, &["trace", &words]);
    let output = text(&socket, &["port", "set", "b", "isolated=off", "vlan-mode=trunk"]);
    assert_eq!(output.lines().count(), 1, "{output}");
    let frame_to_one = frame(station(1), station(2), b"to one");
    sockets[1].send(&frame_to_one).expect("sent");
    wait::until("a frame of a port that is no longer isolated", || sockets[0].recv().filter(|frame| *frame == frame_to_one));
    let said = String::from_utf8(run(&socket, &["port", "set", "b", "tap=c"]).stderr).expect("text");
    assert!(said.contains("cannot change"), "{said}");
    assert!(story.contains("dropped: port_isolated") && story.contains("'port set PORT isolated=off'"), "{story}");
    assert!(text(&socket, &["port", "list"]).contains("isolated"));
    let said = String::from_utf8(run(&socket, &["port", "add", "x:isolated=maybe"]).stderr).expect("text");
    assert!(said.contains("isolated is on or off, not 'maybe'"), "{said}");
    switch.finish();
}
