//! The parser, on any bytes.

use packet::{Headers, Malformed, Network, Transport};

/// Any bytes are a frame: offsets are within it and in ascending order.
pub fn parse(data: &[u8]) {
    let headers = match Headers::parse(data) {
        Ok(headers) => headers,
        Err(Malformed::Runt) => return assert!(data.len() < 14),
        Err(Malformed::TruncatedTag) => return assert!((14..22).contains(&data.len())),
    };
    let (l3, l4, payload, end) =
        (usize::from(headers.l3), usize::from(headers.l4), usize::from(headers.payload), headers.end as usize);
    assert!(14 <= l3 && l3 <= l4 && l4 <= payload && payload <= end && end <= data.len(), "{headers:?}");
    assert_eq!(headers.payload_len(), end - payload);
    assert_eq!(headers.tag.is_some(), l3 > 14);
    let addresses = match headers.network {
        Network::Ipv4 => 8,
        Network::Ipv6 => 32,
        Network::Other => 0,
    };
    assert_eq!(headers.addresses(data).len(), addresses);
    match headers.transport {
        Transport::Tcp => assert!((20..=60).contains(&(payload - l4))),
        Transport::Udp => assert_eq!(payload - l4, 8),
        Transport::Other => assert_eq!((l4, payload), (l3, l3)),
    }
    if headers.network == Network::Other {
        assert_eq!((headers.transport, end), (Transport::Other, data.len()));
    }
}
