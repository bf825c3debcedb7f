//! The workers as the control thread sees them: a channel to each, its counters, and its thread.
//!
//! Every command goes to all workers, in the same order, and to the rehearsal, which walks imaginary packets on the
//! control thread. A worker takes commands between two batches, so whoever needs to know that a command has taken effect sends a
//! [`Command::Barrier`] behind it.
//!
//! *Reading.* Port *i* is read by worker *i mod n*. Where there are more workers than ports at the start, a port has several
//! queues, and each queue has one reader. Every worker writes to every port.
//!
//! *Threads.* Owned by the control thread. Workers are made before their threads start, so that none runs while only half of
//! the ports are attached.

use std::cell::{RefCell, RefMut};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use netio::{Poller, Waker};
use vswitch::{Counters, PortId, Rehearsal};

use super::bridges::Bridges;
use crate::worker::busy_poll::BusyPoll;
use crate::worker::{Clock, Command, Connections, Event, Worker, WorkerCounters};

/// All workers of the daemon.
pub(crate) struct Workers {
    handles: Vec<Handle>,
    /// The number of ports at the start, which decides how queues are spread over workers.
    readers: usize,
    rehearsal: RefCell<Rehearsal>,
    events: Receiver<Event>,
}

/// The control thread's end of one worker.
struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    counters: Arc<Counters>,
    own: Arc<WorkerCounters>,
    /// Until its thread is started.
    idle: Option<Box<Worker>>,
    /// From its start until it is joined.
    thread: Option<JoinHandle<()>>,
}

/// The configuration of workers.
pub(crate) struct Setup<'a> {
    pub(crate) workers: usize,
    /// The number of ports at the start.
    pub(crate) readers: usize,
    /// Port numbers are below this.
    pub(crate) capacity: usize,
    pub(crate) bridges: &'a Bridges,
    /// Makes a worker's side of the router, if there is a router.
    pub(crate) router: &'a dyn Fn() -> Option<vswitch::Router>,
    pub(crate) nat: Option<Arc<nat::Nat>>,
    pub(crate) clock: Clock,
    /// Workers wait for frames without sleeping for at most this long.
    pub(crate) busy_poll: Duration,
    /// Wakes the control thread.
    pub(crate) control: Waker,
}

impl Workers {
    /// Makes the workers; they carry frames once they are [started](Workers::start).
    pub(crate) fn new(setup: &Setup<'_>) -> anyhow::Result<Workers> {
        let (events, received) = channel();
        let mut rehearsal = setup.bridges.rehearsal(setup.capacity).context("no bridge")?;
        if let Some(router) = (setup.router)() {
            rehearsal.pipeline_mut().set_router(router);
        }
        let make = |index| Handle::new(setup, events.clone(), index).with_context(|| format!("making worker {index}"));
        let handles = (0..setup.workers).map(make).collect::<anyhow::Result<Vec<Handle>>>()?;
        Ok(Workers { handles, readers: setup.readers, rehearsal: RefCell::new(rehearsal), events: received })
    }

    /// Starts a thread for each worker.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        for (index, handle) in self.handles.iter_mut().enumerate() {
            let Some(worker) = handle.idle.take() else { continue };
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || worker.run());
            handle.thread = Some(thread.with_context(|| format!("starting worker {index}"))?);
        }
        Ok(())
    }

    /// Ends all workers, once each has transmitted the batch at hand.
    pub(crate) fn stop(&mut self) {
        self.tell(|_| Command::Stop);
        for thread in self.handles.iter_mut().filter_map(|handle| handle.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a worker thread ended with a panic");
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.handles.len()
    }

    /// The number of ports at the start.
    pub(crate) fn readers(&self) -> usize {
        self.readers
    }

    /// Sends a command to each worker, made for its number, and the first one to the rehearsal too.
    pub(crate) fn tell(&self, mut command: impl FnMut(usize) -> Command) {
        for (index, handle) in self.handles.iter().enumerate() {
            let command = command(index);
            if index == 0 {
                drop(command.configure(self.rehearsal.borrow_mut().pipeline_mut()));
            }
            // A worker that has ended has said why.
            let _ = handle.commands.send(command);
            handle.waker.wake();
        }
    }

    /// The next event, if one has arrived.
    pub(crate) fn next_event(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// The next event, if one arrives in time.
    pub(crate) fn wait_for_event(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// The queue of a port that a worker reads, if it reads one.
    pub(crate) fn queue_to_read<Q: Clone>(&self, queues: &[Q], port: PortId, worker: usize) -> Option<Q> {
        queue_to_read(queues, port.index(), worker, self.readers, self.handles.len())
    }

    /// The queue of a port that a worker writes to.
    pub(crate) fn queue_to_write<'q, Q>(&self, queues: &'q [Q], worker: usize) -> &'q Q {
        &queues[(worker / self.readers) % queues.len()]
    }

    /// Whether this worker reads a port with a single queue.
    pub(crate) fn reads(&self, port: PortId, worker: usize) -> bool {
        port.index() % self.handles.len() == worker
    }

    /// The counters of each worker's pipeline.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.handles.iter().map(|handle| &*handle.counters)
    }

    /// The counters of each worker's pipeline and of the worker itself.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Counters, &WorkerCounters)> + Clone {
        self.handles.iter().map(|handle| (&*handle.counters, &*handle.own))
    }

    /// The pipeline that imaginary packets walk through.
    pub(crate) fn rehearsal(&self) -> RefMut<'_, Rehearsal> {
        self.rehearsal.borrow_mut()
    }
}

impl Handle {
    fn new(setup: &Setup<'_>, events: Sender<Event>, index: usize) -> anyhow::Result<Handle> {
        let counters = Arc::new(Counters::new(setup.capacity));
        let mut pipeline = setup.bridges.pipeline(setup.capacity, Arc::clone(&counters)).context("no bridge")?;
        let router = (setup.router)();
        let polls = index == 0 && router.is_some();
        if let Some(router) = router {
            pipeline.set_router(router);
        }
        let own = Arc::new(WorkerCounters::new());
        let poller = Poller::new()?;
        let waker = poller.waker();
        let (commands, received) = channel();
        let connections = Connections {
            polls,
            nat: setup.nat.clone(),
            busy_poll: BusyPoll::new(setup.busy_poll),
            counters: Arc::clone(&own),
            seed: index as u32,
            commands: received,
            events,
            control: setup.control.clone(),
        };
        let worker = Worker::new(pipeline, poller, setup.clock, connections);
        Ok(Handle { commands, waker, counters, own, idle: Some(Box::new(worker)), thread: None })
    }
}

/// Queues of a device: each worker reads one queue of one device in turn; only where there are more workers than `readers` is
/// one read by several workers, each from a queue of its own.
pub(crate) fn queues_of(reader: usize, readers: usize, workers: usize) -> usize {
    workers.saturating_sub(reader).div_ceil(readers).max(1)
}

/// Which of a port's queues a worker reads: workers take ports in turn, and where there were more workers than `ports` at
/// the start, the port's next queue.
fn queue_to_read<Q: Clone>(queues: &[Q], port: usize, worker: usize, ports: usize, workers: usize) -> Option<Q> {
    let mut numbered = queues.iter().enumerate();
    let (_, queue) = numbered.find(|(number, _)| (port + number * ports) % workers == worker)?;
    Some(queue.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_follow_workers() {
        let queues = |readers: usize, workers| (0..readers).map(|n| queues_of(n, readers, workers)).collect::<Vec<_>>();
        assert_eq!(queues(3, 2), [1, 1, 1]);
        assert_eq!(queues(2, 2), [1, 1]);
        assert_eq!(queues(2, 5), [3, 2]);
        assert_eq!(queues(1, 4), [4]);
    }

    #[test]
    fn each_queue_has_one_reader_and_each_worker_one_queue_of_a_port() {
        for (ports, workers) in [(1, 1), (3, 2), (2, 5), (1, 4), (2, 2), (7, 3)] {
            let mut read = vec![0; workers];
            for port in 0..ports {
                let queues: Vec<usize> = (0..queues_of(port, ports, workers)).collect();
                let mut readers: Vec<usize> = Vec::new();
                for (worker, read) in read.iter_mut().enumerate() {
                    if let Some(queue) = queue_to_read(&queues, port, worker, ports, workers) {
                        readers.push(queue);
                        *read += 1;
                    }
                }
                readers.sort_unstable();
                assert_eq!(readers, queues, "port {port} of {ports}, {workers} workers");
            }
            assert!(read.iter().all(|read| *read > 0), "{ports} ports, {workers} workers: {read:?}");
        }
        // One that came later has one queue.
        assert_eq!((0..3).filter(|worker| queue_to_read(&[()], 9, *worker, 1, 3).is_some()).count(), 1);
    }
}
