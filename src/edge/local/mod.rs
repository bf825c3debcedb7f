//! Published ports for programs of the host itself: 127.0.0.1, ::1 and the address that is shared with guests.
//!
//! What a program of the host sends to its own addresses never leaves the host's stack, so that the translation does not see it. A
//! BPF program gives connections and datagrams for published ports to sockets of ours ([`netio::gate::LocalLookup`]), and a thread
//! ([`clients`]) copies both ways between them and the guest, by the host's device: [`streams`] for TCP, [`datagrams`] for UDP. Nothing is
//! bound to the published port.
//!
//! Only ports of guests whose neighbour the host is: without its device there is no way to them. The guest sees the gateway's address.
//! These connections end with the process. Without raw sockets there is no UDP, which is told once.
//!
//! *Without bpf(2)* published ports are bound at the loopback addresses instead ([`bound`]), which is told once; nothing is served at the
//! shared address.
//!
//! *Threads.* Owned by the control thread, which compares the rules in force with those that are wanted after each change and once a
//! second.

mod bound;
mod clients;
mod datagrams;
mod streams;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd;

use netio::LocalDatagrams;
use netio::gate::{LocalLookup, LocalSockets};
use netio::reservation::PortProtocol;
use packet::Ipv4Prefix;

use clients::{Clients, Entrances};

/// Published ports, and the guests' that they lead to.
pub(super) type Rules = BTreeMap<(PortProtocol, u16), SocketAddrV4>;

/// What serves local clients.
#[derive(Debug, Default)]
pub(crate) struct LocalClients {
    served: Option<Served>,
    has_complained: bool,
}

#[derive(Debug)]
struct Served {
    /// Gives what is for published ports to us; without it they are bound.
    lookup: Option<LocalLookup>,
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
                    tracing::warn!(%error, "published ports are not there for programs of the host");
                }
            }
        }
        if let Some(served) = &mut self.served {
            served.set(rules, address);
        }
    }

    /// Clients of guests in these networks end.
    pub(super) fn end(&self, networks: &[Ipv4Prefix]) {
        if let Some(served) = &self.served {
            served.clients.end(networks);
        }
    }
}

impl Served {
    fn open() -> io::Result<Served> {
        let (lookup, entrances) = match given() {
            Ok((lookup, entrances)) => (Some(lookup), entrances),
            Err(error) => {
                let needs = "Linux 5.17, CAP_BPF and CAP_NET_ADMIN";
                tracing::warn!(%error, needs, "published ports are bound at 127.0.0.1 and ::1 for programs of the host");
                (None, Entrances::Bound)
            }
        };
        Ok(Served { lookup, clients: Clients::start(entrances)?, rules: Rules::new(), address: None })
    }

    fn set(&mut self, rules: Rules, address: Option<Ipv4Addr>) {
        if let Some(lookup) = self.lookup.as_ref().filter(|_| self.address != address) {
            lookup.set_address(address);
            self.address = address;
        }
        if self.rules == rules {
            return;
        }
        // First the guests, then the marks: a client that comes meanwhile finds a guest.
        self.clients.set_rules(rules.clone());
        if let Some(lookup) = &self.lookup {
            let ended = self.rules.keys().filter(|port| !rules.contains_key(port));
            ended.for_each(|(protocol, port)| lookup.set(*protocol, *port, false));
            rules.keys().for_each(|(protocol, port)| lookup.set(*protocol, *port, true));
        }
        self.rules = rules;
    }
}

/// Sockets that get what is for published ports without being bound to them, and what gives it to them.
fn given() -> io::Result<(LocalLookup, Entrances)> {
    // A namespace may be without IPv6.
    let streams = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(Some)?, TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()];
    let datagrams = match LocalDatagrams::of_ipv4() {
        Ok(of_ipv4) => [Some(of_ipv4), LocalDatagrams::of_ipv6().ok()],
        Err(error) => {
            tracing::warn!(%error, needs = "CAP_NET_RAW", "published UDP ports are not there for programs of the host");
            [None, None]
        }
    };
    let lookup = LocalLookup::open(LocalSockets {
        streams: streams.each_ref().map(|socket| socket.as_ref().map(AsFd::as_fd)),
        datagrams: datagrams.each_ref().map(|socket| socket.as_ref().map(AsFd::as_fd)),
    })?;
    let (streams, datagrams) = (streams.into_iter().flatten().collect(), datagrams.into_iter().flatten().collect());
    Ok((lookup, Entrances::Given { streams, datagrams }))
}
