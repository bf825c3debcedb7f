//! A router's changes in place, compared with frames written anew.

use std::net::Ipv4Addr;

use packet::checksum::Delta;
use packet::icmpv4::{self, ERROR_HEADERS_LEN, IcmpError, IcmpView, MAX_ERROR_LEN};
use packet::ipv4::{Ipv4Mut, Ipv4Options, Ipv4View};
use packet::tcp::{self, TcpView, clamp_mss};
use packet::{Batch, Checksum, Headers, VnetHeader};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Ipv4Packet};
use testkit::frames::Spec;
use testkit::strategies::specs;

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, host)
}

/// State of the transport checksum in the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stands {
    Complete,
    Partial,
    Unset,
}

fn written(spec: &Spec, stands: Stands) -> Vec<u8> {
    match stands {
        Stands::Complete => spec.bytes(),
        Stands::Partial => spec.partial().1,
        Stands::Unset => spec.unchecked(),
    }
}

/// Translates both addresses and ports, as NAT does.
fn translate(frame: &mut [u8], headers: &Headers, to: &Spec, stands: Stands) {
    let mut ip = Ipv4Mut::new(&mut frame[usize::from(headers.l3)..]).unwrap();
    let addresses = ip.set_src(address(to.hosts.0)).and(ip.set_dst(address(to.hosts.1)));
    assert!(ip.decrement_ttl());
    let transport = ip.payload_mut();
    let ports = [to.ports.0.to_be_bytes(), to.ports.1.to_be_bytes()].concat();
    let delta = addresses.and(Delta::of(&transport[..4], &ports));
    transport[..4].copy_from_slice(&ports);
    let at = headers.transport.checksum_offset().unwrap();
    let check = u16::from_be_bytes([transport[at], transport[at + 1]]);
    let check = match stands {
        Stands::Partial => addresses.apply_to_sum(check),
        _ if to.tcp => delta.apply(check),
        _ => delta.apply_to_udp(check),
    };
    transport[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

proptest! {
    #[test]
    fn translating_in_place_is_writing_anew(
        spec in specs(100),
        hosts: (u8, u8),
        ports: (u16, u16),
        stands in prop_oneof![Just(Stands::Complete), Just(Stands::Partial), Just(Stands::Unset)],
    ) {
        let spec = Spec { v6: false, ttl: spec.ttl.max(2), tcp: spec.tcp && stands != Stands::Unset, ..spec };
        let to = Spec { hosts, ports, ttl: spec.ttl - 1, ..spec.clone() };
        let mut frame = written(&spec, stands);
        let headers = Headers::parse(&frame).unwrap();
        translate(&mut frame, &headers, &to, stands);
        prop_assert_eq!(frame, written(&to, stands));
    }

    #[test]
    fn a_lower_mss_is_writing_anew(spec in specs(40), most in 500u16..2000, options in option_lists(), flags: u8) {
        let spec = Spec { v6: false, tcp: true, flags: flags | tcp::flag::SYN, options, ..spec };
        let told = TcpView::new(&spec.bytes()[spec.l4()..]).unwrap().max_segment_size();
        for stands in [Stands::Complete, Stands::Partial] {
            let mut frame = written(&spec, stands);
            let checksum = if stands == Stands::Partial { Checksum::Partial } else { Checksum::Verified };
            let changed = clamp_mss(&mut frame[spec.l4()..], most, checksum);
            let options = frame[spec.l4() + 20..spec.payload_at()].to_vec();
            prop_assert!(changed || options == spec.options);
            prop_assert_eq!(&frame, &written(&Spec { options, ..spec.clone() }, stands));
            let view = TcpView::new(&frame[spec.l4()..]).unwrap();
            prop_assert_eq!(view.max_segment_size(), told.map(|told| told.min(most)));
            prop_assert!(!clamp_mss(&mut frame[spec.l4()..], most, checksum), "once is enough");
        }
    }

    /// Arbitrary bytes: option lists end, and a function that reports no change made none.
    #[test]
    fn hostile_options(mut segment in prop::collection::vec(any::<u8>(), 20..90), most: u16) {
        segment[13] |= tcp::flag::SYN;
        let before = segment.clone();
        if let Some(view) = TcpView::new(&segment) {
            prop_assert!(view.options().count() <= 20 && view.window_scale().is_none_or(|scale| scale <= 14));
        }
        if !clamp_mss(&mut segment, most, Checksum::Complete) {
            prop_assert_eq!(segment, before);
        }
    }

    #[test]
    fn hostile_ipv4_headers(mut bytes in prop::collection::vec(any::<u8>(), 0..120), sound in any::<bool>()) {
        if sound && bytes.len() >= 20 {
            bytes[0] = 0x40 | bytes[0].clamp(5, 15) & 0x0f;
            bytes[2..4].fill(0);
            bytes[3] = bytes.len() as u8;
        }
        let Some(ip) = Ipv4View::quoted(&bytes) else { return Ok(()) };
        prop_assert!(ip.header_len() + ip.payload().len() <= bytes.len());
        prop_assert!(ip.header_len() > 20 || ip.options() == Ipv4Options::None);
        let _ = IcmpError::is_forbidden_about(ip);
        let sum = ip.has_valid_checksum();
        let mut ip = Ipv4Mut::quoted(&mut bytes).unwrap();
        ip.set_src(address(1));
        prop_assert_eq!(ip.view().has_valid_checksum(), sum, "patched, not mended");
    }

    /// smoltcp reads an ICMP error that was made in the packet's own bytes.
    #[test]
    fn an_error_in_place(spec in specs(1000), mtu: u16) {
        let spec = Spec { v6: false, tags: Vec::new(), ..spec };
        let frame = spec.bytes();
        let mut batch = Batch::new();
        prop_assert!(batch.push(VnetHeader::default(), &frame) && batch.push(VnetHeader::default(), &[0xaa; 60]));
        let packet_len = frame.len() - 14;
        let span = batch.move_start(0, -(ERROR_HEADERS_LEN as isize)).unwrap();
        batch.frame_mut(span).copy_within(ERROR_HEADERS_LEN..ERROR_HEADERS_LEN + 14, 0);
        let span = batch.set_len(0, 14 + MAX_ERROR_LEN.min(ERROR_HEADERS_LEN + packet_len)).unwrap();
        let packet = &mut batch.frame_mut(span)[14..];
        prop_assert!(IcmpError::fragmentation_needed(mtu).write_headers(packet, address(254), address(spec.hosts.0), 9));
        let ip = Ipv4Packet::new_checked(&batch.frame(span)[14..]).unwrap();
        prop_assert!(ip.verify_checksum() && usize::from(ip.total_len()) == span.len() - 14);
        prop_assert_eq!((ip.src_addr(), ip.dst_addr()), (address(254), address(spec.hosts.0)));
        let message = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        prop_assert!(message.verify_checksum());
        let quoted = packet_len.min(MAX_ERROR_LEN - ERROR_HEADERS_LEN);
        prop_assert_eq!(IcmpView::new(ip.payload()).unwrap().quote(), &frame[14..14 + quoted]);
        prop_assert_eq!(IcmpView::new(ip.payload()).unwrap().next_hop_mtu(), Some(mtu));
        let repr = Icmpv4Repr::parse(&message, &ChecksumCapabilities::default());
        let is_unreachable = matches!(repr, Ok(Icmpv4Repr::DstUnreachable { .. }));
        // smoltcp requires the whole quoted packet.
        prop_assert!(is_unreachable || quoted < packet_len);
        prop_assert_eq!(batch.frame(batch.spans()[1]), &[0xaa; 60]);
        prop_assert_eq!(&batch.frame(span)[..14], &frame[..14]);
    }

    #[test]
    fn an_echo_comes_back_with_its_data(ident: u16, seq_no: u16, data in prop::collection::vec(any::<u8>(), 0..200), other: u16) {
        let capabilities = ChecksumCapabilities::default();
        let request = Icmpv4Repr::EchoRequest { ident, seq_no, data: &data };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &capabilities);
        prop_assert!(icmpv4::answer_echo(&mut bytes));
        icmpv4::set_identifier(&mut bytes, other);
        let reply = Icmpv4Packet::new_checked(&bytes[..]).unwrap();
        let expected = Icmpv4Repr::EchoReply { ident: other, seq_no, data: &data };
        prop_assert_eq!(Icmpv4Repr::parse(&reply, &capabilities).unwrap(), expected);
    }
}

/// Lists of whole options in any order, so that values are at odd offsets too.
fn option_lists() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        Just(vec![1]),
        Just(vec![4, 2]),
        any::<u8>().prop_map(|scale| vec![3, 3, scale]),
        any::<[u8; 2]>().prop_map(|[a, b]| vec![2, 4, a & 7, b]),
        any::<[u8; 2]>().prop_map(|[a, b]| vec![2, 4, a, b]),
    ];
    prop::collection::vec(one, 0..9).prop_map(|options| {
        let mut list = options.concat();
        list.resize(list.len().next_multiple_of(4), 0);
        list
    })
}
