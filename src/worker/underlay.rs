//! Datagrams of tunnels that a worker receives; their frames walk through the pipeline.
//!
//! ```text
//!  recvmmsg --> 16 messages --decapsulate--> inbox: 256 frames --process, transmit--> ports
//!               each of 1 to 64 datagrams
//! ```
//!
//! Like a batch of any other port, this stops at [`MAX_WRITES`]: frames of the inbox and messages that are left then are a
//! [rest](super::rests).

use std::mem;

use netio::udp;
use packet::Timestamp;
use tunnel::FramingKind;
use vswitch::{Egress, Inbox, MAX_WRITES, Pipeline, PortId, Transmit, Work};

/// A socket that receives datagrams of tunnels.
#[derive(Clone, Debug)]
pub(crate) struct DatagramSource {
    pub(crate) queue: udp::Queue,
    /// The framing of the datagrams.
    pub(crate) framing: FramingKind,
    /// Longest packet in them, in bytes, unless the sender's kernel left segmentation to us.
    pub(crate) mtu: u32,
}

/// Buffers for receiving datagrams, and what of them is left.
#[derive(Debug)]
pub(super) struct Underlay {
    receiver: udp::Receiver,
    /// Number of messages that were received.
    messages: usize,
    /// Messages of which all datagrams were taken into the inbox.
    taken: usize,
    /// Datagrams of the next message that were.
    datagrams: usize,
    inbox: Inbox,
    /// The first frame of the inbox that is left.
    first: usize,
}

impl Underlay {
    /// With all the memory that it will ever use.
    pub(super) fn new() -> Underlay {
        Underlay { receiver: udp::Receiver::new(), messages: 0, taken: 0, datagrams: 0, inbox: Inbox::new(), first: 0 }
    }

    /// Receives at most `most` waiting datagrams or trains of them. Returns their number.
    #[inline]
    pub(super) fn receive(&mut self, source: &DatagramSource, most: usize) -> usize {
        self.clear();
        // The poller reports the socket again if more than one call's worth is there.
        let _ = self.receiver.recv(&source.queue, most);
        self.messages = self.receiver.datagrams().count();
        self.messages
    }

    /// Nothing is left.
    pub(super) fn clear(&mut self) {
        (self.messages, self.taken, self.datagrams, self.first) = (0, 0, 0, 0);
        self.inbox.clear();
    }

    /// Whether all frames were processed.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.first >= self.inbox.len() && self.taken >= self.messages
    }

    /// Carries frames of what was received to where they go, until they have caused [`MAX_WRITES`]. Returns the number of messages
    /// that were begun, and the work that it was.
    #[inline]
    pub(super) fn serve<O>(
        &mut self,
        id: PortId,
        source: &DatagramSource,
        now: Timestamp,
        pipeline: &mut Pipeline,
        egress: &mut Egress,
        outputs: &mut O,
    ) -> (usize, Work)
    where
        for<'a> &'a mut O: Transmit,
    {
        let (before, mut work) = (self.taken, Work::default());
        while !self.is_done() && work.writes < u64::from(MAX_WRITES) {
            if self.first >= self.inbox.len() {
                self.fill(source);
            }
            // Nothing of the inbox is left if this panics.
            let first = mem::replace(&mut self.first, usize::MAX);
            self.first = pipeline.process_tunnel_part(id, &mut self.inbox, first, now, egress);
            work += pipeline.transmit(self.inbox.batch(), egress, &mut *outputs);
        }
        ((self.taken - before).max(1), work)
    }

    /// Drops what is left, because the socket is gone.
    #[cold]
    pub(super) fn discard(&mut self, id: PortId, source: &DatagramSource, pipeline: &mut Pipeline) {
        while !self.is_done() {
            if self.first >= self.inbox.len() {
                self.fill(source);
            }
            pipeline.discard(id, self.inbox.batch(), mem::replace(&mut self.first, usize::MAX));
        }
    }

    /// Takes as many frames out of messages as the inbox has room for.
    #[inline]
    fn fill(&mut self, source: &DatagramSource) {
        self.inbox.clear();
        self.first = 0;
        for message in self.receiver.datagrams().skip(self.taken) {
            if let Err(next) = self.inbox.take(message, source.framing, source.mtu, self.datagrams) {
                self.datagrams = next;
                return;
            }
            self.taken += 1;
            self.datagrams = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};

    use netio::udp::{ReceivingSocket, ReceivingSocketSpec};
    use testkit::bridge::{Bridge, port};
    use testkit::frames::Spec;
    use testkit::overlay::{ENDPOINT, MTU, PEER, address, datagram, host_with, plain_peer, vni};
    use vswitch::{DropReason, PortVlan};

    use super::*;

    const LINKS: u16 = 100;

    const FRAMES: u64 = 40;

    /// A bridge of 100 links and one peer at 127.0.0.1, and 40 broadcasts of that peer which its socket has received.
    fn flooded() -> (Bridge, Underlay, DatagramSource) {
        let link = || port(PortVlan::default());
        let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let others = (3..LINKS + 1).map(|host| (plain_peer(), address(usize::from(host))));
        let mut bridge = host_with([link(), link()], std::iter::once((plain_peer(), own)).chain(others).collect(), own);
        (PEER + 1..PEER + LINKS - 1).for_each(|number| bridge.pipeline.set_port(PortId(number), Some(link())));

        let spec = ReceivingSocketSpec { local: own, port: 0, queues: 1, device: None, groups: Vec::new(), zero_checksum: false };
        let socket = ReceivingSocket::open(&spec).unwrap();
        let broadcast = datagram(vni(), &Spec { dst: [0xff; 6], ..Spec::default() }.bytes());
        let peer = UdpSocket::bind((own, 0)).unwrap();
        for _ in 0..FRAMES {
            peer.send_to(&broadcast, socket.local()).unwrap();
        }
        let source = DatagramSource { queue: socket.queues()[0].clone(), framing: FramingKind::Vxlan, mtu: MTU };
        (bridge, Underlay::new(), source)
    }

    #[test]
    fn a_flood_out_of_a_tunnel_is_carried_in_parts() {
        let (mut bridge, mut underlay, source) = flooded();
        let mut egress = Egress::new(usize::from(PEER + LINKS));
        let (mut written, mut rests) = (0, 0);
        while underlay.receive(&source, 16) > 0 {
            while !underlay.is_done() {
                let mut writes = 0;
                let mut outputs = |_: PortId, _: &[std::io::IoSlice<'_>]| {
                    writes += 1;
                    Ok(())
                };
                underlay.serve(PortId(ENDPOINT), &source, bridge.now, &mut bridge.pipeline, &mut egress, &mut outputs);
                assert!(writes < MAX_WRITES + u32::from(LINKS), "{writes} in one turn");
                written += u64::from(writes);
                rests += u64::from(!underlay.is_done());
            }
        }
        assert_eq!(written, FRAMES * u64::from(LINKS));
        assert!(rests > 0);
    }

    #[test]
    fn the_rest_of_a_socket_that_is_removed_is_counted() {
        let (mut bridge, mut underlay, source) = flooded();
        let mut egress = Egress::new(usize::from(PEER + LINKS));
        let received = underlay.receive(&source, 16) as u64;
        let mut outputs = |_: PortId, _: &[std::io::IoSlice<'_>]| Ok(());
        underlay.serve(PortId(ENDPOINT), &source, bridge.now, &mut bridge.pipeline, &mut egress, &mut outputs);
        let carried = bridge.counters.port(PortId(PEER)).unwrap().rx_frames.load();
        underlay.discard(PortId(ENDPOINT), &source, &mut bridge.pipeline);
        assert!(carried < received && underlay.is_done(), "{carried} of {received}");
        let gone = bridge.counters.port(PortId(ENDPOINT)).unwrap();
        assert_eq!((gone.rx_frames.load(), gone.dropped(DropReason::PortGone)), (received - carried, received - carried));
    }
}
