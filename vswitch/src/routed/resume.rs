//! Work after a batch: packets that waited continue, and timers run.

use std::net::Ipv4Addr;

use nat::FirstFragment;
use packet::batch::MAX_FRAMES;
use packet::ethernet::ETHERNET_LEN;
use packet::icmpv4::{IcmpError, unreachable};
use packet::{Batch, MacAddr, Timestamp, VNET_LEN, VnetHeader};

use super::error::Stop;
use super::neighbour::{Due, InterfaceId};
use super::v4::is_echo_request;
use super::{Deferred, RouterTables, RouterWorker, UPLINK};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::intake::admit;
use crate::port::PortId;
use crate::walk::Walk;

/// What to do with a frame of the batch that [`RouterWorker::collect`] filled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Write an ARP request into it; to the neighbour itself if its MAC address is `known`.
    Request { interface: InterfaceId, address: Ipv4Addr, known: Option<MacAddr> },
    /// Report the packet in it as undeliverable.
    Undeliverable,
}

/// Where a kept packet came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) port: PortId,
    /// Of a fragment, its network inside; `None` from outside.
    pub(crate) from: Option<InterfaceId>,
}

impl Held {
    pub(crate) fn to_tag(self) -> u64 {
        u64::from(self.port.0) | self.from.map_or(0, |id| (u64::from(id.0) + 1) << 16)
    }

    fn of_tag(tag: u64) -> Held {
        let from = (tag >> 16) as u32;
        Held { port: PortId(tag as u16), from: from.checked_sub(1).map(|id| InterfaceId(id as u16)) }
    }
}

/// Number of packets that waited for a neighbour and continue at once. If its MAC address is unknown, each is flooded to all ports of
/// the VLAN, and the worker writes them before it takes further ones.
const RESUMED_AT_ONCE: usize = 8;

/// Room for an ARP request.
const REQUEST: [u8; ETHERNET_LEN + packet::arp::ARP_LEN] = [0; ETHERNET_LEN + packet::arp::ARP_LEN];

impl RouterWorker {
    /// Fills an empty batch with a frame for each task that is due for neighbours. Each task has the port at which it counts.
    pub(crate) fn collect(tables: &RouterTables, batch: &mut Batch, tasks: &mut Vec<(PortId, Task)>, now: Timestamp) {
        tables.neighbours.poll(now, MAX_FRAMES, |due| {
            let task = match due {
                Due::Request { interface, address, known, from } => {
                    let task = (from, Task::Request { interface, address, known });
                    batch.push(VnetHeader::default(), &REQUEST).then_some(task)
                }
                Due::Undeliverable { frame, from, .. } => push(batch, frame).then_some((from, Task::Undeliverable)),
            };
            tasks.extend(task);
            task.is_some()
        });
    }

    /// Does one of the tasks that [`RouterWorker::collect`] left.
    pub(crate) fn perform(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        task: Task,
    ) -> Result<(), DropReason> {
        match task {
            Task::Request { interface, address, known } => self.ask(tables, walk, frame, interface, address, known),
            Task::Undeliverable => {
                walk.counters.made.add(1);
                admit(walk, frame)?;
                let error = IcmpError::unreachable(unreachable::HOST);
                let stop = Stop::Report(error, DropReason::NeighbourUnresolved);
                Err(self.stop(tables, walk, frame, stop))
            }
        }
    }

    /// Takes one deferred event, and fills an empty batch with the packets that waited for it.
    pub(crate) fn take_deferred(&mut self, tables: &RouterTables, batch: &mut Batch, held: &mut Vec<Held>) -> Option<Deferred> {
        let deferred = self.deferred.pop()?;
        match deferred {
            Deferred::Neighbour(id, address) => {
                let more = tables.neighbours.release(id, address, |frame, port| {
                    let is_in = held.len() < RESUMED_AT_ONCE && push(batch, frame);
                    held.extend(is_in.then_some(Held { port, from: None }));
                    is_in
                });
                if more {
                    self.defer(deferred);
                }
            }
            Deferred::Doubt(..) => {
                batch.push(VnetHeader::default(), &REQUEST);
            }
            Deferred::Fragments(first) => release_fragments(tables, &first, batch, held),
            Deferred::Whole(number) => {
                if let Some((key, frame)) = self.reassembly.take(number)
                    && batch.push(VnetHeader::default(), frame)
                {
                    held.push(Held { port: key.port, from: Some(key.from) });
                }
            }
        }
        Some(deferred)
    }

    /// Routes a fragment that waited, by the translation of its datagram's first fragment.
    pub(crate) fn resume_fragment(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        first: FirstFragment,
        held: Held,
    ) -> Result<(), DropReason> {
        walk.counters.made.add(1);
        admit(walk, frame)?;
        self.first_fragment = Some(first);
        let outcome = match held.from {
            Some(id) => self.route_out(tables, walk, frame, id),
            None => self.route_in(tables, walk, frame),
        };
        self.first_fragment = None;
        outcome
    }

    /// Answers a ping to a gateway whose fragments were put together.
    pub(crate) fn resume_whole(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        walk.counters.made.add(1);
        admit(walk, frame)?;
        if !is_echo_request(walk, frame) {
            return Err(DropReason::NotServed);
        }
        self.echo(tables, walk, frame)
    }

    /// Sends a packet that waited for its next hop.
    pub(crate) fn resume_packet(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        id: InterfaceId,
        hop: Ipv4Addr,
    ) -> Result<(), DropReason> {
        walk.counters.made.add(1);
        admit(walk, frame)?;
        if id != UPLINK {
            let outcome = self.deliver(tables, walk, frame, id, hop);
            return outcome.map_err(|stop| self.stop(tables, walk, frame, stop));
        }
        let uplink = tables.routing.uplink().ok_or(DropReason::NoRoute)?;
        self.fit_outside(tables, walk, frame, uplink)?;
        self.hand_to(tables, walk, frame, uplink, hop);
        Ok(())
    }
}

/// Adds a kept frame, which begins with its virtio-net header, to a batch.
fn push(batch: &mut Batch, kept: &[u8]) -> bool {
    let Some((vnet, frame)) = kept.split_first_chunk::<VNET_LEN>() else { return false };
    batch.push(VnetHeader::from_bytes(vnet), frame)
}

fn release_fragments(tables: &RouterTables, first: &FirstFragment, batch: &mut Batch, held: &mut Vec<Held>) {
    let Some(nat) = &tables.nat else { return };
    nat.release(first, |frame, tag| {
        if push(batch, frame) {
            held.push(Held::of_tag(tag));
        }
    });
}
