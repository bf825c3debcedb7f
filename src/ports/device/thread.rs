//! The thread that opens, looks at and closes devices, so that the control thread does not wait for the kernel.
//!
//! ```text
//!   control thread --Job--> thread "devices" --Done--> control thread
//!                           (rtnetlink, /dev/net/tun)
//! ```
//!
//! Whatever concerns devices takes the kernel's configuration lock (RTNL), which any process of the host may hold for seconds:
//! hundreds of devices that come or go, a namespace that ends. Without this thread nobody's query would be answered
//! meanwhile, and the service manager's watchdog would not be fed.
//!
//! *Order.* Jobs are done one after the other, so a device that is closed is gone before one of the same name is opened.
//!
//! *A panic*, which would be a bug, costs the job at hand: whoever gave it gets an answer of failure, and the thread goes on.
//!
//! *At the end* it is waited for a limited time, because the kernel may keep it as long as it likes: devices without a descriptor go
//! by themselves.
//!
//! *At start,* and for ports that a change of the configuration adds, the control thread opens devices itself: whoever asked for
//! them waits for the outcome.

use std::fmt::Debug;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use config::Port;
use netio::guest::Stream;
use netio::netns::Began;
use netio::tap::{end, visit};
use netio::{LinkState, Tap, Waker};
use vswitch::PortId;

use super::{Device, DeviceError, Watched, first_state};

/// What the thread does.
#[derive(Debug)]
pub(crate) enum Job {
    /// Opens a port's device.
    Open(Box<ToOpen>),
    /// Looks at these devices, each with its port and its number among the port's devices.
    Look(Vec<(PortId, u64, Watched)>),
    /// Closes these devices, and deletes those that the daemon made.
    Close(Vec<Device>),
    /// The same for all devices that the daemon has.
    CloseAll(Vec<Device>),
    /// Drops what may be the last descriptor of a device.
    Drop(Box<dyn Send + Debug>),
}

/// A device to be opened.
#[derive(Debug)]
pub(crate) struct ToOpen {
    pub(crate) id: PortId,
    /// The number of this attempt.
    pub(crate) attempt: u64,
    pub(crate) config: Port,
    pub(crate) queues: usize,
    /// When the process began in whose namespace it is to be.
    pub(crate) process: Option<Began>,
    /// A connection that is on its way.
    pub(crate) pending: Option<Stream>,
    pub(crate) was_pending: bool,
}

/// What has been done.
#[derive(Debug)]
pub(crate) enum Done {
    Opened(Box<Opened>),
    /// The look is over.
    Looked(Vec<(PortId, u64, Seen)>),
    /// Something is closed or dropped.
    Closed,
    /// A bug ended the job.
    Failed(Failed),
}

/// A job that was not done.
#[derive(Debug)]
pub(crate) enum Failed {
    /// To open a port's device.
    Open {
        id: PortId,
        attempt: u64,
        was_pending: bool,
    },
    Look,
    Close,
}

/// The outcome of opening a device.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) id: PortId,
    pub(crate) attempt: u64,
    /// The device; `None`: its connection is still on its way.
    pub(crate) result: Result<Option<Fresh>, DeviceError>,
    pub(crate) pending: Option<Stream>,
    /// The connection was on its way before.
    pub(crate) was_pending: bool,
}

/// A device that has just been opened.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) device: Device,
    pub(crate) link: LinkState,
    /// Frames that the kernel had dropped before.
    pub(crate) dropped: u64,
}

/// What was seen of a device.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The state of its link; `None` if the device is gone.
    pub(crate) link: io::Result<Option<LinkState>>,
    /// Frames that the kernel has dropped, if that is known by the look.
    pub(crate) dropped: Option<u64>,
}

impl Fresh {
    /// Looks at a device for the first time.
    pub(crate) fn new(mut device: Device, config: &Port) -> Fresh {
        let link = first_state(&*device, config);
        let dropped = device.dropped();
        Fresh { device, link, dropped }
    }
}

impl ToOpen {
    pub(crate) fn open(self) -> Opened {
        let ToOpen { id, attempt, config, queues, process, mut pending, was_pending } = self;
        let opened = super::open(&config, queues, process, &mut pending);
        let result = opened.map(|device| device.map(|device| Fresh::new(device, &config)));
        Opened { id, attempt, result, pending, was_pending }
    }
}

impl Job {
    /// Does it.
    pub(crate) fn done(self) -> Done {
        match self {
            Job::Open(to_open) => Done::Opened(Box::new(to_open.open())),
            Job::Look(devices) => Done::Looked(look(devices)),
            Job::Close(devices) => {
                close(devices, false);
                Done::Closed
            }
            Job::CloseAll(devices) => {
                close(devices, true);
                Done::Closed
            }
            Job::Drop(dropped) => {
                drop(dropped);
                Done::Closed
            }
        }
    }
}

impl Job {
    /// Does it, and survives a panic.
    fn done_safely(self) -> Done {
        let failed = match &self {
            Job::Open(port) => Failed::Open { id: port.id, attempt: port.attempt, was_pending: port.was_pending },
            Job::Look(_) => Failed::Look,
            Job::Close(_) | Job::CloseAll(_) | Job::Drop(_) => Failed::Close,
        };
        catch_unwind(AssertUnwindSafe(|| self.done())).unwrap_or(Done::Failed(failed))
    }
}

impl Failed {
    /// Words for the job.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Failed::Open { .. } => "opening a device",
            Failed::Look => "looking at devices",
            Failed::Close => "closing devices",
        }
    }
}

/// Looks at devices: at all TAPs of a namespace at once.
fn look(devices: Vec<(PortId, u64, Watched)>) -> Vec<(PortId, u64, Seen)> {
    let taps = devices.iter().filter_map(|(.., watched)| match watched {
        Watched::Tap(tap) => Some(tap),
        Watched::Interface(_) => None,
    });
    let mut of_taps = visit::visit(taps).into_iter();
    let mut seen = Vec::with_capacity(devices.len());
    for (id, attachment, watched) in devices {
        let now = match watched {
            Watched::Tap(_) => of_taps.next().map(|visit::Seen { link, dropped }| Seen { link, dropped }),
            Watched::Interface(interface) => Some(Seen { link: interface.state(), dropped: None }),
        };
        seen.extend(now.map(|now| (id, attachment, now)));
    }
    seen
}

/// Closes devices; with `all`, all that the daemon has, at its end, which those outlive that are kept.
pub(crate) fn close(devices: Vec<Device>, all: bool) {
    if !all {
        devices.iter().filter_map(|device| device.as_tap()).for_each(Tap::let_go);
    }
    end::delete(devices.iter().filter_map(|device| device.as_tap()), all);
    drop(devices);
}

/// The thread, and what it has done.
#[derive(Debug)]
pub(crate) struct DeviceThread {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl DeviceThread {
    /// Starts the thread, which wakes the control thread when it has done something.
    pub(crate) fn start(control: Waker) -> anyhow::Result<DeviceThread> {
        let (jobs, to_do) = channel::<Job>();
        let (report, done) = channel();
        let run = move || {
            for job in to_do {
                let _ = report.send(job.done_safely());
                control.wake();
            }
        };
        let thread = thread::Builder::new().name("devices".to_owned()).spawn(run).context("starting thread devices")?;
        Ok(DeviceThread { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Gives it something to do.
    pub(crate) fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // It ends only with this.
            let _ = jobs.send(job);
        }
    }

    /// What it has done since.
    pub(crate) fn take(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// What it has done next, if that is in time.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<Done> {
        self.done.recv_timeout(timeout).ok()
    }

    /// Ends it once everything is done, but waits for it only so long. Returns whether it has ended.
    pub(crate) fn end(&mut self, timeout: Duration) -> bool {
        self.jobs = None;
        let end = Instant::now() + timeout;
        loop {
            match self.done.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use netio::Poller;

    use super::*;

    /// Something whose end is a bug.
    #[derive(Debug)]
    struct Bug;

    impl Drop for Bug {
        fn drop(&mut self) {
            panic!("a bug of the test");
        }
    }

    /// Something whose end takes as long as the kernel likes.
    #[derive(Debug)]
    struct Slow(Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_panic_costs_one_job() {
        let poller = Poller::new().unwrap();
        let mut thread = DeviceThread::start(poller.waker()).unwrap();
        thread.give(Job::Drop(Box::new(Bug)));
        thread.give(Job::Look(Vec::new()));
        assert!(matches!(thread.wait(LONG), Some(Done::Failed(Failed::Close))));
        assert!(matches!(thread.wait(LONG), Some(Done::Looked(seen)) if seen.is_empty()));
        assert!(thread.end(LONG));
    }

    #[test]
    fn the_end_waits_for_a_limited_time() {
        let poller = Poller::new().unwrap();
        let mut thread = DeviceThread::start(poller.waker()).unwrap();
        let (go_on, slow) = channel();
        thread.give(Job::Drop(Box::new(Slow(slow))));
        assert!(!thread.end(Duration::from_millis(10)));
        drop(go_on);
        assert!(thread.end(LONG));
    }
}
