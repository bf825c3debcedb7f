//! Every kind of port with every other, with all offloads and with none: what is sent arrives unchanged.
//!
//! Each port leads to a host with a kernel of its own. On a socket a monitor (see [`crate::monitor`]) is between them,
//! as with a virtual machine.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;

use libtest_mimic::Trial;
use netio::Tap;
use netio::link::{self, Change};
use packet::MacAddr;

use crate::exchange::Echo;
use crate::frames::{DOT1Q, frame, is_ours, station, tagged};
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::monitor::{Cable, Monitor, hold_tap};
use crate::ports::start;
use crate::switch::Switch;
use crate::transfer::{send_datagrams, transfer};
use crate::{trial, wait};

/// The kind of a host's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The switch's own TAP.
    Tap,
    /// The network side of a veth.
    Veth,
    /// The network side of a TAP that a monitor holds.
    Held,
    Stream,
    Dgram,
}

const KINDS: [(Kind, &str); 5] =
    [(Kind::Tap, "tap"), (Kind::Veth, "veth"), (Kind::Held, "held"), (Kind::Stream, "stream"), (Kind::Dgram, "dgram")];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (at, (one, one_name)) in KINDS.into_iter().enumerate() {
        for (other, other_name) in &KINDS[at..] {
            for (offload, word) in [(true, "offload"), (false, "plain")] {
                let name = format!("ports/matrix_{one_name}_{other_name}_{word}");
                let kinds = [one, *other];
                trials.push(trial(name, move || pair(kinds, offload)));
            }
        }
    }
    trials
}

/// A host that will be behind a port.
struct Plan {
    kind: Kind,
    host: Host,
    held: Option<Tap>,
    /// A guest's datagram socket, bound before the host sends its first frame.
    bound: Option<UnixDatagram>,
    path: PathBuf,
}

impl Plan {
    /// Everything that must exist before the switch starts.
    fn new(kind: Kind, name: &'static str, machine: &Host, directory: &Directory) -> Plan {
        let host = Host::new(name);
        let device = device(name);
        if kind == Kind::Veth {
            machine.inside(|| link::add_pair(&device, name, Some(host.netns().as_fd())));
            machine.inside(|| link::set(link::get(&device)?.index, Change { up: Some(true), ..Change::default() }));
            host.set_link(Change { up: Some(true), ..Change::default() });
        }
        let held = (kind == Kind::Held).then(|| hold_tap(machine, &device, true));
        let path = directory.path(name);
        let bound = (kind == Kind::Dgram).then(|| UnixDatagram::bind(path.with_extension("guest")).expect("bound"));
        Plan { kind, host, held, bound, path }
    }

    /// Flag and value.
    fn args(&self, offload: bool) -> [String; 2] {
        let keys = if offload { "" } else { ":offload=off:gro=off" };
        let (path, device) = (self.path.display(), device(self.host.name()));
        let port = match self.kind {
            Kind::Tap => return ["--tap".to_owned(), self.host.port(keys)],
            Kind::Veth | Kind::Held => format!("packet:{device}{keys}"),
            Kind::Stream => format!("stream:{path}:guests=2"),
            Kind::Dgram => format!("dgram:{path}:remote={path}.guest"),
        };
        ["--port".to_owned(), port]
    }

    /// Starts the monitor, if there is one, once the switch runs.
    fn join(&mut self, switch: &Switch) -> Option<Monitor> {
        let cable = match self.kind {
            Kind::Tap | Kind::Veth => return None,
            Kind::Held => Cable::Tap(self.held.take().expect("it is held")),
            Kind::Stream => Cable::Stream(UnixStream::connect(&self.path).expect("connected")),
            Kind::Dgram => {
                let socket = self.bound.take().expect("it is bound");
                socket.connect(&self.path).expect("connected");
                Cable::Dgram(socket)
            }
        };
        let monitor = Monitor::of(&self.host, cable);
        if self.kind == Kind::Stream {
            let line = format!("port=\"{}#1\" guest=", self.path.display());
            wait::until("a place", || switch.has_logged(&line).then_some(()));
        }
        Some(monitor)
    }
}

/// The interface in the switch's namespace.
fn device(name: &str) -> String {
    format!("sw-{name}")
}

fn pair(kinds: [Kind; 2], offload: bool) {
    let (machine, directory) = (Host::quiet("machine"), Directory::new());
    let mut plans = [Plan::new(kinds[0], "one", &machine, &directory), Plan::new(kinds[1], "two", &machine, &directory)];
    let mut args: Vec<String> = plans.iter().flat_map(|plan| plan.args(offload)).collect();
    if !offload {
        // More workers than interfaces: TAPs and packet ports get several queues, sockets one reader.
        args.extend(["--workers".to_owned(), "4".to_owned()]);
    }
    let switch = start(&machine, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let _monitors: Vec<_> = plans.iter_mut().map(|plan| plan.join(&switch)).collect();
    let [one, two] = plans.map(|plan| plan.host);
    for (host, number) in [(&one, 1), (&two, 2)] {
        host.configure(number);
        if !offload {
            host.turn_offloads_off();
        }
    }
    for ip in [Ip::V4, Ip::V6] {
        transfer(&one, (&two, 2), ip, true);
        datagrams(&one, &two, ip, 1, 2);
        datagrams(&two, &one, ip, 2, 1);
        Echo::on(&two, ip, 2).asked_from(&one, ip, 1).ask();
    }
    with_tags(&one, &two);
    let report = switch.finish();
    // A socket's peer may be too slow for TCP's first burst; all else arrives.
    let full = report.dropped_for("queue_full");
    assert_eq!(report.lost() - full, 0, "{report:?}");
    if !kinds.iter().any(|kind| matches!(kind, Kind::Stream | Kind::Dgram)) {
        assert_eq!(full, 0, "{report:?}");
    }
}

/// A few at a time: a datagram socket's queue holds ten.
fn datagrams(from: &Host, to: &Host, ip: Ip, from_number: u8, to_number: u8) {
    let (near, far) = (from.udp(ip, from_number), to.udp(ip, to_number));
    near.connect(far.local_addr().expect("its address")).expect("connected");
    for size in [1, 2, 511, 1000, 1452] {
        for _ in 0..5 {
            send_datagrams(&near, &far, size, 4);
        }
    }
}

/// Frames with one and two VLAN tags cross unchanged.
fn with_tags(one: &Host, two: &Host) {
    let sockets = [one.raw(), two.raw()];
    for (from, to) in [(0, 1), (1, 0)] {
        let plain = frame(MacAddr::BROADCAST, station(from as u32), &[0x33; 700]);
        let once = tagged(&plain, DOT1Q, 0x600a);
        let twice = tagged(&once, DOT1Q, 20);
        for bytes in [&once, &twice, &plain] {
            sockets[from].send(bytes).expect("sent");
            let received = wait::until("a frame", || sockets[to].recv().filter(|frame| is_ours(frame)));
            assert_eq!(received, *bytes);
        }
    }
}
