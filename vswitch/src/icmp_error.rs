//! ICMP errors, each written into the packet that it is about.
//!
//! ```text
//!            headroom         | frame as it came
//!  +-----------+--------------+----------+-------------------------------+
//!  |           | (32 bytes)   | Ethernet | IPv4, transport ...           |
//!  +-----------+--------------+----------+-------------------------------+
//!          | Ethernet | IPv4 | ICMP       | quote, at most 548 bytes |
//!          +----------+------+------------+--------------------------+
//! ```
//!
//! The link header moves to the new front; its addresses are the caller's. An ICMPv6 error needs more than the headroom. It is only
//! sent about packets that are too long, so its headers find room within the packet.

use std::net::Ipv4Addr;

use packet::icmpv4::{self, IcmpError};
use packet::icmpv6::{self, PacketTooBig};
use packet::ipv6::Ipv6View;
use packet::{Headers, Span, VnetHeader};

use crate::egress::Frame;
use crate::intake::parse;
use crate::walk::Walk;

/// Turns an IPv4 packet into the error about itself, from this address to its sender. `None` if no error may be sent.
#[cold]
pub(crate) fn write_error(walk: &mut Walk<'_>, frame: &mut Frame, error: IcmpError, from: Ipv4Addr) -> Option<()> {
    const HEADERS: usize = icmpv4::ERROR_HEADERS_LEN;
    let about = frame.headers.ipv4(walk.rx.frame(frame.span))?;
    let to = about.src();
    let quote = about.total_len().min(icmpv4::MAX_ERROR_LEN - HEADERS);
    let is_forbidden = IcmpError::is_forbidden_about(about) || frame.headers.dst.is_multicast();
    if !walk.may_tell(is_forbidden, to.into(), Some(error)) {
        return None;
    }
    let l3 = usize::from(frame.headers.l3);
    walk.rx.set_len(walk.at, l3 + quote)?;
    let span = walk.rx.move_start(walk.at, -(HEADERS as isize))?;
    let id = walk.errors.next_id();
    let bytes = walk.rx.frame_mut(span);
    bytes.copy_within(HEADERS..HEADERS + l3, 0);
    if !error.write_headers(&mut bytes[l3..], from, to, id) {
        return None;
    }
    finish(walk, frame, span)
}

/// Turns an IPv6 packet into "packet too big" about itself. `None` if no error may be sent.
#[cold]
pub(crate) fn write_too_big(walk: &mut Walk<'_>, frame: &mut Frame, error: PacketTooBig) -> Option<()> {
    const HEADERS: usize = icmpv6::ERROR_HEADERS_LEN;
    let l3 = usize::from(frame.headers.l3);
    let about = Ipv6View::new(&walk.rx.frame(frame.span)[l3..frame.headers.end as usize])?;
    let (src, dst) = (about.src(), about.dst());
    let quote = about.total_len().saturating_sub(HEADERS).min(icmpv6::MAX_ERROR_LEN - HEADERS);
    // A group address cannot be the source of an error.
    let is_forbidden = PacketTooBig::is_forbidden_about(about) || frame.headers.dst.is_multicast() || dst.is_multicast();
    if !walk.may_tell(is_forbidden, src.into(), None) {
        return None;
    }
    walk.rx.frame_mut(frame.span).copy_within(l3..l3 + quote, l3 + HEADERS);
    let span = walk.rx.set_len(walk.at, l3 + HEADERS + quote)?;
    if !error.write_headers(&mut walk.rx.frame_mut(span)[l3..], dst, src) {
        return None;
    }
    finish(walk, frame, span)
}

/// The frame becomes the error, which has a link header if the packet had one.
#[cold]
fn finish(walk: &mut Walk<'_>, frame: &mut Frame, span: Span) -> Option<()> {
    walk.rx.set_vnet(span, VnetHeader::default());
    let is_packet = frame.headers.l3 == 0;
    frame.begin(span);
    if !is_packet {
        return parse(frame, walk.rx).ok();
    }
    frame.headers = Headers::of_packet(walk.rx.frame(span));
    Some(())
}
