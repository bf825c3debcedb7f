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
//! *At start,* and for ports that a change of the configuration adds, the control thread opens devices itself: whoever asked for
//! them waits for the outcome.

use std::fmt::Debug;
use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use config::Port;
use netio::guest::Stream;
use netio::tap::{end, visit};
use netio::{LinkState, Waker};
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
    /// Drops what may be the last descriptor of a device.
    Drop(Box<dyn Send + Debug>),
}

/// A device to be opened.
#[derive(Debug)]
pub(crate) struct ToOpen {
    pub(crate) id: PortId,
    /// The number of devices that the port has had.
    pub(crate) attachments: u64,
    pub(crate) config: Port,
    pub(crate) queues: usize,
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
}

/// The outcome of opening a device.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) id: PortId,
    pub(crate) attachments: u64,
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
        let ToOpen { id, attachments, config, queues, mut pending, was_pending } = self;
        let opened = super::open(&config, queues, &mut pending);
        let result = opened.map(|device| device.map(|device| Fresh::new(device, &config)));
        Opened { id, attachments, result, pending, was_pending }
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
            Job::Drop(dropped) => {
                drop(dropped);
                Done::Closed
            }
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

/// Closes devices; with `all`, all that the daemon has.
pub(crate) fn close(devices: Vec<Device>, all: bool) {
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
                let _ = report.send(job.done());
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

    /// Ends it once everything is done.
    pub(crate) fn end(&mut self) {
        drop(mem::take(&mut self.jobs));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(thread = "devices", "the thread ended with a panic");
        }
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.end();
    }
}
