//! The router's calls of the translation: real, traced and rehearsed.

use std::net::Ipv4Addr;

use nat::{Manner, Nat, Refused, Rehearsed, Side};
use packet::ipv4::Ipv4Mut;
use packet::{Transport, tcp};

use super::neighbour::InterfaceId;
use super::resume::Held;
use super::routing::Routing;
use super::v4::{Packet, bytes_mut};
use super::{Deferred, RouterWorker};
use crate::counters::DropReason;
use crate::egress::Frame;
use crate::walk::Walk;
use crate::watched::step::Step;
use crate::watched::story::Addressed;

impl RouterWorker {
    /// Translates a packet in place. Returns its destination after that.
    #[inline]
    pub(crate) fn translate(&mut self, walk: &mut Walk<'_>, packet: &Packet, nat: &Nat, side: Side) -> Result<Ipv4Addr, Refused> {
        if walk.story.is_some() {
            return self.translate_traced(walk, packet, nat, side);
        }
        let Frame { offload, .. } = packet.frame;
        let (owner, now) = (walk.ingress.0, walk.now);
        let bytes = bytes_mut(walk, packet);
        if let Some(first) = self.first_fragment.take() {
            return Ok(first.translate(bytes));
        }
        let translated = nat.translate_by(Some(&mut self.flows), side, bytes, offload.checksum, owner, now)?;
        if let Some(first) = translated.first {
            self.defer(Deferred::Fragments(first));
        }
        Ok(translated.dst)
    }

    #[cold]
    fn translate_traced(&mut self, walk: &mut Walk<'_>, packet: &Packet, nat: &Nat, side: Side) -> Result<Ipv4Addr, Refused> {
        if walk.is_rehearsal() {
            return rehearse(walk, packet, nat, side);
        }
        let now = walk.now;
        let manner = match self.first_fragment {
            Some(_) => Some(Manner::Fragment),
            None => nat.manner(side, bytes_mut(walk, packet), now),
        };
        let story = walk.story.take();
        let translated = self.translate(walk, packet, nat, side);
        walk.story = story;
        translated?;
        let (src, dst) = nat::endpoints(bytes_mut(walk, packet));
        walk.note(|| Step::Translated { side, manner, src, dst });
        Ok(dst.address)
    }

    /// Keeps a fragment that came before the first one of its datagram. `from` is its network inside; `None` from outside.
    #[cold]
    pub(crate) fn keep_fragment(
        &mut self,
        walk: &mut Walk<'_>,
        packet: &Packet,
        nat: &Nat,
        from: Option<InterfaceId>,
    ) -> Result<(), DropReason> {
        let side = if from.is_some() { Side::Inside } else { Side::Outside };
        let Frame { span, headers, .. } = packet.frame;
        let bytes = &walk.rx.frame(span)[usize::from(headers.l3)..headers.end as usize];
        let frame = &walk.rx.arena()[span.range_with_vnet()];
        let held = Held { port: walk.ingress, from };
        let (owner, now) = (walk.ingress.0, walk.now);
        let is_kept = if walk.is_rehearsal() {
            nat.would_hold(frame.len(), owner, now)
        } else {
            nat.hold(side, bytes, frame, held.to_tag(), owner, now)
        };
        if !is_kept {
            return Err(DropReason::FragmentRefused);
        }
        walk.note(|| Step::FragmentKept);
        walk.counters.taken.add(1);
        Ok(())
    }
}

/// Translates a rehearsed packet in place. The connection that it would open exists in its story only, so an ICMP error
/// about the packet is translated by the story.
#[cold]
fn rehearse(walk: &mut Walk<'_>, packet: &Packet, nat: &Nat, side: Side) -> Result<Ipv4Addr, Refused> {
    let Frame { span, headers, offload, .. } = packet.frame;
    let (owner, now) = (walk.ingress.0, walk.now);
    let bytes = &mut walk.rx.frame_mut(span)[usize::from(headers.l3)..headers.end as usize];
    let (src, dst) = nat::endpoints(bytes);
    let rehearsed = nat.rehearse(side, bytes, offload.checksum, owner, now);
    let mut undone = || walk.story.as_mut().and_then(|story| story.pop_addressed(side));
    let manner = match rehearsed {
        Ok(Rehearsed { manner: Manner::Error, .. }) => {
            undone();
            Manner::Error
        }
        Err(Refused::IcmpUnrelated) => {
            let original = undone().ok_or(Refused::IcmpUnrelated)?;
            let mut ip = Ipv4Mut::new(bytes).ok_or(Refused::IcmpUnrelated)?;
            match side {
                Side::Inside => ip.set_src(original.dst),
                Side::Outside => ip.set_dst(original.src),
            };
            Manner::Error
        }
        Ok(Rehearsed { manner, .. }) => {
            if let Some(story) = &mut walk.story {
                story.push_addressed(Addressed { side, src: src.address, dst: dst.address });
            }
            manner
        }
        Err(refused) => return Err(refused),
    };
    let (src, dst) = nat::endpoints(bytes_mut(walk, packet));
    walk.note(|| Step::Translated { side, manner: Some(manner), src, dst });
    Ok(dst.address)
}

/// Lowers the maximum segment size that a SYN announces to what fits through the uplink.
#[inline]
pub(crate) fn clamp(walk: &mut Walk<'_>, packet: &Packet, routing: &Routing) {
    let Frame { span, headers, offload, .. } = packet.frame;
    if headers.transport == Transport::Tcp
        && let Some(most) = routing.max_segment_size()
    {
        let segment = &mut walk.rx.frame_mut(span)[usize::from(headers.l4)..headers.end as usize];
        tcp::clamp_mss(segment, most, offload.checksum);
    }
}
