//! Two hosts and the cable between them.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use netio::link::{self, Change, Link};
use netio::netns;
use netio::packet_socket::{PacketError, PacketSocket, PacketSpec};

/// What has not happened by then never will, however busy the machine.
const NEVER: Duration = Duration::from_secs(10);

/// One namespace with one end of the cable.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    netns: File,
}

/// Two hosts, 192.0.2.1 with `up0` and 192.0.2.2 with `far0`, both up.
pub(crate) fn pair() -> (Host, Host) {
    let (near, far) = bare_pair();
    near.configure(1);
    far.configure(2);
    (near, far)
}

/// The same without addresses, and down.
pub(crate) fn bare_pair() -> (Host, Host) {
    let near = Host { name: "up0", netns: netns::create().expect("a namespace") };
    let far = Host { name: "far0", netns: netns::create().expect("a namespace") };
    for host in [&near, &far] {
        // A stack that says nothing of its own accord, so that every frame can be counted.
        host.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
    }
    near.inside(|| link::add_pair("up0", "far0", Some(far.netns.as_fd())));
    (near, far)
}

pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

impl Host {
    /// Runs `work` inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        netns::inside(self.netns.as_fd(), work).unwrap_or_else(|error| panic!("in host {}: {error}", self.name))
    }

    /// Sets it up with its address.
    pub(crate) fn configure(&self, number: u8) {
        self.change(Change { up: Some(true), ..Change::default() });
        self.inside(|| link::add_address(link::get(self.name)?.index, address(number).into(), 24));
    }

    /// Its link now.
    pub(crate) fn link(&self) -> Link {
        self.inside(|| link::get(self.name))
    }

    /// Changes its link.
    pub(crate) fn change(&self, change: Change<'_>) {
        self.inside(|| link::set(link::get(self.name)?.index, change));
    }

    /// Its link as an uplink.
    pub(crate) fn open(&self, spec: PacketSpec) -> PacketSocket {
        self.try_open(spec).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_open(&self, spec: PacketSpec) -> Result<PacketSocket, PacketError> {
        self.inside(|| Ok(PacketSocket::open(&spec)))
    }

    /// As a bridge uses it.
    pub(crate) fn spec(&self) -> PacketSpec {
        PacketSpec {
            interface: self.name.to_owned(),
            queues: 1,
            promiscuous: true,
            own_macs: Vec::new(),
            filter: None,
            old_kernel: false,
        }
    }
}

/// Tries until there is an answer.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + NEVER;
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {NEVER:?} for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
