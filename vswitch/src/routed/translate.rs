//! The router's calls of the translation: real, traced and rehearsed.

use std::net::Ipv4Addr;

use nat::{Basis, Nat, Refused, Side};
use packet::ipv4::Ipv4Mut;
use packet::{Transport, tcp};

use super::neighbour::InterfaceId;
use super::resume::Held;
use super::v4::{view, view_mut};
use super::{Deferred, RouterWorker};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::walk::Walk;
use crate::watched::step::Step;
use crate::watched::story::Addressed;

/// What becomes of a packet's time to live as it is translated: it is in the header that is being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ttl {
    /// The packet is forwarded: unless its time has run out, it has one hop less.
    Decremented,
    /// The packet is the router's own, or is translated once more.
    Kept,
}

impl Ttl {
    #[inline(always)]
    fn apply(self, ip: &mut Ipv4Mut<'_>) {
        if self == Ttl::Decremented {
            // A packet whose time has run out is reported, as it came.
            let _ = ip.decrement_ttl();
        }
    }
}

impl RouterWorker {
    /// Translates a packet in place. Returns its destination after that.
    #[inline(always)]
    pub(crate) fn translate(
        &mut self,
        walk: &mut Walk<'_>,
        frame: &Frame,
        nat: &Nat,
        side: Side,
        ttl: Ttl,
    ) -> Result<Ipv4Addr, Refused> {
        if walk.story.is_some() {
            return self.translate_traced(walk, frame, nat, side, ttl);
        }
        self.apply_translation(walk, frame, nat, side, ttl).map(|(dst, _)| dst)
    }

    /// Translates in place. Returns the new destination, and the reason for the translation.
    #[inline(always)]
    fn apply_translation(
        &mut self,
        walk: &mut Walk<'_>,
        frame: &Frame,
        nat: &Nat,
        side: Side,
        ttl: Ttl,
    ) -> Result<(Ipv4Addr, Basis), Refused> {
        let (owner, now) = (walk.ingress.0, walk.now);
        let mut ip = view_mut(walk, frame).ok_or(Refused::Malformed)?;
        if let Some(first) = self.first_fragment.take() {
            let dst = first.translate(&mut ip);
            ttl.apply(&mut ip);
            return Ok((dst, Basis::Fragment));
        }
        let translated = nat.translate_by(Some(&mut self.flows), side, &mut ip, frame.offload.checksum, owner, now)?;
        ttl.apply(&mut ip);
        if let Some(first) = translated.first {
            self.defer(Deferred::Fragments(first));
        }
        Ok((translated.dst, translated.basis))
    }

    #[cold]
    fn translate_traced(
        &mut self,
        walk: &mut Walk<'_>,
        frame: &Frame,
        nat: &Nat,
        side: Side,
        ttl: Ttl,
    ) -> Result<Ipv4Addr, Refused> {
        let basis = if walk.is_rehearsal() {
            let basis = decide_translation(walk, frame, nat, side)?;
            ttl.apply(&mut view_mut(walk, frame).ok_or(Refused::Malformed)?);
            basis
        } else {
            self.apply_translation(walk, frame, nat, side, ttl)?.1
        };
        let (src, dst) = nat::endpoints(view(walk, frame).ok_or(Refused::Malformed)?);
        walk.note(|| Step::Translated { side, basis, src, dst });
        Ok(dst.address)
    }

    /// Keeps a fragment that came before the first one of its datagram. `from` is its network inside; `None` from outside.
    #[cold]
    pub(crate) fn keep_fragment(
        &mut self,
        walk: &mut Walk<'_>,
        frame: &Frame,
        nat: &Nat,
        from: Option<InterfaceId>,
    ) -> Result<(), DropReason> {
        let side = if from.is_some() { Side::Inside } else { Side::Outside };
        let ip = view(walk, frame).ok_or(DropReason::BadIpHeader)?;
        let bytes = &walk.rx.arena()[frame.span.range_with_vnet()];
        let held = Held { port: walk.ingress, from };
        let (owner, now) = (walk.ingress.0, walk.now);
        let is_kept = if walk.is_rehearsal() {
            nat.decide_hold(bytes.len(), owner, now)
        } else {
            nat.hold(side, ip, bytes, held.to_tag(), owner, now)
        };
        if !is_kept {
            return Err(DropReason::FragmentRefused);
        }
        walk.note(|| Step::FragmentKept);
        walk.counters.taken.add(1);
        Ok(())
    }
}

/// Translates a rehearsed packet in place, and changes nothing else. The connection that it would open exists in its
/// story only, so an ICMP error about the packet is translated by the story.
#[cold]
fn decide_translation(walk: &mut Walk<'_>, frame: &Frame, nat: &Nat, side: Side) -> Result<Basis, Refused> {
    let Frame { span, headers, offload, .. } = frame;
    let mut ip = headers.ipv4_mut(walk.rx.frame_mut(*span)).ok_or(Refused::Malformed)?;
    let story = walk.story.as_mut();
    match nat.decide(side, ip.view(), offload.checksum, walk.ingress.0, walk.now) {
        Ok(decision) if decision.basis == Basis::Error => {
            decision.write(&mut ip, offload.checksum);
            story.and_then(|story| story.pop_addressed(side));
            Ok(Basis::Error)
        }
        Ok(decision) => {
            let (src, dst) = nat::endpoints(ip.view());
            decision.write(&mut ip, offload.checksum);
            if let Some(story) = story {
                story.push_addressed(Addressed { side, src: src.address, dst: dst.address });
            }
            Ok(decision.basis)
        }
        Err(Refused::IcmpUnrelated) => {
            let original = story.and_then(|story| story.pop_addressed(side)).ok_or(Refused::IcmpUnrelated)?;
            match side {
                Side::Inside => ip.set_src(original.dst),
                Side::Outside => ip.set_dst(original.src),
            };
            Ok(Basis::Error)
        }
        Err(refused) => Err(refused),
    }
}

/// Lowers the maximum segment size that a SYN announces to what fits through the uplink. `most` is asked for SYNs only.
#[inline(always)]
pub(crate) fn clamp(walk: &mut Walk<'_>, frame: &Frame, most: impl FnOnce() -> u16) {
    let Frame { span, headers, offload, .. } = frame;
    if headers.transport != Transport::Tcp {
        return;
    }
    let segment = &mut walk.rx.frame_mut(*span)[usize::from(headers.l4)..headers.end as usize];
    if segment.get(tcp::field::FLAGS).is_some_and(|flags| flags & tcp::flag::SYN != 0) {
        tcp::clamp_mss(segment, most(), offload.checksum);
    }
}
