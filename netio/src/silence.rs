//! Keeping the host's network stack silent on an interface that leads to a guest.
//!
//! The network side of a TAP that a virtual machine monitor holds is an interface of the host, and the host's stack uses
//! it: it sends and answers ARP, and once the link is up it has an IPv6 address and announces it (neighbour and router
//! solicitations, MLD reports). When the switch uses that interface as a port, these frames would come from a host that
//! is not on the bridge. Therefore ARP (`IFF_NOARP`) and IPv6 (`/proc/sys/net/ipv6/conf/NAME/disable_ipv6`) are turned
//! off, and restored on drop.
//!
//! Frames from the guest to the interface's own MAC address and an IPv4 address of the host still reach the host, as on
//! any of its links.

use std::fs;
use std::io;

use crate::link::{self, Change};
use crate::route;

/// The changes made to one interface. Dropping it undoes them.
#[derive(Debug)]
pub struct Silence {
    index: u32,
    arp_was_on: bool,
    ipv6_was_on: bool,
}

impl Silence {
    /// Silences the host on an interface of the calling thread's namespace. `None` if the host uses the interface
    /// itself: it has an IPv4 address there, or an IPv6 address that is not link-local (which `disable_ipv6` would remove).
    pub fn of(name: &str) -> io::Result<Option<Silence>> {
        let link = link::get(name)?;
        if !route::addresses(link.index)?.is_empty() || has_ipv6_address(name) {
            return Ok(None);
        }
        let mut silence = Silence { index: link.index, arp_was_on: false, ipv6_was_on: false };
        if link.arp {
            link::set(link.index, Change { arp: Some(false), ..Change::default() })?;
            silence.arp_was_on = true;
        }
        silence.ipv6_was_on = turn_ipv6_off(name)?;
        Ok(Some(silence))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The interface may have been renamed.
        let Ok(link) = link::by_index(self.index) else { return };
        if self.arp_was_on {
            let _ = link::set(self.index, Change { arp: Some(true), ..Change::default() });
        }
        if self.ipv6_was_on {
            let _ = fs::write(disable_ipv6(&link.name), "0");
        }
    }
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

/// Turns IPv6 off. Returns whether it was on.
fn turn_ipv6_off(name: &str) -> io::Result<bool> {
    let path = disable_ipv6(name);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == "0" => fs::write(&path, "1").map(|()| true),
        Ok(_) => Ok(false),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The path of the setting. Names of interfaces contain no slash.
fn disable_ipv6(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}
