//! Datagrams of tunnels that a worker receives; their frames walk through the pipeline.

use netio::udp;
use packet::Timestamp;
use tunnel::FramingKind;
use vswitch::{Egress, Inbox, Pipeline, PortId, Work};

use super::output::Outputs;

/// A socket that receives datagrams of tunnels.
#[derive(Clone, Debug)]
pub(crate) struct DatagramSource {
    pub(crate) queue: udp::Queue,
    /// The framing of the datagrams.
    pub(crate) framing: FramingKind,
    /// Longest packet in them, in bytes, unless the sender's kernel left segmentation to us.
    pub(crate) mtu: u32,
}

/// One worker's buffers for receiving datagrams.
pub(super) struct Underlay {
    receiver: udp::Receiver,
    inbox: Inbox,
}

impl Underlay {
    /// With all the memory that it will ever use.
    pub(super) fn new() -> Underlay {
        Underlay { receiver: udp::Receiver::new(), inbox: Inbox::new() }
    }

    /// Receives at most `most` waiting datagrams or trains of them. Returns their number.
    #[inline]
    pub(super) fn receive(&mut self, source: &DatagramSource, most: usize) -> usize {
        // The poller reports the socket again if more than one call's worth is there.
        let _ = self.receiver.recv(&source.queue, most);
        self.receiver.datagrams().count()
    }

    /// Carries the frames of what was received to where they go, a full batch at a time. Returns the work that it was.
    #[inline]
    pub(super) fn serve(
        &mut self,
        id: PortId,
        source: &DatagramSource,
        now: Timestamp,
        pipeline: &mut Pipeline,
        egress: &mut Egress,
        outputs: &mut Outputs,
    ) -> Work {
        let mut work = Work::default();
        let inbox = &mut self.inbox;
        inbox.clear();
        for datagram in self.receiver.datagrams() {
            inbox.decapsulate(datagram, source.framing, source.mtu, |full| {
                work += carry(id, full, now, pipeline, egress, outputs);
            });
        }
        if !inbox.is_empty() {
            work += carry(id, inbox, now, pipeline, egress, outputs);
        }
        work
    }
}

fn carry(
    id: PortId,
    inbox: &mut Inbox,
    now: Timestamp,
    pipeline: &mut Pipeline,
    egress: &mut Egress,
    outputs: &mut Outputs,
) -> Work {
    pipeline.process_tunnel(id, inbox, now, egress);
    pipeline.transmit(inbox.batch(), egress, outputs)
}
