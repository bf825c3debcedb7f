//! Two hosts joined by a veth pair.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use netio::link::{self, Change, Link};
use netio::netns;
use netio::packet_socket::{PacketError, PacketSocket, PacketSpec};

/// Time limit for everything that a test waits for.
const NEVER: Duration = Duration::from_secs(10);

/// A namespace with one end of the veth pair.
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

/// [`pair`] without addresses, and with both links down.
pub(crate) fn bare_pair() -> (Host, Host) {
    let near = Host { name: "up0", netns: netns::create().expect("a namespace") };
    let far = Host { name: "far0", netns: netns::create().expect("a namespace") };
    for host in [&near, &far] {
        // IPv6 is off, so that the stack sends nothing by itself and every frame can be counted.
        host.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
    }
    near.inside(|| link::add_pair("up0", "far0", Some(far.netns.as_fd())));
    (near, far)
}

pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

impl Host {
    /// Runs `work` in the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        netns::inside(self.netns.as_fd(), work).unwrap_or_else(|error| panic!("in host {}: {error}", self.name))
    }

    /// Sets its link up and adds its address.
    pub(crate) fn configure(&self, number: u8) {
        self.change(Change { up: Some(true), ..Change::default() });
        self.inside(|| link::add_address(link::get(self.name)?.index, address(number).into(), 24));
    }

    /// The state of its link.
    pub(crate) fn link(&self) -> Link {
        self.inside(|| link::get(self.name))
    }

    /// Changes its link.
    pub(crate) fn change(&self, change: Change<'_>) {
        self.inside(|| link::set(link::get(self.name)?.index, change));
    }

    /// Opens its link as an uplink.
    pub(crate) fn open(&self, spec: PacketSpec) -> PacketSocket {
        self.try_open(spec).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_open(&self, spec: PacketSpec) -> Result<PacketSocket, PacketError> {
        self.inside(|| Ok(PacketSocket::open(&spec)))
    }

    /// The specification for a bridge.
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

/// Repeats an attempt until it returns a value.
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
