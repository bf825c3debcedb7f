//! Tables changed over the control socket while frames pass.

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use packet::MacAddr;
use serde_json::json;

use crate::control::{json, pair, row, run, table};
use crate::frames::{frame, station};
use crate::guest::Directory;
use crate::site::{FAR, Mode, Plan, guest_address, recv_from, udp_on};
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("changes/static_macs", static_macs),
        trial("changes/flushed_macs", flushed_macs),
        trial("changes/refused", refused),
        trial("changes/neighbours", neighbours),
        trial("changes/connections", connections),
    ]
}

/// A static entry wins over learning, and can be changed and removed at any time.
fn static_macs() {
    let directory = Directory::new();
    let (switch, [a, _b], socket) = pair(&directory);
    let mac = station(1).to_string();
    for _ in 0..2 {
        let added = json(&socket, &["fdb", "add", &mac, "b", "--vlan", "10"]);
        assert_eq!(added, json!({ "bridge": "br0", "vlan": 10, "mac": mac, "port": "b", "age": null }));
    }
    json(&socket, &["fdb", "add", &mac, "a"]);
    json(&socket, &["fdb", "add", &mac, "a", "--vlan", "10"]);
    assert_eq!(row(&table(&socket, &["fdb", "show"]), "10")[1..], [mac.clone(), "a".to_owned(), "static".to_owned()]);
    // To the entry's own port: no other port gets the frame.
    let raw = a.raw();
    raw.send(&frame(station(1), station(2), b"to yourself")).expect("sent");
    switch.settle("the frame to be dropped", |report| report.dropped("a", "same_port") == 1);
    assert_eq!(json(&socket, &["fdb", "flush"])["flushed"], 1, "the entry of the sender");
    assert_eq!(json(&socket, &["fdb", "stats"])["statics"], 2);
    for expected in [1, 0] {
        assert_eq!(json(&socket, &["fdb", "del", &mac])["flushed"], expected);
    }
    assert_eq!(row(&table(&socket, &["fdb", "del", &mac, "--vlan", "10"]), "1")[1..], ["entry", "flushed"]);
    assert_eq!(json(&socket, &["fdb", "show"]), json!([]));
    switch.finish();
}

fn flushed_macs() {
    let directory = Directory::new();
    let (switch, [a, b], socket) = pair(&directory);
    let (a, b) = (a.raw(), b.raw());
    wait::until("both to be learned", || {
        a.send(&frame(MacAddr::BROADCAST, station(1), b"here")).expect("sent");
        b.send(&frame(MacAddr::BROADCAST, station(2), b"here")).expect("sent");
        (switch.report().table("entries") == 2).then_some(())
    });
    assert_eq!(json(&socket, &["fdb", "flush", "--port", "a", "--vlan", "10"])["flushed"], 0);
    assert_eq!(json(&socket, &["fdb", "flush", "--port", "b"])["flushed"], 1);
    assert_eq!(json(&socket, &["fdb", "flush", "--vlan", "0"])["flushed"], 1);
    switch.finish();
}

/// Errors name the fault and change nothing.
fn refused() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    let said = |words: &[&str], code| {
        let output = run(&socket, words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(said(&["fdb", "add", "52:54:00:00:00:01", "c"], 1).contains("there is no port 'c'; there are "));
    assert!(said(&["fdb", "add", "52:54:00:00:00:01", "b"], 1).contains("port b does not carry untagged frames"));
    assert!(said(&["fdb", "add", "52:54:00:00:00:01", "b", "--vlan", "11"], 1).contains("port b does not carry VLAN 11"));
    assert!(said(&["fdb", "add", "ff:ff:ff:ff:ff:ff", "a"], 1).contains("no station's address"));
    assert!(said(&["fdb", "flush", "--port", "c"], 1).contains("there is no port 'c'"));
    assert!(said(&["conntrack", "flush"], 1).contains("there is no translation"));
    for words in [&["fdb", "add", "x", "a"][..], &["fdb", "del", "52:54:00:00:00:01", "--vlan", "4095"], &["neigh", "flush", "x"]]
    {
        said(words, 2);
    }
    assert_eq!(json(&socket, &["neigh", "flush"])["flushed"], 0);
    assert_eq!(json(&socket, &["fdb", "show"]), json!([]));
    switch.finish();
}

/// A flushed neighbour is resolved again, and no packet is lost.
fn neighbours() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket]).start();
    let far = udp_on(&site.outside, FAR, 5000);
    let near = udp_on(site.guest(1), guest_address(1), 4000);
    near.connect((FAR, 5000)).expect("connected");
    near.send(b"out").expect("sent");
    let (_, outside) = recv_from(&far);
    assert!(json(&socket, &["neigh", "flush", &guest_address(1).to_string()])["flushed"] == 1);
    assert_eq!(json(&socket, &["neigh", "flush", &Ipv4Addr::LOCALHOST.to_string()])["flushed"], 0);
    far.send_to(b"back", outside).expect("sent");
    let mut buffer = [0; 16];
    assert_eq!(near.recv(&mut buffer).expect("received"), 4);
    assert!(json(&socket, &["neigh", "flush"])["flushed"].as_u64() >= Some(2), "guest and next hop");
    site.finish();
}

/// Connections are ended by the filters that `list` takes, and their mappings with them.
fn connections() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 2).args(&["--publish", "8080:10.77.0.11:80", "--control", &socket]).start();
    let far = udp_on(&site.outside, FAR, 5000);
    for guest in [1, 2] {
        let near = udp_on(site.guest(guest.into()), guest_address(guest), 4000);
        near.send_to(b"out", (FAR, 5000)).expect("sent");
        recv_from(&far);
    }
    let nat = json(&socket, &["nat", "list"]);
    let by: Vec<bool> = nat["mappings"].as_array().unwrap().iter().map(|mapping| mapping["published"] == true).collect();
    assert_eq!((&nat["total"], by), (&3.into(), vec![true, false, false]));
    let limited = json(&socket, &["nat", "list", "--limit", "1"]);
    assert_eq!((&limited["total"], limited["mappings"].as_array().unwrap().len()), (&3.into(), 1));
    let listed = json(&socket, &["conntrack", "list", "--limit", "1"]);
    assert_eq!((&listed["total"], listed["connections"].as_array().unwrap().len()), (&2.into(), 1));
    assert_eq!(json(&socket, &["conntrack", "flush", "--protocol", "tcp"])["flushed"], 0);
    assert_eq!(json(&socket, &["conntrack", "flush", "--address", &guest_address(1).to_string()])["flushed"], 1);
    assert_eq!(json(&socket, &["conntrack", "list"])["connections"][0]["original"]["src"], guest_address(2).to_string());
    assert_eq!(json(&socket, &["nat", "list"])["total"], 2);
    assert_eq!(json(&socket, &["conntrack", "flush"])["flushed"], 1);
    assert_eq!(json(&socket, &["conntrack", "stats"])["flushed"], 2);
    site.finish();
}
