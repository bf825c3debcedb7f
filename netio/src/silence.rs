//! Keeping the host's network stack silent on an interface that leads to a guest.
//!
//! The network side of a TAP that a virtual machine monitor holds is an interface of the host, and the host's stack uses
//! it: it sends and answers ARP, and once the link is up it has an IPv6 address and announces it (neighbour and router
//! solicitations, MLD reports). When the switch uses that interface as a port, these frames would come from a host that
//! is not on the bridge. Therefore ARP (`IFF_NOARP`) and IPv6 (`/proc/sys/net/ipv6/conf/NAME/disable_ipv6`) are turned
//! off, and restored on drop.
//!
//! *Written down.* A process that is killed restores nothing. So before an interface is changed it gets an alternative name
//! (`ip link property`, since Linux 5.5) that says what was on: `vswitchd.1f8a03c4.arp+ipv6`. It is kept where the change is, goes
//! with the device, and everybody can see it. The process that gave it holds the abstract socket of the same name, of
//! which there is one in a network namespace, for as long as it lives. A name without its socket was left behind: whoever
//! silences that interface next takes the name's word for what is to be restored, and [`repair`] restores the others.
//!
//! Frames from the guest to the interface's own MAC address and an IPv4 address of the host still reach the host, as on
//! any of its links.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::link::{self, Change, Link};
use crate::random;
use crate::route;

/// The beginning of the names that say what was changed.
const PREFIX: &str = "vswitchd.";

/// What the host does on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Talk {
    arp: bool,
    ipv6: bool,
}

/// The changes made to one interface. Dropping it undoes them.
#[derive(Debug)]
pub struct Silence {
    index: u32,
    /// What was on.
    before: Talk,
    /// The interface's further name, and the socket that shows that it is in use.
    note: Option<(String, UnixDatagram)>,
}

impl Silence {
    /// Silences the host on an interface of the calling thread's namespace. `None` if the host uses the interface
    /// itself: it has an IPv4 address there, or an IPv6 address that is not link-local (which `disable_ipv6` would remove).
    pub fn of(name: &str) -> io::Result<Option<Silence>> {
        let link = link::get(name)?;
        if !route::addresses(link.index)?.is_empty() || has_ipv6_address(name) {
            return Ok(None);
        }
        let left_behind = left_behind(&link);
        let is_on = |talk: fn(&Talk) -> bool| left_behind.iter().any(|(_, before)| talk(before));
        let ipv6_is_on = is_ipv6_on(name)?;
        let before = Talk { arp: link.arp || is_on(|talk| talk.arp), ipv6: ipv6_is_on || is_on(|talk| talk.ipv6) };
        let mut silence = Silence { index: link.index, before: Talk::default(), note: None };
        if before == Talk::default() {
            return Ok(Some(silence));
        }
        // Before the change; where it cannot be noted, it is made all the same.
        silence.note = note(link.index, before).ok();
        silence.before = before;
        for (note, _) in left_behind {
            let _ = link::remove_name(link.index, &note);
        }
        if link.arp {
            link::set(link.index, Change { arp: Some(false), ..Change::default() })?;
        }
        if ipv6_is_on {
            fs::write(disable_ipv6(name), "1")?;
        }
        Ok(Some(silence))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The interface may have been renamed.
        let Ok(link) = link::by_index(self.index) else { return };
        restore(&link, self.before);
        if let Some((note, _)) = &self.note {
            let _ = link::remove_name(self.index, note);
        }
    }
}

/// Restores what processes that were killed had turned off, on all interfaces of the calling thread's namespace that no process
/// keeps silent now. Returns the names of these interfaces.
pub fn repair() -> io::Result<Vec<String>> {
    let mut repaired = Vec::new();
    for link in link::list()? {
        let notes = left_behind(&link);
        for (note, before) in &notes {
            restore(&link, *before);
            let _ = link::remove_name(link.index, note);
        }
        if !notes.is_empty() {
            repaired.push(link.name);
        }
    }
    Ok(repaired)
}

fn restore(link: &Link, before: Talk) {
    if before.arp {
        let _ = link::set(link.index, Change { arp: Some(true), ..Change::default() });
    }
    if before.ipv6 {
        let _ = fs::write(disable_ipv6(&link.name), "0");
    }
}

/// Writes down what is on. Returns the name, and the socket that is held with it.
fn note(index: u32, before: Talk) -> io::Result<(String, UnixDatagram)> {
    let what = match before {
        Talk { arp: true, ipv6: true } => "arp+ipv6",
        Talk { arp: true, .. } => "arp",
        Talk { .. } => "ipv6",
    };
    let name = format!("{PREFIX}{:08x}.{what}", random::number());
    let socket = hold(&name)?;
    link::add_name(index, &name)?;
    Ok((name, socket))
}

/// The names that processes left behind which do not live any more, and what they say.
fn left_behind(link: &Link) -> Vec<(String, Talk)> {
    let parse = |name: &String| {
        let (_, what) = name.strip_prefix(PREFIX)?.split_once('.')?;
        let is_on = |word| what.split('+').any(|one| one == word);
        // The socket is free again at once.
        hold(name).ok().map(|_| (name.clone(), Talk { arp: is_on("arp"), ipv6: is_on("ipv6") }))
    };
    link.further_names.iter().filter_map(parse).collect()
}

/// Holds the abstract socket of this name; an error if another process does.
fn hold(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// True if the interface has an IPv6 address that is not link-local (scope 0x20). A line of the table is address,
/// index, prefix length, scope, flags and name (`if6_seq_show` in `net/ipv6/addrconf.c`).
fn has_ipv6_address(name: &str) -> bool {
    let text = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.last() == Some(&name) && words.get(3).is_some_and(|scope| *scope != "20")
    })
}

/// Whether IPv6 is on.
fn is_ipv6_on(name: &str) -> io::Result<bool> {
    match fs::read_to_string(disable_ipv6(name)) {
        Ok(text) => Ok(text.trim() == "0"),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Turns IPv6 off on a link of our own, which would only announce itself by it.
pub fn without_ipv6(name: &str) {
    let _ = fs::write(disable_ipv6(name), "1");
}

/// The path of the setting. Names of interfaces contain no slash.
fn disable_ipv6(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}
