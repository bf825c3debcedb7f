//! What a package installs: systemd accepts the unit, and the rights that the unit grants are sufficient.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::netns;

use crate::guest::Directory;
use crate::host::Host;
use crate::named::in_own_mounts;
use crate::site::give;
use crate::{program, trial, trial_with};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/vswitchd.service");
const MINIMAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/minimal.toml");
const NAMESPACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/vswitchd.service.d/namespaces.conf");
const CONTAINERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/vswitchd.service.d/containers.conf");
const DOCKER_SOCKET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/vswitchd-docker.socket");
/// User and group `nobody`.
const STRANGER: u32 = 65_534;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial_with("packaging/unit_is_valid", || is_missing("systemd-analyze"), unit_is_valid),
        trial("packaging/command_line_is_valid", command_line_is_valid),
        trial_with("packaging/minimal_configuration_starts", || is_missing("setpriv"), || in_own_mounts(minimal_configuration)),
        trial_with("packaging/pages_are_clean", || is_missing("mandoc"), pages_are_clean),
        trial_with("packaging/completions_for_bash", || is_missing("bash"), || completions("bash", &["-n"])),
        trial_with("packaging/completions_for_zsh", || is_missing("zsh"), || completions("zsh", &["-n"])),
        trial_with("packaging/completions_for_fish", || is_missing("fish"), || completions("fish", &["--no-execute"])),
        trial_with("packaging/bash_completes", || is_missing("bash"), bash_completes),
        trial_with("packaging/rights_are_enough", || is_missing("setpriv"), rights_are_enough),
        trial_with("packaging/rights_of_other_namespaces_are_enough", || is_missing("setpriv"), other_namespaces),
    ]
}

fn is_missing(program: &str) -> Option<String> {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.err().map(|error| format!("{program}: {error}"))
}

/// The unit with the path of our binary, as it is. `Type=notify-reload` would need systemd 253.
fn unit_is_valid() {
    let directory = Directory::new();
    let text = fs::read_to_string(UNIT).expect("the unit");
    assert!(text.contains("Type=notify\n") && text.contains("\nExecReload=/bin/kill -HUP $MAINPID\n"));
    assert!(text.contains("CAP_BPF") && text.contains("SystemCallFilter=@system-service bpf\n"));
    let path = directory.path("vswitchd.service");
    fs::write(&path, text.replace("/usr/bin/vswitchd", env!("CARGO_BIN_EXE_vswitchd"))).expect("written");
    let drop_ins = directory.path("vswitchd.service.d");
    fs::create_dir(&drop_ins).expect("made");
    fs::copy(NAMESPACES, drop_ins.join("namespaces.conf")).expect("copied");
    fs::copy(CONTAINERS, drop_ins.join("containers.conf")).expect("copied");
    let socket = directory.path("vswitchd-docker.socket");
    fs::copy(DOCKER_SOCKET, &socket).expect("copied");
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args([&path, &socket]).output().expect("it runs");
    let said = String::from_utf8_lossy(&verified.stderr);
    // Messages about other units of this machine do not matter.
    assert!(!said.contains("vswitchd"), "{said}");
}

/// The arguments of `ExecStart=`, with a configuration file of the test and a group that exists on every machine.
fn command_line_is_valid() {
    let directory = Directory::new();
    let file = directory.path("vswitchd.toml");
    fs::write(&file, "[[bridge.br0.port]]\ntap = \"tap0\"\n").expect("written");
    let text = fs::read_to_string(UNIT).expect("the unit");
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/vswitchd ")).expect("what is started");
    let line = line.replace("/etc/vswitchd/vswitchd.toml", file.to_str().expect("plain letters"));
    let line = line.replace("--control-group vswitchd", "--control-group root");
    let checked = Command::new(env!("CARGO_BIN_EXE_vswitchd")).args(line.split_whitespace()).arg("--check").output();
    let checked = checked.expect("it runs");
    assert!(checked.status.success(), "{line}: {}", String::from_utf8_lossy(&checked.stderr));
}

/// The configuration that the package installs starts as it is, with the rights of the unit; without an uplink, a TAP or any other
/// device of the host.
fn minimal_configuration() {
    fs::create_dir_all("/run/vswitchd").expect("a directory");
    std::os::unix::fs::chown("/run/vswitchd", Some(STRANGER), Some(STRANGER)).expect("the service's");
    let machine = Host::quiet("none0");
    let log = run_with(&rights(&[UNIT]), &machine, &["--config", MINIMAL]);
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

fn programs() -> [&'static str; 2] {
    [env!("CARGO_BIN_EXE_vswitchd"), program::vswitchctl()]
}

/// The man pages pass `mandoc -T lint`.
fn pages_are_clean() {
    let directory = Directory::new();
    for program in programs() {
        let written = Command::new(program).arg("man").arg(directory.path("man")).output().expect("it runs");
        assert!(written.status.success(), "{written:?}");
    }
    let pages: Vec<_> = fs::read_dir(directory.path("man")).expect("pages").map(|page| page.expect("a page").path()).collect();
    for name in ["vswitchd.8", "vswitchctl.1", "vswitchctl-port-stats.1"] {
        assert!(pages.iter().any(|page| page.ends_with(name)), "no {name}: {pages:?}");
    }
    let lint = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&pages).output().expect("it runs");
    let said = String::from_utf8_lossy(&lint.stdout);
    assert!(lint.status.success() && said.is_empty(), "{said}{}", String::from_utf8_lossy(&lint.stderr));
}

fn script(program: &str, shell: &str) -> String {
    let output = Command::new(program).args(["completions", shell]).output().expect("it runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The shell parses the script.
fn completions(shell: &str, check: &[&str]) {
    let directory = Directory::new();
    for program in programs() {
        let path = directory.path(shell);
        fs::write(&path, script(program, shell)).expect("written");
        let checked = Command::new(shell).args(check).arg(&path).output().expect("it runs");
        assert!(checked.status.success() && checked.stderr.is_empty(), "{program}: {checked:?}");
    }
}

/// The completions that a shell offers after this text and Tab.
fn bash_completes() {
    let directory = Directory::new();
    let path = directory.path("ask");
    for (line, wanted) in [("vswitchctl do", "doctor"), ("vswitchctl conntrack ", "stats"), ("vswitchctl log s", "show set")] {
        let words: Vec<String> = line.split(' ').map(|word| format!("'{word}'")).collect();
        let at = words.len() - 1;
        let ask = format!(
            "{}\nCOMP_WORDS=({}) COMP_CWORD={at}\n_vswitchctl vswitchctl {} {}\necho \"${{COMPREPLY[@]}}\"",
            script(program::vswitchctl(), "bash"),
            words.join(" "),
            words[at],
            words[at - 1],
        );
        // An argument has at most 128 KiB.
        fs::write(&path, ask).expect("written");
        let output = Command::new("bash").arg("--norc").arg(&path).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let offered: Vec<&str> = said.split_whitespace().collect();
        assert!(wanted.split(' ').all(|word| offered.contains(&word)), "{line}: {output:?}");
    }
}

/// The capabilities that these files grant, as setpriv(1) writes them.
fn rights(files: &[&str]) -> String {
    let lines = files.iter().map(|file| fs::read_to_string(file).expect("it is there"));
    let names: Vec<String> = lines
        .flat_map(|text| {
            let rights = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.to_owned())).expect("its rights");
            assert_eq!(rights("AmbientCapabilities="), rights("CapabilityBoundingSet="));
            rights("AmbientCapabilities=").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    names
        .iter()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .fold("-all".to_owned(), |a, b| a + &b)
}

/// Starts a daemon with these capabilities only. Returns its warnings.
fn run_with(rights: &str, machine: &Host, args: &[&str]) -> String {
    let mut command = Command::new("setpriv");
    // Root could open the device node whatever its mode; a node that only root may open is left as it is.
    let mode = fs::metadata("/dev/net/tun").map_or(0, |tun| tun.permissions().mode());
    if mode & 0o6 == 0o6 {
        command.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), "--clear-groups".to_owned()]);
    }
    for what in ["--inh-caps=", "--ambient-caps=", "--bounding-set="] {
        command.arg(format!("{what}{rights}"));
    }
    command.args(["--no-new-privs", env!("CARGO_BIN_EXE_vswitchd"), "--control", "none"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = netns::inside(machine.netns().as_fd(), || command.spawn()).expect("setpriv starts");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let is_ready = lines.map_while(Result::ok).any(|line| line == "ready");
    let _ = child.kill();
    let _ = child.wait();
    let mut log = String::new();
    child.stderr.take().expect("its log").read_to_string(&mut log).expect("text");
    assert!(is_ready, "{args:?}: {log}");
    log
}

/// A machine with an uplink and an interface to be a port.
fn machine() -> (Host, Host) {
    let (machine, outside) = (Host::quiet("up0"), Host::quiet("wan0"));
    machine.inside(|| link::add_pair("up0", "wan0", Some(outside.netns().as_fd())));
    machine.inside(|| link::add_pair("veth0", "veth1", None));
    for host in [&machine, &outside] {
        host.set_link(Change { up: Some(true), ..Change::default() });
    }
    give(&machine, Ipv4Addr::new(203, 0, 113, 1), 24);
    (machine, outside)
}

fn rights_are_enough() {
    let (machine, _outside) = machine();
    let args = [
        "--tap",
        "tap0",
        "--port",
        "packet:veth0",
        "--uplink",
        "up0",
        "--publish",
        "80:10.77.0.2:80",
        "--vxlan",
        "vni=42,remote=203.0.113.9,dev=up0",
        "--udp-ip",
        "tun=tun0,route=10.1.0.0/16@203.0.113.9,address=10.1.0.1/16",
    ];
    let log = run_with(&rights(&[UNIT]), &machine, &args);
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

/// The effective user ID of another process.
fn other_namespaces() {
    let (machine, outside) = machine();
    let sleeper = netns::inside(outside.netns().as_fd(), || Command::new("sleep").arg("60").spawn());
    let mut sleeper = sleeper.expect("a process to be named");
    let log = run_with(&rights(&[UNIT, NAMESPACES]), &machine, &["--tap", &format!("tap0@pid:{}", sleeper.id())]);
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}
