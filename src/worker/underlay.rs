//! What a worker receives from other hosts: datagrams, whose frames walk through the pipeline.

use netio::{Received, udp};
use packet::{Timestamp, VnetHeader};
use tunnel::arrival::{Arrivals, Malformed, Protocol};
use vswitch::{DropReason, Egress, Inbox, Origin, Pipeline, PortId};

use super::output::Outputs;

/// A socket that receives datagrams of tunnels.
#[derive(Clone, Debug)]
pub(crate) struct DatagramSource {
    pub(crate) queue: udp::Queue,
    /// What stands in the datagrams.
    pub(crate) protocol: Protocol,
    /// Packets in them are at most so long, unless the sender's kernel left it to us to cut them.
    pub(crate) mtu: u32,
}

/// What one worker needs to receive datagrams.
pub(super) struct Underlay {
    receiver: udp::Receiver,
    inbox: Inbox,
}

impl Underlay {
    /// With all the memory that it will ever use.
    pub(super) fn new() -> Underlay {
        Underlay { receiver: udp::Receiver::new(), inbox: Inbox::new() }
    }

    /// Receives what is there, and carries its frames to where they go, a full batch at a time.
    #[inline]
    pub(super) fn serve(
        &mut self,
        id: PortId,
        source: &DatagramSource,
        now: Timestamp,
        pipeline: &mut Pipeline,
        egress: &mut Egress,
        outputs: &mut Outputs,
    ) -> Received {
        let received = self.receiver.recv(&source.queue);
        let inbox = &mut self.inbox;
        inbox.clear();
        for datagram in self.receiver.datagrams() {
            for arrival in Arrivals::new(datagram, source.protocol, source.mtu) {
                let (vni, vnet, frame) = match arrival {
                    Ok(arrival) => (Ok(arrival.vni), arrival.vnet, arrival.frame),
                    Err(malformed) => (Err(name(malformed)), VnetHeader::default(), &[][..]),
                };
                let origin = Origin { from: datagram.from, tos: datagram.tos, vni };
                if !inbox.push(origin, vnet, frame) {
                    carry(id, inbox, now, pipeline, egress, outputs);
                    // An empty batch has room for any frame.
                    let _ = inbox.push(origin, vnet, frame);
                }
            }
        }
        if !inbox.is_empty() {
            carry(id, inbox, now, pipeline, egress, outputs);
        }
        received
    }
}

fn carry(id: PortId, inbox: &mut Inbox, now: Timestamp, pipeline: &mut Pipeline, egress: &mut Egress, outputs: &mut Outputs) {
    pipeline.process_tunnel(id, inbox, now, egress);
    pipeline.transmit(inbox.batch(), egress, outputs);
    inbox.clear();
}

fn name(malformed: Malformed) -> DropReason {
    match malformed {
        Malformed::Truncated => DropReason::TunnelTruncated,
        Malformed::BadFlags => DropReason::TunnelBadFlags,
        Malformed::NotIp => DropReason::BadIpHeader,
    }
}
