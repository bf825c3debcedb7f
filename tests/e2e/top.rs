//! `vswitchctl top` in a terminal: its keys work, and the terminal is restored.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::{fs, io, thread};

use libtest_mimic::Trial;
use packet::MacAddr;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::frames::{frame, station};
use crate::guest::Directory;
use crate::host::Host;
use crate::switch::Switch;
use crate::{program, trial, trial_with, wait};

/// Escape sequences of the terminal: enter and leave the alternate screen.
const ENTERED: &str = "\u{1b}[?1049h";
const LEFT: &str = "\u{1b}[?1049l";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial_with("top/keys", without_script, keys),
        trial_with("top/a_signal_gives_the_terminal_back", without_script, a_signal_gives_the_terminal_back),
        trial("top/without_a_terminal", without_a_terminal),
    ]
}

fn without_script() -> Option<String> {
    let there = Command::new("script").arg("--version").output();
    (!there.is_ok_and(|output| output.status.success())).then(|| "no script(1) to make a terminal with (util-linux)".to_owned())
}

/// `vswitchctl top` in a terminal of 80 by 24.
struct Top {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Top {
    fn start(socket: &str) -> Top {
        let line = format!("stty cols 80 rows 24; exec {} --socket {socket} top", program::vswitchctl());
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("script runs");
        let keys = child.stdin.take().expect("its keys");
        let mut output = child.stdout.take().expect("its screen");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&shown);
        thread::spawn(move || {
            struct Kept(Arc<Mutex<Vec<u8>>>);
            impl Write for Kept {
                fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                    self.0.lock().expect("the screen").extend(bytes);
                    Ok(bytes.len())
                }

                fn flush(&mut self) -> io::Result<()> {
                    Ok(())
                }
            }
            io::copy(&mut output, &mut Kept(kept))
        });
        Top { child, keys, shown }
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).and_then(|()| self.keys.flush()).expect("pressed");
    }

    fn shows(&self, text: &str) {
        let has = || String::from_utf8_lossy(&self.shown.lock().expect("the screen")).contains(text).then_some(());
        wait::until(&format!("{text:?} to be shown"), has);
    }

    /// Waits for text after a full redraw; otherwise only changed letters are drawn.
    fn shows_anew(&mut self, text: &str) {
        wait::until(&format!("{text:?} to be shown"), || {
            self.press("\u{c}");
            (self.count(text) > 0).then_some(())
        });
    }

    /// How often this text was shown.
    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.shown.lock().expect("the screen")).matches(text).count()
    }

    fn end(mut self) -> (Option<i32>, Arc<Mutex<Vec<u8>>>) {
        let status = wait::until("its end", || self.child.try_wait().expect("its status"));
        (status.code(), Arc::clone(&self.shown))
    }

    /// The process ID of `vswitchctl` itself.
    fn inner(&self) -> Pid {
        let own = self.child.id();
        let children = format!("/proc/{own}/task/{own}/children");
        let number = fs::read_to_string(children).expect("its children").split_whitespace().next().map(str::parse);
        Pid::from_raw(number.expect("a child").expect("a number")).expect("not 0")
    }
}

/// The process ends with its terminal.
impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn switch(directory: &Directory) -> (Switch, [Host; 2], String) {
    let (hosts, socket) = (["one", "other"].map(Host::quiet), directory.text("control"));
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(":vlan=10"));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    hosts[0].raw().send(&frame(MacAddr::BROADCAST, station(1), b"to nobody")).expect("sent");
    switch.settle("the frame", |report| report.dropped("one", "no_destination") == 1);
    (switch, hosts, socket)
}

fn keys() {
    let directory = Directory::new();
    let (switch, hosts, socket) = switch(&directory);
    let mut top = Top::start(&socket);
    for text in [ENTERED, "vswitchd 0.1.0, pid ", "one", "other", "no_destination", "pipeline:"] {
        top.shows(text);
    }
    top.press("?");
    top.shows("column");
    top.press("?");
    top.press("p");
    top.shows("PAUSED");
    // A paused screen does not change until it is resumed.
    hosts[0].set_link(netio::link::Change { up: Some(false), ..Default::default() });
    top.press("s");
    thread::sleep(std::time::Duration::from_secs(2));
    top.press("\u{c}");
    thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(top.count("port one is down"), 0);
    top.press("p");
    top.shows_anew("port one is down");
    top.press("\t");
    top.press("r");
    top.press("q");
    let (code, shown) = top.end();
    assert_eq!(code, Some(0));
    assert!(String::from_utf8_lossy(&shown.lock().expect("the screen")).contains(LEFT));
    switch.finish();
}

fn a_signal_gives_the_terminal_back() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = switch(&directory);
    let top = Top::start(&socket);
    top.shows("no_destination");
    kill_process(top.inner(), Signal::TERM).expect("it is there");
    let (code, shown) = top.end();
    assert_eq!(code, Some(0));
    assert!(String::from_utf8_lossy(&shown.lock().expect("the screen")).contains(LEFT));
    // It also ends when its terminal goes away.
    let top = Top::start(&socket);
    top.shows("no_destination");
    let inner = top.inner();
    drop(top);
    wait::until("it to end with its terminal", || test_kill_process(inner).is_err().then_some(()));
    // The end of the daemon does not end it.
    let mut top = Top::start(&socket);
    top.shows("no_destination");
    switch.finish();
    top.shows_anew("os error");
    top.press("q");
    assert_eq!(top.end().0, Some(0));
}

fn without_a_terminal() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = switch(&directory);
    let top = Command::new(program::vswitchctl()).args(["--socket", &socket, "top"]).output().expect("it runs");
    assert_eq!((top.status.code(), top.stdout.is_empty()), (Some(1), true));
    assert!(String::from_utf8_lossy(&top.stderr).contains("top needs a terminal"), "{top:?}");
    switch.finish();
}
