//! Networks that come and go while the switch runs: bridges, their gateways, and the ports on them.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::config::Written;
use crate::control::{run, text};
use crate::engine::good;
use crate::guest::Directory;
use crate::host::Host;
use crate::site::{FAR, MACHINE, Mode, Plan, Site, default_route, error_of, give, hears_all, local, ping, recv_from, udp_on};
use crate::switch::{Reloaded, Switch};
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("networks/on_a_switch_that_started_empty", on_a_switch_that_started_empty),
        trial("networks/connections_end_with_their_network", connections_end_with_their_network),
        trial("networks/the_first_gateway_of_a_plain_switch", the_first_gateway_of_a_plain_switch),
        trial("networks/a_file_leaves_them_alone", a_file_leaves_them_alone),
        trial("networks/a_file_leaves_ports_with_an_id_alone", a_file_leaves_ports_with_an_id_alone),
        trial("networks/come_and_go_beside_traffic", come_and_go_beside_traffic),
        trial("networks/routing_between_them", routing_between_them),
        trial("networks/a_table_of_another_size", a_table_of_another_size),
        trial("networks/memory_of_empty_ones", memory_of_empty_ones),
        trial("networks/verbs_that_are_refused", verbs_that_are_refused),
    ]
}

/// A machine with an uplink, hosts that are no ports yet, and a switch that starts with these flags.
fn site_with(socket: &str, guests: usize, more: &[&str]) -> Site {
    let mut site = Plan::new(Mode::Shared, guests).bare();
    let machine = site.machine.netns().try_clone().expect("a clone");
    let args = [&["--uplink", "up0", "--control", socket][..], more].concat();
    site.switch = Some(Switch::start_inside(machine, &args));
    site
}

fn json(socket: &str, words: &[&str]) -> Value {
    serde_json::from_str(&text(socket, &[words, &["-o", "json"]].concat())).expect("JSON")
}

/// Adds a port for this host, gives the host an address of the network, and the gateway as its way out.
fn join(socket: &str, host: &Host, bridge: &str, last: u8, network: [u8; 3]) -> Ipv4Addr {
    text(socket, &["port", "add", &host.port(&format!(":bridge={bridge}"))]);
    let [a, b, c] = network;
    let address = Ipv4Addr::new(a, b, c, last);
    give(host, address, 24);
    default_route(host, Ipv4Addr::new(a, b, c, 1));
    address
}

/// Two networks, each with a guest, on a daemon that had neither ports nor bridges of its own.
fn on_a_switch_that_started_empty() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, 2, &[]);
    assert_eq!(text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]), "+ bridge blue\n+ gateway 10.71.0.1/24 on blue\n");
    text(&socket, &["bridge", "add", "red:gateway=10.72.0.1/24:mac-aging-time=60"]);
    let one = join(&socket, site.guest(1), "blue", 2, [10, 71, 0]);
    let two = join(&socket, site.guest(2), "red", 2, [10, 72, 0]);
    assert_eq!(ping(site.guest(1), Ipv4Addr::new(10, 71, 0, 1), 1).0, Ipv4Addr::new(10, 71, 0, 1));
    assert_eq!(ping(site.guest(1), two, 2), (two, 63), "routed to the other network");
    assert_eq!(ping(site.guest(1), FAR, 3).0, FAR, "translated");
    let server = udp_on(&site.outside, FAR, 0);
    udp_on(site.guest(2), two, 0).send_to(b"out", local(&server)).expect("sent");
    assert_eq!(*recv_from(&server).1.ip(), MACHINE);
    text(&socket, &["nat", "publish", "8080:10.71.0.2:80/udp"]);
    let inside = udp_on(site.guest(1), one, 80);
    server.send_to(b"in", (MACHINE, 8080)).expect("sent");
    assert_eq!(recv_from(&inside).0, b"in");
    let list = json(&socket, &["bridge", "list"]);
    let names: Vec<&str> =
        list.as_array().expect("a list").iter().map(|bridge| bridge["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["br0", "blue", "red"]);
    assert_eq!((&list[2]["mac_aging_time"], &list[2]["ports"]), (&60.into(), &1.into()));
    assert_eq!(list[0]["gateways"][0]["address"], "10.77.0.1", "what an uplink has by default stays");
    for words in [
        &["nat", "unpublish", "8080:10.71.0.2:80/udp"][..],
        &["port", "del", "g1"],
        &["port", "del", "g2"],
        &["bridge", "del", "blue"],
        &["bridge", "del", "red"],
    ] {
        text(&socket, words);
    }
    assert_eq!(json(&socket, &["bridge", "list"]).as_array().map(Vec::len), Some(1));
    assert_eq!(json(&socket, &["port", "list"]).as_array().map(Vec::len), Some(0));
    site.finish();
}

/// A network's number and addresses may be another one's next: nothing of the former guests is left for the new ones.
fn connections_end_with_their_network() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, 2, &[]);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    let address = join(&socket, site.guest(1), "blue", 2, [10, 71, 0]);
    let server = udp_on(&site.outside, FAR, 0);
    udp_on(site.guest(1), address, 0).send_to(b"open", local(&server)).expect("sent");
    let outside = recv_from(&server).1;
    let count = || json(&socket, &["conntrack", "list"])["connections"].as_array().map(Vec::len);
    assert_eq!(count(), Some(1));
    assert_eq!(
        text(&socket, &["bridge", "set", "blue:gateway=10.71.0.254/24"]),
        "! gateway 10.71.0.254/24 on blue: in place of 10.71.0.1/24\n"
    );
    assert_eq!(count(), Some(0));
    assert_eq!(
        json(&socket, &["neigh", "show"]).as_array().map_or(0, |all| all.iter().filter(|one| one["bridge"] == "blue").count()),
        0
    );
    server.send_to(b"late", outside).expect("sent");
    text(&socket, &["port", "del", "g1"]);
    text(&socket, &["bridge", "del", "blue"]);
    text(&socket, &["bridge", "add", "green:gateway=10.71.0.1/24"]);
    let heir = join(&socket, site.guest(2), "green", 2, [10, 71, 0]);
    let theirs = udp_on(site.guest(2), heir, 0);
    theirs.send_to(b"mine", local(&server)).expect("sent");
    assert_eq!(recv_from(&server).0, b"mine");
    assert_eq!(count(), Some(1));
    site.finish();
}

/// A switch that has no router gets one with its first gateway.
fn the_first_gateway_of_a_plain_switch() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let [one, two] = ["a", "b"].map(Host::quiet);
    let switch = Switch::start(&["--tap", &format!("{},{}", one.port(":vlan=10"), two.port(":vlan=20")), "--control", &socket]);
    assert_eq!(
        text(&socket, &["bridge", "set", "br0:gateways=10@10.1.0.1/24+20@10.2.0.1/24"]),
        "+ gateway 10.1.0.1/24 on VLAN 10\n+ gateway 10.2.0.1/24 on VLAN 20\n"
    );
    let [a, b] = [[10, 1, 0, 2], [10, 2, 0, 2]].map(Ipv4Addr::from);
    for (host, address, via) in [(&one, a, [10, 1, 0, 1]), (&two, b, [10, 2, 0, 1])] {
        give(host, address, 24);
        default_route(host, via.into());
    }
    assert_eq!(ping(&one, b, 1), (b, 63));
    assert_eq!(text(&socket, &["bridge", "set", "br0:gateways=none"]).lines().count(), 2);
    assert_eq!(json(&socket, &["show"])["gateways"].as_array().map(Vec::len), Some(0));
    // And gets them back.
    text(&socket, &["bridge", "set", "br0:gateways=10@10.1.0.1/24+20@10.2.0.1/24"]);
    assert_eq!(ping(&two, a, 2), (a, 63));
    switch.finish();
}

/// What a verb made belongs to whoever asked for it: a file that is applied, and SIGHUP, change their own.
fn a_file_leaves_them_alone() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let file = Written::new("own", "[bridge.lan]\ngateway = \"10.5.0.1/24\"\n");
    let site = site_with(&socket, 1, &["--config", file.path()]);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    join(&socket, site.guest(1), "blue", 2, [10, 71, 0]);
    let own = "[bridge.lan]\ngateway = \"10.6.0.1/24\"\n[uplink]\ninterface = \"up0\"\n";
    fs::write(file.path(), own).expect("written");
    assert_eq!(site.switch().reload(), Reloaded::Changed);
    assert_eq!(text(&socket, &["apply", file.path()]), "configuration unchanged\n");
    assert_eq!(ping(site.guest(1), FAR, 1).0, FAR, "the guest has lost nothing");
    let gateways = json(&socket, &["show"])["gateways"].clone();
    let addresses: Vec<&str> =
        gateways.as_array().expect("a list").iter().map(|one| one["address"].as_str().expect("text")).collect();
    assert_eq!(addresses, ["10.71.0.1", "10.6.0.1"]);
    fs::write(file.path(), format!("{own}[bridge.blue]\n")).expect("written");
    let output = run(&socket, &["apply", file.path()]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains(":5: bridge blue is there already, and is not the file's"), "{said}");
    fs::write(file.path(), own).expect("written");
    let lines = text(&socket, &["apply", "--prune", file.path()]);
    assert!(lines.starts_with("- bridge blue\n- gateway 10.71.0.1/24 on blue\n- port g1"), "{lines}");
    site.finish();
}

/// A port with an id is found and removed by it, and is its maker's.
fn a_file_leaves_ports_with_an_id_alone() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let file = Written::new("ids", "");
    let [one, two] = ["a", "b"].map(Host::quiet);
    let switch = Switch::start(&["--config", file.path(), "--control", &socket]);
    let id = "docker:78d5/web 1%";
    text(&socket, &["port", "add", &one.port(&format!(":id={id}:labels=app@shop"))]);
    text(&socket, &["port", "add", &two.port("")]);
    fs::write(file.path(), "[bridge.br0]\nmac-aging-time = 77\n").expect("written");
    assert_eq!(switch.reload(), Reloaded::Changed);
    let list = json(&socket, &["port", "list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(1), "the one without an id was the file's: {list}");
    assert_eq!((&list[0]["id"], &list[0]["labels"]["app"]), (&id.into(), &"shop".into()));
    assert!(text(&socket, &["port", "list"]).contains(id));
    assert_eq!(text(&socket, &["apply", file.path()]), "configuration unchanged\n");
    let again = run(&socket, &["port", "add", &two.port(&format!(":id={id}"))]);
    let said = String::from_utf8(again.stderr).expect("text");
    assert!(!again.status.success() && said.contains("is that of port a"), "{said}");
    let missing = run(&socket, &["port", "del", "--id", "docker:78d5/web 2%"]);
    let said = String::from_utf8(missing.stderr).expect("text");
    assert!(!missing.status.success() && said.contains("did you mean 'docker:78d5/web 1%'?"), "{said}");
    assert!(text(&socket, &["port", "del", "--id", id]).starts_with("- port a"));
    assert_eq!(json(&socket, &["port", "list"]).as_array().map(Vec::len), Some(0));
    switch.finish();
}

/// Two hundred networks one after another, and forty at once, beside a bystander whose datagrams all arrive.
fn come_and_go_beside_traffic() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, 2, &[]);
    text(&socket, &["bridge", "add", "calm:gateway=10.70.0.1/24"]);
    let one = join(&socket, site.guest(1), "calm", 2, [10, 70, 0]);
    let two = join(&socket, site.guest(2), "calm", 3, [10, 70, 0]);
    assert_eq!(ping(site.guest(1), two, 1).0, two);
    let (from, to) = (udp_on(site.guest(1), one, 0), udp_on(site.guest(2), two, 9));
    let sender = thread::spawn(move || {
        for number in 0..4000_u32 {
            from.send_to(&number.to_be_bytes(), (two, 9)).expect("sent");
            thread::sleep(Duration::from_micros(300));
        }
    });
    for round in 0..200_u32 {
        let word = format!("net{round}:gateway=10.100.{}.1/24", round % 250);
        text(&socket, &["bridge", "add", &word]);
        text(&socket, &["bridge", "del", &format!("net{round}")]);
    }
    let at_once: Vec<_> = (0..40)
        .map(|number| {
            let socket = socket.clone();
            thread::spawn(move || text(&socket, &["bridge", "add", &format!("n{number}:gateway=10.101.{number}.1/24")]))
        })
        .collect();
    at_once.into_iter().for_each(|thread| drop(thread.join().expect("added")));
    assert_eq!(json(&socket, &["bridge", "list"]).as_array().map(Vec::len), Some(42));
    sender.join().expect("all sent");
    for number in 0..4000_u32 {
        assert_eq!(recv_from(&to).0, number.to_be_bytes());
    }
    (0..40).for_each(|number| drop(text(&socket, &["bridge", "del", &format!("n{number}")])));
    assert_eq!(json(&socket, &["bridge", "list"]).as_array().map(Vec::len), Some(2));
    site.finish();
}

/// Two networks for the outside only, and one for itself: who reaches whom, by which way, and that a change holds at once.
fn routing_between_them() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, 3, &[]);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24:routing=outside"]);
    text(&socket, &["bridge", "add", "red:gateway=10.72.0.1/24:routing=outside"]);
    text(&socket, &["bridge", "add", "own:gateway=10.73.0.1/24:routing=none"]);
    let one = join(&socket, site.guest(1), "blue", 2, [10, 71, 0]);
    let two = join(&socket, site.guest(2), "red", 2, [10, 72, 0]);
    let three = join(&socket, site.guest(3), "own", 2, [10, 73, 0]);
    assert_eq!(ping(site.guest(1), FAR, 1).0, FAR);
    assert_eq!(ping(site.guest(3), Ipv4Addr::new(10, 73, 0, 1), 2).0, Ipv4Addr::new(10, 73, 0, 1), "its own gateway");
    let prohibited = |guest: &Host, from: Ipv4Addr, to: Ipv4Addr| {
        let socket = hears_all(udp_on(guest, from, 0));
        socket.connect((to, 9)).expect("connected");
        socket.send(b"let me in").expect("sent");
        assert_eq!(error_of(&socket).raw_os_error(), Some(libc::EHOSTUNREACH), "{from} to {to}");
    };
    prohibited(site.guest(1), one, two);
    prohibited(site.guest(2), two, one);
    prohibited(site.guest(3), three, one);
    prohibited(site.guest(3), three, FAR);
    prohibited(site.guest(1), one, three);
    // Only by the published port of the other one.
    text(&socket, &["nat", "publish", "8080:10.72.0.2:80/udp"]);
    let server = udp_on(site.guest(2), two, 80);
    udp_on(site.guest(1), one, 0).send_to(b"published", (MACHINE, 8080)).expect("sent");
    assert_eq!(recv_from(&server).0, b"published");
    prohibited(site.guest(3), three, MACHINE);
    // From now on they route to each other.
    assert_eq!(text(&socket, &["bridge", "set", "blue:routing=all"]), "~ gateway 10.71.0.1/24 on blue: routing outside -> all\n");
    prohibited(site.guest(1), one, two);
    text(&socket, &["bridge", "set", "red:routing=all"]);
    assert_eq!(ping(site.guest(1), two, 3), (two, 63));
    text(&socket, &["bridge", "set", "red:routing=none"]);
    let left = json(&socket, &["conntrack", "list"])["connections"].clone();
    let is_of_red = |one: &&Value| one.to_string().contains("10.72.0.2");
    assert_eq!(left.as_array().and_then(|all| all.iter().find(is_of_red)), None);
    prohibited(site.guest(2), two, FAR);
    site.finish();
}

/// Stations, static entries among them, stay in a table that is made larger or smaller.
fn a_table_of_another_size() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let [one, two] = ["a", "b"].map(Host::quiet);
    let switch = Switch::start(&["--tap", &format!("{},{}", one.port(""), two.port("")), "--control", &socket]);
    let [a, b] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Ipv4Addr::from);
    give(&one, a, 24);
    give(&two, b, 24);
    text(&socket, &["fdb", "add", "52:54:00:00:00:77", "b"]);
    assert_eq!(ping(&one, b, 1).0, b);
    for size in ["100000", "10"] {
        let line = text(&socket, &["bridge", "set", &format!("br0:mac-table-size={size}")]);
        assert!(line.starts_with("~ bridge br0: mac-table-size ") && line.ends_with(&format!(" -> {size}\n")), "{line}");
        let known = json(&socket, &["fdb", "show"]).as_array().map(Vec::len);
        assert_eq!(known, Some(3), "two hosts and a static entry");
        assert_eq!(ping(&one, b, 2).0, b);
    }
    text(&socket, &["bridge", "set", "br0:mac-aging-time=1"]);
    wait::until("learned entries to go", || (json(&socket, &["fdb", "show"]).as_array().map(Vec::len) == Some(1)).then_some(()));
    switch.finish();
}

/// Networks without guests cost little, also when they come a second time, and a network with a guest costs what it uses.
fn memory_of_empty_ones() {
    const NETWORKS: u64 = 200;
    let directory = Directory::new();
    let socket = directory.text("control");
    let switch = Switch::start(&["--control", &socket]);
    // Whatever the first one brings with it, as the router, is not counted.
    good(&socket, "POST", "/v1/bridges", Some(serde_json::json!({ "bridge": "first:gateway=10.8.0.1/24" })));
    let before = switch.memory();
    for _ in 0..2 {
        for n in 0..NETWORKS {
            let bridge = format!("n{n}:gateway=10.71.{n}.1/24");
            good(&socket, "POST", "/v1/bridges", Some(serde_json::json!({ "bridge": bridge })));
        }
        let each = switch.memory().saturating_sub(before) / NETWORKS;
        assert!(each <= 16, "{each} KiB for each network");
        for n in 0..NETWORKS {
            good(&socket, "DELETE", &format!("/v1/bridges/n{n}"), None);
        }
    }
    switch.finish();
}

fn verbs_that_are_refused() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, 1, &[]);
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    text(&socket, &["port", "add", &site.guest(1).port(":bridge=blue")]);
    for (words, say) in [
        (&["bridge", "del", "blue"][..], "bridge blue has port g1: remove them first"),
        (&["bridge", "del", "br0"], "br0 is the last bridge besides those that 'bridge add' made"),
        (&["bridge", "del", "blu"], "there is no bridge 'blu': did you mean 'blue'?"),
        (&["bridge", "set", "blu:gateway=none"], "did you mean 'blue'?"),
        (&["bridge", "add", "blue"], "there is a bridge blue already"),
        (&["bridge", "add", "red:gateway=10.71.0.9/16"], "10.71.0.0/16 overlaps with 10.71.0.0/24 of gateway 10.71.0.1/24"),
        (&["bridge", "add", "red:gateway=203.0.113.77/24"], "overlaps with 203.0.113.0/24, the uplink's"),
        (&["bridge", "set", "blue:mac-table-size=1"], "mac-table-size is a number from 10 to 1000000, not '1'"),
        (&["port", "add", "x:bridge=blu"], "there is no bridge 'blu': did you mean 'blue'?"),
    ] {
        let output = run(&socket, words);
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.code() == Some(1) && said.contains(say), "{words:?}: {said}");
    }
    assert_eq!(json(&socket, &["bridge", "list"]).as_array().map(Vec::len), Some(2));
    site.finish();
}
