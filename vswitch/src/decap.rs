//! Out of the tunnel: datagrams of a receiving socket become frames of the bridge.
//!
//! ```text
//!  datagrams --Arrivals--> Inbox --process_tunnel--> each frame as one of its peer's port
//!             (tunnel)             whose? > marked? > nested? > judge > learn > ..
//! ```
//!
//! A receiving socket is no port that frames leave through. It has a number among the ports, so that what
//! is dropped before its peer is known has counters; from there on a frame belongs to the port of its peer.

use std::net::IpAddr;
use std::sync::Arc;

use packet::{Batch, VnetHeader};
use tunnel::{Locals, Peers, Protocol, Unknown, Vni};

use crate::bridge::Walk;
use crate::counters::DropReason;
use crate::egress::Frame;
use crate::port::PortId;

/// A receiving socket, as workers know it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What stands in its datagrams.
    pub protocol: Protocol,
    /// Who sends to it.
    pub peers: Arc<Peers>,
    /// Where it is: what is in a tunnel and goes there again is dropped.
    pub locals: Arc<Locals>,
}

/// What is known of a frame besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The host that sent the datagram.
    pub from: IpAddr,
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// Its tunnel: VXLAN's network, or none for bare Ethernet; or why it is no frame.
    pub vni: Result<Option<Vni>, DropReason>,
}

/// Frames from datagrams on their way into the pipeline.
#[derive(Debug, Default)]
pub struct Inbox {
    batch: Batch,
    origins: Vec<Origin>,
}

impl Inbox {
    /// With all the memory that it will ever use.
    #[must_use]
    pub fn new() -> Inbox {
        Inbox { batch: Batch::new(), origins: Vec::with_capacity(packet::batch::MAX_FRAMES) }
    }

    /// Takes a frame in; false if it is full.
    #[inline]
    #[must_use]
    pub fn push(&mut self, origin: Origin, vnet: VnetHeader, frame: &[u8]) -> bool {
        let taken = self.batch.push(vnet, frame);
        if taken {
            self.origins.push(origin);
        }
        taken
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.origins.clear();
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// The frames.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(crate) fn parts(&mut self) -> (&mut Batch, &[Origin]) {
        (&mut self.batch, &self.origins)
    }
}

/// A host that a multicast tunnel believes and that has no port yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewSource {
    /// The receiving socket.
    pub endpoint: PortId,
    /// The tunnel.
    pub vni: Option<Vni>,
    /// The host.
    pub address: IpAddr,
}

/// On which port does the frame come in? `found` remembers the answer for the next frame, which is mostly of
/// the same peer.
#[inline]
pub(crate) fn whose(endpoint: &Endpoint, origin: &Origin, found: &mut Option<Known>) -> Result<Known, DropReason> {
    let vni = origin.vni?;
    if let Some(known) = found.filter(|known| known.vni == vni && known.from == origin.from) {
        return Ok(known);
    }
    let answer = endpoint.peers.find(vni, origin.from).map_err(|unknown| match unknown {
        Unknown::Vni => DropReason::TunnelUnknownVni,
        Unknown::Peer => DropReason::TunnelUnknownPeer,
    })?;
    let known = Known { vni, from: origin.from, port: PortId(answer.port), is_new: answer.is_new_source };
    *found = Some(known);
    Ok(known)
}

/// The peer of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) vni: Option<Vni>,
    pub(crate) from: IpAddr,
    pub(crate) port: PortId,
    pub(crate) is_new: bool,
}

/// Is what was in the datagram to be let into the bridge? Marks it where the datagram was marked on its way.
#[inline]
pub(crate) fn let_in(endpoint: &Endpoint, walk: &mut Walk<'_>, frame: &mut Frame, tos: u8) -> Result<(), DropReason> {
    let Frame { span, headers, .. } = frame;
    if tos & tunnel::ecn::MASK != tunnel::ecn::NOT_ECT && !tunnel::ecn::apply(tos, headers, walk.rx.frame_mut(*span)) {
        return Err(DropReason::TunnelEcn);
    }
    if tunnel::nesting::is_nested(headers, walk.rx.frame(*span), &endpoint.locals) {
        return Err(DropReason::TunnelNested);
    }
    Ok(())
}
