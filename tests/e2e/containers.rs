//! Containers of podman behind the switch, by the commands of docs/guests.md. The image is a busybox of this machine.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;
use netio::{link, netns};

use crate::control::{json, text};
use crate::guest::Directory;
use crate::host::Host;
use crate::switch::Switch;
use crate::{trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial_with("containers/podman", || Podman::new().err(), podman)]
}

/// Podman with storage of its own, and with the first runtime that runs a container here.
struct Podman {
    directory: Directory,
    runtime: &'static [&'static str],
}

const IMAGE: &str = "localhost/vswitchd-e2e";

/// Rights and limits that not every root can give are not asked for.
const RUN: [&str; 6] =
    ["run", "--cap-add=NET_RAW", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--pids-limit=0", IMAGE];

/// The file system of a container, with the busybox of this machine: the path of an archive to import.
pub(crate) fn image(directory: &Directory) -> Result<String, String> {
    path_of("tar")?;
    let busybox = path_of("busybox")?;
    let bin = directory.path("image/bin");
    std::fs::create_dir_all(&bin).expect("a directory");
    std::fs::copy(busybox, bin.join("busybox")).expect("copied");
    for name in ["cat", "httpd", "ip", "nc", "netstat", "ping", "sh", "sleep", "true"] {
        symlink("busybox", bin.join(name)).expect("a link");
    }
    let [image, archive] = ["image", "image.tar"].map(|name| directory.text(name));
    let packed = Command::new("tar").args(["-C", &image, "-cf", &archive, "."]).status();
    assert!(packed.is_ok_and(|status| status.success()), "tar");
    Ok(archive)
}

pub(crate) fn path_of(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("there is no {program}"))
}

impl Podman {
    fn new() -> Result<Podman, String> {
        for program in ["podman", "nsenter"] {
            path_of(program)?;
        }
        let directory = Directory::new();
        let archive = image(&directory)?;
        let mut podman = Podman { directory, runtime: &[] };
        let said = |output: Output| {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(format!("podman runs no container here: {said}")) }
        };
        said(podman.ask(&["import", &archive, IMAGE]))?;
        let mut outcome = Ok(());
        for runtime in [&[][..], &["--runtime=crun"], &["--runtime=runc"]] {
            podman.runtime = runtime;
            outcome = said(podman.ask(&[&RUN[..1], &["--rm", "--network=none"], &RUN[1..], &["/bin/true"]].concat()));
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map(|()| podman)
    }

    fn ask(&self, words: &[&str]) -> Output {
        let places = ["root", "runroot", "tmpdir"].map(|what| format!("--{what}={}", self.directory.text(what)));
        let mut command = Command::new("podman");
        command.args(places).args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--log-level=error"]);
        command.args(self.runtime).args(words).stdin(Stdio::null()).output().expect("podman runs")
    }

    fn tell(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.ask(&["rm", "--all", "--force", "--time=0"]);
    }
}

fn nsenter(pid: &str, words: &str) {
    let entered = Command::new("nsenter").args(["-t", pid, "-n", "ip"]).args(words.split(' ')).status();
    assert!(entered.is_ok_and(|status| status.success()), "{words}");
}

/// A container gets an interface, loses it when it is started again, and gets another one.
fn podman() {
    let podman = Podman::new().expect("it ran a container before");
    let (machine, socket) = (Host::quiet("none0"), podman.directory.text("control"));
    let args = ["--tap", "tap0", "--gateway", "10.77.0.1/24", "--control", &socket];
    let switch = Switch::start_inside(machine.netns().try_clone().expect("a clone"), &args);
    let start = |name: &str, network: &str| {
        let [name, network] = [format!("--name={name}"), format!("--network={network}")];
        podman.tell(&[&RUN[..1], &["--detach", &name, &network], &RUN[1..], &["/bin/sleep", "1000"]].concat());
    };
    let reaches_gateway = |name: &str| {
        let said = podman.tell(&["exec", name, "/bin/ping", "-c", "1", "-W", "20", "10.77.0.1"]);
        assert!(said.contains("1 packets received"), "{said}");
    };
    start("web", "none");
    for _ in 0..2 {
        let pid = podman.tell(&["inspect", "--format={{.State.Pid}}", "web"]);
        let port = format!("eth0@pid:{pid}");
        text(&socket, &["port", "add", &port]);
        nsenter(&pid, "address add 10.77.0.12/24 dev eth0");
        nsenter(&pid, "route add default via 10.77.0.1");
        reaches_gateway("web");
        podman.tell(&["restart", "--time=0", "web"]);
        wait::until("the port to be gone", || {
            let ports = json(&socket, &["port", "list"]);
            let gone = |port: &serde_json::Value| port["name"] == "eth0" && port["state"] == "gone";
            ports.as_array().expect("a list").iter().any(gone).then_some(())
        });
        text(&socket, &["port", "del", "eth0"]);
    }
    // In a namespace that stays.
    let namespace = netns::create().expect("a namespace");
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    text(&socket, &["port", "add", &format!("eth0@{path}")]);
    netns::inside(namespace.as_fd(), || link::add_address(link::get("eth0")?.index, Ipv4Addr::new(10, 77, 0, 13).into(), 24))
        .expect("an address");
    start("stays", &format!("ns:{path}"));
    reaches_gateway("stays");
    podman.tell(&["restart", "--time=0", "stays"]);
    reaches_gateway("stays");
    switch.finish();
}
