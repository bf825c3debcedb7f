//! The shell blocks of README.md and docs/, pasted into a shell.
//!
//! Each section of a page is a session of its own: a machine in a namespace, with private process IDs, /etc and /run, an interface
//! eth0 that leads to hosts outside, and bash, which gets the section's blocks one after another, as a reader would paste them. A
//! command that fails is a failure of the test. What runs until it is stopped gets what a reader would press, ctrl-C: a daemon in
//! the foreground when it is ready, and others (a capture, a list of events) when they have been silent for a moment.
//!
//! A page that speaks of a running switch ([`Scene::Running`]) gets one before its first block: that of the ten questions in
//! docs/operate.md, with two guests that talk.
//!
//! *Every indented block is one of these*, and a new one that is none fails the test `pasted/every_block_is_known`:
//!
//! - shell: its first word is one of [`PROGRAMS`], or it is behind a `$` and above its output;
//! - flags of the daemon: `--check` reads them;
//! - shell that cannot run here, in [`NOT_HERE`] with the reason;
//! - no shell, in [`NO_SHELL`].

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::netns;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::host::Host;
use crate::named::in_own_mounts;
use crate::site::{FAR, MACHINE, NEIGHBOUR, NEXT_HOP, default_route, give};
use crate::tour::FILE;
use crate::{program, trial_with};

/// What a page needs before its first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scene {
    /// A machine.
    Machine,
    /// A machine with a switch, two guests and traffic.
    Running,
}

/// All pages with shell blocks.
const PAGES: [(&str, Scene); 13] = [
    ("README.md", Scene::Machine),
    ("docs/capture.md", Scene::Running),
    ("docs/changes.md", Scene::Running),
    ("docs/config.md", Scene::Machine),
    ("docs/containers.md", Scene::Machine),
    ("docs/guests.md", Scene::Machine),
    ("docs/host.md", Scene::Running),
    ("docs/metrics.md", Scene::Running),
    ("docs/operate.md", Scene::Running),
    ("docs/router.md", Scene::Machine),
    ("docs/switch.md", Scene::Machine),
    ("docs/trace.md", Scene::Running),
    ("docs/tunnel.md", Scene::Machine),
];

/// Sections of pages with a running switch that start one themselves.
const ALONE: [&str; 1] = ["## In the background"];

/// First words of shell blocks.
const PROGRAMS: [&str; 21] = [
    "vswitchd",
    "vswitchctl",
    "ip",
    "kill",
    "curl",
    "cargo",
    "sudo",
    "./ci.sh",
    "qemu-system-x86_64",
    "cloud-hypervisor",
    "ovs-vsctl",
    "etcdctl",
    "benches/lab/attacks",
    "benches/lab/lab",
    "mkdir",
    "until",
    "ssh",
    "systemctl",
    "apt",
    "podman",
    "docker",
];

/// Shell blocks that cannot run here, by their beginning, with the reason.
const NOT_HERE: [(&str, &str); 27] = [
    ("cargo run --release -- demo", "a release build takes minutes; ci.sh runs it"),
    ("./ci.sh", "it runs this test"),
    ("cargo build --release", "a release build takes minutes; ci.sh does it, and the rest installs on the host"),
    ("# Live in Wireshark", "needs a desktop, and another host"),
    ("vswitchctl capture tap1 --drops -w - | wireshark", "needs a desktop"),
    ("qemu-system-x86_64 ... -netdev tap,id=n0,ifname=tap0", "needs a guest's disk; guest_qemu/* runs these options"),
    ("qemu-system-x86_64 -accel kvm -m 1024 -drive file=disk.img,if=virtio \\\n    -netdev tap", "needs a guest's disk"),
    ("qemu-system-x86_64 -accel kvm -m 1024 -drive file=disk.img,if=virtio \\\n    -netdev stream", "needs a guest's disk"),
    ("qemu-system-x86_64 ... -netdev stream", "needs a guest's disk; guest_qemu/* runs these options"),
    ("qemu-system-x86_64 ... -netdev socket", "needs a guest's disk"),
    ("qemu-system-x86_64 ... \\\n    -netdev dgram", "needs a guest's disk; guest_qemu/* runs these options"),
    ("curl --unix-socket /run/firecracker.sock", "needs Firecracker"),
    ("cloud-hypervisor --kernel", "needs cloud-hypervisor and a guest's disk"),
    ("benches/lab/attacks --rounds 2", "takes minutes"),
    ("benches/lab/lab l2 --sut wire-offload", "takes minutes; ci.sh runs a short round"),
    ("benches/lab/lab nat", "takes minutes; ci.sh runs a short round"),
    ("benches/lab/lab vxlan", "takes minutes; ci.sh runs a short round"),
    ("benches/lab/lab l2 --sut kernel,ovs-veth", "takes minutes"),
    ("benches/lab/lab l2 --sut vswitchd", "takes minutes"),
    ("benches/lab/ports", "takes minutes; ci.sh runs it with few ports"),
    ("ovs-vsctl add-br br42", "needs a running Open vSwitch; tunnel_ovs/* starts one and sets it up in the same way"),
    ("etcdctl put", "needs etcd"),
    ("ip netns add web\nvswitchctl port add eth0@web", "needs an image; containers/podman makes one and does the same"),
    ("sudo cp /usr/share/doc/vswitchd/examples/containers.conf", "needs systemd, and dockerd as its service"),
    ("docker network create", "needs images of a registry; docker/* makes one and runs these commands"),
    ("vswitchd --uplink eth0 &\nvswitchctl wait\npodman run", "needs an image of a registry; cni/podman makes one"),
    ("podman run --detach", "needs an image; containers/podman makes one and runs these commands"),
];

/// Blocks that are no shell, by their beginning: outputs, syntax, other languages.
const NO_SHELL: [&str; 23] = [
    "10.77.0.1/32 dev vswitch0",
    "vswitchctl capture [PORT|any]",
    "+ port tap3",
    "vswitchd: vswitchd.toml:12",
    "\"network-interfaces\"",
    "<interface",
    "<domain",
    "scrape_configs:",
    "histogram_quantile",
    "10.77.0.11:40000 ->",
    "{\"type\":\"about:blank\"",
    "ok       control socket",
    "--gateway [VLAN=]",
    "--publish [ADDR:]",
    "--route NETWORK:via=GUEST[",
    "--nat KEY",
    "--gateway 20=10.0.0.129/25:",
    "gateway 10.0.10.1/24",
    "--tap NAME",
    "--port packet:IFNAME",
    "received + copied",
    "networks:",
    "{\n  \"cniVersion\"",
];

/// Minimum number of shell blocks of all pages, so that none goes unseen.
const AT_LEAST: usize = 60;

/// Commands that end when they are stopped.
const ENDLESS: [&str; 4] = ["vswitchctl events", "vswitchctl capture", "curl -N", "curl -sN"];

/// Silence after which such a command gets ctrl-C.
const SILENCE: Duration = Duration::from_millis(500);

/// Time limit for one block.
const PATIENCE: Duration = Duration::from_secs(30);

/// Begins each session. Its own /run is empty; its own /etc may be written, and has a user alice.
const PRELUDE: &str = r#"
set -m
trap : INT
mount -t tmpfs tmpfs /run
mkdir -p /run/etc/upper /run/etc/work /run/home /run/here
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
echo 'alice:x:4242:4242::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
mount -t tmpfs tmpfs /var/log
mkdir -p /etc/vswitchd /run/vswitchd
cd /run/here
"#;

/// Begins a session with a running switch.
const RUNNING: &str = r#"
ip netns add blue
ip netns add red
cp /run/vswitchd.toml vswitchd.toml
cp /run/vswitchd.toml site.toml
vswitchd --config /run/vswitchd.toml &
until vswitchctl show >/dev/null 2>&1; do sleep 0.05; done
for guest in 'blue tap0 11' 'red tap1 12'; do
    set -- $guest
    ip -n $1 link set $2 address 52:54:00:00:00:$3
    ip -n $1 address add 10.77.0.$3/24 dev $2
    ip -n $1 route add default via 10.77.0.1
done
ip netns exec blue bash -c 'while :; do echo >/dev/tcp/198.51.100.7/80; sleep 0.05; done' 2>/dev/null &
ip netns exec blue ping -q -i 0.2 198.51.100.7 >/dev/null &
ip netns exec red ping -q -i 0.1 10.77.0.11 >/dev/null &
until vswitchctl fdb show | grep -q 00:00:11 && vswitchctl fdb show | grep -q 00:00:12; do sleep 0.05; done
"#;

pub(crate) fn trials() -> Vec<Trial> {
    let run =
        |(page, scene)| trial_with(format!("pasted/{page}"), what_is_missing, move || in_own_mounts(move || paste(page, scene)));
    let pages = PAGES.map(run);
    let known = Trial::test("pasted/every_block_is_known", || {
        every_block_is_known();
        Ok(())
    });
    pages.into_iter().chain([known]).collect()
}

/// The programs that the blocks call, and the test itself.
fn what_is_missing() -> Option<String> {
    let is_missing = |program: &&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    };
    let programs = ["bash", "unshare", "ip", "ping", "curl", "tshark", "tcpdump", "pidof"];
    programs.into_iter().find(is_missing).map(|program| format!("there is no {program}"))
}

/// A block of a page.
#[derive(Clone, Debug)]
struct Block {
    line: usize,
    /// Number of the heading that it is below.
    section: usize,
    /// Whether its section starts a switch itself.
    is_alone: bool,
    text: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Shell(String),
    Flags(String),
    NotHere,
    NoShell,
}

impl Block {
    fn kind(&self) -> Option<Kind> {
        let text = self.text.as_str();
        if text.starts_with("$ ") {
            let commands: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
            return Some(Kind::Shell(commands.join("\n")));
        }
        if NOT_HERE.iter().any(|(start, _)| text.starts_with(start)) {
            return Some(Kind::NotHere);
        }
        if NO_SHELL.iter().any(|start| text.starts_with(start)) {
            return Some(Kind::NoShell);
        }
        if text.starts_with("--") {
            return Some(Kind::Flags(text.to_owned()));
        }
        let first = text.lines().find(|line| !line.starts_with('#'))?.split_whitespace().next()?;
        PROGRAMS.contains(&first).then(|| Kind::Shell(text.to_owned()))
    }
}

/// The indented blocks of a page, outside of fences. The output of a command behind a `$` goes on behind an empty line.
fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("the page");
    let (mut blocks, mut section, mut is_fence): (Vec<Block>, usize, bool) = (Vec::new(), 0, false);
    let (mut is_within, mut is_alone) = (false, false);
    for (at, line) in text.lines().enumerate() {
        is_fence ^= line.starts_with("```");
        if line.starts_with('#') {
            section += 1;
            is_alone = ALONE.contains(&line);
        }
        let code = line.strip_prefix("    ").filter(|code| !is_fence && !code.is_empty());
        match (code, blocks.last_mut()) {
            (Some(code), Some(block)) if is_within => block.text += &format!("\n{code}"),
            (Some(code), last) => {
                let is_output = last.is_some_and(|block| block.text.starts_with("$ ") && block.section == section);
                let is_output = is_output && !code.starts_with("$ ") && !PROGRAMS.iter().any(|program| code.starts_with(program));
                if !is_output {
                    blocks.push(Block { line: at + 1, section, is_alone, text: code.to_owned() });
                }
            }
            (None, _) => {}
        }
        is_within = code.is_some();
    }
    blocks
}

fn every_block_is_known() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names =
        fs::read_dir(docs).expect("docs").map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let mut pages: Vec<String> = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    pages.push("README.md".to_owned());
    let (mut shell, mut problems, mut all) = (0, Vec::new(), String::new());
    for page in &pages {
        for block in blocks(page) {
            let kind = block.kind();
            if matches!(kind, Some(Kind::Shell(_) | Kind::NotHere)) {
                shell += 1;
            }
            if matches!(kind, Some(Kind::Shell(_) | Kind::Flags(_))) && !PAGES.iter().any(|(known, _)| known == page) {
                problems.push(format!("{page}:{}: the page is not in PAGES", block.line));
            }
            if kind.is_none() {
                problems.push(format!("{page}:{}: is this shell? {}", block.line, block.text));
            }
            all += &format!("{}\n\n", block.text);
        }
    }
    problems.extend(NOT_HERE.iter().filter(|(start, _)| !all.contains(start)).map(|(start, _)| format!("gone: {start}")));
    problems.extend(NO_SHELL.iter().filter(|start| !all.contains(*start)).map(|start| format!("gone: {start}")));
    assert!(problems.is_empty(), "see tests/e2e/pasted.rs:\n{}", problems.join("\n"));
    assert!(shell >= AT_LEAST, "{shell} shell blocks");
}

fn paste(page: &str, scene: Scene) {
    let blocks = blocks(page);
    let mut session: Option<(usize, Session)> = None;
    for block in &blocks {
        let text = match block.kind() {
            Some(Kind::Shell(text)) => text,
            Some(Kind::Flags(flags)) => format!("vswitchd --check --tap tap0 {flags}"),
            _ => continue,
        };
        if session.as_ref().is_none_or(|(section, _)| *section != block.section) {
            drop(session.take());
            let scene = if block.is_alone { Scene::Machine } else { scene };
            session = Some((block.section, Session::start(scene)));
        }
        let (_, session) = session.as_mut().expect("a session");
        session.paste(&text, &format!("{page}:{}", block.line));
    }
}

/// A machine with bash.
struct Session {
    bash: Child,
    input: ChildStdin,
    /// Lines of output and of errors.
    lines: Receiver<String>,
    _machine: Host,
    _outside: Host,
}

impl Session {
    fn start(scene: Scene) -> Session {
        let (machine, outside) = (Host::quiet("eth0"), Host::quiet("wan0"));
        machine.inside(|| link::add_pair("eth0", "wan0", Some(outside.netns().as_fd())));
        for host in [&machine, &outside] {
            host.set_link(Change { up: Some(true), ..Change::default() });
            host.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
        }
        give(&machine, MACHINE, 24);
        for (address, prefix_len) in [(NEXT_HOP, 24), (NEIGHBOUR, 24), (FAR, 32), (Ipv4Addr::new(1, 1, 1, 1), 32)] {
            give(&outside, address, prefix_len);
        }
        default_route(&machine, NEXT_HOP);
        let programs = Path::new(program::vswitchctl()).parent().expect("a directory");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        // Whoever starts the tests may ignore SIGINT, and a shell cannot undo that: its children would not heed ctrl-C.
        command.args(["env", "--default-signal=INT", "bash", "--norc", "--noprofile"]);
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display())).env("HOME", "/run/home");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut bash = netns::inside(machine.netns().as_fd(), || command.spawn()).expect("unshare and bash");
        let (tell, lines) = channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(bash.stdout.take().expect("piped")), Box::new(bash.stderr.take().expect("piped"))];
        for output in outputs {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let _ = tell.send(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        let input = bash.stdin.take().expect("piped");
        let mut session = Session { bash, input, lines, _machine: machine, _outside: outside };
        let minimal = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/minimal.toml");
        let files = format!(
            "cat >/run/vswitchd.toml <<'END'\n{FILE}END\ncp {minimal} /etc/vswitchd/vswitchd.toml; cp {minimal} vswitchd.toml"
        );
        session.paste(&format!("{PRELUDE}{files}"), "the prelude");
        if scene == Scene::Running {
            session.paste(RUNNING, "the switch that runs");
        }
        session
    }

    /// Pastes a block and waits for its end.
    fn paste(&mut self, text: &str, place: &str) {
        let stops = if place.contains(':') { foreground(text) } else { Stops::default() };
        let block =
            format!("trap 'printf \"\\n@failed %s %s\\n\" $? \"$BASH_COMMAND\"' ERR\n{text}\ntrap - ERR\nprintf '\\n@done\\n'\n");
        self.input.write_all(block.as_bytes()).expect("bash reads");
        let (began, mut said, mut failures, mut stopped) = (Instant::now(), String::new(), Vec::new(), 0);
        loop {
            assert!(began.elapsed() < PATIENCE, "{place}: no end:\n{text}\n{said}");
            let line = match self.lines.recv_timeout(SILENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => panic!("{place}: the shell ended:\n{text}\n{said}"),
                Err(RecvTimeoutError::Timeout) => {
                    if stops.is_endless && self.press_ctrl_c() {
                        stopped += 1;
                    }
                    continue;
                }
            };
            match line.strip_prefix("@failed ") {
                _ if line == "@done" => break,
                Some(failure) => failures.push(failure.to_owned()),
                None if line == "ready" && stops.daemons > stopped => {
                    self.press_ctrl_c();
                    stopped += 1;
                }
                None => said += &format!("{line}\n"),
            }
        }
        // What was stopped may end with the status of ctrl-C.
        failures.retain(|failure| stopped == 0 || !["130 ", "1 ", "2 "].iter().any(|status| failure.starts_with(status)));
        assert!(failures.is_empty(), "{place}: failed: {failures:?}\n{text}\n{said}");
        assert_eq!(stops.daemons, stopped.min(stops.daemons), "{place}: a daemon did not become ready:\n{text}\n{said}");
    }

    /// Interrupts the pipeline in the foreground, which is the newest child of the shell.
    fn press_ctrl_c(&self) -> bool {
        let children = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()).collect::<Vec<i32>>()
        };
        let Some(bash) = children(self.bash.id()).first().copied() else { return false };
        // The last pipeline's first process leads its group.
        let mut groups = children(bash as u32).into_iter().filter_map(|child| {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse::<i32>().ok()
        });
        let Some(group) = groups.next_back().and_then(Pid::from_raw) else { return false };
        kill_process_group(group, Signal::INT).is_ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // With unshare the shell ends, which is the first process of its namespace, and so all others.
        let _ = self.bash.kill();
        let _ = self.bash.wait();
    }
}

/// What a block runs until it is stopped.
#[derive(Clone, Copy, Default, Debug)]
struct Stops {
    /// Daemons in the foreground.
    daemons: usize,
    is_endless: bool,
}

fn foreground(text: &str) -> Stops {
    let joined = text.replace("\\\n", " ");
    let commands = joined.lines().map(|line| line.split(" #").next().unwrap_or(line).trim());
    let is_daemon = |line: &&str| {
        line.starts_with("vswitchd --") && !line.ends_with('&') && !["--check", "--detach"].iter().any(|flag| line.contains(flag))
    };
    Stops {
        daemons: commands.clone().filter(is_daemon).count(),
        is_endless: commands.clone().any(|line| ENDLESS.iter().any(|start| line.starts_with(start))),
    }
}
