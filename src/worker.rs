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

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use netio::{Poller, Queue, Received, Waker};
use packet::{Batch, Timestamp};
use rustix::io::Errno;
use vswitch::{DropReason, Egress, Pipeline, Port, PortId, SendError};

/// The one clock: monotonic, from the daemon's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
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
        rx: Option<Queue>,
        /// To be written.
        tx: Queue,
    },
    /// A port is gone.
    Detach(PortId),
    /// A port's MTU changed.
    Mtu {
        /// Its number.
        id: PortId,
        /// Its MTU now, in bytes.
        mtu: u32,
    },
    /// The end.
    Stop,
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
    Released(Queue),
    /// The worker panicked, and goes on with the next batch.
    Panicked,
}

/// One worker's state.
pub(crate) struct Worker {
    pipeline: Pipeline,
    poller: Poller,
    clock: Clock,
    commands: Receiver<Command>,
    events: Sender<Event>,
    control: Waker,
    readers: Box<[Option<Reader>]>,
    writers: Box<[Option<Queue>]>,
    batch: Batch,
    egress: Egress,
    ready: Vec<PortId>,
    stopped: bool,
}

/// A queue that this worker reads.
struct Reader {
    queue: Queue,
    attachment: u64,
}

/// A worker's end of its connections with the control thread.
pub(crate) struct Connections {
    pub(crate) commands: Receiver<Command>,
    pub(crate) events: Sender<Event>,
    pub(crate) control: Waker,
}

impl Worker {
    /// A worker without ports, with all its memory for at most `ports` of them.
    pub(crate) fn new(pipeline: Pipeline, poller: Poller, clock: Clock, connections: Connections, ports: usize) -> Worker {
        let Connections { commands, events, control } = connections;
        Worker {
            pipeline,
            poller,
            clock,
            commands,
            events,
            control,
            readers: std::iter::repeat_with(|| None).take(ports).collect(),
            writers: vec![None; ports].into_boxed_slice(),
            batch: Batch::new(),
            egress: Egress::new(ports),
            ready: Vec::with_capacity(ports),
            stopped: false,
        }
    }

    /// Carries frames until told to stop. A panic, which would be a fault of ours, costs the frames
    /// at hand and no more.
    pub(crate) fn run(mut self) {
        while !self.stopped {
            if catch_unwind(AssertUnwindSafe(|| self.carry())).is_err() {
                self.tell(Event::Panicked);
            }
        }
    }

    fn carry(&mut self) {
        while !self.stopped {
            self.ready.clear();
            let ready = &mut self.ready;
            let woken = match self.poller.wait(None, |token| ready.push(PortId(token as u16))) {
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
        }
    }

    /// One batch of one port.
    #[inline]
    fn serve(&mut self, ingress: PortId) {
        let Some(Reader { queue, attachment }) = &self.readers[ingress.index()] else { return };
        let attachment = *attachment;
        self.batch.clear();
        let received = queue.recv(&mut self.batch);
        if !self.batch.spans().is_empty() {
            self.pipeline.process(ingress, &mut self.batch, self.clock.now(), &mut self.egress);
            let writers = &self.writers;
            self.pipeline.transmit(&self.batch, &mut self.egress, |port, pieces| send(writers, port, pieces));
        }
        if received == Received::Gone {
            self.stop_reading(ingress);
            self.tell(Event::Gone { id: ingress, attachment });
        }
    }

    #[cold]
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { id, attachment, port, rx, tx } => {
                    self.stop_reading(id);
                    self.pipeline.set_port(id, Some(*port));
                    self.write_to(id, Some(tx));
                    if let Some(queue) = rx {
                        self.start_reading(id, Reader { queue, attachment });
                    }
                }
                Command::Detach(id) => {
                    self.stop_reading(id);
                    self.pipeline.set_port(id, None);
                    self.write_to(id, None);
                }
                Command::Mtu { id, mtu } => {
                    if let Some(port) = self.pipeline.port_mut(id) {
                        port.mtu = mtu;
                    }
                }
                Command::Stop => self.stopped = true,
            }
        }
    }

    fn start_reading(&mut self, id: PortId, reader: Reader) {
        let attachment = reader.attachment;
        let added = self.poller.add(&reader.queue, u64::from(id.0));
        self.readers[id.index()] = Some(reader);
        if let Err(error) = added {
            tracing::error!("port {id}: cannot wait for its frames: {error}");
            self.tell(Event::Gone { id, attachment });
        }
    }

    fn write_to(&mut self, id: PortId, queue: Option<Queue>) {
        if let Some(old) = std::mem::replace(&mut self.writers[id.index()], queue) {
            self.tell(Event::Released(old));
        }
    }

    fn stop_reading(&mut self, id: PortId) {
        if let Some(Reader { queue, .. }) = self.readers[id.index()].take() {
            // The descriptor may live on in other workers' hands, so it would not leave by itself.
            let _ = self.poller.remove(&queue);
            self.tell(Event::Released(queue));
        }
    }

    fn tell(&self, event: Event) {
        // Without a control thread the daemon is at its end.
        let _ = self.events.send(event);
        self.control.wake();
    }
}

/// Writes to a port, and names what the kernel says against it.
#[inline]
fn send(writers: &[Option<Queue>], port: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
    let Some(queue) = &writers[port.index()] else { return Err(SendError::Drop(DropReason::PortGone)) };
    queue.send(pieces).map_err(|errno| match errno {
        Errno::INVAL => SendError::Invalid,
        Errno::IO => SendError::Drop(DropReason::PortDown),
        Errno::BADFD => SendError::Drop(DropReason::PortGone),
        Errno::AGAIN | Errno::NOBUFS => SendError::Drop(DropReason::QueueFull),
        _ => SendError::Drop(DropReason::WriteFailed),
    })
}
