//! The Internet checksum against its definition and against smoltcp.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::checksum::{Delta, add, pseudo_header, sum, sum_of_20};
use proptest::prelude::*;
use smoltcp::wire::{IpAddress, IpProtocol, checksum as smoltcp_checksum};
use testkit::checksum as reference;

/// 0 and 0xffff are both zero in ones-complement arithmetic.
fn equal(a: u16, b: u16) -> bool {
    a == b || (a == 0 || a == 0xffff) && (b == 0 || b == 0xffff)
}

proptest! {
    #[test]
    fn sum_is_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert_eq!(sum(&bytes), reference::sum(&bytes));
        prop_assert_eq!(sum(&bytes), smoltcp_checksum::data(&bytes));
    }

    #[test]
    fn sum_of_a_header(bytes: [u8; 20]) {
        prop_assert_eq!(sum_of_20(&bytes), reference::sum(&bytes));
    }

    #[test]
    fn sum_of_extremes(byte in prop_oneof![Just(0u8), Just(0xff)], len in 0usize..65_536, odd in any::<u8>()) {
        let mut bytes = vec![byte; len];
        bytes.push(odd);
        prop_assert_eq!(sum(&bytes), reference::sum(&bytes));
    }

    #[test]
    fn sums_add_up_at_even_lengths(words in prop::collection::vec(any::<[u8; 2]>(), 0..100), rest in prop::collection::vec(any::<u8>(), 0..100)) {
        let front = words.concat();
        let whole = [&front[..], &rest].concat();
        prop_assert_eq!(add(sum(&front), sum(&rest)), sum(&whole));
    }

    #[test]
    fn add_is_commutative_and_associative(a: u16, b: u16, c: u16) {
        prop_assert_eq!(add(a, b), reference::add(a, b));
        prop_assert_eq!(add(a, b), add(b, a));
        prop_assert_eq!(add(add(a, b), c), add(a, add(b, c)));
    }

    #[test]
    fn pseudo_header_of_ipv4(src: [u8; 4], dst: [u8; 4], tcp: bool, len in 0u16..=u16::MAX) {
        let protocol = if tcp { IpProtocol::Tcp } else { IpProtocol::Udp };
        let expected = smoltcp_checksum::pseudo_header(
            &IpAddress::Ipv4(Ipv4Addr::from(src)), &IpAddress::Ipv4(Ipv4Addr::from(dst)), protocol, u32::from(len));
        let ours = pseudo_header(&[src, dst].concat(), protocol.into(), usize::from(len));
        prop_assert_eq!(ours, expected);
        let reference = reference::sum(&[&src[..], &dst, &[0, protocol.into()], &len.to_be_bytes()].concat());
        prop_assert_eq!(ours, reference);
    }

    #[test]
    fn pseudo_header_of_ipv6(src: [u8; 16], dst: [u8; 16], tcp: bool, len in 0u32..=100_000) {
        let protocol = if tcp { IpProtocol::Tcp } else { IpProtocol::Udp };
        let ours = pseudo_header(&[src, dst].concat(), protocol.into(), len as usize);
        // smoltcp uses only the lower 16 bits of the length.
        if len <= 0xffff {
            let expected = smoltcp_checksum::pseudo_header(
                &IpAddress::Ipv6(Ipv6Addr::from(src)), &IpAddress::Ipv6(Ipv6Addr::from(dst)), protocol, len);
            prop_assert_eq!(ours, expected);
        }
        let reference = reference::sum(&[&src[..], &dst, &len.to_be_bytes(), &[0, 0, 0, protocol.into()]].concat());
        prop_assert_eq!(ours, reference);
    }

    #[test]
    fn a_delta_keeps_any_checksum_as_right_or_wrong_as_it_was(check: u16, old: u16, new: u16) {
        // Whatever else the checksum covers, the sum including the word is the same before and after.
        let before = reference::add(check, old);
        let after = reference::add(Delta::of_word(old, new).apply(check), new);
        prop_assert!(equal(before, after), "{before:#06x} {after:#06x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// RFC 1624: patching the checksum for changed bytes equals summing anew.
    #[test]
    fn patching_is_summing_anew(
        mut bytes in prop::collection::vec(extreme_bytes(), 4..40),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(extreme_bytes(), 1..10)), 1..4),
    ) {
        // The first byte is unchanged and not 0, like an IP version: the whole sum is never 0.
        bytes[0] |= 0x40;
        let (mut check, mut partial, mut udp) = (!reference::sum(&bytes), reference::sum(&bytes), as_udp(!reference::sum(&bytes)));
        let mut all = Delta::default();
        let first = check;
        for (index, new) in changes {
            let at = 1 + index.index(bytes.len() - 1);
            let new = &new[..new.len().min(bytes.len() - at)];
            let old = bytes[at..at + new.len()].to_vec();
            let delta = if at % 2 == 0 { Delta::of(&old, new) } else { Delta::of(&old, new).at_odd_offset() };
            bytes[at..at + new.len()].copy_from_slice(new);
            (check, partial, udp) = (delta.apply(check), delta.apply_to_sum(partial), delta.apply_to_udp(udp));
            all = all.and(delta);
            let anew = reference::sum(&bytes);
            prop_assert_eq!((check, partial, udp), (!anew, anew, as_udp(!anew)));
        }
        prop_assert_eq!(all.apply(first), check, "all changes at once");
    }
}

/// Bytes that often form words of 0 and 0xffff.
fn extreme_bytes() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0u8), Just(0xff), any::<u8>()]
}

/// A checksum as UDP sends it (RFC 768).
fn as_udp(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

/// Every word changed to every extreme word, next to sums at the limits.
#[test]
fn corners_of_one_word() {
    let extremes = [0x0000, 0x0001, 0x7fff, 0x8000, 0xfffe, 0xffff];
    for other in [0x0001, 0x4500, 0xfffe, 0xffff] {
        for old in 0..=u16::MAX {
            for new in extremes {
                let (before, after) = (reference::add(other, old), reference::add(other, new));
                let delta = Delta::of_word(old, new);
                assert_eq!((delta.apply(!before), delta.apply_to_sum(before)), (!after, after), "{other:#x} {old:#x} {new:#x}");
            }
        }
    }
}
