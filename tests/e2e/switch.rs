//! The daemon under test: the real binary in a namespace of its own, and its reports.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use netio::netns;
use rustix::process::{Pid, Signal, kill_process};

use crate::host::Host;
use crate::wait;

/// A running daemon, killed if a test ends without [`Switch::finish`].
#[derive(Debug)]
pub(crate) struct Switch {
    child: Child,
    output: Receiver<String>,
    summary: Vec<String>,
    log: Arc<Mutex<Vec<String>>>,
}

/// The outcome of a SIGHUP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reloaded {
    Changed,
    Same,
    Refused,
}

/// What the daemon prints on SIGUSR1 and at its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    ports: BTreeMap<String, Vec<u64>>,
    drops: BTreeMap<(String, String), u64>,
    table: BTreeMap<String, u64>,
    nat: BTreeMap<String, u64>,
    kernel_dropped: u64,
    datagrams_dropped: u64,
    /// Frames received, copied and made; sent, dropped and taken.
    balance: [u64; 6],
    text: String,
}

/// The command, for [`run_inside`] or [`Switch::start_inside`].
pub(crate) fn daemon(args: &[impl AsRef<str>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchd"));
    command.args(args.iter().map(AsRef::as_ref)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Switch {
    /// Starts a daemon in a new namespace and waits until it is ready.
    pub(crate) fn start(args: &[impl AsRef<str>]) -> Switch {
        Switch::start_inside(netns::create().expect("a namespace"), args)
    }

    /// Starts a daemon with these ports, such as [`Host::port`] returns.
    pub(crate) fn between(ports: &[String]) -> Switch {
        Switch::start(&["--tap", &ports.join(",")])
    }

    /// Starts a daemon with a plain port for each of these hosts.
    pub(crate) fn of(hosts: &[&Host]) -> Switch {
        Switch::between(&hosts.iter().map(|host| host.port("")).collect::<Vec<_>>())
    }

    /// Starts a daemon in this namespace and waits until it is ready.
    pub(crate) fn start_inside(netns: File, args: &[impl AsRef<str>]) -> Switch {
        Switch::start_command(netns, daemon(args))
    }

    /// The same by another program, whose command `by` makes of the daemon's path.
    pub(crate) fn start_by(netns: File, by: impl FnOnce(&str) -> Command, args: &[impl AsRef<str>]) -> Switch {
        Switch::start_with(netns, by, args, Stdio::null())
    }

    /// The same with this input.
    pub(crate) fn start_with(netns: File, by: impl FnOnce(&str) -> Command, args: &[impl AsRef<str>], input: Stdio) -> Switch {
        let mut command = by(env!("CARGO_BIN_EXE_vswitchd"));
        command.args(args.iter().map(AsRef::as_ref)).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        Switch::start_command(netns, command)
    }

    fn start_command(netns: File, mut command: Command) -> Switch {
        let mut child = netns::inside(netns.as_fd(), || command.spawn()).expect("the daemon starts");
        let output = lines_of(child.stdout.take().expect("its output"));
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stderr.take().expect("its log"), Arc::clone(&log));
        let mut switch = Switch { child, output, summary: Vec::new(), log };
        switch.summary = switch.lines_until(|line| line == "ready");
        switch
    }

    /// The lines printed before it was ready.
    pub(crate) fn summary(&self) -> &[String] {
        &self.summary
    }

    /// Number of open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("its descriptors").count()
    }

    /// Memory that it takes up, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Whether it has logged a line with this text.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.log.lock().expect("the log").iter().any(|line| line.contains(text))
    }

    /// Number of log lines with this text.
    pub(crate) fn times_logged(&self, text: &str) -> usize {
        self.log.lock().expect("the log").iter().filter(|line| line.contains(text)).count()
    }

    /// Sends SIGHUP and waits for its outcome.
    pub(crate) fn reload(&self) -> Reloaded {
        let said = |text| self.times_logged(text);
        let outcomes = [
            ("configuration applied", Reloaded::Changed),
            ("configuration unchanged", Reloaded::Same),
            ("nothing was changed: ", Reloaded::Refused),
        ];
        let before = outcomes.map(|(text, _)| said(text));
        self.signal(Signal::HUP);
        wait::until("an answer to SIGHUP", || {
            let answer = outcomes.into_iter().zip(before).find(|((text, _), before)| said(text) > *before);
            answer.map(|((_, outcome), _)| outcome)
        })
    }

    /// The counters now.
    pub(crate) fn report(&self) -> Report {
        self.signal(Signal::USR1);
        Report::parse(&self.lines_until(|line| line.starts_with("frames: ")))
    }

    /// The counters once no frame is in flight and `is_settled` holds. By then all frames are in the receivers'
    /// sockets: the kernel delivers a write to a TAP before the write returns.
    pub(crate) fn settle(&self, what: &str, is_so: impl Fn(&Report) -> bool) -> Report {
        wait::until(what, || {
            let report = self.report();
            (report.is_balanced() && is_so(&report)).then_some(report)
        })
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        exit_of(&mut self.child);
    }

    /// Ends it with SIGTERM, without error and with every frame accounted for.
    pub(crate) fn finish(self) -> Report {
        self.finish_by(Signal::TERM)
    }

    /// Ends it with this signal.
    pub(crate) fn finish_by(mut self, signal: Signal) -> Report {
        self.signal(signal);
        let status = exit_of(&mut self.child);
        assert!(status.success(), "the daemon ended with {status}");
        let report = Report::parse(&self.lines_until(|line| line.starts_with("frames: ")));
        assert!(report.is_balanced(), "frames unaccounted for:\n{}", report.text);
        assert!(!report.text.contains("worker panics"), "a worker panicked:\n{}", report.text);
        report
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the daemon is there");
    }

    fn lines_until(&self, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line =
                self.output.recv_timeout(wait::NEVER).unwrap_or_else(|_| panic!("the daemon said no more than {lines:#?}"));
            let end = is_last(&line);
            lines.push(line);
            if end {
                return lines;
            }
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the daemon's log: {:#?}", self.log.lock().as_deref());
        }
    }
}

/// How a run of the daemon ended that never became ready.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) log: String,
}

/// Runs a command of [`daemon`] in this namespace until it exits.
pub(crate) fn run_inside(netns: &File, command: &mut Command) -> Ended {
    let mut child = netns::inside(netns.as_fd(), || command.spawn()).expect("the daemon starts");
    let end = wait::until("the daemon's end", || child.try_wait().expect("its status"));
    let (mut output, mut log) = (String::new(), String::new());
    child.stdout.take().expect("its output").read_to_string(&mut output).expect("text");
    child.stderr.take().expect("its log").read_to_string(&mut log).expect("text");
    Ended { code: end.code(), output, log }
}

impl Report {
    fn parse(lines: &[String]) -> Report {
        let mut report = Report { text: lines.join("\n"), ..Report::default() };
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["port", ..] | ["offload", ..] | ["worker", ..] => {}
                ["drop", port, reason, frames] => {
                    report.drops.insert(((*port).to_owned(), (*reason).to_owned()), number(frames));
                }
                ["mac", "table:", pairs @ ..] => {
                    report.table = pairs.chunks(2).map(|pair| (pair[0].to_owned(), number(pair[1]))).collect();
                }
                ["mac", "table", "of", bridge, pairs @ ..] => {
                    let name = bridge.trim_end_matches(':');
                    report.table.extend(pairs.chunks(2).map(|pair| (format!("{name} {}", pair[0]), number(pair[1]))));
                }
                ["nat:", pairs @ ..] => {
                    report.nat = pairs.chunks(2).map(|pair| (pair[0].to_owned(), number(pair[1]))).collect();
                }
                ["dropped", "by", "the", "kernel", "at", "the", "uplink:", frames] => report.kernel_dropped = number(frames),
                ["dropped", "by", "the", "kernel", "at", _, _] => {}
                ["dropped", "by", "the", "kernel", "before", "tunnels:", count] => report.datagrams_dropped = number(count),
                [
                    "frames:",
                    "received",
                    a,
                    "+",
                    "copied",
                    b,
                    "+",
                    "made",
                    c,
                    "=",
                    "sent",
                    d,
                    "+",
                    "dropped",
                    e,
                    "+",
                    "taken",
                    f,
                ] => {
                    report.balance = [a, b, c, d, e, f].map(|word| number(word));
                }
                [port, numbers @ ..] if numbers.len() == 7 => {
                    report.ports.insert((*port).to_owned(), numbers.iter().map(|word| number(word)).collect());
                }
                _ => panic!("not a line of a report: {line}"),
            }
        }
        report
    }

    /// Frames received by all ports.
    pub(crate) fn received(&self) -> u64 {
        self.balance[0]
    }

    /// Whether there is such a port.
    pub(crate) fn has_port(&self, port: &str) -> bool {
        self.ports.contains_key(port)
    }

    /// Frames received by this port.
    pub(crate) fn received_by(&self, port: &str) -> u64 {
        self.ports[port][0]
    }

    /// Frames sent by this port.
    pub(crate) fn sent_by(&self, port: &str) -> u64 {
        self.ports[port][2]
    }

    /// Writes that sent them.
    pub(crate) fn writes_of(&self, port: &str) -> u64 {
        self.ports[port][4]
    }

    /// Frames dropped at this port for this reason.
    pub(crate) fn dropped(&self, port: &str, reason: &str) -> u64 {
        self.drops.get(&(port.to_owned(), reason.to_owned())).copied().unwrap_or(0)
    }

    /// All frames dropped.
    pub(crate) fn all_dropped(&self) -> u64 {
        self.balance[4]
    }

    /// Frames dropped for this reason at any port.
    pub(crate) fn dropped_for(&self, reason: &str) -> u64 {
        self.drops.iter().filter(|((_, at), _)| at == reason).map(|(_, frames)| frames).sum()
    }

    /// A counter of the translation.
    pub(crate) fn nat(&self, word: &str) -> u64 {
        self.nat[word]
    }

    /// Frames that the kernel dropped at the uplink, because its buffer was full.
    pub(crate) fn kernel_dropped(&self) -> u64 {
        self.kernel_dropped
    }

    /// Datagrams of tunnels that the kernel dropped, because a socket's buffer was full.
    pub(crate) fn datagrams_dropped(&self) -> u64 {
        self.datagrams_dropped
    }

    /// All frames dropped, without those that hosts send unasked (IPv6) and a daemon may read before it has attached
    /// the next port.
    pub(crate) fn lost(&self) -> u64 {
        let unheard = |((_, reason), frames): (&(String, String), &u64)| if reason == "no_destination" { *frames } else { 0 };
        self.all_dropped() - self.drops.iter().map(unheard).sum::<u64>()
    }

    /// A counter of the MAC table; with several bridges, with the bridge's name before it.
    pub(crate) fn table(&self, word: &str) -> u64 {
        self.table[word]
    }

    /// Frames received, copied and made equal frames sent, dropped and taken.
    pub(crate) fn is_balanced(&self) -> bool {
        let [received, copied, made, sent, dropped, taken] = self.balance;
        received + copied + made == sent + dropped + taken
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("no number: {word}"))
}

fn exit_of(child: &mut Child) -> ExitStatus {
    wait::until("the daemon's end", || child.try_wait().expect("its status"))
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn collect(stream: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.lock().expect("the log").push(line);
        }
    });
}
