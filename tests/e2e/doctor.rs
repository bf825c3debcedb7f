//! `vswitchctl doctor`: it finds faults, and the fixes that it names work.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::netns;

use crate::guest::Directory;
use crate::host::Host;
use crate::named::{hide, in_own_mounts};
use crate::raw::without_net_admin;
use crate::site::{MACHINE, Mode, Plan, add_route, give, listen_on};
use crate::switch::Switch;
use crate::{program, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("doctor/a_site_that_fits", a_site_that_fits),
        trial("doctor/a_switch_that_runs", a_switch_that_runs),
        trial("doctor/a_site_that_does_not", a_site_that_does_not),
        trial("doctor/no_device_and_no_rights", || in_own_mounts(no_device_and_no_rights)),
        trial("doctor/a_socket_that_was_left", a_socket_that_was_left),
    ]
}

fn doctor(words: &[&str]) -> Command {
    let mut command = Command::new(program::vswitchctl());
    command.arg("doctor").args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(netns: &File, command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = netns::inside(netns.as_fd(), || command.output()).expect("vswitchctl runs");
    let text = String::from_utf8(stdout).expect("text");
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (status.code(), text)
}

/// The rest of the finding with this status and subject, including its fix.
#[track_caller]
fn assert_line(text: &str, status: &str, what: &str, says: &[&str]) {
    let lines: Vec<&str> = text.lines().collect();
    let is_it = |line: &&str| line.strip_prefix(status).is_some_and(|rest| rest.trim_start().starts_with(what));
    let found =
        lines.iter().enumerate().filter(|(_, line)| is_it(line)).map(|(at, _)| lines[at..].iter().take(2).copied().collect());
    let found: Vec<String> = found.map(|pair: Vec<&str>| pair.join("\n")).collect();
    assert!(found.iter().any(|line| says.iter().all(|say| line.contains(say))), "no {status} of {what} with {says:?}:\n{text}");
}

/// A machine with an uplink and a default route, and a configuration file for it.
fn machine(directory: &Directory, file: &str) -> (Host, Host, String) {
    let (machine, outside) = (Host::quiet("up0"), Host::quiet("wan0"));
    machine.inside(|| link::add_pair("up0", "wan0", Some(outside.netns().as_fd())));
    for host in [&machine, &outside] {
        host.set_link(Change { up: Some(true), ..Change::default() });
        host.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
    }
    give(&machine, MACHINE, 24);
    add_route(&machine, Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(203, 0, 113, 254));
    fs::write(directory.path("vswitchd.toml"), file).expect("written");
    (machine, outside, directory.text("vswitchd.toml"))
}

const FILE: &str = "bridge.br0.port = [{ tap = 'tap0', mtu = 1450 }]\nuplink.interface = 'up0'\n\
    publish = [{ listen = '8080', to = '10.77.0.2:80' }]\n\
    tunnel = [{ type = 'vxlan', vni = 42, remotes = ['203.0.113.9'] }]";

fn a_site_that_fits() {
    let directory = Directory::new();
    let (machine, _outside, file) = machine(&directory, FILE);
    let socket = directory.text("none");
    let (code, text) = run(machine.netns(), &mut doctor(&["--socket", &socket, "--config", &file]));
    assert_eq!(code, Some(0), "{text}");
    for (what, say) in [
        ("/dev/net/tun", "can be opened"),
        ("rights", "CAP_NET_ADMIN, CAP_NET_RAW"),
        ("uplink up0", "MTU 1500"),
        ("uplink up0", "no RST"),
        ("guests' network 10.77.0.1/24", "overlaps with no network"),
        ("tunnel vxlan42 to 203.0.113.9", "packets of 1450 bytes"),
    ] {
        assert_line(&text, "ok", what, &[say]);
    }
    assert!(!links(machine.netns()).contains(&"doctor0".to_owned()), "nothing is left");
}

fn links(netns: &File) -> Vec<String> {
    netns::inside(netns.as_fd(), link::names).expect("its links")
}

/// The state of a running daemon, asked from another namespace.
fn a_switch_that_runs() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket, "--publish", "8080:10.77.0.11:80"]).start();
    let elsewhere = netns::create().expect("a namespace");
    let (code, text) = run(&elsewhere, &mut doctor(&["--socket", &socket, "-o", "json"]));
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, json["problems"].as_u64()), (Some(0), Some(0)), "{text}");
    let checks = json["checks"].as_array().expect("checks");
    let has = |what: &str, why: &str| {
        let mut of = checks.iter().filter(|check| check["what"].as_str() == Some(what));
        of.any(|check| check["why"].as_str().is_some_and(|text| text.contains(why)))
    };
    assert!(has("control socket", "answers") && has("uplink up0", "is up"), "{text}");
    assert!(has("rights", "the switch has what it needs"), "{text}");
    site.guests[0].set_link(Change { up: Some(false), ..Change::default() });
    crate::wait::until("the guest's link", || {
        let (code, text) = run(&elsewhere, &mut doctor(&["--socket", &socket]));
        (code == Some(1) && text.contains("its link is down") && text.contains("ip link set g1 up")).then_some(())
    });
    site.guests[0].set_link(Change { up: Some(true), ..Change::default() });
    site.finish();
}

/// Each finding has a line and a fix, and all are reported at once.
fn a_site_that_does_not() {
    let directory = Directory::new();
    let file = "bridge.br0.gateway = '203.0.113.129/25'\nuplink.interface = 'up0'\n\
        bridge.br0.port = [{ tap = 'tap0' }, { tap = 'tap1', netns = 'no-such' }, { packet = 'none0' }, { dgram = '/run/d' }]\n\
        publish = [{ listen = '8080', to = '203.0.113.130:80' }]\n\
        tunnel = [{ type = 'vxlan', vni = 42, remotes = ['203.0.113.9'], mtu = 1500 },\n\
        { type = 'udp', port = 7000, remotes = ['2001:db8::9'] }]";
    let (machine, _outside, file) = machine(&directory, file);
    let listener: TcpListener = listen_on(&machine, MACHINE, 8080);
    let socket = directory.text("none");
    let (code, text) = run(machine.netns(), &mut doctor(&["--socket", &socket, "--config", &file]));
    assert_eq!(code, Some(1), "{text}");
    for (what, says) in [
        ("guests' network 203.0.113.129/25", ["behind the uplink up0", "fix: use another network"]),
        ("namespace no-such", ["does not exist", "fix: ip netns add no-such"]),
        ("port none0", ["no such interface", "fix: ip -br link"]),
        ("published tcp 8080", [&format!("process {}", std::process::id()), "fix: ss -lp"]),
        ("tunnel vxlan42 to 203.0.113.9", ["datagrams of 1550", "fix: mtu = 1450"]),
        ("tunnel udp7000 to 2001:db8::9", ["no route", "fix: ip route get 2001:db8::9"]),
    ] {
        assert_line(&text, "problem", what, &says);
    }
    drop(listener);

    machine.set_link(Change { up: Some(false), ..Change::default() });
    let (code, text) = run(machine.netns(), &mut doctor(&["--socket", &socket, "--config", &file]));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "problem", "uplink up0", &["is set down", "fix: ip link set up0 up"]);
}

fn no_device_and_no_rights() {
    let netns = netns::create().expect("a namespace");
    let (code, text) = run(&netns, without_net_admin(&mut doctor(&["--socket", "/run/none"])));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "problem", "rights", &["lacks CAP_NET_ADMIN", "fix: start it as root; or setcap cap_net_admin+ep"]);
    hide("/dev").expect("an empty /dev");
    File::create("/dev/null").expect("a place for nothing");
    let (code, text) = run(&netns, &mut doctor(&["--socket", "/run/none"]));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "problem", "/dev/net/tun", &["is missing", "mknod -m 0666 /dev/net/tun c 10 200"]);
}

fn a_socket_that_was_left() {
    let directory = Directory::new();
    let netns = netns::create().expect("a namespace");
    let (left, file) = (directory.text("left"), directory.text("file"));
    drop(UnixListener::bind(&left).expect("a socket"));
    fs::write(&file, "precious").expect("written");
    let (code, text) = run(&netns, &mut doctor(&["--socket", &left]));
    assert_eq!(code, Some(0), "a warning is no problem: {text}");
    assert_line(&text, "warning", "control socket", &["no process listens"]);
    let (code, text) = run(&netns, &mut doctor(&["--socket", &file]));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "problem", "control socket", &["is not a socket"]);
    // The fix for a stale socket is to start the daemon.
    let host = Host::quiet("a");
    let switch = Switch::start(&["--control", &left, "--tap", &host.port("")]);
    let (code, text) = run(&netns, &mut doctor(&["--socket", &left]));
    assert_eq!(code, Some(0), "{text}");
    assert_line(&text, "ok", "control socket", &["a switch answers"]);
    switch.finish();
}
