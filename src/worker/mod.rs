//! A worker: one thread that carries frames from the ports it reads to all ports, run to completion.
//!
//! ```text
//!        wait (epoll)
//!          |
//!    for each port that can be read, in turn:
//!          |
//!      recv: until drained, 64 frames or 256 KiB     netio
//!      process: parse .. queue                       vswitch
//!      transmit: one write a frame or super-frame    netio
//! ```
//!
//! A port gets one batch and then the next has its turn, so two hosts at full speed take no more than
//! their share from a third. Frames never wait for another thread: what a worker read it writes
//! itself, to whichever port. Ports come, go and change by commands from the control thread, taken
//! between batches.

pub(crate) mod busy_poll;
mod latency;
mod output;
mod underlay;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use capture::Probe;
use netio::guest::{DgramQueue, DgramReceiver, StreamReader};
use netio::packet_socket::{self, Receiver};
use netio::{Poller, Received, Waker, tap, udp};
use packet::{Batch, Timestamp};
use vswitch::{Egress, Endpoint, IpTunnel, NewSource, Pipeline, Port, PortId, Routing, Watch};

use crate::service::{self, Answers};
use busy_poll::BusyPoll;
use latency::Lot;
pub(crate) use latency::{Latency, WorkerCounters};
use output::Outputs;
pub(crate) use output::{PeerSink, Sink};
use underlay::{DatagramSource, Underlay};

/// Frames that one call takes from a packet socket: as a packed batch, no more bytes than a second-level
/// cache holds.
const PACKET_BURST: usize = 32;

/// So many hosts without a port are told of in a second.
const MAX_TOLD: usize = 64;

/// In a token: the port can be written to; otherwise it can be read.
const CAN_WRITE: u64 = 1 << 16;

/// How often the router is asked what is due.
const POLL: Duration = Duration::from_secs(1);

/// The one clock: monotonic, from the daemon's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The same clock, as captured frames are marked with it.
    #[inline]
    pub(crate) fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    #[inline]
    pub(crate) fn now(self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// What the control thread tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// A port is there, or there again.
    Attach {
        /// Its number.
        id: PortId,
        /// Which of its devices this is.
        attachment: u64,
        /// What the pipeline is to know of it.
        port: Box<Port>,
        /// To be read by this worker.
        rx: Option<Source>,
        /// To be written.
        tx: Sink,
    },
    /// A socket that receives datagrams is there, or its peers are others now.
    Endpoint {
        /// Its number among the ports.
        id: PortId,
        /// What the pipeline is to know of it.
        endpoint: Endpoint,
        /// The longest packet in its datagrams.
        mtu: u32,
        /// To be read by this worker; `None`: it goes on reading what it reads.
        rx: Option<udp::Queue>,
    },
    /// A port is a TUN device, or leads to a host behind one.
    IpTunnel {
        /// Its number.
        id: PortId,
        /// The tunnel.
        tunnel: Arc<IpTunnel>,
    },
    /// A port is another now, with the device that it has.
    View {
        /// Its number.
        id: PortId,
        /// What the pipeline is to know of it.
        port: Box<Port>,
    },
    /// A port's device is gone.
    Detach(PortId),
    /// A port, or a socket that receives, is none any more.
    Remove(PortId),
    /// The router's networks, or its way out, are others now.
    Route(Arc<Routing>),
    /// A port's MTU changed.
    Mtu {
        /// Its number.
        id: PortId,
        /// Its MTU now, in bytes.
        mtu: u32,
    },
    /// These want to know what happens to which frames; `None`: nobody any more.
    Watch(Option<Box<Watch>>),
    /// To be answered with the same number, once all before it was obeyed.
    Barrier(u64),
    /// Does it still take commands? It is to say so.
    Answer(Answers),
    /// A capture begins; this is the worker's part of it.
    BeginCapture(Option<Box<Probe>>),
    /// The capture of this number ends.
    EndCapture(u64),
    /// The end.
    Stop,
}

impl Command {
    /// Lets a pipeline that carries no frames know what those of workers will know.
    pub(crate) fn tell(&self, pipeline: &mut Pipeline) {
        match self {
            Command::Attach { id, port, .. } | Command::View { id, port } => pipeline.set_port(*id, Some((**port).clone())),
            Command::Endpoint { id, endpoint, .. } => pipeline.set_endpoint(*id, Some(endpoint.clone())),
            Command::IpTunnel { id, tunnel } => pipeline.set_ip_tunnel(*id, Some(Arc::clone(tunnel))),
            Command::Detach(id) => pipeline.set_port(*id, None),
            Command::Remove(id) => {
                pipeline.set_port(*id, None);
                pipeline.set_endpoint(*id, None);
                pipeline.set_ip_tunnel(*id, None);
            }
            Command::Route(routing) => pipeline.set_routing(Arc::clone(routing)),
            Command::Mtu { id, mtu } => {
                if let Some(port) = pipeline.port_mut(*id) {
                    port.mtu = *mtu;
                }
            }
            // Of frames that are real.
            Command::BeginCapture(_) | Command::EndCapture(_) => {}
            Command::Watch(_) | Command::Barrier(_) | Command::Answer(_) | Command::Stop => {}
        }
    }
}

/// What a worker tells the control thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// A port's device is gone.
    Gone {
        /// The port.
        id: PortId,
        /// Which of its devices.
        attachment: u64,
    },
    /// A queue that is not used here any more. Closing the last descriptor of a device waits for the
    /// kernel's configuration lock, which frames must not.
    Released(Released),
    /// A host spoke in a multicast group and is believed, but has no port yet.
    NewSource(NewSource),
    /// All that was told before this [`Command::Barrier`] was obeyed.
    Obeyed(u64),
    /// The worker panicked, and goes on with the next batch.
    Panicked,
}

/// A descriptor to read frames from.
#[derive(Debug)]
pub(crate) enum Source {
    Tap(tap::Queue),
    Packet(packet_socket::Queue),
    Datagrams(DatagramSource),
    Stream(StreamReader),
    Dgram(DgramQueue),
}

/// Either, to be let go of.
#[derive(Debug)]
#[expect(dead_code, reason = "held to be dropped elsewhere")]
pub(crate) enum Released {
    Source(Source),
    Sink(Sink),
    /// What a worker had of a capture.
    Probe(Box<Probe>),
    /// What it had of live traces.
    Watch(Box<Watch>),
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Tap(queue) => queue.as_fd(),
            Source::Packet(queue) => queue.as_fd(),
            Source::Datagrams(source) => source.queue.as_fd(),
            Source::Stream(reader) => reader.as_fd(),
            Source::Dgram(queue) => queue.as_fd(),
        }
    }
}

/// One worker's state.
pub(crate) struct Worker {
    pipeline: Pipeline,
    poller: Poller,
    busy_poll: BusyPoll,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    control: Waker,
    readers: Box<[Option<Reader>]>,
    outputs: Outputs,
    batch: Batch,
    /// For packet sockets and datagrams, whose frames come many at a time.
    burst: Batch,
    receiver: Receiver,
    guests: DgramReceiver,
    underlay: Underlay,
    egress: Egress,
    ready: Vec<PortId>,
    /// Streams whose last read brought more than a batch; no poller knows of the rest.
    unfinished: Vec<PortId>,
    /// Ports that can be written to, of those that something is left for.
    writable: Vec<PortId>,
    /// Hosts without a port that were told of in this second, and when it ends.
    told_sources: Vec<NewSource>,
    next_sources: Timestamp,
    /// When the router is asked next what is due; only by one worker.
    next_poll: Option<Timestamp>,
    nat: Option<Arc<nat::Nat>>,
    counters: Arc<WorkerCounters>,
    lot: Lot,
    stopped: bool,
}

/// A queue that this worker reads.
struct Reader {
    source: Source,
    attachment: u64,
}

/// A worker's end of its connections with the control thread.
pub(crate) struct Connections {
    /// Of several workers this one asks the router what is due.
    pub(crate) polls: bool,
    pub(crate) nat: Option<Arc<nat::Nat>>,
    pub(crate) busy_poll: BusyPoll,
    pub(crate) counters: Arc<WorkerCounters>,
    /// Another one for each worker.
    pub(crate) seed: u32,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) control: Waker,
}

impl Worker {
    /// A worker without ports, with all its memory for at most `ports` of them.
    pub(crate) fn new(pipeline: Pipeline, poller: Poller, clock: Clock, connections: Connections, ports: usize) -> Worker {
        let Connections { commands, events, control, polls, nat, busy_poll, counters, seed } = connections;
        Worker {
            pipeline,
            poller,
            busy_poll,
            clock,
            commands,
            events,
            control,
            readers: std::iter::repeat_with(|| None).take(ports).collect(),
            outputs: Outputs::new(ports),
            batch: Batch::new(),
            burst: Batch::strided(PACKET_BURST),
            receiver: Receiver::new(),
            guests: DgramReceiver::new(),
            underlay: Underlay::new(),
            egress: Egress::new(ports),
            ready: Vec::with_capacity(ports),
            unfinished: Vec::with_capacity(ports),
            writable: Vec::with_capacity(ports),
            told_sources: Vec::with_capacity(MAX_TOLD),
            next_sources: clock.now(),
            next_poll: polls.then(|| clock.now().after(POLL)),
            nat,
            counters,
            lot: Lot::new(seed),
            stopped: false,
        }
    }

    /// Carries frames until told to stop. A panic, which would be a fault of ours, costs the frames
    /// at hand and no more.
    pub(crate) fn run(mut self) {
        while !self.stopped {
            if catch_unwind(AssertUnwindSafe(|| self.carry())).is_err() {
                self.counters.panics.add(1);
                self.tell(Event::Panicked);
            }
        }
    }

    fn carry(&mut self) {
        while !self.stopped {
            let woken = match self.wait() {
                Ok(woken) => woken,
                Err(error) => {
                    tracing::error!("waiting for frames: {error}");
                    self.stopped = true;
                    return;
                }
            };
            if woken {
                self.obey();
            }
            for at in 0..self.ready.len() {
                self.serve(self.ready[at]);
            }
            while let Some(id) = self.writable.pop() {
                self.outputs.flush(id);
            }
            self.keep_time();
        }
    }

    /// Waits until there is something to do, and collects the ports that can be read.
    #[inline]
    fn wait(&mut self) -> io::Result<bool> {
        self.ready.clear();
        if !self.unfinished.is_empty() {
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
        let timeout = self.next_poll.map(|due| due.since(self.clock.now()));
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

    /// One batch of one port.
    #[inline]
    fn serve(&mut self, ingress: PortId) {
        let Some(Reader { source, attachment }) = &mut self.readers[ingress.index()] else { return };
        let (attachment, mut keeps) = (*attachment, false);
        let (received, batch) = match source {
            Source::Datagrams(source) => {
                if !self.underlay.receive(source) {
                    return;
                }
                let (now, began) = (self.clock.now(), self.lot.draw());
                let Worker { underlay, pipeline, egress, outputs, .. } = self;
                mark(pipeline, self.clock);
                underlay.serve(ingress, source, now, pipeline, egress, outputs);
                return self.finish(now, began);
            }
            Source::Tap(queue) => {
                self.batch.clear();
                (queue.recv(&mut self.batch), &mut self.batch)
            }
            Source::Packet(queue) => {
                let received = self.receiver.recv(queue, self.burst.slots());
                self.burst.commit_all(self.receiver.frames());
                (received, &mut self.burst)
            }
            Source::Stream(reader) => {
                self.batch.clear();
                let received = reader.recv(&mut self.batch);
                keeps = received == Received::More;
                (received, &mut self.batch)
            }
            Source::Dgram(queue) => (queue.recv(&mut self.guests, &mut self.burst), &mut self.burst),
        };
        if !batch.spans().is_empty() {
            let (now, began) = (self.clock.now(), self.lot.draw());
            mark(&mut self.pipeline, self.clock);
            self.pipeline.process(ingress, batch, now, &mut self.egress);
            self.pipeline.transmit(batch, &mut self.egress, &mut self.outputs);
            self.finish(now, began);
        }
        if received == Received::Gone {
            self.stop_reading(ingress);
            self.tell(Event::Gone { id: ingress, attachment });
        } else if keeps {
            self.unfinished.push(ingress);
        }
    }

    /// What comes behind a batch, of which this was the beginning if it is measured.
    #[inline]
    fn finish(&mut self, now: Timestamp, began: Option<Instant>) {
        if self.pipeline.has_deferred() {
            self.resume(now);
        }
        self.counters.batches.add(1);
        if let Some(began) = began {
            self.counters.latency.record(began.elapsed());
        }
        if self.nat.as_ref().is_some_and(|nat| nat.wants_ports()) {
            self.control.wake();
        }
        if self.pipeline.has_new_sources() {
            self.tell_sources();
        }
    }

    /// Hosts that spoke in a group and have no port yet. Each is told once a second, and so are not more than
    /// can get ports at once.
    #[cold]
    fn tell_sources(&mut self) {
        let now = self.clock.now();
        if now >= self.next_sources {
            self.next_sources = now.after(POLL);
            self.told_sources.clear();
        }
        let before = self.told_sources.len();
        let told = &mut self.told_sources;
        for source in self.pipeline.take_new_sources() {
            if told.len() < MAX_TOLD && !told.contains(&source) {
                told.push(source);
            }
        }
        self.told_sources[before..].iter().for_each(|source| self.tell(Event::NewSource(*source)));
    }

    /// What the last batch left to be done: packets that waited for something that it brought.
    #[cold]
    fn resume(&mut self, now: Timestamp) {
        // Each thing that is done is one less, and those that come new are bounded by a batch.
        for _ in 0..4 * packet::batch::MAX_FRAMES {
            if !self.pipeline.has_deferred() {
                return;
            }
            self.pipeline.resume(&mut self.batch, now, &mut self.egress);
            self.pipeline.transmit(&self.batch, &mut self.egress, &mut self.outputs);
        }
    }

    /// What the router is due by time.
    #[inline]
    fn keep_time(&mut self) {
        let Some(due) = self.next_poll else { return };
        let now = self.clock.now();
        if now >= due {
            self.next_poll = Some(now.after(POLL));
            mark(&mut self.pipeline, self.clock);
            self.pipeline.poll(&mut self.batch, now, &mut self.egress);
            self.pipeline.transmit(&self.batch, &mut self.egress, &mut self.outputs);
        }
    }

    #[cold]
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { id, attachment, port, rx, tx } => {
                    self.stop_reading(id);
                    self.pipeline.set_port(id, Some(*port));
                    if let (Some(Source::Stream(_)), Sink::Stream(writer)) = (&rx, &tx)
                        && let Err(error) = writer.watch(&self.poller, u64::from(id.0) | CAN_WRITE)
                    {
                        tracing::warn!("port {id}: what is left for it goes only with more frames: {error}");
                    }
                    self.write_to(id, Some(tx));
                    if let Some(source) = rx {
                        self.start_reading(id, Reader { source, attachment });
                    }
                }
                Command::Endpoint { id, endpoint, mtu, rx } => {
                    let framing = endpoint.framing;
                    self.pipeline.set_endpoint(id, Some(endpoint));
                    if let Some(queue) = rx {
                        let source = Source::Datagrams(DatagramSource { queue, framing, mtu });
                        self.stop_reading(id);
                        self.start_reading(id, Reader { source, attachment: 0 });
                    } else if let Some(Reader { source: Source::Datagrams(source), .. }) = &mut self.readers[id.index()] {
                        source.mtu = mtu;
                    }
                }
                Command::IpTunnel { id, tunnel } => self.pipeline.set_ip_tunnel(id, Some(tunnel)),
                Command::View { id, port } => self.pipeline.set_port(id, Some(*port)),
                Command::Detach(id) => {
                    self.stop_reading(id);
                    self.pipeline.set_port(id, None);
                    self.write_to(id, None);
                }
                Command::Remove(id) => {
                    self.stop_reading(id);
                    self.pipeline.set_port(id, None);
                    self.pipeline.set_endpoint(id, None);
                    self.pipeline.set_ip_tunnel(id, None);
                    self.write_to(id, None);
                }
                Command::Route(routing) => self.pipeline.set_routing(routing),
                Command::Mtu { id, mtu } => {
                    if let Some(port) = self.pipeline.port_mut(id) {
                        port.mtu = mtu;
                    }
                }
                Command::Watch(watch) => {
                    if let Some(watch) = self.pipeline.set_watch(watch) {
                        self.tell(Event::Released(Released::Watch(watch)));
                    }
                }
                Command::Barrier(number) => self.tell(Event::Obeyed(number)),
                Command::Answer(answers) => service::answer(&answers),
                Command::BeginCapture(probe) => {
                    if let Some(Err(probe)) = probe.map(|probe| self.pipeline.begin_capture(probe)) {
                        self.tell(Event::Released(Released::Probe(probe)));
                    }
                }
                Command::EndCapture(id) => {
                    if let Some(probe) = self.pipeline.end_capture(id) {
                        self.tell(Event::Released(Released::Probe(Box::new(probe))));
                    }
                }
                Command::Stop => self.stopped = true,
            }
        }
    }

    fn start_reading(&mut self, id: PortId, reader: Reader) {
        let attachment = reader.attachment;
        let added = self.poller.add(&reader.source, u64::from(id.0));
        self.readers[id.index()] = Some(reader);
        if let Err(error) = added {
            tracing::error!("port {id}: cannot wait for its frames: {error}");
            self.tell(Event::Gone { id, attachment });
        }
    }

    fn write_to(&mut self, id: PortId, sink: Option<Sink>) {
        if let Some(old) = std::mem::replace(&mut self.outputs.sinks[id.index()], sink) {
            self.tell(Event::Released(Released::Sink(old)));
        }
    }

    fn stop_reading(&mut self, id: PortId) {
        if let Some(Reader { source, .. }) = self.readers[id.index()].take() {
            // The descriptor may live on in other workers' hands, so it would not leave by itself.
            let _ = self.poller.remove(&source);
            self.tell(Event::Released(Released::Source(source)));
        }
    }

    fn tell(&self, event: Event) {
        // Without a control thread the daemon is at its end.
        let _ = self.events.send(event);
        self.control.wake();
    }
}

/// The time of a batch, for what is captured of it.
#[inline]
fn mark(pipeline: &mut Pipeline, clock: Clock) {
    if pipeline.captures() {
        pipeline.set_capture_time(clock.nanoseconds());
    }
}
