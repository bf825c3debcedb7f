//! Datagrams as a receiving socket delivers them: any bytes, any segment size.

use std::net::IpAddr;

use packet::offload::{Judged, finish_checksum};
use packet::{Checksum, Datagram, Headers, Network, Offload, Transport};
use testkit::checksum::sum;
use tunnel::{Arrival, Arrivals, FramingKind, Locals, ecn, entropy, nesting};

use crate::Reader;

/// A protocol, an outer type of service, a segment size, an MTU and a payload. Frames are within the payload and in
/// order, their offloads can be judged, and IP packets take congestion marks.
pub fn vxlan(data: &[u8]) {
    let mut input = Reader(data);
    let kind = [FramingKind::Vxlan, FramingKind::Ethernet, FramingKind::Ip][usize::from(input.u8() % 3)];
    let (tos, segment_size, mtu) = (input.u8(), input.u16(), u32::from(input.u16()));
    let payload = input.0;
    let datagram = Datagram { from: IpAddr::from([192, 0, 2, 1]), tos, segment_size, payload };
    let plain = datagram.segments().count();
    let mut from = payload.as_ptr_range().start;
    let mut count = 0;
    for arrival in Arrivals::new(datagram, kind, mtu) {
        count += 1;
        let Ok(arrival) = arrival else { continue };
        let frame = arrival.frame.as_ptr_range();
        assert!(from <= frame.start && frame.end <= payload.as_ptr_range().end, "one behind the other");
        from = frame.end;
        check(&arrival, kind, tos, mtu);
    }
    assert!(count == plain || count == 1 && segment_size != 0, "{count} of {plain}");
}

fn check(arrival: &Arrival<'_>, kind: FramingKind, tos: u8, mtu: u32) {
    let Arrival { framing, vnet, headers, frame } = *arrival;
    assert_eq!(framing.kind(), kind);
    let encoded = [framing.encode().as_bytes(), frame].concat();
    let decoded = kind.decode(&encoded).unwrap();
    assert_eq!((decoded.framing, decoded.frame), (framing, frame));
    let again = if kind.carries_ethernet() { Headers::parse(frame).unwrap() } else { Headers::of_packet(frame) };
    assert_eq!(format!("{headers:?}"), format!("{again:?}"));
    match Offload::judge(vnet, &headers, frame.len()) {
        Ok(Judged::Accept(offload)) => owed(offload, &headers, frame, mtu),
        Ok(Judged::Finish { .. }) => panic!("where TCP and UDP have none"),
        Err(_) => assert_ne!(vnet.gso_type, 0, "only too many segments are refused"),
    }
    mark(tos, &headers, frame);
    reverse(&headers, frame);
    let locals = Locals::new(8472, [IpAddr::from([10, 0, 0, 2])]);
    assert!(!nesting::is_nested(&headers, frame, &locals) || headers.transport == Transport::Udp);
}

/// A partial checksum, once completed, is correct; if the frame's was correct before, it is the same.
fn owed(offload: Offload, headers: &Headers, frame: &[u8], mtu: u32) {
    if offload.checksum != Checksum::Partial {
        return assert_eq!(offload, Offload::default());
    }
    let Some(offset) = headers.transport.checksum_offset() else { panic!("a checksum of nothing") };
    assert_eq!(headers.end as usize, frame.len(), "padding would be summed");
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let verifies = |frame: &[u8]| {
        let mut pseudo = headers.addresses(frame).to_vec();
        pseudo.extend(((frame.len() - l4) as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, headers.transport.protocol().unwrap_or(0)]);
        sum(&[&[sum(&pseudo).to_be_bytes()[0], sum(&pseudo).to_be_bytes()[1]], &frame[l4..]].concat()) == 0xffff
    };
    let mut finished = frame.to_vec();
    finish_checksum(&mut finished, l4, l4 + offset);
    assert!(verifies(&finished));
    if verifies(frame) {
        assert_eq!(finished, frame);
    }
    if let Some(segmentation) = offload.segmentation
        && headers.transport == Transport::Tcp
    {
        assert_eq!(usize::from(headers.payload) - l3 + usize::from(segmentation.size), mtu as usize);
    }
}

/// The reverse direction of a flow has the same source port.
fn reverse(headers: &Headers, frame: &[u8]) {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let mut back = frame.to_vec();
    let mut swap = |at: usize, len: usize| back[at..at + 2 * len].rotate_left(len);
    if l3 > 0 {
        swap(0, 6);
    }
    match headers.network {
        Network::Ipv4 => swap(l3 + 12, 4),
        Network::Ipv6 => swap(l3 + 8, 16),
        Network::Other => {}
    }
    if headers.transport != Transport::Other {
        swap(l4, 2);
    }
    let there = entropy::flow_hash(headers, frame);
    // Of the parsed headers, the hash reads the Ethernet addresses only.
    let headers = Headers { src: headers.dst, dst: headers.src, ..*headers };
    assert_eq!(entropy::flow_hash(&headers, &back), there);
}

/// A mark changes only the ECN codepoint and IPv4's checksum.
fn mark(tos: u8, headers: &Headers, frame: &[u8]) {
    let before = ecn::tos(headers, frame);
    assert_eq!(before.is_some(), headers.network != Network::Other);
    let mut marked = frame.to_vec();
    let passes = ecn::apply(tos, headers, &mut marked);
    assert!(passes || tos & 3 == 3 && before.is_some_and(|before| before & 3 == 0) && marked == frame);
    let after = ecn::tos(headers, &marked);
    assert_eq!(before.map(|tos| tos & !3), after.map(|tos| tos & !3));
    let l3 = usize::from(headers.l3);
    if headers.network == Network::Ipv4 {
        let header_len = usize::from(frame[l3] & 15) * 4;
        assert_eq!(sum(&frame[l3..][..header_len]) == 0xffff, sum(&marked[l3..][..header_len]) == 0xffff);
        marked[l3 + 10..l3 + 12].copy_from_slice(&frame[l3 + 10..l3 + 12]);
        marked[l3 + 1] = frame[l3 + 1];
    } else if headers.network == Network::Ipv6 {
        marked[l3 + 1] = frame[l3 + 1];
    }
    assert_eq!(marked, frame);
}
