//! What a translated packet must look like: the same with other endpoints, and every checksum as if computed anew; a
//! wrong checksum is wrong by as much as before.

use std::net::Ipv4Addr;

use nat::Endpoint;

use super::few::Copied;
use crate::checksum::{add, sum};
use crate::packets::{ICMP, TCP, UDP, checksum_at, header_len, pseudo_header, put, set_ip_checksum, transport_checksum, word};

/// Makes the two representations of zero equal.
fn is_same(a: u16, b: u16) -> bool {
    a == b || a % 0xffff == b % 0xffff
}

/// The transport's bytes with other ports, or another identifier.
fn put_ports(transport: &mut [u8], protocol: u8, src: Endpoint, dst: Endpoint) {
    match protocol {
        TCP | UDP => {
            put(transport, 0, src.port);
            put(transport, 2, dst.port);
        }
        ICMP => {
            let is_reply = matches!(transport[0], 0 | 14);
            put(transport, 4, if is_reply { dst.port } else { src.port });
        }
        _ => {}
    }
}

/// `before` with other endpoints and a new header checksum; the transport checksum is that of `after`.
fn expected(before: &[u8], after: &[u8], src: Endpoint, dst: Endpoint, has_ports: bool) -> Copied {
    let mut packet = Copied::of(before);
    packet[12..16].copy_from_slice(&src.address.octets());
    packet[16..20].copy_from_slice(&dst.address.octets());
    let (l4, protocol) = (header_len(before), before[9]);
    if has_ports {
        put_ports(&mut packet[l4..], protocol, src, dst);
        if let Some(at) = checksum_at(protocol)
            && packet.len() >= l4 + at + 2
        {
            let check = word(after, l4 + at);
            put(&mut packet, l4 + at, check);
        }
    }
    if sum(&before[..l4]) == 0xffff {
        set_ip_checksum(&mut packet);
    } else {
        assert!(is_same(sum(&before[..l4]), sum(&after[..l4])), "a wrong IPv4 checksum became another wrong one");
        let check = word(after, 10);
        put(&mut packet, 10, check);
    }
    packet
}

/// Everything that the transport checksum covers, including itself.
fn covered(packet: &[u8]) -> u16 {
    let transport = &packet[header_len(packet)..];
    let pseudo = if packet[9] == ICMP { 0 } else { pseudo_header(packet, 0) };
    add(pseudo, sum(transport))
}

/// Checks a packet, or a first fragment, that got these endpoints. `is_whole`: its checksum can be computed.
pub(crate) fn check_flow(before: &[u8], after: &[u8], src: Endpoint, dst: Endpoint, partial: bool, is_whole: bool) {
    assert_eq!(*after, *expected(before, after, src, dst, true), "translated to {src} > {dst}");
    let (l4, protocol) = (header_len(before), before[9]);
    let Some(at) = checksum_at(protocol).filter(|at| before.len() >= l4 + at + 2) else { return };
    let (old, new) = (word(before, l4 + at), word(after, l4 + at));
    if partial && protocol != ICMP {
        let (was, is) = (pseudo_header(before, before.len() - l4), pseudo_header(after, after.len() - l4));
        if old == was {
            assert_eq!(new, is, "a partial checksum");
            let mut finished = Copied::of(after);
            packet::offload::finish_checksum(&mut finished, l4, l4 + at);
            assert_eq!(add(sum(&finished[l4..]), is), 0xffff, "a partial checksum, finished");
        } else {
            assert!(is_same(add(new, !is), add(old, !was)), "a wrong partial checksum");
        }
        return;
    }
    if protocol == UDP && old == 0 {
        assert_eq!(new, 0, "no checksum stays none");
    } else if is_whole && Some(old) == transport_checksum(before) {
        assert_eq!(Some(new), transport_checksum(after), "a right checksum");
    } else {
        assert!(is_same(covered(before), covered(after)), "a wrong checksum is as wrong as before");
        assert!(protocol != UDP || new != 0, "a checksum became none");
    }
}

/// Checks a later fragment that got these addresses.
pub(crate) fn check_later(before: &[u8], after: &[u8], src: Ipv4Addr, dst: Ipv4Addr) {
    assert_eq!(*after, *expected(before, after, Endpoint::new(src, 0), Endpoint::new(dst, 0), false));
}

/// Checks an ICMP error that got these addresses, and whose quoted packet got these endpoints.
pub(crate) fn check_error(before: &[u8], after: &[u8], src: Ipv4Addr, dst: Ipv4Addr, quoted: (Endpoint, Endpoint)) {
    let quote = header_len(before) + 8;
    let (old, new) = (&before[quote..], &after[quote..]);
    let whole = usize::from(word(old, 2)) == old.len();
    check_flow(old, new, quoted.0, quoted.1, false, whole);
    // The quote was checked; the rest is a packet with other addresses.
    let mut same_quote = Copied::of(before);
    same_quote[quote..].copy_from_slice(new);
    let at = header_len(before) + 2;
    put(&mut same_quote, at, word(after, at));
    assert_eq!(*after, *expected(&same_quote, after, Endpoint::new(src, 0), Endpoint::new(dst, 0), false));
    assert_eq!(Some(word(after, at)), transport_checksum(after), "the error's own checksum");
}
