//! Parsing, once per frame: the positions of all headers.
//!
//! A switch forwards frames that it does not understand. Only a frame with an incomplete Ethernet header is
//! [`Malformed`]; an invalid IP header makes the frame [`Network::Other`], an invalid or fragmented
//! transport header [`Transport::Other`], and both pass as opaque bytes.

use crate::ethernet::{ADDRESSES_LEN, ETHERNET_LEN, EtherType, u16_at};
use crate::ipv4::{Ipv4Mut, Ipv4View};
use crate::ipv6::{Ipv6View, Upper};
use crate::mac::MacAddr;
use crate::tcp::{self, TcpView};
use crate::udp::{self, UDP_LEN, UdpView};
use crate::vlan::{TAG_LEN, Tag, VlanId};

/// Maximum number of VLAN tags that are parsed; further ones are payload (as in Open vSwitch).
pub const MAX_TAGS: usize = 2;

/// The network protocol of a frame, if its header is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Network {
    /// A valid IPv4 header.
    Ipv4,
    /// A valid IPv6 header.
    Ipv6,
    /// Any other protocol, and IP with an inconsistent header.
    #[default]
    Other,
}

/// The transport protocol of a frame, if its header is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Transport {
    /// A valid TCP header.
    Tcp,
    /// A valid UDP header.
    Udp,
    /// Any other protocol, fragments, and inconsistent headers.
    #[default]
    Other,
}

impl Transport {
    /// Offset of the checksum within the header, for TCP and UDP.
    #[inline]
    #[must_use]
    pub fn checksum_offset(self) -> Option<usize> {
        match self {
            Transport::Tcp => Some(tcp::field::CHECKSUM),
            Transport::Udp => Some(udp::field::CHECKSUM),
            Transport::Other => None,
        }
    }

    /// IP's number for the protocol, for TCP and UDP.
    #[inline]
    #[must_use]
    pub fn protocol(self) -> Option<u8> {
        match self {
            Transport::Tcp => Some(tcp::PROTOCOL),
            Transport::Udp => Some(udp::PROTOCOL),
            Transport::Other => None,
        }
    }
}

/// Why a frame is not an Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than an Ethernet header.
    Runt,
    /// It ends within a VLAN tag.
    TruncatedTag,
}

/// The headers of one frame, or of a packet without an Ethernet header. Offsets are in bytes from the start of what was
/// parsed, and lie within it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// The outermost VLAN tag.
    pub tag: Option<Tag>,
    /// The type after the tags.
    pub ether_type: EtherType,
    /// The network protocol.
    pub network: Network,
    /// The transport protocol.
    pub transport: Transport,
    /// Start of the network header.
    pub l3: u16,
    /// Start of the transport header; meaningful for [`Transport::Tcp`] and [`Transport::Udp`].
    pub l4: u16,
    /// Start of the transport payload; meaningful as [`Headers::l4`] is.
    pub payload: u16,
    /// End of the IP packet, which Ethernet padding may follow; the frame's length if not IP.
    pub end: u32,
}

impl Headers {
    /// Parses a frame's headers, with at most [`MAX_TAGS`] VLAN tags.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Headers, Malformed> {
        let mut headers = Headers::default();
        headers.read(frame)?;
        Ok(headers)
    }

    /// Becomes the headers of a frame, as [`Headers::parse`] returns them, without a copy. If the frame is malformed, they
    /// have no meaning.
    #[inline(always)]
    pub fn read(&mut self, frame: &[u8]) -> Result<(), Malformed> {
        if frame.len() < ETHERNET_LEN {
            return Err(Malformed::Runt);
        }
        let mut ether_type = EtherType(u16_at(frame, ADDRESSES_LEN));
        let mut l3 = ETHERNET_LEN;
        let mut tag = None;
        for _ in 0..MAX_TAGS {
            if !ether_type.is_vlan() {
                break;
            }
            if frame.len() < l3 + TAG_LEN {
                return Err(Malformed::TruncatedTag);
            }
            tag = tag.or(Some(Tag::new(ether_type, u16_at(frame, l3))));
            ether_type = EtherType(u16_at(frame, l3 + 2));
            l3 += TAG_LEN;
        }
        *self = Headers {
            dst: MacAddr::read(frame),
            src: MacAddr::read(&frame[6..]),
            tag,
            ether_type,
            network: Network::Other,
            transport: Transport::Other,
            l3: l3 as u16,
            l4: l3 as u16,
            payload: l3 as u16,
            end: frame.len() as u32,
        };
        match ether_type {
            EtherType::IPV4 => self.parse_ipv4(frame, l3),
            EtherType::IPV6 => self.parse_ipv6(frame, l3),
            _ => {}
        }
        Ok(())
    }

    /// Parses the headers of an IP packet without an Ethernet header: MAC addresses are zero, there is no tag, and the
    /// network header is at 0. An invalid packet is [`Network::Other`].
    #[inline]
    #[must_use]
    pub fn of_packet(packet: &[u8]) -> Headers {
        let mut headers = Headers { end: packet.len() as u32, ..Headers::default() };
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => {
                headers.ether_type = EtherType::IPV4;
                headers.parse_ipv4(packet, 0);
            }
            Some(6) => {
                headers.ether_type = EtherType::IPV6;
                headers.parse_ipv6(packet, 0);
            }
            _ => {}
        }
        headers
    }

    #[inline(always)]
    fn parse_ipv4(&mut self, frame: &[u8], l3: usize) {
        let Some(ip) = Ipv4View::new(&frame[l3..]) else { return };
        self.network = Network::Ipv4;
        self.end = (l3 + ip.total_len()) as u32;
        if !ip.is_fragment() {
            self.parse_transport(frame, ip.protocol(), l3 + ip.header_len());
        }
    }

    #[inline]
    fn parse_ipv6(&mut self, frame: &[u8], l3: usize) {
        let Some(ip) = Ipv6View::new(&frame[l3..]) else { return };
        self.network = Network::Ipv6;
        self.end = (l3 + ip.total_len()) as u32;
        if let Upper::Protocol(protocol, at) = ip.upper() {
            self.parse_transport(frame, protocol, l3 + at);
        }
    }

    #[inline(always)]
    fn parse_transport(&mut self, frame: &[u8], protocol: u8, l4: usize) {
        let segment = &frame[l4..self.end as usize];
        let header_len = match protocol {
            tcp::PROTOCOL => {
                let Some(tcp) = TcpView::new(segment) else { return };
                self.transport = Transport::Tcp;
                tcp.header_len()
            }
            udp::PROTOCOL => {
                if UdpView::new(segment).is_none() {
                    return;
                }
                self.transport = Transport::Udp;
                UDP_LEN
            }
            _ => return,
        };
        self.l4 = l4 as u16;
        self.payload = (l4 + header_len) as u16;
    }

    /// The IPv4 packet of the frame that was parsed; `None` if it holds none. Its header is not validated again:
    /// [`Headers::parse`] has done that.
    #[inline(always)]
    #[must_use]
    pub fn ipv4<'a>(&self, frame: &'a [u8]) -> Option<Ipv4View<'a>> {
        match self.network {
            Network::Ipv4 => Ipv4View::unchecked(frame.get(usize::from(self.l3)..self.end as usize)?),
            _ => None,
        }
    }

    /// The same packet, to be changed in place.
    #[inline(always)]
    #[must_use]
    pub fn ipv4_mut<'a>(&self, frame: &'a mut [u8]) -> Option<Ipv4Mut<'a>> {
        match self.network {
            Network::Ipv4 => Ipv4Mut::unchecked(frame.get_mut(usize::from(self.l3)..self.end as usize)?),
            _ => None,
        }
    }

    /// The transport payload's length in bytes, without Ethernet padding.
    #[inline(always)]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.end as usize - usize::from(self.payload)
    }

    /// Whether another tag follows a tag of VLAN 0. A receiver that ignores the first one, as Linux does, uses the
    /// second, so neither reliably says which VLAN this is.
    #[inline(always)]
    #[must_use]
    pub fn hides_tag(&self) -> bool {
        self.tag.is_some_and(|tag| tag.vlan() == VlanId::NONE) && usize::from(self.l3) > ETHERNET_LEN + TAG_LEN
    }

    /// Source and destination address of the IP header: 8 or 32 bytes; empty if not IP.
    #[inline]
    #[must_use]
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let l3 = usize::from(self.l3);
        match self.network {
            Network::Ipv4 => &frame[l3 + crate::ipv4::field::SRC..][..8],
            Network::Ipv6 => &frame[l3 + crate::ipv6::field::SRC..][..32],
            Network::Other => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP4: &str = "0200000000020200000000010800 4500001e0001400040110000 0a0000010a000002 13880009000a0000 aabb";

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
        [&frame[..12], tags, &frame[12..]].concat()
    }

    #[test]
    fn offsets_of_a_literal_frame() {
        let frame = hex(UDP4);
        let headers = Headers::parse(&frame).unwrap();
        assert_eq!((headers.network, headers.transport), (Network::Ipv4, Transport::Udp));
        assert_eq!((headers.l3, headers.l4, headers.payload, headers.end), (14, 34, 42, 44));
        assert_eq!(headers.payload_len(), 2);
        assert_eq!(headers.addresses(&frame), [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(headers.ipv4(&frame).unwrap().payload().len(), 10);
        assert!(headers.ipv4(&frame[..43]).is_none(), "another frame");
    }

    #[test]
    fn a_packet_without_a_frame() {
        let frame = hex(UDP4);
        let headers = Headers::of_packet(&frame[14..]);
        assert_eq!((headers.network, headers.transport, headers.ether_type), (Network::Ipv4, Transport::Udp, EtherType::IPV4));
        assert_eq!((headers.l3, headers.l4, headers.payload, headers.end), (0, 20, 28, 30));
        assert_eq!(headers.addresses(&frame[14..]), [10, 0, 0, 1, 10, 0, 0, 2]);
        for len in 0..30 {
            let headers = Headers::of_packet(&frame[14..14 + len]);
            assert_eq!((headers.network, headers.l3, headers.end), (Network::Other, 0, len as u32));
        }
        assert_eq!(Headers::of_packet(&[0x50; 60]).network, Network::Other);
    }

    #[test]
    fn two_tags_are_read_and_the_third_is_payload() {
        let frame = hex(UDP4);
        let one = Headers::parse(&tagged(&frame, &hex("8100 200a"))).unwrap();
        assert_eq!((one.tag.unwrap().vlan().get(), one.l3, one.transport), (10, 18, Transport::Udp));
        let two = Headers::parse(&tagged(&frame, &hex("88a8 0064 8100 000a"))).unwrap();
        assert_eq!((two.tag.unwrap().vlan().get(), two.tag.unwrap().protocol), (100, EtherType::SERVICE_VLAN));
        assert_eq!((two.l3, two.transport), (22, Transport::Udp));
        let three = Headers::parse(&tagged(&frame, &hex("8100 0001 8100 0002 8100 0003"))).unwrap();
        assert_eq!((three.ether_type, three.network), (EtherType::VLAN, Network::Other));
    }

    #[test]
    fn every_prefix_is_refused_or_opaque() {
        let frame = hex(UDP4);
        for len in 0..frame.len() {
            match Headers::parse(&frame[..len]) {
                Err(malformed) => assert_eq!((malformed, len < 14), (Malformed::Runt, true)),
                Ok(headers) => assert_eq!((headers.network, len >= 14), (Network::Other, true), "{len} bytes"),
            }
        }
        let tagged = tagged(&frame, &hex("8100 000a"));
        for len in 14..18 {
            assert_eq!(Headers::parse(&tagged[..len]).unwrap_err(), Malformed::TruncatedTag);
        }
    }

    #[test]
    fn fragments_have_no_transport() {
        for flags in ["2000", "0001"] {
            let mut frame = hex(UDP4);
            frame[20..22].copy_from_slice(&hex(flags));
            let headers = Headers::parse(&frame).unwrap();
            assert_eq!((headers.network, headers.transport), (Network::Ipv4, Transport::Other));
        }
    }
}
