//! Rehearsals: what would happen to an imagined frame, without changing anything.
//!
//! A rehearsal has a [`Pipeline`] of its own, which is configured like those of the workers and shares their
//! tables, but not their counters or ports. It processes a frame by the very code that processes real frames; where that
//! code would change a shared table, a rehearsed [`Story`] makes it ask for the decision instead.
//!
//! Four things cannot be predicted: whether a port's kernel takes the write, whether a worker's rate limit for ICMP
//! errors is exhausted, whether storm control has tokens left for a flood, and the answers to ARP requests.

use std::io::IoSlice;
use std::sync::Arc;

use packet::{Batch, Timestamp, VnetHeader};

use crate::counters::Counters;
use crate::egress::{Egress, SendError};
use crate::mac_table::MacTable;
use crate::pipeline::Pipeline;
use crate::port::PortId;
use crate::watched::live::Watch;
use crate::watched::story::Story;

/// A pipeline for imagined frames.
#[derive(Debug)]
pub struct Rehearsal {
    pipeline: Pipeline,
    batch: Batch,
    egress: Egress,
}

impl Rehearsal {
    /// A rehearsal of a bridge with this MAC table and at most this number of ports, none of which is attached yet.
    #[must_use]
    pub fn new(table: Arc<MacTable>, ports: usize) -> Rehearsal {
        let mut pipeline = Pipeline::new(table, ports, Arc::new(Counters::new(ports)));
        pipeline.set_watch(Some(Box::new(Watch::rehearsal())));
        Rehearsal { pipeline, batch: Batch::new(), egress: Egress::new(0) }
    }

    /// Its pipeline, to be configured like those of the workers.
    pub fn pipeline_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }

    /// The story of a frame if it came in through a port now. `None` if there is no such port, or if the frame is too long
    /// for a batch.
    pub fn walk(&mut self, ingress: PortId, vnet: VnetHeader, frame: &[u8], now: Timestamp) -> Option<Story> {
        self.batch.clear();
        if self.pipeline.port(ingress).is_none() || !self.batch.push(vnet, frame) {
            return None;
        }
        self.egress.make_queues(self.pipeline.port_numbers());
        self.pipeline.process(ingress, &mut self.batch, now, &mut self.egress);
        self.pipeline.transmit(&self.batch, &mut self.egress, nowhere);
        self.pipeline.discard_deferred();
        self.pipeline.last_story().cloned()
    }
}

/// Takes the place of the ports: every write succeeds.
fn nowhere(_: PortId, _: &[IoSlice<'_>]) -> Result<(), SendError> {
    Ok(())
}
