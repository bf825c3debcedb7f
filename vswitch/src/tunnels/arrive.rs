//! Decapsulation: datagrams of a receiving socket become frames of the bridge.
//!
//! ```text
//!  datagrams --decapsulate--> Inbox --process_tunnel--> each frame as one of its peer's port
//!              (Arrivals)              whose? > marked? > nested? > judge > learn > ..
//! ```
//!
//! A receiving socket is not a port that frames leave through. It has a port number so that there are counters for
//! datagrams that are dropped before their peer is known; after that a frame belongs to the port of its peer.

use std::net::IpAddr;
use std::sync::Arc;

use packet::{Batch, Datagram, Headers, VnetHeader};
use tunnel::{Arrival, Arrivals, Framing, FramingKind, Locals, Malformed, Peers, Strangers, Unknown};

use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::port::PortId;

/// A receiving socket, as workers see it.
#[derive(Clone, Debug)]
pub struct ReceivingSocket {
    /// The framing of its datagrams.
    pub framing: FramingKind,
    /// Its peers.
    pub peers: Arc<Peers>,
    /// Its own addresses: frames in a tunnel that are addressed to the socket again are dropped.
    pub locals: Arc<Locals>,
    /// Where senders that are no peers are noted.
    pub strangers: Arc<Strangers>,
}

/// Metadata of a decapsulated frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The host that sent the datagram.
    pub(crate) from: IpAddr,
    /// Outer type of service or traffic class.
    pub(crate) tos: u8,
    /// The tunnel's framing and the frame's headers, or why the datagram is dropped.
    pub(crate) arrived: Result<(Framing, Headers), DropReason>,
}

/// Frames out of datagrams, to be processed by the pipeline.
#[derive(Debug, Default)]
pub struct Inbox {
    batch: Batch,
    origins: Vec<Origin>,
}

impl Inbox {
    /// An empty inbox with all the memory that it will ever use.
    #[must_use]
    pub fn new() -> Inbox {
        Inbox { batch: Batch::new(), origins: Vec::with_capacity(packet::batch::MAX_FRAMES) }
    }

    /// Decapsulates a received message: adds the frame of each of its datagrams, or the reason why there is none.
    /// `framing` and `mtu`, the longest inner packet in bytes, are those of the receiving socket. Whenever the inbox is
    /// full, `process` gets it, and it is cleared.
    #[inline]
    pub fn decapsulate(&mut self, datagram: Datagram<'_>, framing: FramingKind, mtu: u32, mut process: impl FnMut(&mut Inbox)) {
        let mut first = 0;
        // An empty batch has room for any frame.
        while let Err(next) = self.take(datagram, framing, mtu, first) {
            first = next;
            process(self);
            self.clear();
        }
    }

    /// Adds the frames of a message from its datagram number `first` on. If the inbox is full before, returns the number of the first
    /// datagram that has no room.
    #[inline]
    pub fn take(&mut self, datagram: Datagram<'_>, framing: FramingKind, mtu: u32, first: usize) -> Result<(), usize> {
        let mut arrivals = Arrivals::new(datagram, framing, mtu);
        if first > 0 {
            arrivals.pass(first);
        }
        let mut at = first..;
        match arrivals.zip(&mut at).find(|(arrival, _)| !self.push(&datagram, *arrival)) {
            Some((_, next)) => Err(next),
            None => Ok(()),
        }
    }

    /// Adds the frame of a datagram, or the reason why it has none. False if the inbox is full.
    #[inline]
    #[must_use]
    fn push(&mut self, datagram: &Datagram<'_>, arrival: Result<Arrival<'_>, Malformed>) -> bool {
        let (vnet, frame) = arrival.map_or((VnetHeader::default(), &[][..]), |arrival| (arrival.vnet, arrival.frame));
        let taken = self.batch.push(vnet, frame);
        if taken {
            let arrived = arrival.map(|arrival| (arrival.framing, arrival.headers)).map_err(DropReason::from);
            self.origins.push(Origin { from: datagram.from, tos: datagram.tos, arrived });
        }
        taken
    }

    /// Removes all frames.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.origins.clear();
    }

    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether there are no frames.
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

/// A host that a multicast tunnel accepts and that has no port yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewSource {
    /// The receiving socket.
    pub socket: PortId,
    /// The tunnel's framing and network identifier.
    pub framing: Framing,
    /// The host.
    pub address: IpAddr,
}

/// Finds the peer that sent a frame. `found` remembers it for the next frame, which is mostly from the same peer.
#[inline]
pub(crate) fn whose(
    socket: &ReceivingSocket,
    framing: Framing,
    from: IpAddr,
    found: &mut Option<Known>,
) -> Result<Known, DropReason> {
    if let Some(known) = found.filter(|known| known.framing == framing && known.from == from) {
        return Ok(known);
    }
    let answer = socket.peers.find(framing, from).map_err(|unknown| {
        socket.strangers.note(unknown, framing, from);
        match unknown {
            Unknown::Vni => DropReason::TunnelUnknownVni,
            Unknown::Peer => DropReason::TunnelUnknownPeer,
        }
    })?;
    let known = Known { framing, from, port: PortId(answer.port), is_new: answer.is_new_source };
    *found = Some(known);
    Ok(known)
}

/// The peer of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) framing: Framing,
    pub(crate) from: IpAddr,
    pub(crate) port: PortId,
    pub(crate) is_new: bool,
}

/// Whether a decapsulated frame may enter the bridge. Copies the outer ECN mark into it.
#[inline]
pub(crate) fn let_in(socket: &ReceivingSocket, rx: &mut Batch, frame: &Frame, tos: u8) -> Result<(), DropReason> {
    let Frame { span, headers, .. } = frame;
    if tos & tunnel::ecn::MASK != tunnel::ecn::NOT_ECT && !tunnel::ecn::apply(tos, headers, rx.frame_mut(*span)) {
        return Err(DropReason::TunnelEcn);
    }
    if tunnel::nesting::is_nested(headers, rx.frame(*span), &socket.locals) {
        return Err(DropReason::TunnelNested);
    }
    Ok(())
}
