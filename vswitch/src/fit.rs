//! Packets that are longer than their path allows: smaller segments, fragments, or an ICMP error to the sender.
//!
//! *Routed* packets are cut or reported as RFC 1812 requires; the router calls [`fit`] and sends the error from its own
//! address.
//!
//! *Bridged* packets are normally not checked, because all stations of a link have the same MTU. A tunnel's MTU is
//! smaller than that of the links at its ends, and a sender that does not know it would lose its packets silently. So,
//! as Linux does for bridged VXLAN (`skb_tunnel_check_pmtu` in `net/ipv4/ip_tunnel_core.c`), the sender gets
//! "fragmentation needed" (RFC 1191 section 4) or "packet too big" (RFC 4443 section 3.2). The source address of the
//! error is the destination of the packet: the bridge has no address, and the sender accepts errors from there. IPv4
//! packets without DF are fragmented. The segment size in SYNs is lowered in both directions, so that TCP needs no
//! errors.

use std::mem;

use packet::ethernet::ADDRESSES_LEN;
use packet::icmpv4::IcmpError;
use packet::icmpv6::PacketTooBig;
use packet::ipv4::Ipv4View;
use packet::offload::{MAX_TCP_SEGMENTS, finish_checksum};
use packet::tcp;
use packet::vlan::TagAction;
use packet::{Batch, Checksum, Network, Offload, Segmentation, SegmentationKind, Transport};

use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::icmp_error::{write_error, write_too_big};
use crate::walk::Walk;

/// Makes a packet fit, unchanged or marked to be cut at egress. Otherwise returns the error for its sender, which applies
/// to IPv4 (RFC 791 section 3.2, RFC 1191 section 4).
#[inline(always)]
pub(crate) fn fit(rx: &mut Batch, frame: &mut Frame, mtu: u32, dont_fragment: bool) -> Result<(), IcmpError> {
    if fits(frame, mtu) { Ok(()) } else { cut(rx, frame, mtu, dont_fragment) }
}

/// Whether a packet fits unchanged, as nearly all do.
#[inline(always)]
pub(crate) fn fits(frame: &mut Frame, mtu: u32) -> bool {
    let end = match frame.offload.segmentation {
        Some(segmentation) => usize::from(frame.headers.payload) + usize::from(segmentation.size),
        None => frame.span.len(),
    };
    let is_fitting = end <= usize::from(frame.headers.l3) + mtu as usize;
    if is_fitting {
        // An earlier step may have had less room.
        frame.cut_to = None;
    }
    is_fitting
}

/// Makes a packet fit that [does not fit](fits) as it is.
#[cold]
pub(crate) fn cut(rx: &mut Batch, frame: &mut Frame, mtu: u32, dont_fragment: bool) -> Result<(), IcmpError> {
    let Frame { span, headers, offload, .. } = *frame;
    if headers.transport == Transport::Tcp
        && (frame.is_size_free || offload.segmentation.is_some() && !dont_fragment)
        && let Some(size) = mtu.checked_sub(u32::from(headers.payload - headers.l3)).filter(|size| *size > 0)
        && headers.payload_len().div_ceil(size as usize) <= MAX_TCP_SEGMENTS
    {
        // Smaller segments are better than segments in fragments.
        frame.offload.segmentation = Some(match offload.segmentation {
            Some(segmentation) => Segmentation { size: size as u16, ..segmentation },
            None => tcp_segmentation(rx, frame, size as u16),
        });
        rx.set_vnet(span, frame.offload.to_vnet(&headers, 0));
        return Ok(());
    }
    if dont_fragment || offload.segmentation.is_some() {
        return Err(IcmpError::fragmentation_needed(u16::try_from(mtu).unwrap_or(u16::MAX)));
    }
    if offload.checksum == Checksum::Partial
        && let Some(offset) = headers.transport.checksum_offset()
    {
        let l4 = usize::from(headers.l4);
        finish_checksum(rx.frame_mut(span), l4, l4 + offset);
    }
    frame.offload = Offload::default();
    frame.is_size_free = false;
    rx.set_vnet(span, Offload::default().to_vnet(&headers, 0));
    frame.cut_to = Some(u16::try_from(mtu).unwrap_or(u16::MAX));
    Ok(())
}

/// The segmentation of a long TCP packet that has none of its own.
fn tcp_segmentation(rx: &Batch, frame: &Frame, size: u16) -> Segmentation {
    let Frame { span, headers, .. } = frame;
    let flags = tcp::TcpView::new(&rx.frame(*span)[usize::from(headers.l4)..]).map_or(0, tcp::TcpView::flags);
    let kind = if headers.network == Network::Ipv6 { SegmentationKind::TcpV6 } else { SegmentationKind::TcpV4 };
    Segmentation { kind, ecn: flags & tcp::flag::CWR != 0, size }
}

/// Lowers the maximum segment size in a SYN to what packets of `mtu` bytes can hold.
#[inline]
pub(crate) fn clamp_to(rx: &mut Batch, frame: &Frame, mtu: u32) {
    let Frame { span, headers, offload, .. } = frame;
    if headers.transport != Transport::Tcp {
        return;
    }
    let ip_len = if headers.network == Network::Ipv6 { packet::ipv6::IPV6_LEN } else { packet::ipv4::IPV4_LEN };
    let most = mtu.saturating_sub((ip_len + tcp::TCP_LEN) as u32).min(u32::from(u16::MAX)) as u16;
    let segment = &mut rx.frame_mut(*span)[usize::from(headers.l4)..headers.end as usize];
    tcp::clamp_mss(segment, most, offload.checksum);
}

/// Makes a bridged frame fit into a tunnel, or sends its sender an ICMP error.
#[cold]
pub(crate) fn fit_tunnel(walk: &mut Walk<'_>, frame: &mut Frame, mtu: u32) -> Result<(), DropReason> {
    let told = match frame.headers.network {
        Network::Ipv4 => {
            let about = frame.headers.ipv4(walk.rx.frame(frame.span));
            let (dst, dont_fragment) = (about.map(Ipv4View::dst), about.is_none_or(Ipv4View::dont_fragment));
            match fit(walk.rx, frame, mtu, dont_fragment) {
                Ok(()) => {
                    walk.note_cut(frame);
                    return Ok(());
                }
                // From the packet's destination: the bridge has no address.
                Err(error) => dst.and_then(|dst| write_error(walk, frame, error, dst)),
            }
        }
        Network::Ipv6 => write_too_big(walk, frame, PacketTooBig(mtu)),
        Network::Other => None,
    };
    match told {
        Some(()) => {
            // Back to the sender.
            walk.rx.frame_mut(frame.span)[..ADDRESSES_LEN].rotate_left(ADDRESSES_LEN / 2);
            mem::swap(&mut frame.headers.dst, &mut frame.headers.src);
            walk.counters.made.add(1);
            walk.push(walk.ingress, TagAction::Keep, frame);
            Err(DropReason::FragmentationNeeded)
        }
        None => Err(DropReason::TooLong),
    }
}
