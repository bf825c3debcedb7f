//! What is done behind a batch: packets that waited go on, and what is due by time.

use std::net::Ipv4Addr;

use nat::FirstFragment;
use packet::ethernet::ETHERNET_LEN;
use packet::icmpv4::{IcmpError, unreachable};
use packet::{Batch, MacAddr, VNET_LEN, VnetHeader};

use crate::counters::DropReason;
use crate::pipeline::admit;
use crate::port::PortId;
use crate::routed::neighbour::{Due, InterfaceId};
use crate::routed::{Left, Own, Packet, Shared, UPLINK};
use crate::walk::Walk;

/// What a frame of the batch that [`Own::collect`] filled is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// To be made an ARP request.
    Request { interface: InterfaceId, address: Ipv4Addr, known: Option<MacAddr> },
    /// A packet that cannot be delivered.
    Undeliverable,
}

/// Where a fragment that was kept had come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) port: PortId,
    /// The network inside; from outside if there is none.
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

/// Room for an ARP request.
const REQUEST: [u8; ETHERNET_LEN + packet::arp::ARP_LEN] = [0; ETHERNET_LEN + packet::arp::ARP_LEN];

impl Own {
    /// Fills an empty batch with what neighbours are due.
    pub(crate) fn collect(shared: &Shared, batch: &mut Batch, tasks: &mut Vec<Task>, now: packet::Timestamp) {
        shared.neighbours.poll(now, |due| {
            let task = match due {
                Due::Request { interface, address, known } => {
                    batch.push(VnetHeader::default(), &REQUEST).then_some(Task::Request { interface, address, known })
                }
                Due::Undeliverable { frame, .. } => push(batch, frame).then_some(Task::Undeliverable),
            };
            tasks.extend(task);
            task.is_some()
        });
    }

    /// Does one of the tasks that [`Own::collect`] left.
    pub(crate) fn perform(&mut self, shared: &Shared, walk: &mut Walk<'_>, at: usize, task: Task) -> Result<(), DropReason> {
        match task {
            Task::Request { interface, address, known } => self.ask(shared, walk, at, interface, address, known),
            Task::Undeliverable => {
                walk.counters.made.add(1);
                let frame = admit(walk, at)?;
                let error = IcmpError::unreachable(unreachable::HOST);
                self.report(shared, walk, Packet { at, frame }, error, DropReason::NeighbourUnresolved)
            }
        }
    }

    /// Takes up one thing that a batch left: fills an empty batch with the packets that it is about.
    pub(crate) fn take_left(&mut self, shared: &Shared, batch: &mut Batch, held: &mut Vec<Held>) -> Option<Left> {
        let left = self.left.pop()?;
        match left {
            Left::Neighbour(id, address) => shared.neighbours.release(id, address, |frame| {
                push(batch, frame);
            }),
            Left::Fragments(first) => release_fragments(shared, &first, batch, held),
        }
        Some(left)
    }

    /// A fragment that waited goes on, now that its datagram's translation is known.
    pub(crate) fn go_on_by(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        at: usize,
        first: FirstFragment,
        held: Held,
    ) -> Result<(), DropReason> {
        walk.counters.made.add(1);
        let frame = admit(walk, at)?;
        self.told = Some(first);
        let outcome = match held.from {
            Some(id) => self.route_out(shared, walk, at, frame, id),
            None => self.route_in(shared, walk, at, frame),
        };
        self.told = None;
        outcome
    }

    /// A packet that waited goes on, now that its neighbour is known.
    pub(crate) fn go_on(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        at: usize,
        id: InterfaceId,
        hop: Ipv4Addr,
    ) -> Result<(), DropReason> {
        walk.counters.made.add(1);
        let frame = admit(walk, at)?;
        let mut packet = Packet { at, frame };
        let routing = &shared.routing;
        if id != UPLINK {
            return self.deliver(shared, walk, packet, id, hop);
        }
        let uplink = routing.uplink().ok_or(DropReason::NoRoute)?;
        self.fit_outside(walk, &mut packet, uplink)?;
        self.hand_to(shared, walk, packet, uplink, hop)
    }
}

/// Puts a kept frame, virtio-net header first, into a batch.
fn push(batch: &mut Batch, kept: &[u8]) -> bool {
    let Some((vnet, frame)) = kept.split_first_chunk::<VNET_LEN>() else { return false };
    batch.push(VnetHeader::from_bytes(vnet), frame)
}

fn release_fragments(shared: &Shared, first: &FirstFragment, batch: &mut Batch, held: &mut Vec<Held>) {
    let Some(nat) = &shared.nat else { return };
    nat.release(first, |frame, tag| {
        if push(batch, frame) {
            held.push(Held::of_tag(tag));
        }
    });
}
