//! The packet's walk: a batch goes in, queues come out.
//!
//! One pipeline a worker. It owns its view of the ports and its counters, and shares the bridges' MAC tables
//! with the other workers, and translation and neighbours with the other routers.

use std::sync::Arc;

use capture::{Direction, Probe};
use packet::{Batch, Timestamp};
use tunnel::Trains;

use crate::counters::{Counters, DropReason};
use crate::domain::{BridgeId, MAX_BRIDGES};
use crate::egress::{Egress, Queued, SendError, Transmit, Written};
use crate::intake::{admit, arrive};
use crate::limit::Errors;
use crate::mac_table::MacTable;
use crate::port::{Port, PortId};
use crate::routed::resume::{Held, Task};
use crate::routed::routing::Routing;
use crate::routed::{Deferred, Router, RouterWorker};
use crate::switch::switch;
use crate::transmit::{Manner, write_queue};
use crate::tunnels::arrive::{Endpoint, Inbox, NewSource, whose};
use crate::tunnels::encap::{Coupled, couple};
use crate::tunnels::ip;
use crate::tunnels::ip_routes::IpTunnel;
use crate::walk::{Bridges, Walk};
use crate::watched::capture::{Arrived, Captures};
use crate::watched::live::Watch;
use crate::watched::step::Step;

/// A port whose kernel refused so many valid super-frames is sent no more of them.
const REFUSALS_TO_GIVE_UP: u32 = 16;

/// Of so many hosts that have no port yet is told at once.
const MAX_NEW_SOURCES: usize = 16;

/// One worker's switch and router.
#[derive(Debug)]
pub struct Pipeline {
    bridges: Bridges,
    router: Option<Router>,
    errors: Errors,
    refusals: Box<[u32]>,
    /// Receiving sockets of tunnels, by their number among the ports.
    endpoints: Box<[Option<Endpoint>]>,
    new_sources: Vec<NewSource>,
    /// Where the fragments of a batch that was taken up again came from.
    held: Vec<Held>,
    tasks: Vec<Task>,
    /// Who wants to know what happens to which frames.
    watch: Option<Box<Watch>>,
    /// While nothing is captured there are none.
    captures: Option<Box<Captures>>,
}

impl Pipeline {
    /// A pipeline with one bridge, whose number is 0 and whose MAC table this is, and no ports yet. `counters` has room
    /// for as many ports as there can be on all bridges.
    #[must_use]
    pub fn new(table: Arc<MacTable>, ports: usize, counters: Arc<Counters>) -> Pipeline {
        let mut tables = [const { None }; MAX_BRIDGES];
        tables[0] = Some(table);
        Pipeline {
            bridges: Bridges {
                tables,
                ports: vec![None; ports].into_boxed_slice(),
                end: 0,
                ip_tunnels: vec![None; ports].into_boxed_slice(),
                counters,
            },
            router: None,
            errors: Errors::default(),
            refusals: vec![0; ports].into_boxed_slice(),
            endpoints: vec![None; ports].into_boxed_slice(),
            new_sources: Vec::with_capacity(MAX_NEW_SOURCES),
            held: Vec::with_capacity(packet::batch::MAX_FRAMES),
            tasks: Vec::with_capacity(packet::batch::MAX_FRAMES),
            watch: None,
            captures: None,
        }
    }

    /// A capture begins. Gives its part back if there are [`MAX_CAPTURES`](crate::watched::capture::MAX_CAPTURES) already.
    pub fn begin_capture(&mut self, probe: Box<Probe>) -> Result<(), Box<Probe>> {
        self.captures.get_or_insert_with(|| Box::new(Captures::new())).add(probe)
    }

    /// The capture of this number ends; gives back what it had.
    pub fn end_capture(&mut self, id: u64) -> Option<Probe> {
        let captures = self.captures.as_mut()?;
        let ended = captures.remove(id);
        if captures.is_empty() {
            self.captures = None;
        }
        ended
    }

    /// Is something captured? Then [`Pipeline::set_capture_time`] before each batch.
    #[inline]
    #[must_use]
    pub fn captures(&self) -> bool {
        self.captures.is_some()
    }

    /// The time that is written down with frames from now on, in nanoseconds.
    pub fn set_capture_time(&mut self, nanoseconds: u64) {
        if let Some(captures) = &mut self.captures {
            captures.set_time(nanoseconds);
        }
    }

    /// Adds a bridge with this MAC table, or with `None` takes it away; then what comes in by ports that say they are of it
    /// is dropped. A number beyond [`MAX_BRIDGES`] is ignored.
    pub fn set_bridge(&mut self, id: BridgeId, table: Option<Arc<MacTable>>) {
        if let Some(slot) = self.bridges.tables.get_mut(id.index()) {
            *slot = table;
        }
    }

    /// Attaches a port, changes it, or with `None` takes it away. A number beyond the table's end is
    /// ignored.
    pub fn set_port(&mut self, id: PortId, port: Option<Port>) {
        if let Some(slot) = self.bridges.ports.get_mut(id.index()) {
            *slot = port;
            self.refusals[id.index()] = 0;
            self.bridges.end = self.bridges.ports.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        }
    }

    /// A TUN device's or its peer's port is part of this tunnel.
    pub fn set_ip_tunnel(&mut self, id: PortId, tunnel: Option<Arc<IpTunnel>>) {
        if let Some(slot) = self.bridges.ip_tunnels.get_mut(id.index()) {
            *slot = tunnel;
        }
    }

    /// A port, to be changed.
    pub fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.bridges.ports.get_mut(id.index())?.as_mut()
    }

    /// A port, if it is there now.
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.bridges.port(id)
    }

    /// Gives the bridges a router.
    pub fn set_router(&mut self, router: Router) {
        self.router = Some(router);
    }

    /// The router's networks or its way out changed.
    pub fn set_routing(&mut self, routing: Arc<Routing>) {
        if let Some(router) = &mut self.router {
            router.tables.routing = routing;
        }
    }

    /// From now on these want to know what happens to which frames; nobody if `None`. Not between
    /// [`Pipeline::process`] and [`Pipeline::transmit`]. Gives back the one before, whose memory is best let go of elsewhere.
    pub fn set_watch(&mut self, watch: Option<Box<Watch>>) -> Option<Box<Watch>> {
        std::mem::replace(&mut self.watch, watch)
    }

    pub(crate) fn watch(&self) -> Option<&Watch> {
        self.watch.as_deref()
    }

    /// What the last batch left is not done.
    pub(crate) fn leave_it(&mut self) {
        if let Some(router) = &mut self.router {
            router.worker.deferred.clear();
        }
        self.new_sources.clear();
    }

    /// Walks a batch that came in through `ingress` through the switch and leaves in `tx` what is to
    /// be written, by [`Pipeline::transmit`], before the next batch.
    pub fn process(&mut self, ingress: PortId, rx: &mut Batch, now: Timestamp, tx: &mut Egress) {
        tx.clear();
        let Pipeline { bridges, router, errors, watch, captures, .. } = self;
        let is_seen = begin_batch(watch, captures);
        let mut bytes = 0;
        let Some(mut walk) = Walk::new(bridges, errors, rx, tx, ingress, now) else { return };
        for at in 0..walk.rx.spans().len() {
            bytes += walk.rx.spans()[at].len() as u64;
            let arrived = if is_seen { enter(watch, captures, &mut walk, at) } else { None };
            let outcome = match bridges.ip_tunnel(ingress) {
                None => admit(&mut walk, at).and_then(|frame| switch(router, &mut walk, at, frame)),
                Some(tunnel) => ip::send(tunnel, &mut walk, at),
            };
            if let Err(reason) = outcome {
                walk.counters.drop(reason, 1);
            }
            if is_seen {
                leave(watch, captures, &mut walk, at, arrived, outcome);
            }
        }
        walk.counters.rx_frames.add(walk.rx.spans().len() as u64);
        walk.counters.rx_bytes.add(bytes);
    }

    /// Walks the frames of a receiving socket's datagrams through the switch, each as one of its peer's
    /// port; like [`Pipeline::process`] otherwise.
    pub fn process_tunnel(&mut self, id: PortId, inbox: &mut Inbox, now: Timestamp, tx: &mut Egress) {
        tx.clear();
        let Pipeline { bridges, router, errors, endpoints, new_sources, watch, captures, .. } = self;
        let is_seen = begin_batch(watch, captures);
        let (rx, origins) = inbox.parts();
        let Some(socket) = bridges.counters.port(id) else { return };
        let Some(endpoint) = endpoints.get(id.index()).and_then(Option::as_ref) else {
            socket.rx_frames.add(origins.len() as u64);
            socket.drop(DropReason::PortGone, origins.len() as u64);
            if let Some(captures) = captures {
                for at in 0..origins.len() {
                    let arrived = captures.arrives(bridges, id, Direction::Received, rx, at);
                    captures.dropped(rx, arrived, DropReason::PortGone);
                }
            }
            return;
        };
        let Some(mut walk) = Walk::new(bridges, errors, rx, tx, id, now) else { return };
        let mut known = None;
        for (at, origin) in origins.iter().enumerate() {
            let peer =
                origin.arrived.and_then(|(framing, headers)| Ok((whose(endpoint, framing, origin.from, &mut known)?, headers)));
            walk.set_ingress(peer.map_or(id, |(peer, _)| peer.port));
            walk.counters.rx_frames.add(1);
            walk.counters.rx_bytes.add(walk.rx.spans()[at].len() as u64);
            let arrived = if is_seen { enter(watch, captures, &mut walk, at) } else { None };
            let outcome = peer.and_then(|(peer, headers)| {
                walk.note(|| Step::Decapsulated { framing: peer.framing, from: peer.from });
                if peer.is_new && new_sources.len() < MAX_NEW_SOURCES {
                    new_sources.push(NewSource { endpoint: id, framing: peer.framing, address: peer.from });
                }
                let frame = arrive(endpoint, &mut walk, at, headers, origin.tos)?;
                if endpoint.framing.carries_ethernet() {
                    return switch(router, &mut walk, at, frame);
                }
                let tunnel = bridges.ip_tunnel(peer.port).ok_or(DropReason::PortGone)?;
                ip::receive(tunnel, &mut walk, at, frame)
            });
            if let Err(reason) = outcome {
                walk.counters.drop(reason, 1);
            }
            if is_seen {
                leave(watch, captures, &mut walk, at, arrived, outcome);
            }
        }
    }

    /// A receiving socket, whose datagrams [`Pipeline::process_tunnel`] takes; with `None` it is away.
    pub fn set_endpoint(&mut self, id: PortId, endpoint: Option<Endpoint>) {
        if let Some(slot) = self.endpoints.get_mut(id.index()) {
            *slot = endpoint;
        }
    }

    /// Is there something to [`Pipeline::take_new_sources`]?
    #[inline]
    #[must_use]
    pub fn has_new_sources(&self) -> bool {
        !self.new_sources.is_empty()
    }

    /// Hosts that sent to a multicast tunnel and have no port yet, since this was last asked. The same
    /// one may be named more than once.
    pub fn take_new_sources(&mut self) -> impl Iterator<Item = NewSource> {
        self.new_sources.drain(..)
    }

    /// Did the last batch leave something to be done? Then [`Pipeline::resume`].
    #[inline]
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.router.as_ref().is_some_and(|router| !router.worker.deferred.is_empty())
    }

    /// Takes up one thing that a batch left, in an empty batch; what is to be written is left in `tx`.
    pub fn resume(&mut self, rx: &mut Batch, now: Timestamp, tx: &mut Egress) {
        tx.clear();
        rx.clear();
        let Pipeline { bridges, router, errors, held, watch, captures, .. } = self;
        begin_batch(watch, captures);
        held.clear();
        let Some(Router { tables, worker }) = router else { return };
        let Some(deferred) = worker.take_deferred(tables, rx, held) else { return };
        for at in 0..rx.spans().len() {
            // What waited for a neighbour comes from no port any more.
            let held = held.get(at).copied().unwrap_or(Held { port: PortId::NOWHERE, from: None });
            let Some(mut walk) = Walk::new(bridges, errors, rx, tx, held.port, now) else { continue };
            begin(watch, &mut walk, at);
            let arrived = arrives(captures, &walk, at, Direction::Within);
            walk.note(|| Step::Resumed);
            let outcome = match deferred {
                Deferred::Neighbour(id, hop) => worker.resume_packet(tables, &mut walk, at, id, hop),
                Deferred::Fragments(first) => worker.resume_fragment(tables, &mut walk, at, first, held),
            };
            if let Err(reason) = outcome {
                walk.counters.drop(reason, 1);
            }
            end(watch, &mut walk, outcome);
            judge(captures, &mut walk, at, arrived, outcome);
        }
    }

    /// What is due by time, in an empty batch; to be called about once a second by one worker. What is
    /// to be written is left in `tx`.
    pub fn poll(&mut self, rx: &mut Batch, now: Timestamp, tx: &mut Egress) {
        tx.clear();
        rx.clear();
        let Pipeline { bridges, router, errors, tasks, watch, captures, .. } = self;
        begin_batch(watch, captures);
        let Some(Router { tables, worker }) = router else { return };
        tasks.clear();
        RouterWorker::collect(tables, rx, tasks, now);
        for (at, task) in tasks.iter().enumerate() {
            let Some(mut walk) = Walk::new(bridges, errors, rx, tx, PortId::NOWHERE, now) else { return };
            let mut arrived = None;
            if matches!(task, Task::Undeliverable) {
                begin(watch, &mut walk, at);
                walk.note(|| Step::Resumed);
                arrived = arrives(captures, &walk, at, Direction::Within);
            }
            let outcome = worker.perform(tables, &mut walk, at, *task);
            if let Err(reason) = outcome {
                walk.counters.drop(reason, 1);
                if let (Some(captures), None) = (&mut *captures, arrived) {
                    captures.made_and_dropped(&walk, at, reason);
                }
            }
            end(watch, &mut walk, outcome);
            judge(captures, &mut walk, at, arrived, outcome);
        }
    }

    /// Writes out what [`Pipeline::process`] queued.
    pub fn transmit(&mut self, rx: &Batch, tx: &mut Egress, mut transmit: impl Transmit) {
        let Pipeline { bridges, refusals, watch, captures, .. } = self;
        let mut watch = watch.as_deref_mut();
        while let Some((id, queue)) = tx.next() {
            let Some(counters) = bridges.counters.port(id) else { continue };
            let Some(port) = bridges.port(id) else {
                counters.drop(DropReason::PortGone, queue.len() as u64);
                if let Some(watch) = &mut watch {
                    watch.drop_queue(&queue, id, DropReason::PortGone);
                }
                if let Some(captures) = captures {
                    captures.written(bridges, id, rx, queue.frames, queue.queued, Err(DropReason::PortGone));
                }
                continue;
            };
            if let Some(encapsulation) = port.encapsulation() {
                let frames = queue.frames;
                couple(queue, rx, id, encapsulation, |coupled| match coupled {
                    Coupled::Full(trains) => depart(trains, rx, &mut transmit, bridges, watch.as_deref_mut(), captures),
                    Coupled::Frame(Queued { frame, action }, way, result) => {
                        if let Err(reason) = result {
                            counters.drop(reason, 1);
                        }
                        if let Some(watch) = &mut watch {
                            watch.note_coupled(frame, way, encapsulation, result);
                        }
                        if let Some(captures) = captures {
                            captures.board(bridges, rx, way, &frames[usize::from(frame)], action, result);
                        }
                    }
                });
                continue;
            }
            if let Some(watch) = &mut watch {
                watch.begin_queue(&queue);
            }
            let refusals = &mut refusals[id.index()];
            let manner = Manner { id, features: port.features, coalesce: port.coalesce, bursts: port.bursts };
            let frames = queue.frames;
            let is_seen = watch.is_some() || captures.is_some();
            write_queue(queue, rx, manner, &mut transmit, |written, members| {
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
                if is_seen {
                    let outcome = written.result.map_err(SendError::reason);
                    see_written(&mut watch, captures, id, &written, |captures| {
                        captures.written(bridges, id, rx, frames, members, outcome);
                    });
                }
            });
            if *refusals >= REFUSALS_TO_GIVE_UP
                && let Some(port) = &mut bridges.ports[id.index()]
            {
                port.features = port.features.without_segmentation();
            }
        }
        if !tx.trains.is_empty() {
            depart(&tx.trains, rx, &mut transmit, bridges, watch.as_deref_mut(), captures);
            tx.trains.clear();
        }
        if let Some(watch) = watch {
            watch.hand_over();
        }
        if let Some(captures) = captures {
            captures.end_batch();
        }
    }
}

/// Does anybody see what happens to the batch? Then nothing is left of one before that ended in a panic.
#[inline(always)]
fn begin_batch(watch: &mut Option<Box<Watch>>, captures: &mut Option<Box<Captures>>) -> bool {
    if let Some(watch) = watch {
        watch.begin_batch();
    }
    if let Some(captures) = captures {
        captures.begin_batch();
    }
    watch.is_some() || captures.is_some()
}

/// A frame came in, and somebody sees it.
#[cold]
#[inline(never)]
fn enter(
    watch: &mut Option<Box<Watch>>,
    captures: &mut Option<Box<Captures>>,
    walk: &mut Walk<'_>,
    at: usize,
) -> Option<Arrived> {
    begin(watch, walk, at);
    arrives(captures, walk, at, Direction::Received)
}

/// Its walk is over.
#[cold]
#[inline(never)]
fn leave(
    watch: &mut Option<Box<Watch>>,
    captures: &mut Option<Box<Captures>>,
    walk: &mut Walk<'_>,
    at: usize,
    arrived: Option<Arrived>,
    outcome: Result<(), DropReason>,
) {
    end(watch, walk, outcome);
    judge(captures, walk, at, arrived, outcome);
}

/// Does anybody want to know what happens to this frame?
#[inline(always)]
fn begin(watch: &mut Option<Box<Watch>>, walk: &mut Walk<'_>, at: usize) {
    if let Some(watch) = watch {
        walk.story = watch.begin(walk.bridges, walk.ingress, walk.rx.frame(walk.rx.spans()[at]), walk.now);
    }
}

/// This happened to it.
#[inline(always)]
fn end(watch: &mut Option<Box<Watch>>, walk: &mut Walk<'_>, outcome: Result<(), DropReason>) {
    if let Some(watch) = watch {
        watch.end(walk.story.take(), outcome);
    }
}

/// Is the frame captured?
#[inline(always)]
fn arrives(captures: &mut Option<Box<Captures>>, walk: &Walk<'_>, at: usize, direction: Direction) -> Option<Arrived> {
    captures.as_mut().map(|captures| captures.arrives(walk.bridges, walk.ingress, direction, walk.rx, at))
}

/// This became of it.
#[inline(always)]
fn judge(
    captures: &mut Option<Box<Captures>>,
    walk: &mut Walk<'_>,
    at: usize,
    arrived: Option<Arrived>,
    outcome: Result<(), DropReason>,
) {
    if let (Some(captures), Some(arrived)) = (captures, arrived) {
        captures.judge(walk, at, arrived, outcome);
    }
}

/// Some frames of a queue were written, or were not, and somebody sees it.
#[cold]
#[inline(never)]
fn see_written(
    watch: &mut Option<&mut Watch>,
    captures: &mut Option<Box<Captures>>,
    id: PortId,
    written: &Written,
    capture: impl FnOnce(&mut Captures),
) {
    if let Some(watch) = watch {
        watch.note_written(id, written);
    }
    if let Some(captures) = captures {
        capture(captures);
    }
}

/// Sends trains and counts, by the ports that they go to.
fn depart(
    trains: &Trains,
    rx: &Batch,
    transmit: &mut impl Transmit,
    bridges: &Bridges,
    mut watch: Option<&mut Watch>,
    captures: &mut Option<Box<Captures>>,
) {
    transmit.send_trains(trains, rx.arena(), |train, result| {
        let Some(counters) = bridges.counters.port(PortId(train.way.port)) else { return };
        match result {
            Ok(()) => {
                counters.tx_writes.add(1);
                counters.tx_frames.add(train.frames.into());
                counters.tx_bytes.add(train.frame_bytes);
            }
            Err(error) => counters.drop(error.reason(), train.frames.into()),
        }
        if let Some(watch) = &mut watch {
            watch.note_departed(train, result);
        }
        if let Some(captures) = captures {
            captures.depart(bridges, rx, train, result.map_err(SendError::reason));
        }
    });
}
