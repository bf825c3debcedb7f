//! The packet's walk: a batch goes in, queues come out.
//!
//! One pipeline a worker. It owns its view of the ports and its counters, and shares the MAC table
//! with the other workers of the bridge.

use std::io::IoSlice;
use std::sync::Arc;

use packet::offload::{Judged, finish_checksum};
use packet::vlan::VlanId;
use packet::{Batch, Headers, Malformed, Offload, Span, Timestamp};

use crate::counters::{Counters, DropReason, PortCounters};
use crate::egress::{Egress, Frame, SendError, write_queue};
use crate::forward::{Forward, forward};
use crate::mac_table::MacTable;
use crate::port::{Port, PortId};

/// A port whose kernel refused so many valid super-frames is sent no more of them.
const REFUSALS_TO_GIVE_UP: u32 = 16;

/// One worker's switch.
#[derive(Debug)]
pub struct Pipeline {
    table: Arc<MacTable>,
    ports: Box<[Option<Port>]>,
    refusals: Box<[u32]>,
    counters: Arc<Counters>,
}

impl Pipeline {
    /// A pipeline with no ports yet. `counters` has room for as many ports as there can be.
    #[must_use]
    pub fn new(table: Arc<MacTable>, ports: usize, counters: Arc<Counters>) -> Pipeline {
        Pipeline { table, ports: vec![None; ports].into_boxed_slice(), refusals: vec![0; ports].into_boxed_slice(), counters }
    }

    /// Attaches a port, changes it, or with `None` takes it away. A number beyond the table's end is
    /// ignored.
    pub fn set_port(&mut self, id: PortId, port: Option<Port>) {
        if let Some(slot) = self.ports.get_mut(id.index()) {
            *slot = port;
            self.refusals[id.index()] = 0;
        }
    }

    /// A port, to be changed.
    pub fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(id.index())?.as_mut()
    }

    /// Walks a batch that came in through `ingress` through the switch and leaves in `tx` what is to
    /// be written, by [`Pipeline::transmit`], before the next batch.
    pub fn process(&mut self, ingress: PortId, rx: &mut Batch, now: Timestamp, tx: &mut Egress) {
        tx.clear();
        let Some(counters) = self.counters.port(ingress) else { return };
        let mut bytes = 0;
        for at in 0..rx.spans().len() {
            let span = rx.spans()[at];
            bytes += span.len() as u64;
            if let Err(reason) = self.switch(ingress, span, rx, now, tx, counters) {
                counters.drop(reason, 1);
            }
        }
        counters.rx_frames.add(rx.spans().len() as u64);
        counters.rx_bytes.add(bytes);
    }

    /// One frame: parse, judge, classify, learn, forward, queue.
    #[inline]
    fn switch(
        &self,
        ingress: PortId,
        span: Span,
        rx: &mut Batch,
        now: Timestamp,
        tx: &mut Egress,
        counters: &PortCounters,
    ) -> Result<(), DropReason> {
        let (headers, offload) = judge(span, parse(span, rx)?, rx)?;
        let port = self.ports.get(ingress.index()).and_then(Option::as_ref).ok_or(DropReason::PortGone)?;
        let vlan = port.vlan.classify(&headers).ok_or(DropReason::VlanNotAllowed)?;
        self.table.learn(vlan, headers.src, ingress, now);
        let frame = Frame { span, headers, offload };
        match forward(&self.table, vlan, headers.dst, ingress, now) {
            Forward::Port(port) => self.queue(port, vlan, frame, tx),
            Forward::Flood => self.flood(ingress, vlan, frame, tx, counters),
            Forward::Drop(reason) => Err(reason),
        }
    }

    /// Queues a frame for the one port behind which its destination is.
    #[inline]
    fn queue(&self, id: PortId, vlan: VlanId, frame: Frame, tx: &mut Egress) -> Result<(), DropReason> {
        let port = self.ports.get(id.index()).and_then(Option::as_ref).ok_or(DropReason::PortGone)?;
        let action = port.vlan.leave(vlan, &frame.headers).ok_or(DropReason::VlanNotCarried)?;
        if port.is_too_long(&frame.headers, frame.offload, frame.span.len()) {
            return Err(DropReason::TooLong);
        }
        let frame = tx.add(frame);
        tx.push(id, frame, action);
        Ok(())
    }

    /// Queues a frame for every port that carries its VLAN, but not its own.
    fn flood(
        &self,
        ingress: PortId,
        vlan: VlanId,
        frame: Frame,
        tx: &mut Egress,
        counters: &PortCounters,
    ) -> Result<(), DropReason> {
        let added = tx.add(frame);
        let (mut copies, mut too_long) = (0, 0);
        for (index, port) in self.ports.iter().enumerate() {
            let id = PortId(index as u16);
            let Some(port) = port.as_ref().filter(|_| id != ingress) else { continue };
            let Some(action) = port.vlan.leave(vlan, &frame.headers) else { continue };
            if port.is_too_long(&frame.headers, frame.offload, frame.span.len()) {
                too_long += 1;
            } else {
                tx.push(id, added, action);
            }
            copies += 1;
        }
        counters.drop(DropReason::TooLong, too_long);
        counters.copies.add(u64::saturating_sub(copies, 1));
        if copies == 0 { Err(DropReason::NoDestination) } else { Ok(()) }
    }

    /// Writes out what [`Pipeline::process`] queued. `send` gets a port and the pieces of one write,
    /// of which the first begins with a virtio-net header.
    pub fn transmit(
        &mut self,
        rx: &Batch,
        tx: &mut Egress,
        mut send: impl FnMut(PortId, &[IoSlice<'_>]) -> Result<(), SendError>,
    ) {
        while let Some((id, queue)) = tx.next() {
            let Some(counters) = self.counters.port(id) else { continue };
            let Some(port) = &mut self.ports[id.index()] else {
                counters.drop(DropReason::PortGone, queue.len() as u64);
                continue;
            };
            let refusals = &mut self.refusals[id.index()];
            write_queue(
                queue,
                rx,
                port.features,
                port.coalesce,
                |pieces| send(id, pieces),
                |written| {
                    counters.tx_writes.add(written.writes);
                    match written.result {
                        Ok(()) => {
                            counters.tx_frames.add(written.frames);
                            counters.tx_bytes.add(written.bytes);
                        }
                        Err(error) => counters.drop(error.reason(), written.frames),
                    }
                    if written.refused {
                        counters.offload_refused.add(1);
                        *refusals += 1;
                    }
                },
            );
            if *refusals >= REFUSALS_TO_GIVE_UP {
                port.features = port.features.without_segmentation();
            }
        }
    }
}

#[inline]
fn parse(span: Span, rx: &Batch) -> Result<Headers, DropReason> {
    Headers::parse(rx.frame(span)).map_err(|malformed| match malformed {
        Malformed::Runt => DropReason::Runt,
        Malformed::TruncatedTag => DropReason::TruncatedTag,
    })
}

/// Believes the virtio-net header or not, finishes what nobody else would, and puts the header that
/// may be passed on before the frame.
#[inline]
fn judge(span: Span, headers: Headers, rx: &mut Batch) -> Result<(Headers, Offload), DropReason> {
    let judged = Offload::judge(rx.vnet(span), &headers, span.len()).map_err(|_| DropReason::BadVnetHeader)?;
    let (headers, offload) = match judged {
        Judged::Accept(offload) => (headers, offload),
        Judged::Finish { start, at } => {
            finish_checksum(rx.frame_mut(span), start, at);
            // The checksum may have been aimed at a field that was read.
            (parse(span, rx)?, Offload::default())
        }
    };
    rx.set_vnet(span, offload.to_vnet(&headers, 0));
    Ok((headers, offload))
}
