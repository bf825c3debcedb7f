//! A worker: one thread that carries frames from the ports it reads to all ports, run to completion.
//!
//! ```text
//!        wait (epoll)
//!          |
//!    for each port that can be read, in turn:
//!          |
//!      recv: until drained, 64 to 256 frames or 256 KiB  netio
//!      process: parse .. queue                       vswitch
//!      transmit: one write a frame or super-frame    netio
//! ```
//!
//! A port gets one batch and then the next has its turn, so two hosts at full speed take no more than
//! their share from a third. A turn ends by the work that it causes ([`turns`]). Frames never wait for another thread: what a worker read it writes
//! itself, to whichever port. Ports come, go and change by commands from the control thread, taken
//! between batches: before each round, and after every few ports within a long one.

mod backlog;
pub(crate) mod busy_poll;
mod clock;
mod command;
mod latency;
mod obey;
mod output;
mod pauses;
mod rests;
mod source;
mod turns;
mod underlay;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netio::udp::receive::MAX_MESSAGES;
use netio::{Poller, Received, RxBuffers, Waker};
use packet::batch::{MAX_FRAMES, USUAL_FRAMES};
use packet::{Batch, Timestamp};
use vswitch::{Egress, NewSource, Pipeline, PortId, Work};

use backlog::Backlog;
use busy_poll::BusyPoll;
pub(crate) use clock::Clock;
pub(crate) use command::{Command, Event};
use latency::Sampler;
pub(crate) use latency::{Latency, WorkerCounters};
use output::Outputs;
pub(crate) use output::{PeerSink, Sink};
use pauses::{Pause, Pauses};
use rests::{Left, Rests};
pub(crate) use source::Source;
use turns::Turns;
use underlay::Underlay;

/// Frames that one call takes from a packet socket: no more bytes than a second-level cache holds.
const PACKET_BURST: usize = 32;

/// Maximum number of new multicast sources reported per second.
const MAX_REPORTED: usize = 64;

/// Set in the poller's token of a port that can be written to; otherwise the port can be read.
const CAN_WRITE: u64 = 1 << 16;

/// Number of ports after which commands are looked for within a round: if a thousand ports flood to a thousand, a round takes
/// minutes.
const PORTS_AT_ONCE: usize = 4;

/// How often the router is polled for what is due by time.
const POLL: Duration = Duration::from_secs(1);

/// One worker's state.
pub(crate) struct Worker {
    pipeline: Pipeline,
    poller: Poller,
    busy_poll: BusyPoll,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    control: Waker,
    readers: Vec<Option<Reader>>,
    outputs: Outputs,
    buffers: RxBuffers,
    underlay: Underlay,
    egress: Egress,
    ready: Vec<PortId>,
    turns: Turns,
    pauses: Pauses,
    rests: Rests,
    /// Ports that have frames which were read already: of streams, or rests of batches. No poller knows of them.
    unfinished: Vec<PortId>,
    backlog: Backlog,
    /// Ports that have frames left to be written, and can take them now.
    writable: Vec<PortId>,
    /// Multicast sources reported in this second, and when it ends.
    reported_sources: Vec<NewSource>,
    next_sources: Timestamp,
    /// When the router is polled next; only by one worker.
    next_poll: Option<Timestamp>,
    nat: Option<Arc<nat::Nat>>,
    counters: Arc<WorkerCounters>,
    sampler: Sampler,
    stopped: bool,
}

/// A queue that this worker reads.
struct Reader {
    source: Source,
    attachment: u64,
}

/// A worker's end of its connections with the control thread.
pub(crate) struct Connections {
    /// This worker polls the router for what is due by time; one of several does.
    pub(crate) polls: bool,
    pub(crate) nat: Option<Arc<nat::Nat>>,
    pub(crate) busy_poll: BusyPoll,
    pub(crate) counters: Arc<WorkerCounters>,
    /// Different for each worker.
    pub(crate) seed: u32,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) control: Waker,
}

impl Worker {
    /// A worker without ports. It allocates what a port needs when it obeys the command that attaches the port.
    pub(crate) fn new(pipeline: Pipeline, poller: Poller, clock: Clock, connections: Connections) -> Worker {
        let Connections { commands, events, control, polls, nat, busy_poll, counters, seed } = connections;
        Worker {
            pipeline,
            poller,
            busy_poll,
            clock,
            commands,
            events,
            control,
            readers: Vec::new(),
            outputs: Outputs::new(),
            buffers: RxBuffers::new(PACKET_BURST),
            underlay: Underlay::new(),
            egress: Egress::new(0),
            ready: Vec::new(),
            turns: Turns::new(0),
            pauses: Pauses::new(0),
            rests: Rests::new(PACKET_BURST),
            unfinished: Vec::new(),
            backlog: Backlog::NONE,
            writable: Vec::new(),
            reported_sources: Vec::with_capacity(MAX_REPORTED),
            next_sources: clock.now(),
            next_poll: polls.then(|| clock.now().after(POLL)),
            nat,
            counters,
            sampler: Sampler::new(seed),
            stopped: false,
        }
    }

    /// Carries frames until [`Command::Stop`]. A panic, which would be a bug, costs the frames at hand and
    /// no more.
    pub(crate) fn run(mut self) {
        let mut has_panicked = false;
        while !self.stopped {
            let carried = catch_unwind(AssertUnwindSafe(|| {
                if std::mem::take(&mut has_panicked) {
                    self.recover();
                }
                self.carry();
            }));
            if carried.is_err() {
                has_panicked = true;
                self.counters.panics.add(1);
                self.tell(Event::Panicked);
            }
        }
    }

    /// Takes up what a panic interrupted and no poller tells of again: frames that were read from streams, and commands.
    #[cold]
    fn recover(&mut self) {
        self.unfinished.clear();
        let numbers = (0..self.readers.len()).map(|number| PortId(number as u16));
        // Of a rest whose frame caused the panic nothing is left.
        let Worker { unfinished, readers, rests, pauses, .. } = self;
        for id in numbers {
            if rests.get_mut(id).is_some_and(|rest| rest.is_done()) {
                rests.release(id);
            }
            if (rests.has(id) || has_buffered(readers, id)) && !pauses.has(id) {
                unfinished.push(id);
            }
        }
        self.obey();
    }

    fn carry(&mut self) {
        while !self.stopped {
            self.end_pauses();
            let woken = match self.wait() {
                Ok(woken) => woken,
                Err(error) => {
                    tracing::error!(%error, "a worker cannot wait for frames, and ends");
                    self.stopped = true;
                    return;
                }
            };
            if woken {
                self.obey();
            }
            if self.has_backlog() {
                self.resume_backlog();
            }
            self.serve_ready();
            if self.stopped {
                return;
            }
            self.turns.end_round(&self.ready);
            while let Some(id) = self.writable.pop() {
                self.outputs.flush(id);
            }
            self.keep_time();
        }
    }

    /// Each port that can be read has its turn, and commands that come meanwhile are obeyed.
    #[inline]
    fn serve_ready(&mut self) {
        let mut networks = 0;
        for at in 0..self.ready.len() {
            if at % PORTS_AT_ONCE == PORTS_AT_ONCE - 1 {
                self.obey();
                if self.stopped {
                    return;
                }
            }
            let id = self.ready[at];
            if self.turns.is_network(id) {
                self.ready.swap(networks, at);
                networks += 1;
            } else if self.turns.is_due(id) {
                self.serve(id);
            } else {
                self.put_off(id);
            }
        }
        for at in 0..networks {
            self.serve_network(self.ready[at]);
        }
    }

    /// Waits until there is something to do, and collects the ports that can be read.
    #[inline]
    fn wait(&mut self) -> io::Result<bool> {
        self.ready.clear();
        if !self.unfinished.is_empty() || self.has_backlog() {
            return self.look();
        }
        let (ready, writable) = (&mut self.ready, &mut self.writable);
        let mut note = |token: u64| {
            let list = if token & CAN_WRITE == 0 { &mut *ready } else { &mut *writable };
            list.push(PortId(token as u16));
        };
        let began = Instant::now();
        while self.busy_poll.goes_on(began) {
            let mut is_ready = false;
            let woken = self.poller.wait(Some(Duration::ZERO), |token| {
                is_ready = true;
                note(token);
            })?;
            if woken || is_ready {
                self.busy_poll.note(began);
                return Ok(woken);
            }
            thread::yield_now();
        }
        let due = self.next_poll.into_iter().chain(self.pauses.next_end()).min();
        let timeout = due.map(|due| due.since(self.clock.now()));
        let woken = self.poller.wait(timeout, note)?;
        self.busy_poll.note(began);
        Ok(woken)
    }

    /// One look, besides ports that have frames of which no poller knows.
    #[cold]
    fn look(&mut self) -> io::Result<bool> {
        let (ready, writable) = (&mut self.ready, &mut self.writable);
        let woken = self.poller.wait(Some(Duration::ZERO), |token| {
            let list = if token & CAN_WRITE == 0 { &mut *ready } else { &mut *writable };
            list.push(PortId(token as u16));
        })?;
        for id in self.unfinished.drain(..) {
            if !self.ready.contains(&id) {
                self.ready.push(id);
            }
        }
        Ok(woken)
    }

    /// A port waits until others had as much work done for them. No poller knows of frames that were read already.
    #[cold]
    fn put_off(&mut self, id: PortId) {
        if self.rests.has(id) || has_buffered(&self.readers, id) {
            self.unfinished.push(id);
        }
    }

    /// The turn of a port behind which many stations are.
    #[inline]
    fn serve_network(&mut self, id: PortId) {
        if !self.turns.is_due(id) {
            return self.put_off(id);
        }
        let mut frames = 0;
        loop {
            let read = self.serve(id);
            frames += read;
            if read == 0 || !self.turns.goes_on(id, frames) {
                return;
            }
        }
    }

    /// One batch of one port. Returns the number of frames that were read, or 0 if no more may be there.
    #[inline]
    fn serve(&mut self, ingress: PortId) -> usize {
        if self.rests.has(ingress) {
            return self.go_on(ingress);
        }
        let Some(Reader { source, attachment }) = &mut self.readers[ingress.index()] else { return 0 };
        let attachment = *attachment;
        let most = batch_len(self.turns.frames(ingress), self.ready.len());
        let (received, batch, keeps) = match source {
            Source::Datagrams(source) => {
                // The socket waits for the memory of another's rest.
                let messages = if self.rests.has_room_for_datagrams() { self.underlay.receive(source, most) } else { 0 };
                if messages == 0 {
                    return 0;
                }
                let (now, began) = (self.clock.now(), self.sampler.draw());
                let Worker { underlay, pipeline, egress, outputs, rests, unfinished, .. } = self;
                mark(pipeline, self.clock);
                let (carried, work) = underlay.serve(ingress, source, now, pipeline, egress, outputs);
                let has_rest = !underlay.is_done() && rests.keep_datagrams(ingress, underlay);
                if has_rest {
                    unfinished.push(ingress);
                }
                self.finish(ingress, carried, work, now, began);
                return if has_rest || messages < most.min(MAX_MESSAGES) { 0 } else { messages };
            }
            Source::Port(reader) => {
                let most = most.min(self.rests.most(reader.is_strided()));
                let (received, batch) = reader.recv(&mut self.buffers, most);
                (received, batch, reader.has_buffered())
            }
        };
        let frames = batch.spans().len();
        let mut has_rest = false;
        if frames > 0 {
            let (now, began) = (self.clock.now(), self.sampler.draw());
            mark(&mut self.pipeline, self.clock);
            let done = self.pipeline.process_part(ingress, batch, 0, now, &mut self.egress);
            let mut refused = self.pipeline.refused_floods();
            let mut work = self.pipeline.transmit(batch, &mut self.egress, &mut self.outputs);
            if done < frames {
                // Nobody would go on with the rest of a port that is gone.
                has_rest = received != Received::Gone && self.rests.keep(ingress, batch, done);
                if !has_rest {
                    let (more, also_refused) =
                        carry_all(&mut self.pipeline, ingress, batch, done, now, &mut self.egress, &mut self.outputs);
                    work += more;
                    refused += also_refused;
                }
            }
            self.finish(ingress, if has_rest { done } else { frames }, work, now, began);
            self.note_refused(ingress, refused, now);
        }
        if received == Received::Gone {
            self.stop_reading(ingress);
            self.tell(Event::Gone { id: ingress, attachment });
            return 0;
        }
        if (keeps || has_rest) && !self.pauses.has(ingress) {
            self.unfinished.push(ingress);
        }
        if received == Received::More && !has_rest && !self.pauses.has(ingress) { frames } else { 0 }
    }

    /// A port's turn goes on with what is left of its last batch.
    #[cold]
    fn go_on(&mut self, ingress: PortId) -> usize {
        let (now, began) = (self.clock.now(), self.sampler.draw());
        mark(&mut self.pipeline, self.clock);
        let Worker { rests, readers, pipeline, egress, outputs, .. } = self;
        let Some(rest) = rests.get_mut(ingress) else { return 0 };
        let (carried, refused, work) = match rest {
            Left::Frames { batch, next } => {
                // Nothing is left if this panics.
                let first = std::mem::replace(next, usize::MAX);
                *next = pipeline.process_part(ingress, batch, first, now, egress);
                let refused = pipeline.refused_floods();
                (next.saturating_sub(first), refused, pipeline.transmit(batch, egress, outputs))
            }
            Left::Datagrams(underlay) => {
                let Some(Reader { source: Source::Datagrams(source), .. }) = &readers[ingress.index()] else { return 0 };
                let (carried, work) = underlay.serve(ingress, source, now, pipeline, egress, outputs);
                (carried, 0, work)
            }
        };
        if rest.is_done() {
            rests.release(ingress);
        }
        self.finish(ingress, carried, work, now, began);
        self.note_refused(ingress, refused, now);
        if (self.rests.has(ingress) || has_buffered(&self.readers, ingress)) && !self.pauses.has(ingress) {
            self.unfinished.push(ingress);
        }
        0
    }

    /// Storm control has refused this number of frames of a port's batch; a port of which it refuses many is paused.
    #[inline]
    fn note_refused(&mut self, ingress: PortId, refused: usize, now: Timestamp) {
        if refused > 0
            && let Some(pause) = self.pauses.note(ingress, refused, now)
        {
            self.pause(ingress, now, pause);
        }
    }

    /// Does not read a port for a moment.
    #[cold]
    fn pause(&mut self, id: PortId, now: Timestamp, Pause { end, calm }: Pause) {
        if let Some(reader) = &self.readers[id.index()]
            && self.poller.watch_readable(&reader.source, u64::from(id.0), false).is_ok()
        {
            self.pauses.begin(id, end);
            self.pipeline.withhold_floods(id, now, calm);
        }
    }

    /// Reads ports again whose pause is over.
    #[inline]
    fn end_pauses(&mut self) {
        if self.pauses.next_end().is_none() {
            return;
        }
        let now = self.clock.now();
        while let Some(id) = self.pauses.take_ended(now) {
            if let Some(reader) = &self.readers[id.index()] {
                // The port has not been removed from the poller, so this does not fail.
                let _ = self.poller.watch_readable(&reader.source, u64::from(id.0), true);
                if self.rests.has(id) || has_buffered(&self.readers, id) {
                    self.unfinished.push(id);
                }
            }
        }
    }

    /// What comes behind a batch, of which this was the beginning if it is measured.
    #[inline]
    fn finish(&mut self, ingress: PortId, frames: usize, mut work: Work, now: Timestamp, began: Option<Instant>) {
        if self.has_new_backlog() {
            work += self.resume(ingress, now);
        }
        self.turns.charge(ingress, frames, work);
        self.counters.batches.add(1);
        if let Some(began) = began {
            self.counters.latency.record(began.elapsed());
        }
        if self.nat.as_ref().is_some_and(|nat| nat.wants_ports()) {
            self.control.wake();
        }
        if self.pipeline.has_new_sources() {
            self.report_sources();
        }
    }

    /// Reports hosts that sent to a multicast group and have no port yet: each once a second, and no more of them than can get
    /// ports at once.
    #[cold]
    fn report_sources(&mut self) {
        let now = self.clock.now();
        if now >= self.next_sources {
            self.next_sources = now.after(POLL);
            self.reported_sources.clear();
        }
        let before = self.reported_sources.len();
        let reported = &mut self.reported_sources;
        for source in self.pipeline.take_new_sources() {
            if reported.len() < MAX_REPORTED && !reported.contains(&source) {
                reported.push(source);
            }
        }
        self.reported_sources[before..].iter().for_each(|source| self.tell(Event::NewSource(*source)));
    }

    /// What the router is due by time.
    #[inline]
    fn keep_time(&mut self) {
        let Some(due) = self.next_poll else { return };
        let now = self.clock.now();
        if now >= due {
            self.next_poll = Some(now.after(POLL));
            mark(&mut self.pipeline, self.clock);
            self.pipeline.poll(&mut self.buffers.batch, now, &mut self.egress);
            self.pipeline.transmit(&self.buffers.batch, &mut self.egress, &mut self.outputs);
        }
    }

    fn tell(&self, event: Event) {
        // Without a control thread the daemon is at its end.
        let _ = self.events.send(event);
        self.control.wake();
    }
}

/// Maximum number of frames of a port's batch, if its turn has room for `turn` and so many ports can be read. With few of them a batch
/// is longer than usual, so that more frames of a flow meet in it; a round of all ports is then no longer than one of four.
#[inline]
fn batch_len(turn: usize, ready: usize) -> usize {
    if turn < USUAL_FRAMES { turn } else { (MAX_FRAMES / ready.max(1)).max(USUAL_FRAMES) }
}

/// Carries the frames of a batch from `first` on, whatever work that is. Returns that.
#[cold]
fn carry_all(
    pipeline: &mut Pipeline,
    ingress: PortId,
    batch: &mut Batch,
    first: usize,
    now: Timestamp,
    egress: &mut Egress,
    outputs: &mut Outputs,
) -> (Work, usize) {
    let (mut work, mut refused, mut done) = (Work::default(), 0, first);
    while done < batch.spans().len() {
        done = pipeline.process_part(ingress, batch, done, now, egress);
        refused += pipeline.refused_floods();
        work += pipeline.transmit(batch, egress, &mut *outputs);
    }
    (work, refused)
}

/// Whether whole frames of a port were read that its worker has not taken yet.
fn has_buffered(readers: &[Option<Reader>], id: PortId) -> bool {
    matches!(readers.get(id.index()), Some(Some(Reader { source: Source::Port(reader), .. })) if reader.has_buffered())
}

/// Sets the time of captured and traced frames, if there are any.
#[inline]
fn mark(pipeline: &mut Pipeline, clock: Clock) {
    if pipeline.is_observed() {
        pipeline.set_observed_time(clock.nanoseconds());
    }
}

#[cfg(test)]
mod tests {
    use testkit::bridge::{Bridge, port};
    use vswitch::PortVlan;

    use super::*;

    /// A worker of a bridge with two ports, and the sender of its commands.
    fn worker() -> (Worker, mpsc::Sender<Command>) {
        let poller = Poller::new().unwrap();
        let (commands, received) = mpsc::channel();
        let connections = Connections {
            polls: false,
            nat: None,
            busy_poll: BusyPoll::new(Duration::ZERO),
            counters: Arc::new(WorkerCounters::new()),
            seed: 1,
            commands: received,
            events: mpsc::channel().0,
            control: poller.waker(),
        };
        let bridge = Bridge::new([port(PortVlan::default()), port(PortVlan::default())]);
        (Worker::new(bridge.pipeline, poller, Clock::start(), connections), commands)
    }

    #[test]
    fn a_round_of_many_ports_does_not_keep_commands_waiting() {
        let (mut worker, commands) = worker();
        worker.make_room(PortId(1));
        worker.ready = vec![PortId(1); 100];
        commands.send(Command::Stop).unwrap();
        worker.serve_ready();
        assert!(worker.stopped);
    }

    #[test]
    fn a_round_of_many_ports_is_as_long_as_before_and_one_of_few_no_longer_than_four() {
        assert_eq!([1, 2, 3, 4, 5, 100].map(|ready| batch_len(USUAL_FRAMES, ready)), [256, 128, 85, 64, 64, 64]);
        assert_eq!(batch_len(8, 1), 8, "of costly frames no more than the turn has room for");
        assert!((1..100).all(|ready| ready * batch_len(USUAL_FRAMES, ready) <= MAX_FRAMES.max(USUAL_FRAMES * ready)));
    }
}
