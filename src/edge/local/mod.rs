//! Published ports for programs of the host itself: 127.0.0.1, ::1 and the address that is shared with guests.
//!
//! What a program of the host sends to its own addresses never leaves the host's stack, so that the translation does not see it. A
//! BPF program gives connections to published TCP ports to two listeners of ours ([`netio::gate::LocalLookup`]), and a thread accepts
//! them, connects to the guest by the host's device, and copies both ways ([`clients`]). Nothing is bound to the published port.
//!
//! Only ports of guests whose neighbour the host is: without its device there is no way to them. The guest sees the gateway's address.
//! These connections end with the process. Without bpf(2) there is nothing of it, which is told once.
//!
//! *Threads.* Owned by the control thread, which compares the rules in force with those that are wanted after each change and once a
//! second.

mod clients;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd;

use netio::gate::LocalLookup;

use clients::Clients;

/// Published TCP ports, and the guests' that they lead to.
pub(super) type Rules = BTreeMap<u16, SocketAddrV4>;

/// What serves local clients.
#[derive(Debug, Default)]
pub(crate) struct LocalClients {
    served: Option<Served>,
    has_complained: bool,
}

#[derive(Debug)]
struct Served {
    lookup: LocalLookup,
    clients: Clients,
    rules: Rules,
    address: Option<Ipv4Addr>,
}

impl LocalClients {
    /// These rules are in force from now on, at the loopback addresses and at this one.
    pub(super) fn serve(&mut self, rules: Rules, address: Option<Ipv4Addr>) {
        if rules.is_empty() {
            (self.served, self.has_complained) = (None, false);
            return;
        }
        if self.served.is_none() && !self.has_complained {
            match Served::open() {
                Ok(served) => self.served = Some(served),
                Err(error) => {
                    self.has_complained = true;
                    tracing::warn!(%error, needs = "Linux 5.17, CAP_BPF and CAP_NET_ADMIN", "published ports are not there for programs of the host");
                }
            }
        }
        if let Some(served) = &mut self.served {
            served.set(rules, address);
        }
    }
}

impl Served {
    fn open() -> io::Result<Served> {
        let of_ipv4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // A namespace may be without IPv6.
        let of_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
        let lookup = LocalLookup::open(of_ipv4.as_fd(), of_ipv6.as_ref().map(AsFd::as_fd))?;
        let clients = Clients::start([Some(of_ipv4), of_ipv6])?;
        Ok(Served { lookup, clients, rules: Rules::new(), address: None })
    }

    fn set(&mut self, rules: Rules, address: Option<Ipv4Addr>) {
        if self.address != address {
            self.lookup.set_address(address);
            self.address = address;
        }
        if self.rules == rules {
            return;
        }
        // First the guests, then the marks: a client that comes meanwhile finds a guest.
        self.clients.set_rules(rules.clone());
        self.rules.keys().filter(|port| !rules.contains_key(port)).for_each(|port| self.lookup.set(*port, false));
        rules.keys().for_each(|port| self.lookup.set(*port, true));
        self.rules = rules;
    }
}
