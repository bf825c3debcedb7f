//! Kinds of frames, for which the answer of a filter is often known before a frame is seen.
//!
//! Most frames that a filter does not match differ from those that it matches in the protocol: `tcp port 80` matches no UDP packet
//! and no ARP. So for each kind the filter is evaluated once, when it is compiled, with the checks that depend on more than the
//! kind left open; if the result does not depend on them, a frame of that kind takes one look into a table.

use packet::{EtherType, Headers, Transport, tcp, udp};

/// Number of kinds.
pub(crate) const KINDS: usize = 8;

/// A kind of frame, by ether type and by transport protocol. The latter is known only if its header is valid: a frame
/// without one may still have the protocol's number in its IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ipv4(Transport),
    Ipv6(Transport),
    Arp,
    Other,
}

impl Kind {
    /// All kinds, each at its [`Kind::index`].
    pub(crate) const ALL: [Kind; KINDS] = [
        Kind::Ipv4(Transport::Tcp),
        Kind::Ipv4(Transport::Udp),
        Kind::Ipv4(Transport::Other),
        Kind::Ipv6(Transport::Tcp),
        Kind::Ipv6(Transport::Udp),
        Kind::Ipv6(Transport::Other),
        Kind::Arp,
        Kind::Other,
    ];

    #[inline]
    pub(crate) fn of(headers: &Headers) -> Kind {
        match headers.ether_type {
            EtherType::IPV4 => Kind::Ipv4(headers.transport),
            EtherType::IPV6 => Kind::Ipv6(headers.transport),
            EtherType::ARP => Kind::Arp,
            _ => Kind::Other,
        }
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        let within = |transport| match transport {
            Transport::Tcp => 0,
            Transport::Udp => 1,
            Transport::Other => 2,
        };
        match self {
            Kind::Ipv4(transport) => within(transport),
            Kind::Ipv6(transport) => 3 + within(transport),
            Kind::Arp => 6,
            Kind::Other => 7,
        }
    }

    /// Whether the IP packet is of this protocol; `None` if that depends on more than the kind.
    pub(crate) fn has_protocol(self, number: u8) -> Option<bool> {
        match self {
            Kind::Ipv4(Transport::Other) | Kind::Ipv6(Transport::Other) => None,
            Kind::Ipv4(transport) => Some(transport.protocol() == Some(number)),
            // `proto N` holds for the first extension header, too.
            Kind::Ipv6(transport) => {
                [tcp::PROTOCOL, udp::PROTOCOL].contains(&number).then(|| transport.protocol() == Some(number))
            }
            Kind::Arp | Kind::Other => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{Filter, Subject};
    use packet::Headers;

    const EXPRESSIONS: [&str; 24] = [
        "tcp",
        "udp",
        "sctp",
        "icmp6",
        "ip",
        "ip6",
        "arp",
        "proto 0",
        "ip proto 6",
        "ip6 proto 17",
        "ip6 proto 44",
        "ether proto 0x88cc",
        "host 10.0.0.1",
        "arp host 10.0.0.1",
        "ip src net 10.0.0.0/8",
        "host 2001:db8::1",
        "port 53",
        "tcp port 53",
        "udp dst port 53",
        "vlan",
        "vni 5",
        "broadcast",
        "ether src 02:00:00:00:00:01",
        "ip6 net ::/0",
    ];

    fn expression() -> impl Strategy<Value = String> {
        let primitive = prop::sample::select(EXPRESSIONS.to_vec()).prop_map(str::to_owned);
        primitive.prop_recursive(3, 12, 3, |inner| {
            let pair = (inner.clone(), prop::sample::select(vec!["and", "or"]), inner.clone());
            prop_oneof![inner.prop_map(|one| format!("not ({one})")), pair.prop_map(|(a, word, b)| format!("({a}) {word} ({b})"))]
        })
    }

    /// Frames with headers that are valid, cut off, or make no sense.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let ports = prop::sample::select(vec![[0, 53], [0x12, 0xb5], [9, 9]]);
        let transport = (ports.clone(), ports, any::<bool>(), prop::sample::select(vec![8u8, 0x50, 0])).prop_map(
            |(src, dst, is_vxlan, fifth)| {
                let rest = if is_vxlan { [8, 0, 0, 0, 0, 0, 5, 0] } else { [0; 8] };
                [&src[..], &dst, &[0, 16, 0, 0], &rest, &[fifth; 8]].concat()
            },
        );
        let protocol = prop::sample::select(vec![6u8, 17, 132, 58, 44, 0, 1]);
        let fragment = prop::sample::select(vec![[0u8, 0], [0x20, 0], [0, 5]]);
        let v4 =
            (protocol.clone(), fragment, transport.clone(), any::<bool>()).prop_map(|(protocol, fragment, body, is_valid)| {
                let total = if is_valid { 20 + body.len() as u8 } else { 255 };
                let head =
                    [8, 0, 0x45, 0, 0, total, 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
                [&head[..], &body].concat()
            });
        let v6 = (protocol.clone(), protocol, transport, any::<bool>()).prop_map(|(next, inner, body, is_extended)| {
            let extension: &[u8] = if is_extended { &[inner, 0, 0, 0, 0, 0, 0, 0] } else { &[] };
            let len = (extension.len() + body.len()) as u8;
            let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            [&[0x86, 0xdd, 0x60, 0, 0, 0, 0, len, next, 64][..], &address, &address, extension, &body].concat()
        });
        let other = prop::sample::select(vec![[8u8, 6], [0x88, 0xcc], [8, 0], [0x86, 0xdd]]).prop_map(|kind| {
            [&kind[..], &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]].concat()
        });
        let network = prop_oneof![4 => v4, 4 => v6, 1 => other];
        (network, any::<bool>(), any::<bool>(), 0..120usize).prop_map(|(network, is_tagged, is_group, len)| {
            let dst = if is_group { [0xff; 6] } else { [2, 0, 0, 0, 0, 2] };
            let tag: &[u8] = if is_tagged { &[0x81, 0, 0, 7] } else { &[] };
            let mut frame = [&dst[..], &[2, 0, 0, 0, 0, 1], tag, &network].concat();
            frame.truncate(len.max(14));
            frame
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn what_is_known_of_a_kind_is_what_the_program_says(text in expression(), frame in frame()) {
            let filter: Filter = text.parse().unwrap();
            let headers = Headers::parse(&frame).ok();
            let subject = Subject::plain(headers.as_ref(), &frame);
            prop_assert_eq!(filter.matches(&subject), filter.evaluate(&subject));
        }
    }
}
