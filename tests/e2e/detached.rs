//! The switch in the background, as docs/operate.md starts it: the files that it leaves, and its errors.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::netns;

use crate::host::Host;
use crate::named::in_own_mounts;
use crate::site::{MACHINE, NEXT_HOP, default_route, give};
use crate::{program, trial_with};

/// The address that README.md pings.
const FAMOUS: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name: &str, run: fn()| trial_with(name, what_is_missing, move || in_own_mounts(run));
    vec![trial("detached/in_the_background", in_the_background)]
}

/// The programs that the blocks call.
fn what_is_missing() -> Option<String> {
    let is_missing = |program: &&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    };
    ["ip", "ping", "bash"].into_iter().find(is_missing).map(|program| format!("there is no {program}"))
}

/// The indented blocks of a section, up to the next heading of its level.
fn blocks(page: &str, heading: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("the page");
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).expect("the section");
    let mut blocks = vec![String::new()];
    for line in rest.lines().take_while(|line| !line.starts_with("## ") && !line.starts_with("### ")) {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(command), Some(block)) => *block += &format!("{command}\n"),
            (None, Some(block)) if !block.is_empty() => blocks.push(String::new()),
            _ => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// A machine whose eth0 leads outside.
fn machine() -> (Host, Host) {
    let (machine, outside) = (Host::quiet("eth0"), Host::quiet("wan0"));
    machine.inside(|| link::add_pair("eth0", "wan0", Some(outside.netns().as_fd())));
    for host in [&machine, &outside] {
        host.set_link(Change { up: Some(true), ..Change::default() });
        host.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
    }
    give(&machine, MACHINE, 24);
    give(&outside, NEXT_HOP, 24);
    give(&outside, FAMOUS, 32);
    default_route(&machine, NEXT_HOP);
    (machine, outside)
}

/// Pastes these lines into a shell on the machine, which ends with the first command that fails, and with it what runs in its
/// background.
fn paste(machine: &Host, lines: &str) -> Pasted {
    const END: &str = "trap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n";
    let programs = Path::new(program::vswitchctl()).parent().expect("a directory");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    // Files, as a pipe would not end before what was left in the background.
    let mut shell = Command::new("timeout");
    shell.args(["20", "bash", "-e", "-c", &format!("{END}{lines}")]).env("PATH", path).env_remove("VSWITCHD_SOCKET");
    shell
        .stdin(Stdio::null())
        .stdout(File::create("/run/pasted.out").expect("a file"))
        .stderr(File::create("/run/pasted.err").expect("a file"));
    let status = netns::inside(machine.netns().as_fd(), || shell.status()).expect("a shell");
    let text = |path: &str| fs::read_to_string(path).expect("text");
    Pasted { code: status.code(), output: text("/run/pasted.out"), errors: text("/run/pasted.err") }
}

/// What became of pasted lines.
#[derive(Debug)]
struct Pasted {
    code: Option<i32>,
    output: String,
    errors: String,
}

#[track_caller]
fn assert_pasted(machine: &Host, lines: &str) -> String {
    let pasted = paste(machine, lines);
    assert!(pasted.code == Some(0), "{lines}: {pasted:#?}");
    pasted.output
}

/// Ends the switch whose socket is found, and waits for that.
const END: &str = "vswitchctl stop\n";

fn in_the_background() {
    let (machine, _outside) = machine();
    let blocks = blocks("docs/operate.md", "## In the background");
    assert_pasted(&machine, &blocks[0]);
    // Nobody could reach a second one, whose control socket would be at the same path.
    let second = paste(&machine, "vswitchd --detach --tap tap7");
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.errors.contains("must be reachable: name a path with --control"), "{second:?}");
    // The log of a switch in the background is the file, and the command's own output ends with its start.
    fs::write("/run/vswitchd.toml", "[[bridge.br0.port]]\ntap = 'tap0'\n").expect("written");
    let start = blocks[1].replace("vswitchd.toml", "/run/vswitchd.toml").replace("/var/log", "/run");
    let output = assert_pasted(&machine, &format!("{start}vswitchctl port add tap1\n{END}"));
    assert!(output.contains("ready\n+ port tap1: all VLANs\n"), "{output}");
    let log = fs::read_to_string("/run/vswitchd.log").expect("the log");
    assert!(log.contains("+ port tap1: all VLANs"), "{log}");
    // Errors are those of the foreground.
    let refused = paste(&machine, "vswitchd --detach --tap tap0:vlna=1");
    assert_eq!(refused.code, Some(2));
    assert!(refused.errors.contains("did you mean 'vlan'?"), "{refused:?}");
    let failed = paste(&machine, "vswitchd --detach --tap tap0 --uplink eth7");
    assert_eq!(failed.code, Some(1));
    assert!(failed.errors.contains("eth7"), "{failed:?}");
    let waited = paste(&machine, "vswitchctl wait --timeout 1");
    assert_eq!(waited.code, Some(1));
    assert!(waited.errors.contains("waited 1 s: no switch found"), "{waited:?}");
}
