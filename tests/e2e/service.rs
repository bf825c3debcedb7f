//! The daemon under systemd: notifications and their order, and the volume of the log.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use netio::netns;
use packet::MacAddr;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};

use crate::control::{json, run};
use crate::frames::{frame, station};
use crate::guest::{Directory, StreamGuest};
use crate::host::Host;
use crate::switch::{Switch, daemon, run_inside};
use crate::{program, trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("service/notifications_in_order", notifications_in_order),
        trial("service/an_upgrade_is_a_reload", an_upgrade_is_a_reload),
        trial("service/status_names_the_fault", status_names_the_fault),
        trial("service/watchdog_is_fed_while_frames_could_flow", watchdog_is_fed),
        trial("service/a_manager_that_is_away_or_asleep", manager_away_or_asleep),
        trial("service/log_that_nobody_reads", log_that_nobody_reads),
        trial("service/log_levels", log_levels),
        trial("service/log_levels_that_cannot_be", bad_log_levels),
    ]
}

/// A daemon, and the notification socket that it reports to.
struct Managed {
    child: Child,
    socket: UnixDatagram,
}

impl Managed {
    fn start(directory: &Directory, args: &[&str], watchdog: Option<&str>) -> Managed {
        Managed::logging_to(Stdio::inherit(), directory, args, watchdog)
    }

    fn logging_to(log: Stdio, directory: &Directory, args: &[&str], watchdog: Option<&str>) -> Managed {
        let path = directory.path("notify");
        let socket = UnixDatagram::bind(&path).expect("the manager's socket");
        socket.set_read_timeout(Some(wait::NEVER)).expect("a read timeout");
        let mut command = daemon(args);
        command.env("NOTIFY_SOCKET", path).stdout(Stdio::null()).stderr(log);
        if let Some(period) = watchdog {
            command.env("WATCHDOG_USEC", period);
        }
        let netns: File = netns::create().expect("a namespace");
        let child = netns::inside(netns.as_fd(), || command.spawn()).expect("the daemon starts");
        Managed { child, socket }
    }

    fn heard(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let len = self.socket.recv(&mut bytes).expect("a message in time");
        String::from_utf8_lossy(&bytes[..len]).lines().map(str::to_owned).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn end(mut self) {
        self.signal(Signal::TERM);
        let status = wait::until("its end", || self.child.try_wait().expect("its status"));
        assert!(status.success(), "{status}");
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// READY=1 only once its devices exist; a reload is reported with its begin and end, on the monotonic clock.
fn notifications_in_order() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::quiet);
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let managed = Managed::start(&directory, &["--control", "none", "--tap", &ports], None);
    assert_eq!(managed.heard(), ["READY=1", "STATUS=carrying frames of 2 ports"]);
    assert!(hosts.iter().all(|host| host.link().up), "ready, and frames flow");
    let before = monotonic_usec();
    managed.signal(Signal::HUP);
    let reloading = managed.heard();
    assert_eq!(reloading[0], "RELOADING=1");
    let since: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").and_then(|text| text.parse().ok()).expect("its time");
    assert!((before..=monotonic_usec()).contains(&since), "{reloading:?}");
    assert_eq!(managed.heard(), ["READY=1", "STATUS=carrying frames of 2 ports"]);
    managed.signal(Signal::TERM);
    assert_eq!(managed.heard()[0], "STOPPING=1");
    managed.end();
}

/// The manager hears of no end, after which it would kill the next program, too, and learns when that is ready.
fn an_upgrade_is_a_reload() {
    let (directory, host) = (Directory::new(), Host::quiet("a"));
    let (socket, state) = (directory.text("control"), directory.text("state"));
    let managed = Managed::start(&directory, &["--control", &socket, "--state", &state, "--tap", &host.port("")], None);
    let words_until = |last: &str| {
        let mut words: Vec<String> = Vec::new();
        while !words.iter().any(|word| word == last) {
            words.extend(managed.heard());
        }
        words.retain(|word| ["READY", "RELOADING", "STOPPING", "MONOTONIC_USEC"].iter().any(|name| word.starts_with(name)));
        words
    };
    assert_eq!(words_until("READY=1"), ["READY=1"]);
    let pid = managed.child.id();
    let program = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("its name");
    let name = program(pid);
    for _ in 0..2 {
        assert!(run(&socket, &["upgrade"]).status.success());
        let words = words_until("READY=1");
        assert!(words.len() == 3 && words[0] == "RELOADING=1" && words[1].starts_with("MONOTONIC_USEC="), "{words:?}");
        assert_eq!((json(&socket, &["show"])["pid"].as_u64(), program(pid)), (Some(pid.into()), name.clone()));
    }
    managed.signal(Signal::TERM);
    assert_eq!(words_until("STOPPING=1"), ["STOPPING=1"]);
    managed.end();
}

fn monotonic_usec() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

fn status_names_the_fault() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::quiet);
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let managed = Managed::start(&directory, &["--control", "none", "--tap", &ports], None);
    assert_eq!(managed.heard()[0], "READY=1");
    hosts[1].set_link(netio::link::Change { up: Some(false), ..netio::link::Change::default() });
    assert_eq!(managed.heard(), ["STATUS=port b is down"]);
    hosts[1].set_link(netio::link::Change { up: Some(true), ..netio::link::Change::default() });
    assert_eq!(managed.heard(), ["STATUS=carrying frames of 2 ports"]);
    managed.end();
}

/// Its workers have no frames and sleep, and the watchdog is notified all the same.
fn watchdog_is_fed() {
    let directory = Directory::new();
    let host = Host::quiet("a");
    let args = ["--control", "none", "--workers", "2", "--tap", &host.port("")];
    let managed = Managed::start(&directory, &args, Some("5000000"));
    assert_eq!(managed.heard()[0], "READY=1");
    for _ in 0..3 {
        assert_eq!(managed.heard(), ["WATCHDOG=1"]);
    }
    managed.end();
}

/// An absent or sleeping manager delays neither frames nor the end.
fn manager_away_or_asleep() {
    let directory = Directory::new();
    let host = Host::quiet("a");
    let args = ["--control", "none", "--tap", &host.port("")];
    let asleep = Managed::start(&directory, &args, Some("5000000"));
    assert_eq!(asleep.heard()[0], "READY=1");
    for _ in 0..100 {
        asleep.signal(Signal::HUP);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    asleep.end();

    let netns = netns::create().expect("a namespace");
    let mut command = daemon(&["--control", "none", "--tap", "tap0", "--workers", "0"]);
    let ended = run_inside(&netns, command.env("NOTIFY_SOCKET", directory.path("nobody")));
    assert_eq!(ended.code, Some(2), "a configuration that cannot be is said first: {ended:?}");
    let mut command = daemon(&["--control", "none", "--tap", "tap0"]);
    command.env("NOTIFY_SOCKET", directory.path("nobody")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = netns::inside(netns.as_fd(), || command.spawn()).expect("the daemon starts");
    wait::until("its device", || netns::inside(netns.as_fd(), || netio::link::get("tap0")).ok());
    assert!(child.try_wait().expect("its status").is_none(), "it runs without a manager");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    wait::until("its end", || child.try_wait().expect("its status"));
}

/// A pipe that takes nothing more until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("set");
    while writer.write(&[b'.'; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).expect("set");
    (reader, writer)
}

/// Standard error is not read: frames flow, guests come and go, the control socket answers and the daemon ends. A guest that
/// comes again and again is logged only so often.
fn log_that_nobody_reads() {
    let (directory, host) = (Directory::new(), Host::quiet("a"));
    let (socket, path) = (directory.text("control"), directory.path("s"));
    let port = format!("stream:{}:guests=1", path.display());
    let args = ["--control", &socket, "--tap", &host.port(""), "--port", &port];
    let (mut log, full) = full_pipe();
    let managed = Managed::logging_to(full.into(), &directory, &args, None);
    assert_eq!(managed.heard()[0], "READY=1");
    let speaks = host.raw();
    let hello = frame(MacAddr::BROADCAST, station(1), b"here");
    for _ in 0..25 {
        let mut guest = StreamGuest::at(&path);
        wait::until("a frame for the guest", || {
            speaks.send(&hello).expect("sent");
            guest.recv_within(Duration::from_millis(20))
        });
        drop(guest);
        wait::until("a free place", || {
            let shown = vswitchctl(&socket, &["port", "list"]);
            assert!(shown.status.success(), "{shown:?}");
            String::from_utf8_lossy(&shown.stdout).contains("waiting").then_some(())
        });
    }
    // The reader is back for the end, and reads everything that was logged.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).expect("text");
        text
    });
    managed.end();
    let text = reading.join().expect("no panic");
    for line in ["a guest connected", "the guest is gone; its place is free"] {
        assert_eq!(text.matches(line).count(), 10 + 1, "{line}: {text}");
        assert!(text.contains(&format!("15 more like this: {line} port=")), "{text}");
    }

    let (_log, full) = full_pipe();
    let directory = Directory::new();
    let managed = Managed::logging_to(full.into(), &directory, &args, None);
    assert_eq!(managed.heard()[0], "READY=1");
    host.set_link(netio::link::Change { up: Some(false), ..netio::link::Change::default() });
    assert_eq!(managed.heard(), ["STATUS=port a is down"]);
    // And nobody reads the last lines.
    managed.end();
}

fn vswitchctl(socket: &str, words: &[&str]) -> Output {
    let mut command = Command::new(program::vswitchctl());
    command.args(["--socket", socket]).args(words).stdin(Stdio::null()).output().expect("vswitchctl runs")
}

/// The message about a link that goes down has the level that was set last.
fn log_levels() {
    let directory = Directory::new();
    let host = Host::quiet("a");
    let socket = directory.text("control");
    let switch = Switch::start(&["--log", "warn,tunnel=off", "--control", &socket, "--tap", &host.port("")]);
    let ask = |words: &[&str]| {
        let output = vswitchctl(&socket, words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let set_link = |up| host.set_link(netio::link::Change { up: Some(up), ..netio::link::Change::default() });
    let shown = ask(&["log", "show"]);
    let row = |shown: &str, part: &str| {
        let row = shown.lines().find(|line| line.split_whitespace().next() == Some(part));
        row.unwrap_or_else(|| panic!("no row of {part}: {shown}")).split_whitespace().nth(1).map(str::to_owned)
    };
    assert_eq!(row(&shown, "all").as_deref(), Some("warn"));
    assert_eq!(row(&shown, "tunnel").as_deref(), Some("off"));
    assert_eq!(row(&shown, "daemon").as_deref(), Some("(warn)"));

    set_link(false);
    wait::until("the link down", || ask(&["port", "list"]).contains("down").then_some(()));
    let shown = ask(&["log", "set", "daemon=info"]);
    assert_eq!(row(&shown, "daemon").as_deref(), Some("info"));
    set_link(true);
    wait::until("the link up", || switch.has_logged("link is up").then_some(()));
    assert!(!switch.has_logged("link is down"), "that was below the level");

    let json: serde_json::Value = serde_json::from_str(&ask(&["-o", "json", "log", "set", "error"])).expect("JSON");
    assert_eq!((json["level"].as_str(), json["parts"].as_object().map(serde_json::Map::len)), (Some("error"), Some(0)));
    for (level, say) in [("tunel=debug", "did you mean 'tunnel'?"), ("loud", "is no level")] {
        let refused = vswitchctl(&socket, &["log", "set", level]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(say), "{refused:?}");
    }
    switch.finish();
}

fn bad_log_levels() {
    let netns = netns::create().expect("a namespace");
    let ended = run_inside(&netns, &mut daemon(&["--check", "--tap", "tap0", "--log", "loud"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.log.contains("--log loud: 'loud' is no level; there are off,"), "{ended:?}");
    let ended = run_inside(&netns, daemon(&["--check", "--tap", "tap0"]).env("VSWITCHD_LOG", "wroker=debug"));
    assert!(ended.code == Some(2) && ended.log.contains("did you mean 'worker'?"), "{ended:?}");
}
