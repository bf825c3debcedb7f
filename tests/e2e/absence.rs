//! Ports whose devices come and go: `wait=on`, `transient=on`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use libtest_mimic::Trial;
use netio::{link, netns};
use serde_json::Value;

use crate::control::{json, run, text};
use crate::events::Follower;
use crate::exchange::Echo;
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::switch::{Reloaded, Switch, daemon, run_inside};
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("absence/a_port_waits_for_its_namespace", a_port_waits_for_its_namespace),
        trial("absence/a_port_waits_for_its_interface", a_port_waits_for_its_interface),
        trial("absence/a_transient_port_goes_with_its_device", a_transient_port_goes_with_its_device),
        trial("absence/transient_ports_of_a_restart", transient_ports_of_a_restart),
    ]
}

/// The states of the ports by their names.
fn states(socket: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let list = json(socket, &["port", "list"]);
    let mut states: Vec<_> =
        list.as_array().expect("a list").iter().map(|port| (text(&port["name"]), text(&port["state"]))).collect();
    states.sort();
    states
}

fn expect_states(socket: &str, wanted: &[(&str, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
    wait::until("the ports to be in these states", || (states(socket) == wanted).then_some(()));
}

fn delete_link(host: &Host) {
    host.inside(|| link::delete(link::get(host.name())?.index));
}

/// A namespace that comes after the start, for a port of the command line and for one of a verb.
fn a_port_waits_for_its_namespace() {
    let directory = Directory::new();
    let (socket, places) = (directory.text("control"), ["first", "second"].map(|name| directory.text(name)));
    let words = [format!("a@{}:wait=on", places[0]), format!("b@{}:wait=on", places[1])];
    let missing = format!("a@{}", places[0]);
    let machine = netns::create().expect("a namespace");
    let refused = run_inside(&machine, &mut daemon(&["--control", "none", "--tap", &missing]));
    assert_eq!(refused.code, Some(1), "without the key a wrong name shows at once: {refused:?}");
    let checked = run_inside(&machine, &mut daemon(&["--control", "none", "--tap", &words[0], "--check"]));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let switch = Switch::start(&["--control", &socket, "--tap", &words[0]]);
    assert!(switch.summary().iter().any(|line| line.ends_with("waits for its device")), "{:?}", switch.summary());
    assert!(!run(&socket, &["port", "add", &words[1].replace(":wait=on", "")]).status.success());
    text(&socket, &["port", "add", &words[1]]);
    expect_states(&socket, &[("a", "waiting"), ("b", "waiting")]);
    let mut events = Follower::new(&socket);
    let hosts = ["a", "b"].map(Host::quiet);
    for ((host, place), number) in hosts.iter().zip(&places).zip(1..) {
        symlink(netns::path_of(host.netns()), place).expect("a link");
        assert_eq!(events.next("port_back")["port"], host.name());
        host.configure(number);
    }
    expect_states(&socket, &[("a", "up"), ("b", "up")]);
    Echo::on(&hosts[1], Ip::V4, 2).asked_from(&hosts[0], Ip::V4, 1).ask();
    // Without the other key it waits again, and is told apart from one that never had a device.
    delete_link(&hosts[0]);
    assert_eq!(events.next("port_gone")["port"], "a");
    assert_eq!(events.next("port_back")["port"], "a");
    assert!(switch.has_logged("the port's device has come") && switch.has_logged("port is back"));
    drop(switch);
}

fn a_port_waits_for_its_interface() {
    let directory = Directory::new();
    let (socket, machine) = (directory.text("control"), Host::quiet("machine"));
    let netns = machine.netns().try_clone().expect("a clone");
    let switch = Switch::start_inside(netns, &["--control", &socket, "--port", "packet:v0:wait=on:transient=on"]);
    expect_states(&socket, &[("v0", "waiting")]);
    machine.inside(|| link::add_pair("v0", "v1", None));
    wait::until("it to come", || (states(&socket)[0].1 != "waiting").then_some(()));
    machine.inside(|| link::delete(link::get("v0")?.index));
    expect_states(&socket, &[]);
    switch.finish();
}

fn a_transient_port_goes_with_its_device() {
    let directory = Directory::new();
    let (socket, place, hosts) = (directory.text("control"), directory.text("place"), ["a", "b", "c"].map(Host::quiet));
    symlink(netns::path_of(hosts[1].netns()), &place).expect("a link");
    let words = [hosts[0].port(":transient=on:id=one"), format!("b@{place}:transient=on"), hosts[2].port("")];
    let switch = Switch::start(&["--control", &socket, "--tap", &words[2]]);
    words[..2].iter().for_each(|word| drop(text(&socket, &["port", "add", word])));
    let shown = json(&socket, &["port", "list"]);
    let transient = shown.as_array().expect("a list").iter().filter(|port| port["transient"] == true).count();
    assert_eq!(transient, 2, "{shown}");
    let mut events = Follower::new(&socket);
    // The device, and the way to the namespace.
    delete_link(&hosts[0]);
    assert_eq!(events.next("port_gone")["port"], "a");
    let change = events.next("port_changed");
    assert_eq!((&change["action"], &change["port"]), (&"remove".into(), &hosts[0].port("").into()), "{change}");
    fs::remove_file(&place).expect("removed");
    assert_eq!(events.next("port_gone")["port"], "b");
    assert_eq!(events.next("port_changed")["action"], "remove");
    expect_states(&socket, &[("c", "up")]);
    // One that is not transient gets another device; told to be, it goes with that.
    delete_link(&hosts[2]);
    assert_eq!(events.next("port_back")["port"], "c");
    text(&socket, &["port", "set", "c", "transient=on"]);
    delete_link(&hosts[2]);
    expect_states(&socket, &[]);
    assert_eq!(json(&socket, &["config", "show"])["toml"].as_str().map(|toml| toml.contains("tap")), Some(false));
    switch.finish();
}

/// What a file names comes back with the file; what a verb made and went meanwhile is not there any more.
fn transient_ports_of_a_restart() {
    let directory = Directory::new();
    let (socket, state, file) = (directory.text("control"), directory.text("state"), directory.text("v.toml"));
    let (host, place) = (Host::quiet("a"), directory.text("place"));
    symlink(netns::path_of(host.netns()), &place).expect("a link");
    let table = format!("[[bridge.br0.port]]\ntap = \"f\"\nnetns = \"{place}\"\ntransient = true\n");
    fs::write(&file, &table).expect("written");
    let args = ["--control", &socket, "--state", &state, "--config", &file];
    let machine = netns::create().expect("a namespace");
    let switch = Switch::start_inside(machine.try_clone().expect("a clone"), &args);
    text(&socket, &["port", "add", &format!("a@{place}:transient=on:id=one")]);
    host.inside(|| link::delete(link::get("f")?.index));
    expect_states(&socket, &[("a", "up")]);
    assert_eq!(switch.reload(), Reloaded::Changed);
    expect_states(&socket, &[("a", "up"), ("f", "up")]);
    switch.kill();
    fs::remove_file(&place).expect("removed");
    let file = |text: &str| -> io::Result<()> { fs::write(&file, text) };
    file("[bridge.br0]\n").expect("written");
    let switch = Switch::start_inside(machine, &args);
    expect_states(&socket, &[]);
    assert!(!fs::read_to_string(directory.path("state").join("state.json")).expect("the state").contains("one"));
    switch.finish();
}
