//! The tour in docs/operate.md: each command runs, and its output begins as the page shows.
//!
//! A line `    $ command` is run by a shell, and the lines below it are its output. Numbers, addresses and times
//! differ each time, so only the words without digits of each output's first line are compared. To rewrite all
//! outputs: `UPDATE=1 cargo test --test e2e -- tour/`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::netns;
use packet::MacAddr;

use crate::datagrams::Datagram;
use crate::host::{Host, bound_in_time};
use crate::named::{in_own_mounts, name};
use crate::site::{FAR, GATEWAY, GATEWAY_MAC, MACHINE, NEIGHBOUR, NEXT_HOP, default_route, give, listen_on, ping};
use crate::switch::Switch;
use crate::{program, trial};

const TOUR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate.md");
const BEGIN: &str = "## Ten questions\n";
const END: &str = "\n## All verbs\n";
const PROMPT: &str = "    $ ";

pub(crate) const FILE: &str = "\
[bridge.br0]
gateway = \"10.77.0.1/24\"

[[bridge.br0.port]]
tap = \"tap0\"
netns = \"blue\"

[[bridge.br0.port]]
tap = \"tap1\"
netns = \"red\"

[uplink]
interface = \"eth0\"

[[tunnel]]
type = \"vxlan\"
vni = 42
remotes = [\"203.0.113.9\"]
";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("tour/every_command_of_it_runs", || in_own_mounts(every_command))]
}

fn every_command() {
    let text = fs::read_to_string(TOUR).expect("the document");
    let (before, rest) = text.split_once(BEGIN).expect("the tour's beginning");
    let (tour, after) = rest.split_once(END).expect("the tour's end");
    let scene = Scene::new();
    let taken = scene.take(tour);
    scene.switch.finish();
    if std::env::var_os("UPDATE").is_some() {
        return fs::write(TOUR, [before, BEGIN, &taken, END, after].concat()).expect("written");
    }
    let (written, real) = (outputs(tour), outputs(&taken));
    assert_eq!(written.len(), real.len());
    assert!(written.len() >= 10, "ten questions have ten answers");
    for ((command, written), (_, real)) in written.iter().zip(&real) {
        assert_eq!(written, real, "{command}: see UPDATE in tests/e2e/tour.rs");
    }
}

/// Each command, and the words of its output's first line that are the same each time.
fn outputs(tour: &str) -> Vec<(String, Vec<String>)> {
    let mut lines = tour.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix(PROMPT) else { continue };
        let first = lines.peek().filter(|line| line.starts_with("    ") && !line.starts_with(PROMPT));
        let words = first.map_or("", |line| line.trim()).split_whitespace();
        let steady = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit())).map(str::to_owned);
        found.push((command.to_owned(), steady.collect()));
    }
    found
}

/// A switch with two guests, the outside, and some traffic.
struct Scene {
    machine: Host,
    outside: Host,
    guests: [Host; 2],
    switch: Switch,
}

impl Scene {
    fn new() -> Scene {
        let (machine, outside) = (Host::quiet("eth0"), Host::quiet("wan0"));
        let guests = ["tap0", "tap1"].map(Host::quiet);
        name("blue", guests[0].netns());
        name("red", guests[1].netns());
        machine.inside(|| link::add_pair("eth0", "wan0", Some(outside.netns().as_fd())));
        for host in [&machine, &outside] {
            host.set_link(Change { up: Some(true), ..Change::default() });
            host.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
        }
        give(&machine, MACHINE, 24);
        for (address, prefix_len) in [(NEXT_HOP, 24), (NEIGHBOUR, 24), (FAR, 32)] {
            give(&outside, address, prefix_len);
        }
        default_route(&machine, NEXT_HOP);
        fs::write("/run/vswitchd.toml", FILE).expect("written");
        let netns = machine.netns().try_clone().expect("a clone");
        let switch = Switch::start_inside(netns, &["--config", "/run/vswitchd.toml", "--control", "/run/vswitchd.sock"]);
        let scene = Scene { machine, outside, guests, switch };
        for (n, guest) in scene.guests.iter().enumerate() {
            let mac = MacAddr([0x52, 0x54, 0, 0, 0, 0x11 + n as u8]);
            guest.set_link(Change { mac: Some(mac), ..Change::default() });
            give(guest, Ipv4Addr::new(10, 77, 0, 11 + n as u8), 24);
            default_route(guest, GATEWAY);
        }
        scene
    }

    /// Runs all commands in order. Returns the tour with their output.
    fn take(&self, tour: &str) -> String {
        let [blue, red] = &self.guests;
        ping(blue, GATEWAY, 1);
        ping(blue, Ipv4Addr::new(10, 77, 0, 12), 2);
        ping(blue, FAR, 3);
        let listener = listen_on(&self.outside, FAR, 443);
        let near = blue.connect(SocketAddrV4::new(FAR, 443).into());
        let (far, _) = listener.accept().expect("a connection");
        bound_in_time(&far);
        // From an address outside the guest's network.
        let strange = Datagram::udp(SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 5), 4000), SocketAddrV4::new(FAR, 53), b"who?");
        for _ in 0..3 {
            red.raw().send(&strange.frame(GATEWAY_MAC, red.mac())).expect("sent");
        }
        self.switch.settle("the drops", |report| report.dropped("tap1", "martian_source") == 3);
        let taken = self.run_all(tour);
        drop((near, far));
        taken
    }

    fn run_all(&self, tour: &str) -> String {
        let mut taken = String::new();
        let mut is_output = false;
        for line in tour.lines() {
            if let Some(command) = line.strip_prefix(PROMPT) {
                taken += &format!("{line}\n{}", self.run(command));
                is_output = true;
                continue;
            }
            if is_output && (line.is_empty() || line.starts_with("    ")) {
                continue;
            }
            let gap = if is_output { "\n" } else { "" };
            taken += &format!("{gap}{line}\n");
            is_output = false;
        }
        // The next heading ends the last line.
        taken.truncate(taken.trim_end_matches('\n').len());
        taken + "\n"
    }

    /// The output of a shell in the switch's namespace, indented.
    fn run(&self, command: &str) -> String {
        let programs = Path::new(program::vswitchctl()).parent().expect("a directory");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", format!("{}:{path}", programs.display())).stdin(Stdio::null());
        let output = netns::inside(self.machine.netns().as_fd(), || shell.output()).expect("a shell");
        assert!(output.status.success(), "{command}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }).collect()
    }
}
