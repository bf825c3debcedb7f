//! A frame that nobody sent: what would become of it, and nothing changes by it.
//!
//! A rehearsal has a [`Pipeline`] of its own, which is told what the workers' pipelines are told and shares their
//! tables, but never a counter or a port's far side. It walks a frame by the very code that carries frames; where that
//! would change what is shared, the [story](crate::watched::story) of an imagined frame makes it ask instead.
//!
//! What a rehearsal cannot know: what a port's far side would say to the write, and whether a worker has told too many
//! senders of errors just now. Nor does it hear the answers to what it would ask.

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

/// Walks frames that nobody sent.
#[derive(Debug)]
pub struct Rehearsal {
    pipeline: Pipeline,
    batch: Batch,
    egress: Egress,
}

impl Rehearsal {
    /// One without ports yet, of a bridge with this MAC table; there can be so many ports.
    #[must_use]
    pub fn new(table: Arc<MacTable>, ports: usize) -> Rehearsal {
        let mut pipeline = Pipeline::new(table, ports, Arc::new(Counters::new(ports)));
        pipeline.set_watch(Some(Box::new(Watch::rehearsal())));
        Rehearsal { pipeline, batch: Batch::new(), egress: Egress::new(ports) }
    }

    /// Its pipeline, which is to be told what those of workers are told.
    pub fn pipeline_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }

    /// What would become of a frame that came in through a port now. `None` if there is no such port, or the frame
    /// is longer than any.
    pub fn walk(&mut self, ingress: PortId, vnet: VnetHeader, frame: &[u8], now: Timestamp) -> Option<Story> {
        self.batch.clear();
        if self.pipeline.port(ingress).is_none() || !self.batch.push(vnet, frame) {
            return None;
        }
        self.pipeline.process(ingress, &mut self.batch, now, &mut self.egress);
        self.pipeline.transmit(&self.batch, &mut self.egress, nowhere);
        self.pipeline.leave_it();
        self.pipeline.watch()?.last().cloned()
    }
}

/// Where imagined frames leave: every write succeeds.
fn nowhere(_: PortId, _: &[IoSlice<'_>]) -> Result<(), SendError> {
    Ok(())
}
