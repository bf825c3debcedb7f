//! One worker's switch and router: a batch of frames goes in, queues of egress ports come out.
//!
//! ```text
//!  process         frames of a port        > intake > switch or router > queues
//!  process_tunnel  frames of datagrams     > peer   > intake > switch  > queues
//!  resume, poll    packets that waited, ARP requests that are due      > queues
//!  transmit        queues > writes
//! ```
//!
//! A pipeline owns its view of the ports and its counters. It shares the bridges' MAC tables with the
//! other workers, and translation and neighbours with the routers of the other workers.

use std::sync::Arc;

use capture::{Direction, Probe};
use packet::{Batch, Timestamp};

use crate::counters::Counters;
use crate::domain::{BridgeId, MAX_BRIDGES};
use crate::drop_reason::DropReason;
use crate::egress::{Egress, Frame, Transmit, Work};
use crate::intake::{arrive, begin, begin_packet, begin_parsed, judge_frame, judge_packet};
use crate::limit::Errors;
use crate::mac_table::{MacMemo, MacTable};
use crate::port::{Port, PortId, PortKind};
use crate::routed::resume::{Held, Task};
use crate::routed::routing::Routing;
use crate::routed::{Deferred, Router, RouterWorker};
use crate::storm::StormControl;
use crate::switch::switch;
use crate::transmit::transmit;
use crate::tunnels::arrive::{Inbox, NewSource, ReceivingSocket, whose};
use crate::tunnels::ip;
use crate::tunnels::ip_routes::IpTunnel;
use crate::walk::{Bridges, Walk, WorkerState};
use crate::watched::capture::Arrived;
use crate::watched::live::Watch;
use crate::watched::observer::Observer;
use crate::watched::step::Step;
use crate::watched::story::Story;

/// Maximum number of new multicast sources reported per batch.
const MAX_NEW_SOURCES: usize = 16;

/// Writes that a port's frames may cause before others have their turn: about a millisecond. A batch of 64 broadcasts to 500 ports
/// is 32,000 writes, one of 256 super-frames in 45 segments 11,520.
pub const MAX_WRITES: u32 = 1024;

/// One worker's switch and router.
#[derive(Debug)]
pub struct Pipeline {
    bridges: Bridges,
    router: Option<Router>,
    state: WorkerState,
    /// Port numbers are below this.
    most_ports: usize,
    /// Super-frames that a port's kernel refused, by port.
    refusals: Vec<u32>,
    /// Receiving sockets of tunnels, by their number among the ports.
    sockets: Vec<Option<ReceivingSocket>>,
    new_sources: Vec<NewSource>,
    /// Ingress of each packet in a resumed batch.
    held: Vec<Held>,
    tasks: Vec<(PortId, Task)>,
    observer: Observer,
}

impl Pipeline {
    /// A pipeline with bridge 0, which has this MAC table, and no ports yet. `ports` is the highest number of ports on all
    /// bridges; `counters` has room for as many. Other memory for a port is allocated when it is attached.
    #[must_use]
    pub fn new(table: Arc<MacTable>, ports: usize, counters: Arc<Counters>) -> Pipeline {
        Pipeline {
            bridges: Bridges { tables: vec![Some(table)], ports: Vec::new(), end: 0, ip_tunnels: Vec::new(), counters },
            router: None,
            state: WorkerState { errors: Errors::default(), storm: StormControl::default(), macs: MacMemo::default() },
            most_ports: ports,
            refusals: Vec::new(),
            sockets: Vec::new(),
            new_sources: Vec::with_capacity(MAX_NEW_SOURCES),
            held: Vec::with_capacity(packet::batch::MAX_FRAMES),
            tasks: Vec::with_capacity(packet::batch::MAX_FRAMES),
            observer: Observer::default(),
        }
    }

    /// Processes a batch that came in through `ingress`, and leaves its frames in the queues of `tx`.
    /// [`Pipeline::transmit`] writes them out before the next batch.
    pub fn process(&mut self, ingress: PortId, rx: &mut Batch, now: Timestamp, tx: &mut Egress) {
        self.process_any(u32::MAX, ingress, rx, 0, now, tx);
    }

    /// The same for the frames from `first` on, until they take [`MAX_WRITES`] beyond one for each frame.
    /// Returns the place of the first frame that is left, or the number of frames.
    pub fn process_part(&mut self, ingress: PortId, rx: &mut Batch, first: usize, now: Timestamp, tx: &mut Egress) -> usize {
        self.process_any(MAX_WRITES, ingress, rx, first, now, tx)
    }

    fn process_any(
        &mut self,
        most: u32,
        ingress: PortId,
        rx: &mut Batch,
        first: usize,
        now: Timestamp,
        tx: &mut Egress,
    ) -> usize {
        if self.bridges.port(ingress).is_some_and(|port| port.kind == PortKind::Host) {
            return self.process_of_host(most, ingress, rx, first, now, tx);
        }
        self.process_up_to(most, ingress, rx, first, now, tx)
    }

    /// The same for packets of the host, in a loop of its own, so that the compiler lays out the other one as without it.
    #[inline(never)]
    fn process_of_host(
        &mut self,
        most: u32,
        ingress: PortId,
        rx: &mut Batch,
        first: usize,
        now: Timestamp,
        tx: &mut Egress,
    ) -> usize {
        let (frames, queues) = tx.begin();
        let Pipeline { bridges, router, state, observer, .. } = self;
        observer.begin_batch();
        let mut end = rx.spans().len();
        let Some(mut walk) = Walk::new(bridges, state, rx, queues, ingress, now) else { return end };
        for (at, frame) in frames.iter_mut().enumerate().take(end).skip(first) {
            walk.at = at;
            walk.counters.rx_bytes.add(walk.rx.spans()[at].len() as u64);
            let arrived = observer.received(&mut walk, frame, false, Direction::Received);
            let outcome = match router {
                Some(Router { tables, worker }) => worker.route_from_host(tables, &mut walk, frame),
                None => Err(DropReason::NoRoute),
            };
            conclude(observer, &mut walk, frame, arrived, outcome);
            if walk.tx.more_writes >= most {
                end = at + 1;
                break;
            }
        }
        walk.counters.rx_frames.add(end.saturating_sub(first) as u64);
        end
    }

    fn process_up_to(
        &mut self,
        most: u32,
        ingress: PortId,
        rx: &mut Batch,
        first: usize,
        now: Timestamp,
        tx: &mut Egress,
    ) -> usize {
        let (frames, queues) = tx.begin();
        let Pipeline { bridges, router, state, observer, .. } = self;
        observer.begin_batch();
        state.storm.begin_batch();
        let end = rx.spans().len();
        let Some(mut walk) = Walk::new(bridges, state, rx, queues, ingress, now) else { return end };
        if observer.is_active() {
            walk_batch::<true>(router, observer, &mut walk, frames, first, most)
        } else {
            walk_batch::<false>(router, observer, &mut walk, frames, first, most)
        }
    }

    /// Processes the frames of datagrams that a receiving socket took, each as a frame of its peer's port. Otherwise as
    /// [`Pipeline::process`].
    pub fn process_tunnel(&mut self, id: PortId, inbox: &mut Inbox, now: Timestamp, tx: &mut Egress) {
        self.process_tunnel_up_to(u32::MAX, id, inbox, 0, now, tx);
    }

    /// The same for the frames from `first` on, with the bound of [`Pipeline::process_part`]. Returns the place of the first frame
    /// that is left, or the number of frames.
    pub fn process_tunnel_part(&mut self, id: PortId, inbox: &mut Inbox, first: usize, now: Timestamp, tx: &mut Egress) -> usize {
        self.process_tunnel_up_to(MAX_WRITES, id, inbox, first, now, tx)
    }

    fn process_tunnel_up_to(
        &mut self,
        most: u32,
        id: PortId,
        inbox: &mut Inbox,
        first: usize,
        now: Timestamp,
        tx: &mut Egress,
    ) -> usize {
        let (frames, queues) = tx.begin();
        let Pipeline { bridges, router, state, sockets, new_sources, observer, .. } = self;
        observer.begin_batch();
        let (rx, origins) = inbox.parts();
        let end = origins.len();
        let Some(socket) = sockets.get(id.index()).and_then(Option::as_ref) else {
            arrive_nowhere(observer, bridges, id, rx, first);
            return end;
        };
        let Some(mut walk) = Walk::new(bridges, state, rx, queues, id, now) else { return end };
        let mut known = None;
        for (at, (origin, frame)) in origins.iter().zip(frames).enumerate().skip(first) {
            walk.at = at;
            let peer = origin
                .arrived
                .as_ref()
                .map_err(|reason| *reason)
                .and_then(|(framing, headers)| Ok((whose(socket, *framing, origin.from, &mut known)?, headers)));
            walk.set_ingress(peer.map_or(id, |(peer, _)| peer.port));
            walk.counters.rx_frames.add(1);
            walk.counters.rx_bytes.add(walk.rx.spans()[at].len() as u64);
            if let Ok((_, headers)) = peer {
                begin_parsed(&walk, frame, headers);
            }
            let arrived = observer.received(&mut walk, frame, peer.is_ok(), Direction::Received);
            let outcome = peer.and_then(|(peer, _)| {
                walk.note(|| Step::Decapsulated { framing: peer.framing, from: peer.from });
                if peer.is_new && new_sources.len() < MAX_NEW_SOURCES {
                    new_sources.push(NewSource { socket: id, framing: peer.framing, address: peer.from });
                }
                arrive(socket, &mut walk, frame, origin.tos)?;
                if socket.framing.carries_ethernet() {
                    return switch(router, &mut walk, frame);
                }
                let tunnel = bridges.ip_tunnel(peer.port).ok_or(DropReason::PortGone)?;
                ip::receive(tunnel, &mut walk, frame)
            });
            conclude(observer, &mut walk, frame, arrived, outcome);
            if walk.tx.more_writes >= most {
                return at + 1;
            }
        }
        end
    }

    /// Counts the frames of a batch from `first` on, which came in through a port that is gone, and drops them.
    pub fn discard(&mut self, ingress: PortId, rx: &Batch, first: usize) {
        self.observer.begin_batch();
        arrive_nowhere(&mut self.observer, &self.bridges, ingress, rx, first);
        self.observer.end_batch();
    }

    /// Number of things that the last batches left to be resumed. Call [`Pipeline::resume`] until it is 0.
    #[inline]
    #[must_use]
    pub fn deferred(&self) -> usize {
        self.router.as_ref().map_or(0, |router| router.worker.deferred.len())
    }

    /// Whether there are any.
    #[inline]
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        self.deferred() > 0
    }

    /// Resumes packets that waited for one neighbour or one first fragment, of those that were left last; of a neighbour, a few. Uses
    /// `rx` for them, and leaves frames in the queues of `tx`.
    pub fn resume(&mut self, rx: &mut Batch, now: Timestamp, tx: &mut Egress) {
        let (frames, queues) = tx.begin();
        rx.clear();
        let Pipeline { bridges, router, state, held, observer, .. } = self;
        observer.begin_batch();
        held.clear();
        let Some(Router { tables, worker }) = router else { return };
        let Some(deferred) = worker.take_deferred(tables, rx, held) else { return };
        let count = rx.spans().len();
        for (at, frame) in frames.iter_mut().enumerate().take(count) {
            // The request for a doubted neighbour came in nowhere.
            let held = held.get(at).copied().unwrap_or(Held { port: PortId::NOWHERE, from: None });
            let Some(mut walk) = Walk::new(bridges, state, rx, queues, held.port, now) else { continue };
            walk.at = at;
            let mut arrived = None;
            if !matches!(deferred, Deferred::Doubt(..)) {
                arrived = observer.received(&mut walk, frame, false, Direction::Within);
                walk.note(|| Step::Resumed);
            }
            let outcome = match deferred {
                Deferred::Neighbour(id, hop) => worker.resume_packet(tables, &mut walk, frame, id, hop),
                Deferred::Doubt(id, hop) => worker.ask(tables, &mut walk, frame, id, hop, None),
                Deferred::Fragments(first) => worker.resume_fragment(tables, &mut walk, frame, first, held),
                Deferred::Whole(_) => worker.resume_whole(tables, &mut walk, frame),
            };
            conclude(observer, &mut walk, frame, arrived, outcome);
        }
    }

    /// Runs timers: ARP requests, and errors for packets whose next hop did not answer. To be called about once per second,
    /// by one worker. Uses `rx` for the packets, and leaves frames in the queues of `tx`.
    pub fn poll(&mut self, rx: &mut Batch, now: Timestamp, tx: &mut Egress) {
        let (frames, queues) = tx.begin();
        rx.clear();
        let Pipeline { bridges, router, state, tasks, observer, .. } = self;
        observer.begin_batch();
        let Some(Router { tables, worker }) = router else { return };
        tasks.clear();
        RouterWorker::collect(tables, rx, tasks, now);
        for (at, ((from, task), frame)) in tasks.iter().zip(frames).enumerate() {
            let Some(mut walk) = Walk::new(bridges, state, rx, queues, *from, now) else { continue };
            walk.at = at;
            let mut arrived = None;
            if matches!(task, Task::Undeliverable) {
                arrived = observer.received(&mut walk, frame, false, Direction::Within);
                walk.note(|| Step::Resumed);
            }
            let outcome = worker.perform(tables, &mut walk, frame, *task);
            conclude(observer, &mut walk, frame, arrived, outcome);
        }
    }

    /// Number of frames of the last batch of [`Pipeline::process`] that storm control has dropped.
    #[inline]
    #[must_use]
    pub fn refused_floods(&self) -> usize {
        self.state.storm.refused()
    }

    /// A port floods far beyond its limits: it gains few tokens from `now` until `calm`.
    pub fn withhold_floods(&mut self, id: PortId, now: Timestamp, calm: Timestamp) {
        self.state.storm.withhold(id, now, calm);
    }

    /// Writes out the queues that were filled from `rx`. Returns the work that it was.
    pub fn transmit(&mut self, rx: &Batch, tx: &mut Egress, mut out: impl Transmit) -> Work {
        let Pipeline { bridges, refusals, observer, .. } = self;
        let work = transmit(bridges, refusals, observer, rx, tx, &mut out);
        observer.end_batch();
        work
    }

    /// Adds a bridge with this MAC table, gives it another table, or with `None` removes it: frames of ports that still belong
    /// to it are dropped.
    /// A number from [`MAX_BRIDGES`] on is ignored.
    /// Returns the table before, so that its memory can be freed by another thread.
    pub fn set_bridge(&mut self, id: BridgeId, table: Option<Arc<MacTable>>) -> Option<Arc<MacTable>> {
        let tables = &mut self.bridges.tables;
        if id.index() >= tables.len() && id.index() < MAX_BRIDGES && table.is_some() {
            tables.resize(id.index() + 1, None);
        }
        let slot = tables.get_mut(id.index())?;
        let before = std::mem::replace(slot, table);
        self.state.macs.clear();
        before
    }

    /// Attaches or changes a port, or with `None` removes it. A number beyond the highest one is ignored.
    pub fn set_port(&mut self, id: PortId, port: Option<Port>) {
        let (is_there, most) = (port.is_some(), self.most_ports);
        let Bridges { ports, end, .. } = &mut self.bridges;
        let (Some(slot), Some(refusals)) = (place(ports, id, is_there, most), place(&mut self.refusals, id, is_there, most))
        else {
            return;
        };
        // A guest that leaves and comes back has the tokens that it had.
        if let Some(port) = &port {
            self.state.storm.set(id, port.limits);
        }
        *slot = port;
        *refusals = 0;
        *end = ports.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    }

    /// Makes the port of a TUN device or of its peer a part of this tunnel of IP packets.
    pub fn set_ip_tunnel(&mut self, id: PortId, tunnel: Option<Arc<IpTunnel>>) {
        if let Some(slot) = place(&mut self.bridges.ip_tunnels, id, tunnel.is_some(), self.most_ports) {
            *slot = tunnel;
        }
    }

    /// A port, to be changed in place.
    pub fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.bridges.ports.get_mut(id.index())?.as_mut()
    }

    /// A port, if it is attached.
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.bridges.port(id)
    }

    /// The numbers of ports that are attached are below this one.
    pub(crate) fn port_numbers(&self) -> usize {
        self.bridges.end
    }

    /// Adds the router.
    pub fn set_router(&mut self, router: Router) {
        self.router = Some(router);
    }

    /// Takes the router out, to be [reset](Router::reset).
    pub fn take_router(&mut self) -> Option<Router> {
        self.router.take()
    }

    /// Replaces the router's networks and routes.
    pub fn set_routing(&mut self, routing: Arc<Routing>) {
        if let Some(router) = &mut self.router {
            router.tables.routing = routing;
        }
    }

    /// Attaches a receiving socket, whose datagrams [`Pipeline::process_tunnel`] takes, or with `None` removes it.
    pub fn set_receiving_socket(&mut self, id: PortId, socket: Option<ReceivingSocket>) {
        if let Some(slot) = place(&mut self.sockets, id, socket.is_some(), self.most_ports) {
            *slot = socket;
        }
    }

    /// Whether there are new sources for [`Pipeline::take_new_sources`].
    #[inline]
    #[must_use]
    pub fn has_new_sources(&self) -> bool {
        !self.new_sources.is_empty()
    }

    /// Takes the hosts that sent to a multicast tunnel and have no port yet. A host may be listed more than once.
    pub fn take_new_sources(&mut self) -> impl Iterator<Item = NewSource> {
        self.new_sources.drain(..)
    }

    /// Replaces the trace requests; `None` ends tracing. Not between [`Pipeline::process`] and [`Pipeline::transmit`].
    /// Returns those before, so that their memory can be freed by another thread.
    pub fn set_watch(&mut self, watch: Option<Box<Watch>>) -> Option<Box<Watch>> {
        self.observer.set_watch(watch)
    }

    /// Begins a capture. Returns its probe if there are [`MAX_CAPTURES`](crate::MAX_CAPTURES) already.
    pub fn begin_capture(&mut self, probe: Box<Probe>) -> Result<(), Box<Probe>> {
        self.observer.add_capture(probe)
    }

    /// Ends the capture with this number, and returns its probe.
    pub fn end_capture(&mut self, id: u64) -> Option<Probe> {
        self.observer.remove_capture(id)
    }

    /// Whether there is a capture or a trace. If so, call [`Pipeline::set_observed_time`] before each batch.
    #[inline]
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.observer.is_active()
    }

    /// Sets the time that captures and traces record for the frames to come, in nanoseconds of the caller's clock.
    pub fn set_observed_time(&mut self, nanoseconds: u64) {
        self.observer.set_time(nanoseconds);
    }

    /// The story of the last frame, if this pipeline rehearses.
    pub(crate) fn last_story(&self) -> Option<&Story> {
        self.observer.last_story()
    }

    /// Discards everything that the last batch left to be resumed or reported.
    pub(crate) fn discard_deferred(&mut self) {
        if let Some(router) = &mut self.router {
            router.worker.deferred.clear();
        }
        self.new_sources.clear();
    }
}

/// The item of a port in a list by port number, which grows up to `most` items if the port `is_there`.
fn place<T: Default>(list: &mut Vec<T>, id: PortId, is_there: bool, most: usize) -> Option<&mut T> {
    if is_there && (list.len()..most).contains(&id.index()) {
        list.resize_with(id.index() + 1, T::default);
    }
    list.get_mut(id.index())
}

/// Counts and reports frames that came in through a port which is gone.
#[cold]
fn arrive_nowhere(observer: &mut Observer, bridges: &Bridges, id: PortId, rx: &Batch, first: usize) {
    let (Some(counters), Some(frames)) = (bridges.counters.port(id), rx.spans().get(first..)) else { return };
    counters.rx_frames.add(frames.len() as u64);
    counters.rx_bytes.add(frames.iter().map(|span| span.len() as u64).sum());
    counters.drop(DropReason::PortGone, frames.len() as u64);
    observer.dropped_on_arrival(bridges, id, rx, first, DropReason::PortGone);
}

/// Walks the frames of a batch from `first` on, until the queues hold `most` writes. Returns the place of the first frame that is
/// left, or the number of frames.
///
/// There is one such loop for batches that are traced or captured (`OBSERVED`) and one for all others, which has no trace of it:
/// parsing apart from judging, so that the observer sees the headers, would cost the latter 16 instructions per frame.
#[inline(always)]
fn walk_batch<const OBSERVED: bool>(
    router: &mut Option<Router>,
    observer: &mut Observer,
    walk: &mut Walk<'_>,
    frames: &mut [Frame],
    first: usize,
    most: u32,
) -> usize {
    let ip_tunnel = walk.bridges.ip_tunnel(walk.ingress);
    let mut end = walk.rx.spans().len();
    let mut bytes = 0;
    for (at, frame) in frames.iter_mut().enumerate().take(end).skip(first) {
        walk.at = at;
        bytes += walk.rx.spans()[at].len() as u64;
        let mut arrived = None;
        let outcome = match ip_tunnel {
            None => {
                let parsed = begin(walk, frame);
                if OBSERVED {
                    arrived = observer.begin(walk, frame, parsed.is_ok());
                }
                parsed.and_then(|()| judge_frame(walk, frame)).and_then(|()| switch(router, walk, frame))
            }
            Some(tunnel) => {
                begin_packet(walk, frame);
                if OBSERVED {
                    arrived = observer.begin(walk, frame, true);
                }
                judge_packet(walk, frame).and_then(|()| ip::send(tunnel, walk, frame))
            }
        };
        if let Err(reason) = outcome {
            walk.counters.drop(reason, 1);
        }
        if OBSERVED {
            observer.verdict(walk, frame, arrived, outcome);
        }
        if walk.tx.more_writes >= most {
            end = at + 1;
            break;
        }
    }
    walk.counters.rx_frames.add(end.saturating_sub(first) as u64);
    walk.counters.rx_bytes.add(bytes);
    end
}

/// Counts the outcome of a frame's walk, and reports it to the observer.
#[inline(always)]
fn conclude(
    observer: &mut Observer,
    walk: &mut Walk<'_>,
    frame: &mut Frame,
    arrived: Option<Arrived>,
    outcome: Result<(), DropReason>,
) {
    if let Err(reason) = outcome {
        walk.counters.drop(reason, 1);
    }
    if observer.is_active() {
        observer.verdict(walk, frame, arrived, outcome);
    }
}
