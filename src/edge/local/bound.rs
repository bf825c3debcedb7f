//! Published ports that are bound at the loopback addresses: where the kernel grants no program that gives them to us unbound.
//!
//! A program of the host that has such a port already keeps it, and is told of; its port is tried again each second. One that wants the
//! port later is refused by the kernel. The shared address is left alone: the gate, or the reservation of its ports, says whose they are
//! there.
//!
//! *Bounds.* At most [`MAX_BOUND`] ports, each with a descriptor for IPv4 and one for IPv6.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use netio::reservation::PortProtocol;
use netio::{LocalDatagrams, Poller};

use super::Rules;
use super::datagrams::Datagrams;
use super::streams::Streams;

/// Maximum number of ports that are bound.
const MAX_BOUND: usize = 128;

/// A published port.
type Port = (PortProtocol, u16);

/// The ports that are bound, and those that another program has.
#[derive(Default)]
pub(super) struct Bound {
    /// The places of each port's sockets.
    places: BTreeMap<Port, Vec<usize>>,
    refused: BTreeSet<Port>,
    has_complained: bool,
}

impl Bound {
    /// Whether [`Bound::follow`] is to be called again in a while.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Binds the ports of these rules, and no others.
    pub(super) fn follow(&mut self, rules: &Rules, streams: &mut Streams, datagrams: &mut Datagrams, poller: &Poller) {
        let ended: Vec<Port> = self.places.keys().filter(|port| !rules.contains_key(port)).copied().collect();
        for port in ended {
            for place in self.places.remove(&port).unwrap_or_default() {
                match port.0 {
                    PortProtocol::Tcp => streams.remove(place, poller),
                    PortProtocol::Udp => datagrams.remove(place, poller),
                }
            }
        }
        self.refused.retain(|port| rules.contains_key(port));
        for port in rules.keys() {
            if self.places.contains_key(port) {
                continue;
            }
            if self.places.len() >= MAX_BOUND {
                if !std::mem::replace(&mut self.has_complained, true) {
                    tracing::warn!("only {MAX_BOUND} published ports are bound for programs of the host");
                }
                return;
            }
            match bind(*port, streams, datagrams, poller) {
                Ok(places) => {
                    self.refused.remove(port);
                    self.places.insert(*port, places);
                }
                Err(error) => {
                    if self.refused.insert(*port) {
                        let protocol = if port.0 == PortProtocol::Tcp { "tcp" } else { "udp" };
                        tracing::warn!(protocol, port = port.1, %error, "cannot bind a published port at 127.0.0.1 for programs of the host");
                    }
                }
            }
        }
    }
}

/// Binds a port at 127.0.0.1, and at ::1 if that can be.
fn bind((protocol, port): Port, streams: &mut Streams, datagrams: &mut Datagrams, poller: &Poller) -> io::Result<Vec<usize>> {
    let mut bind_at = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        match protocol {
            PortProtocol::Tcp => streams.add(TcpListener::bind(address)?, poller),
            PortProtocol::Udp => datagrams.add(LocalDatagrams::bound(address)?, poller),
        }
    };
    let mut places = vec![bind_at(Ipv4Addr::LOCALHOST.into())?];
    match bind_at(Ipv6Addr::LOCALHOST.into()) {
        Ok(place) => places.push(place),
        // A namespace may be without IPv6.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
        Err(error) => tracing::debug!(port, %error, "cannot bind a published port at ::1 for programs of the host"),
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddrV4, TcpStream, UdpSocket};

    use super::*;

    struct Lab {
        bound: Bound,
        streams: Streams,
        datagrams: Datagrams,
        poller: Poller,
    }

    impl Lab {
        fn follow(&mut self, ports: &[Port]) {
            let guest = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
            let rules = ports.iter().map(|port| (*port, guest)).collect();
            self.bound.follow(&rules, &mut self.streams, &mut self.datagrams, &self.poller);
        }
    }

    /// Ports that nobody has at the moment.
    fn free_ports() -> [Port; 2] {
        let of = |address: SocketAddr| address.port();
        let (tcp, udp) =
            (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        [(PortProtocol::Tcp, of(tcp.local_addr().unwrap())), (PortProtocol::Udp, of(udp.local_addr().unwrap()))]
    }

    #[test]
    fn ports_are_bound_while_they_are_published() {
        let poller = Poller::new().unwrap();
        let (streams, datagrams) = (Streams::new(Vec::new(), &poller).unwrap(), Datagrams::new(Vec::new(), &poller).unwrap());
        let mut lab = Lab { bound: Bound::default(), streams, datagrams, poller };
        let [tcp, udp] = free_ports();
        let is_bound = || {
            let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, tcp.1)).is_ok();
            (tcp, UdpSocket::bind((Ipv4Addr::LOCALHOST, udp.1)).is_err())
        };
        for (ports, expected) in
            [(&[tcp, udp][..], (true, true)), (&[udp], (false, true)), (&[tcp], (true, false)), (&[], (false, false))]
        {
            lab.follow(ports);
            lab.follow(ports);
            assert_eq!(is_bound(), expected, "{ports:?}");
        }
        // Another program is first, and ends.
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, udp.1)).unwrap();
        lab.follow(&[tcp, udp]);
        assert!(lab.bound.has_refused());
        drop(other);
        lab.follow(&[tcp, udp]);
        assert!(!lab.bound.has_refused() && is_bound() == (true, true));
        lab.follow(&[]);
    }
}
