//! A station played by the test: it sends what no kernel would, and sees every packet sent to it. By itself it only
//! answers ARP.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use packet::MacAddr;

use crate::datagrams::Datagram;
use crate::frames::station;
use crate::raw::RawSocket;
use crate::wait;

const ARP: [u8; 2] = [8, 6];

/// An ARP message (RFC 826).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ArpMessage {
    /// 1 is a request, 2 a reply.
    pub(crate) operation: u8,
    pub(crate) sender: (MacAddr, Ipv4Addr),
    pub(crate) target: (MacAddr, Ipv4Addr),
}

impl ArpMessage {
    pub(crate) fn request(sender: (MacAddr, Ipv4Addr), target: Ipv4Addr) -> ArpMessage {
        ArpMessage { operation: 1, sender, target: (MacAddr([0; 6]), target) }
    }

    pub(crate) fn frame(self, dst: MacAddr, src: MacAddr) -> Vec<u8> {
        let mut frame = [&dst.0[..], &src.0, &ARP, &[0, 1, 8, 0, 6, 4, 0, self.operation]].concat();
        for (mac, ip) in [self.sender, self.target] {
            frame.extend(mac.0);
            frame.extend(ip.octets());
        }
        frame
    }

    pub(crate) fn of_frame(frame: &[u8]) -> Option<ArpMessage> {
        if frame.get(12..14)? != ARP || frame.get(14..20)? != [0, 1, 8, 0, 6, 4] || frame.len() < 42 {
            return None;
        }
        let pair = |at: usize| {
            let ip = Ipv4Addr::from_octets(*frame[at + 6..].first_chunk().expect("long enough"));
            (mac_at(frame, at), ip)
        };
        Some(ArpMessage { operation: frame[21], sender: pair(22), target: pair(32) })
    }
}

/// The MAC address at this offset of a frame.
pub(crate) fn mac_at(frame: &[u8], at: usize) -> MacAddr {
    MacAddr(*frame[at..].first_chunk().expect("long enough"))
}

/// A station; see the module.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) mac: MacAddr,
    pub(crate) ip: Ipv4Addr,
    /// The router's MAC address on this link.
    pub(crate) via: MacAddr,
    pub(crate) socket: RawSocket,
    /// Whether packets with wrong transport checksums are discarded, as a kernel does; otherwise they fail the test.
    pub(crate) expects_wrong_checksums: Cell<bool>,
    seen: RefCell<Vec<Datagram>>,
    arps: RefCell<Vec<ArpMessage>>,
}

impl Station {
    pub(crate) fn new(socket: RawSocket, number: u32, ip: Ipv4Addr, via: MacAddr) -> Station {
        let expects_wrong_checksums = Cell::new(false);
        Station {
            mac: station(number),
            ip,
            via,
            socket,
            expects_wrong_checksums,
            seen: RefCell::default(),
            arps: RefCell::default(),
        }
    }

    /// An endpoint at the station's address.
    pub(crate) fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, port)
    }

    /// Resolves an address by ARP. Returns the MAC address.
    pub(crate) fn greet(&self, whom: Ipv4Addr) -> MacAddr {
        self.send_frame(&ArpMessage::request((self.mac, self.ip), whom).frame(MacAddr::BROADCAST, self.mac));
        let answer = wait::until("an ARP reply", || {
            self.arps().into_iter().find(|arp| arp.operation == 2 && arp.sender.1 == whom && arp.target == (self.mac, self.ip))
        });
        answer.sender.0
    }

    pub(crate) fn send_frame(&self, frame: &[u8]) {
        self.socket.send(frame).expect("sent");
    }

    /// Sends a packet to the router.
    pub(crate) fn send(&self, datagram: &Datagram) {
        self.send_frame(&datagram.frame(self.via, self.mac));
    }

    pub(crate) fn send_udp(&self, port: u16, to: SocketAddrV4, data: &[u8]) {
        self.send(&Datagram::udp(self.at(port), to, data));
    }

    /// Reads what has arrived, and answers ARP.
    fn take_in(&self) {
        while let Some(frame) = self.socket.recv() {
            if let Some(arp) = ArpMessage::of_frame(&frame) {
                if arp.operation == 1 && arp.target.1 == self.ip {
                    let answer = ArpMessage { operation: 2, sender: (self.mac, self.ip), target: arp.sender };
                    self.send_frame(&answer.frame(arp.sender.0, self.mac));
                }
                self.arps.borrow_mut().push(arp);
            } else if mac_at(&frame, 0) == self.mac {
                let datagram = Datagram::of_frame(&frame).filter(|datagram| {
                    let is_sound = datagram.is_sound();
                    assert!(is_sound || self.expects_wrong_checksums.get(), "a wrong transport checksum: {datagram:?}");
                    is_sound
                });
                self.seen.borrow_mut().extend(datagram);
            }
        }
    }

    /// All ARP messages on its link since the last call.
    pub(crate) fn arps(&self) -> Vec<ArpMessage> {
        self.take_in();
        self.arps.take()
    }

    /// All packets to the station that were not returned yet.
    pub(crate) fn seen(&self) -> Vec<Datagram> {
        self.take_in();
        self.seen.take()
    }

    /// The first packet to the station that matches; others are kept.
    pub(crate) fn expect(&self, what: &str, is_it: impl Fn(&Datagram) -> bool) -> Datagram {
        wait::until(what, || {
            self.take_in();
            let mut seen = self.seen.borrow_mut();
            let at = seen.iter().position(&is_it)?;
            Some(seen.remove(at))
        })
    }

    /// The next packet to the station.
    pub(crate) fn next(&self, what: &str) -> Datagram {
        self.expect(what, |_| true)
    }

    /// The next datagram to this port of the station.
    pub(crate) fn next_udp(&self, port: u16) -> Datagram {
        self.expect("a datagram", |datagram| datagram.protocol == 17 && datagram.ports()[1] == port)
    }
}

/// Sends a packet from one station to the other: what went the same way before has arrived or is lost. Returns what
/// arrived at `to` meanwhile.
pub(crate) fn flush(from: &Station, to: &Station, port: u16, at: SocketAddrV4) -> Vec<Datagram> {
    let mark = b"the mark behind it all";
    let is_mark = |datagram: &Datagram| datagram.protocol == 17 && datagram.data() == mark;
    let mut before = Vec::new();
    wait::until("the mark", || {
        // After a flood the packet may find a queue full.
        from.send_udp(port, at, mark);
        wait::for_at_most(Duration::from_millis(200), || {
            before.append(&mut to.seen());
            before.iter().any(is_mark).then_some(())
        })
    });
    before.retain(|datagram| !is_mark(datagram));
    before
}
