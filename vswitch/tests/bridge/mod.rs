//! A bridge on a bench: ports whose writes are kept, and books that must balance.
#![allow(dead_code, reason = "each test uses some of it")]

use std::io::IoSlice;
use std::sync::Arc;

use packet::{Batch, Features, Timestamp, VNET_LEN, VnetHeader};
use vswitch::{
    Counters, DropReason, Egress, MacTable, MacTableConfig, Pipeline, Port, PortCounters, PortId, PortKind, PortVlan, SendError,
};

/// One write: its virtio-net header and its frame.
pub(crate) type Write = (PortId, VnetHeader, Vec<u8>);

pub(crate) struct Bridge {
    pub(crate) pipeline: Pipeline,
    pub(crate) table: Arc<MacTable>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) now: Timestamp,
    egress: Egress,
    batch: Batch,
    ports: u16,
}

pub(crate) fn port(vlan: PortVlan) -> Port {
    Port { vlan, mtu: 1500, features: Features::ALL, coalesce: false, bursts: false, kind: PortKind::Link }
}

impl Bridge {
    pub(crate) fn new(ports: impl IntoIterator<Item = Port>) -> Bridge {
        let ports: Vec<Port> = ports.into_iter().collect();
        let table = Arc::new(MacTable::new(MacTableConfig { ports: ports.len(), ..MacTableConfig::default() }));
        let counters = Arc::new(Counters::new(ports.len()));
        let mut pipeline = Pipeline::new(Arc::clone(&table), ports.len(), Arc::clone(&counters));
        let count = ports.len() as u16;
        for (index, port) in ports.into_iter().enumerate() {
            pipeline.set_port(PortId(index as u16), Some(port));
        }
        let egress = Egress::new(usize::from(count));
        Bridge { pipeline, table, counters, now: Timestamp::from_secs(1), egress, batch: Batch::new(), ports: count }
    }

    /// So many ports that carry everything.
    pub(crate) fn open(ports: usize) -> Bridge {
        Bridge::new(std::iter::repeat_with(|| port(PortVlan::default())).take(ports))
    }

    pub(crate) fn port(&mut self, id: u16) -> &mut Port {
        self.pipeline.port_mut(PortId(id)).unwrap()
    }

    pub(crate) fn counts(&self, id: u16) -> &PortCounters {
        self.counters.port(PortId(id)).unwrap()
    }

    /// Plain frames in through one port; what was written, by port and in its order.
    pub(crate) fn run(&mut self, ingress: u16, frames: &[Vec<u8>]) -> Vec<Write> {
        let frames: Vec<_> = frames.iter().map(|frame| (VnetHeader::default(), frame.clone())).collect();
        self.run_with(ingress, &frames, |_, _, _| Ok(()))
    }

    /// Frames in through one port. `send` says what becomes of a write; refused ones are not kept.
    pub(crate) fn run_with(
        &mut self,
        ingress: u16,
        frames: &[(VnetHeader, Vec<u8>)],
        mut send: impl FnMut(PortId, VnetHeader, &[u8]) -> Result<(), SendError>,
    ) -> Vec<Write> {
        self.batch.clear();
        for (vnet, frame) in frames {
            assert!(self.batch.push(*vnet, frame), "the batch is full");
        }
        let mut writes = Vec::new();
        self.pipeline.process(PortId(ingress), &mut self.batch, self.now, &mut self.egress);
        self.transmit(&mut writes, &mut send);
        while self.pipeline.has_left() {
            self.pipeline.resume(&mut self.batch, self.now, &mut self.egress);
            self.transmit(&mut writes, &mut send);
        }
        self.assert_balance();
        writes.sort_by_key(|(port, ..)| *port);
        writes
    }

    /// Frames in through one port; how many writes they became. Allocates nothing itself.
    pub(crate) fn count(&mut self, ingress: u16, frames: &[(VnetHeader, Vec<u8>)]) -> usize {
        self.batch.clear();
        for (vnet, frame) in frames {
            assert!(self.batch.push(*vnet, frame), "the batch is full");
        }
        self.pipeline.process(PortId(ingress), &mut self.batch, self.now, &mut self.egress);
        let mut writes = self.count_writes();
        while self.pipeline.has_left() {
            self.pipeline.resume(&mut self.batch, self.now, &mut self.egress);
            writes += self.count_writes();
        }
        self.assert_balance();
        writes
    }

    /// What is due by time, counted.
    pub(crate) fn count_due(&mut self) -> usize {
        self.pipeline.poll(&mut self.batch, self.now, &mut self.egress);
        self.count_writes()
    }

    fn count_writes(&mut self) -> usize {
        let mut writes = 0;
        self.pipeline.transmit(&self.batch, &mut self.egress, |_: PortId, _: &[IoSlice<'_>]| {
            writes += 1;
            Ok(())
        });
        writes
    }

    /// What is due by time.
    pub(crate) fn poll(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        self.pipeline.poll(&mut self.batch, self.now, &mut self.egress);
        self.transmit(&mut writes, &mut |_, _, _| Ok(()));
        self.assert_balance();
        writes
    }

    fn transmit(&mut self, writes: &mut Vec<Write>, send: &mut impl FnMut(PortId, VnetHeader, &[u8]) -> Result<(), SendError>) {
        self.pipeline.transmit(&self.batch, &mut self.egress, |port, pieces: &[IoSlice<'_>]| {
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let (vnet, frame) = bytes.split_at(VNET_LEN);
            let vnet = VnetHeader::from_bytes(vnet.try_into().unwrap());
            let result = send(port, vnet, frame);
            if result.is_ok() {
                writes.push((port, vnet, frame.to_vec()));
            }
            result
        });
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        (0..self.ports).map(|port| self.counts(port).dropped(reason)).sum()
    }

    fn sum(&self, count: impl Fn(&PortCounters) -> u64) -> u64 {
        (0..self.ports).map(|port| count(self.counts(port))).sum()
    }

    /// Frames in, copies and what was made are frames out, drops and what was taken.
    pub(crate) fn assert_balance(&self) {
        let entered = self.sum(|port| port.rx_frames.load() + port.copies.load() + port.made.load());
        let drops = |port: &PortCounters| DropReason::ALL.into_iter().map(|reason| port.dropped(reason)).sum::<u64>();
        let left = self.sum(|port| port.tx_frames.load() + port.taken.load());
        assert_eq!(entered, left + self.sum(drops), "the books do not balance");
    }
}
