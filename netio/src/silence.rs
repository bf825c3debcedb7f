//! Keeping the host's stack out of a guest's cable.
//!
//! A TAP that a monitor holds ends in an interface of the host's, and the host's stack takes part there:
//! it asks and answers by ARP, and from the moment that the link is up it has an IPv6 address and speaks
//! of it (neighbour and router solicitations, listener reports). With the switch on that interface these
//! are words that no host of the bridge said. So ARP is turned off (`IFF_NOARP`) and so is IPv6
//! (`/proc/sys/net/ipv6/conf/NAME/disable_ipv6`), and both are as they were when this is dropped.
//!
//! What a guest sends to the interface's own MAC address and one of the host's IPv4 addresses reaches the
//! host still, as on any link that it has.

use std::fs;
use std::io;

use crate::link::{self, Change};
use crate::route;

/// What was changed of one interface; undone when dropped.
#[derive(Debug)]
pub struct Silence {
    index: u32,
    arp_was_on: bool,
    ipv6_was_on: bool,
}

impl Silence {
    /// Silences the host on an interface of the calling thread's namespace. `None` if the host itself has
    /// an address there, IPv4 or IPv6 and more than link-local, and so wants to be heard. (It would lose an IPv6
    /// address with `disable_ipv6`.)
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
        // It may have another name by now.
        let Ok(link) = link::by_index(self.index) else { return };
        if self.arp_was_on {
            let _ = link::set(self.index, Change { arp: Some(true), ..Change::default() });
        }
        if self.ipv6_was_on {
            let _ = fs::write(disable_ipv6(&link.name), "0");
        }
    }
}

/// One that was given to it: all but the link-local ones (scope 0x20), which come by themselves. A line is address,
/// index, prefix length, scope, flags and name (`if6_seq_show` in `net/ipv6/addrconf.c`).
fn has_ipv6_address(name: &str) -> bool {
    let text = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.last() == Some(&name) && words.get(3).is_some_and(|scope| *scope != "20")
    })
}

/// Was it on?
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

/// A name of an interface holds no slash.
fn disable_ipv6(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}
