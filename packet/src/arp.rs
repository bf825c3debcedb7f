//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).
//!
//! ```text
//!  0       2       4   5   6       8            14          18           24          28
//! +-------+-------+---+---+-------+------------+-----------+------------+-----------+
//! | 1     | 0x0800| 6 | 4 | oper  | sender MAC | sender IP | target MAC | target IP |
//! +-------+-------+---+---+-------+------------+-----------+------------+-----------+
//! ```

use std::net::Ipv4Addr;

use crate::ethernet::{EtherType, put_u16, u16_at};
use crate::ipv4::address_at;
use crate::mac::MacAddr;

/// Length of a message; Ethernet pads it.
pub const ARP_LEN: usize = 28;

/// The operation of a message. Other operations, such as those of RARP, are not parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArpOperation {
    /// Asks which station has the target's address.
    Request,
    /// States that the sender has the sender's address.
    Reply,
}

/// Offsets within the message.
mod field {
    pub(super) const PROTOCOL: usize = 2;
    pub(super) const LENGTHS: usize = 4;
    pub(super) const OPERATION: usize = 6;
    pub(super) const SENDER_MAC: usize = 8;
    pub(super) const SENDER_IP: usize = 14;
    pub(super) const TARGET_MAC: usize = 18;
    pub(super) const TARGET_IP: usize = 24;
}

const ETHERNET: u16 = 1;
const LENGTHS: [u8; 2] = [6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// One message. Its sender fields are untrusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Question or answer.
    pub operation: ArpOperation,
    /// The sender's Ethernet address.
    pub sender_mac: MacAddr,
    /// The sender's IPv4 address; 0.0.0.0 in a probe.
    pub sender_ip: Ipv4Addr,
    /// The target's Ethernet address; without meaning in a request.
    pub target_mac: MacAddr,
    /// The target's IPv4 address.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Parses the message behind an Ethernet header. `None` if it is truncated, has other address types than
    /// Ethernet and IPv4, or is neither a request nor a reply.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Arp> {
        if bytes.len() < ARP_LEN
            || u16_at(bytes, 0) != ETHERNET
            || u16_at(bytes, field::PROTOCOL) != EtherType::IPV4.0
            || bytes[field::LENGTHS..field::OPERATION] != LENGTHS
        {
            return None;
        }
        let operation = match u16_at(bytes, field::OPERATION) {
            REQUEST => ArpOperation::Request,
            REPLY => ArpOperation::Reply,
            _ => return None,
        };
        Some(Arp {
            operation,
            sender_mac: MacAddr::read(&bytes[field::SENDER_MAC..]),
            sender_ip: address_at(bytes, field::SENDER_IP),
            target_mac: MacAddr::read(&bytes[field::TARGET_MAC..]),
            target_ip: address_at(bytes, field::TARGET_IP),
        })
    }

    /// A request for the MAC address of `target_ip`.
    #[must_use]
    pub fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Arp {
        Arp { operation: ArpOperation::Request, sender_mac, sender_ip, target_mac: MacAddr::default(), target_ip }
    }

    /// An announcement: a request for the sender's own address (RFC 5227 section 3).
    #[must_use]
    pub fn announcement(mac: MacAddr, ip: Ipv4Addr) -> Arp {
        Arp::request(mac, ip, ip)
    }

    /// The reply to this request: the target is at `mac`.
    #[must_use]
    pub fn reply(self, mac: MacAddr) -> Arp {
        Arp {
            operation: ArpOperation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// Whether the message only checks that an address is free (RFC 5227 section 1.1). A probe claims no address, so
    /// nothing is learned from it.
    #[must_use]
    pub fn is_probe(self) -> bool {
        self.operation == ArpOperation::Request && self.sender_ip.is_unspecified()
    }

    /// Whether the message announces the sender's address to all, as request or as reply (RFC 5227 section 3).
    #[must_use]
    pub fn is_gratuitous(self) -> bool {
        self.sender_ip == self.target_ip && !self.sender_ip.is_unspecified()
    }

    /// The message's bytes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ARP_LEN] {
        let mut bytes = [0; ARP_LEN];
        put_u16(&mut bytes, 0, ETHERNET);
        put_u16(&mut bytes, field::PROTOCOL, EtherType::IPV4.0);
        bytes[field::LENGTHS..field::OPERATION].copy_from_slice(&LENGTHS);
        let operation = match self.operation {
            ArpOperation::Request => REQUEST,
            ArpOperation::Reply => REPLY,
        };
        put_u16(&mut bytes, field::OPERATION, operation);
        bytes[field::SENDER_MAC..field::SENDER_IP].copy_from_slice(&self.sender_mac.0);
        bytes[field::SENDER_IP..field::TARGET_MAC].copy_from_slice(&self.sender_ip.octets());
        bytes[field::TARGET_MAC..field::TARGET_IP].copy_from_slice(&self.target_mac.0);
        bytes[field::TARGET_IP..].copy_from_slice(&self.target_ip.octets());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; ARP_LEN] = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xaa, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 254];
    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

    #[test]
    fn a_request_and_its_answer() {
        let request = Arp::parse(&REQUEST).unwrap();
        let (host, router) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 254));
        assert_eq!(request, Arp::request(MacAddr([2, 0, 0, 0, 0, 0xaa]), host, router));
        assert_eq!(request.to_bytes(), REQUEST);
        let reply = request.reply(OURS).to_bytes();
        let expected = [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 0xfe, 10, 0, 0, 254, 2, 0, 0, 0, 0, 0xaa, 10, 0, 0, 1];
        assert_eq!(reply, expected);
        assert_eq!(Arp::parse(&[&reply[..], &[0; 18]].concat()), Some(request.reply(OURS)), "padded to 60 bytes");
    }

    #[test]
    fn probes_and_announcements() {
        let probe = Arp::request(OURS, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 9));
        assert!(probe.is_probe() && !probe.is_gratuitous());
        let announcement = Arp::announcement(OURS, Ipv4Addr::new(10, 0, 0, 9));
        assert!(!announcement.is_probe() && announcement.is_gratuitous());
        assert!(Arp { operation: ArpOperation::Reply, ..announcement }.is_gratuitous());
        assert!(!Arp::announcement(OURS, Ipv4Addr::UNSPECIFIED).is_gratuitous());
        let request = Arp::parse(&REQUEST).unwrap();
        assert!(!request.is_probe() && !request.is_gratuitous());
    }

    #[test]
    fn other_protocols_and_prefixes_are_refused() {
        for len in 0..ARP_LEN {
            assert_eq!(Arp::parse(&REQUEST[..len]), None, "{len} bytes");
        }
        // IEEE 802, IPv6, lengths, RARP.
        for (at, value) in [(1, 6), (3, 0xdd), (4, 8), (5, 16), (7, 3), (7, 0), (6, 1)] {
            let mut other = REQUEST;
            other[at] = value;
            assert_eq!(Arp::parse(&other), None, "byte {at} = {value}");
        }
    }
}
