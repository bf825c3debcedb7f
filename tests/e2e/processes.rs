//! Ports in namespaces that are named by the number of a process, which another process has later.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::netns;
use netio::{link, route};

use crate::control::{json, run, text};
use crate::guest::Directory;
use crate::switch::Switch;
use crate::{trial_with, wait};

/// The number that was last given to a process, where it can be set.
const LAST: &str = "/proc/sys/kernel/ns_last_pid";

pub(crate) fn trials() -> Vec<Trial> {
    let missing = || fs::write(LAST, std::process::id().to_string()).err().map(|error| format!("{LAST}: {error}"));
    vec![trial_with("processes/another_one_of_that_number", missing, another_one_of_that_number)]
}

/// A process in a network namespace of its own.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Sleeper {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().expect("unshare");
        let sleeper = Sleeper(child);
        let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
        wait::until("its namespace", || {
            let now = fs::read_link(format!("/proc/{}/ns/net", sleeper.pid())).ok()?;
            (now != own).then_some(())
        });
        sleeper
    }

    /// One with this number. Others may be faster to get it.
    fn with_number(pid: u32) -> Sleeper {
        wait::until("a process of that number", || {
            fs::write(LAST, (pid - 1).to_string()).expect("set");
            Some(Sleeper::start()).filter(|sleeper| sleeper.pid() == pid)
        })
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The names of its links, and whether it has a default route.
    fn links(&self) -> (Vec<String>, bool) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).expect("its namespace");
        netns::inside(namespace.as_fd(), || {
            let names = link::names()?;
            let mut routes = Vec::new();
            for name in &names {
                routes.extend(route::routes(link::get(name)?.index)?.0);
            }
            Ok((names, routes.iter().any(|route| route.prefix_len == 0)))
        })
        .expect("its links")
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It gets nothing of the guest of the process before: no device, no address, no route; not while the switch runs, and not from the
/// next one. The guest is there until it is removed.
fn another_one_of_that_number() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let machine = netns::create().expect("a namespace");
    let state = directory.text("state");
    let args = ["--control", &socket, "--state", &state, "--tap", "own"];
    let start = || Switch::start_inside(machine.try_clone().expect("a clone"), &args);
    let switch = start();
    text(&socket, &["bridge", "add", "blue:gateway=10.71.0.1/24"]);
    let first = Sleeper::start();
    let pid = first.pid();
    let interface = format!("eth0@pid:{pid}");
    let add = || {
        let address = ["--network", "blue", "--interface", &interface, "--address", "10.71.0.2/24"];
        text(&socket, &[&["guest", "add", "web"][..], &address].concat());
    };
    add();
    let with_device = |sleeper: &Sleeper| {
        let (names, has_default) = sleeper.links();
        names.contains(&"eth0".to_owned()) && has_default
    };
    let untouched = |sleeper: &Sleeper| sleeper.links() == (vec!["lo".to_owned()], false);
    assert!(with_device(&first));
    drop(first);
    let stranger = Sleeper::with_number(pid);
    let port = || json(&socket, &["port", "list"]).as_array().expect("a list").iter().find(|port| port["id"] == "web").cloned();
    let is_gone = || port().is_some_and(|port| port["state"] == "gone");
    wait::until("the port to be gone", || is_gone().then_some(()));
    // Several attempts to open it later.
    thread::sleep(Duration::from_millis(800));
    assert!(untouched(&stranger) && is_gone());
    switch.kill();
    let switch = start();
    assert!(switch.has_logged(&format!("process {pid} is another one now")));
    assert!(untouched(&stranger) && is_gone());
    assert!(!run(&socket, &["guest", "add", "other", "--network", "blue", "--address", "10.71.0.2/24"]).status.success());
    text(&socket, &["guest", "del", "web"]);
    add();
    assert!(with_device(&stranger), "it is asked for this one");
    switch.kill();
    let switch = start();
    assert!(with_device(&stranger) && !is_gone());
    switch.finish_by(rustix::process::Signal::INT);
}
