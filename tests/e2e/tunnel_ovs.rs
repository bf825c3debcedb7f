//! A tunnel to Open vSwitch, whose userspace datapath has a VXLAN implementation of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use netio::link::{self, Change};

use crate::host::{Host, Ip};
use crate::switch::Switch;
use crate::tunnel_site::{Between, PORT, Underlay, ip, kernel_is_missing, overhead, take};
use crate::{trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial_with("tunnel_ovs/carries_everything_ipv4", what_is_missing, || carries_everything(Ip::V4)),
        trial_with("tunnel_ovs/carries_everything_ipv6", what_is_missing, || carries_everything(Ip::V6)),
    ]
}

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

fn what_is_missing() -> Option<String> {
    let is_there = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    let missing = ["ovsdb-tool", "ovsdb-server", "ovs-vsctl", "ovs-vswitchd"].into_iter().find(|tool| !is_there(tool));
    let missing = missing.or_else(|| (!Path::new(SCHEMA).exists()).then_some(SCHEMA));
    missing
        .map(|missing| format!("no Open vSwitch to compare with: {missing} (package openvswitch-switch)"))
        .or_else(kernel_is_missing)
}

/// Open vSwitch's two processes and their files.
#[derive(Debug)]
struct OpenVswitch {
    directory: PathBuf,
    processes: Vec<Child>,
}

impl OpenVswitch {
    fn start(machine: &Host, name: &str) -> OpenVswitch {
        let directory = std::env::temp_dir().join(format!("vswitchd-e2e-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let mut ovs = OpenVswitch { directory, processes: Vec::new() };
        let at = ovs.directory.display().to_string();
        ovs.run(machine, "ovsdb-tool", &["create", &format!("{at}/conf.db"), SCHEMA]);
        ovs.spawn(
            machine,
            "ovsdb-server",
            &[
                &format!("{at}/conf.db"),
                &format!("--remote=punix:{at}/db.sock"),
                &format!("--unixctl={at}/db.ctl"),
                "--log-file=/dev/null",
            ],
        );
        ovs.wait_for("db.sock");
        ovs.run(machine, "ovs-vsctl", &[&format!("--db=unix:{at}/db.sock"), "--no-wait", "init"]);
        ovs.spawn(
            machine,
            "ovs-vswitchd",
            &[&format!("unix:{at}/db.sock"), &format!("--unixctl={at}/ctl"), "--disable-system", "--log-file=/dev/null"],
        );
        ovs.wait_for("ctl");
        ovs
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
            command.env(variable, &self.directory);
        }
        command
    }

    fn run(&self, machine: &Host, program: &str, args: &[&str]) {
        let output = machine.inside(|| self.command(program, args).stderr(Stdio::piped()).output());
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn spawn(&mut self, machine: &Host, program: &str, args: &[&str]) {
        let mut command = self.command(program, args);
        self.processes.push(machine.inside(|| command.spawn()));
    }

    fn wait_for(&self, file: &str) {
        wait::until(file, || self.directory.join(file).exists().then_some(()));
    }

    fn vsctl(&self, machine: &Host, words: &str) {
        let database = format!("--db=unix:{}/db.sock", self.directory.display());
        let args: Vec<&str> = [&database, "--timeout=20"].into_iter().chain(words.split_whitespace()).collect();
        self.run(machine, "ovs-vsctl", &args);
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Its bridge on machine 2 with this host, and another bridge that has the machine's address and route.
fn bridge(underlay: &Underlay, host: &Host) -> OpenVswitch {
    let machine = underlay.machine(2);
    // It expects frames as they would arrive on a wire.
    machine.turn_offloads_off();
    underlay.machine(1).turn_offloads_off();
    take(machine, underlay.ip, 2);
    let ovs = OpenVswitch::start(machine, if underlay.ip == Ip::V4 { "ipv4" } else { "ipv6" });
    ovs.vsctl(machine, "add-br br-phy -- set bridge br-phy datapath_type=netdev fail-mode=standalone");
    ovs.vsctl(machine, "add-port br-phy u2");
    let (here, there) = (underlay.address(2), underlay.address(1));
    let prefix = if underlay.ip == Ip::V4 { "24" } else { "64 nodad" };
    ip(machine, &format!("address add {here}/{prefix} dev br-phy"));
    ip(machine, "link set br-phy up");
    ovs.vsctl(machine, "add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=standalone");
    ovs.vsctl(
        machine,
        &format!(
            "add-port br0 vx0 -- set interface vx0 type=vxlan options:remote_ip={there} options:key=42 options:dst_port={PORT}"
        ),
    );
    machine.inside(|| link::add_pair("p1", host.name(), Some(std::os::fd::AsFd::as_fd(host.netns()))));
    ip(machine, "link set p1 up");
    host.set_link(Change { up: Some(true), mtu: Some(1500 - overhead(underlay.ip)), ..Change::default() });
    host.turn_offloads_off();
    ovs.vsctl(machine, "add-port br0 p1");
    ovs
}

fn carries_everything(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let hosts = ["h1", "h2"].map(Host::new);
    let ovs = bridge(&underlay, &hosts[1]);
    let switches: Vec<Switch> = vec![underlay.daemon_for(1, &[2], &hosts[0])];
    let between = Between::configured(underlay, hosts, switches);
    between.carries_everything();
    for report in between.finish() {
        assert_eq!(report.lost(), 0, "{report:?}");
    }
    drop(ovs);
}
