//! The ports that guests' frames come and go by: their devices, and the guests that connect to places kept for them.
//!
//! Each port has a number ([`crate::fabric::slots`]), a configuration, and a device while that is there ([`ManagedPort`]). Its
//! device goes to the workers: one worker reads each queue, all may write.
//!
//! *Loss.* A device that is gone is a port without a device until it is back: its MAC entries are flushed, its number and its
//! counters stay.
//!
//! *Change.* Ports are added, removed and altered while the switch runs; see [`change`].
//!
//! *Threads.* Owned by the control thread. Devices are opened again, looked at and closed by [another one](device::thread).

mod attach;
mod change;
pub(crate) mod device;
mod guests;
mod list;
mod managed;

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::mem;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use config::{Origin, Port};
use netio::{Poller, Tap, Waker};
use packet::Timestamp;
use vswitch::PortId;

use crate::fabric::Fabric;
use crate::state::{Keeper, Past, name_of};
use attach::{attach, detach, follow};
pub(crate) use change::NewPorts;
use device::thread::{self, DeviceThread, Done, Failed, Job, Opened, Seen};
use device::{Device, DeviceError, PortDevice};
use guests::Entrances;
pub(crate) use guests::FIRST_TOKEN;
use list::PortList;
pub(crate) use managed::ManagedPort;

/// All ports but the uplink and those of tunnels, and where their guests connect to.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: PortList,
    entrances: Entrances,
    /// Without it, as in tests, this thread does everything.
    thread: Option<DeviceThread>,
    /// Number of looks that the thread was asked for.
    looks: u64,
    /// When the look began that is not over yet.
    looking_since: Option<Timestamp>,
    /// What the last look saw, as far as it has not been taken in, with the look's number.
    seen: VecDeque<(PortId, u64, Seen, u64)>,
    /// Devices that are to be closed, together.
    lost: Vec<Device>,
    /// Number of times that the thread was given something to close and has not answered yet.
    closing: usize,
    /// Number of jobs that a bug of the thread ended.
    panics: u64,
    /// Attempts to open devices of ports that were removed meanwhile. Until they are made, these devices are being closed.
    abandoned: HashSet<u64>,
    /// Names under which descriptors of removed ports are kept.
    forgotten: Vec<String>,
}

/// Time after which a look that waits for the kernel is a problem.
const LONG_LOOK: Duration = Duration::from_secs(10);

/// How long the end waits for the kernel to say how devices are, and again to delete them.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that is spent on news of devices before others have their turn.
const TURN: Duration = Duration::from_millis(10);

impl Ports {
    /// Opens the devices of these ports, which have their numbers and as many queues as `queues` says, and the sockets that
    /// their guests connect to. Devices of an earlier process are taken over.
    pub(crate) fn open(
        ports: impl Iterator<Item = (PortId, Port)>,
        queues: impl Fn(PortId) -> usize,
        (past, keeper): (&mut Past, &mut Keeper),
        now: Timestamp,
    ) -> anyhow::Result<Ports> {
        let ports: Vec<(PortId, Port)> = ports.collect();
        let mut entrances = Entrances::default();
        entrances.add(entrances.prepare(ports.iter().map(|(_, port)| port), now)?);
        let mut adopted = Vec::with_capacity(ports.len());
        let mut taken = HashSet::new();
        for (id, port) in &ports {
            let left = past.device_of(port);
            let device = left.and_then(|left| device::adopt(port, left, queues(*id), past.process_of(port)));
            let made_in = device.as_ref().and_then(|device| device.as_tap()).map(Tap::made_in);
            taken.extend(made_in.map(|made_in| name_of(&port.full_name(), made_in)));
            adopted.push(device);
        }
        // Before devices are opened by name, which those that are held elsewhere would refuse.
        past.end_devices();
        keeper.forget_ports_but(&taken);
        let open = |((id, port), device): ((PortId, Port), Option<Device>)| {
            let origin = port.origin.clone();
            if let Some(device) = device {
                return Ok(ManagedPort::adopt(id, port, queues(id), device, now));
            }
            let (later, process) = (port.clone(), past.process_of(&port));
            ManagedPort::open(id, port, queues(id), process, now).or_else(|error| match origin {
                // What a verb made before the start must not prevent it.
                Origin::Verb(_) => {
                    tracing::warn!(port = later.name, %error, "the device is not there any more; waiting for it to come back");
                    Ok(ManagedPort::later(id, later, process, now))
                }
                _ => Err(error.with_hint(&origin)),
            })
        };
        let ports = PortList::new(ports.into_iter().zip(adopted).map(open).collect::<anyhow::Result<_>>()?);
        Ok(Ports {
            ports,
            entrances,
            thread: None,
            looks: 0,
            looking_since: None,
            seen: VecDeque::new(),
            lost: Vec::new(),
            closing: 0,
            panics: 0,
            abandoned: HashSet::new(),
            forgotten: Vec::new(),
        })
    }

    /// From now on a thread of its own opens, looks at and closes devices.
    pub(crate) fn start_thread(&mut self, control: Waker) -> anyhow::Result<()> {
        self.thread = Some(DeviceThread::start(control)?);
        Ok(())
    }

    fn give(&mut self, job: Job, fabric: &mut Fabric) {
        match &self.thread {
            Some(thread) => thread.give(job),
            None => self.take_in(job.done(), fabric),
        }
    }

    /// Drops what may be the last descriptor of a device.
    pub(crate) fn discard<T: Send + Debug + 'static>(&mut self, dropped: T) {
        if let Some(thread) = &self.thread {
            self.closing += 1;
            thread.give(Job::Drop(Box::new(dropped)));
        }
    }

    /// The ports that go because their devices have gone.
    pub(crate) fn over(&self) -> impl Iterator<Item = &ManagedPort> {
        self.ports.iter().filter(|port| port.is_over())
    }

    /// Closes the devices of ports that are removed.
    pub(crate) fn close(&mut self, ports: Vec<ManagedPort>) {
        let opening: Vec<u64> = ports.iter().filter_map(ManagedPort::opening).collect();
        self.closing += opening.len();
        self.abandoned.extend(opening);
        self.forgotten.extend(ports.iter().filter_map(ManagedPort::kept_as));
        self.lost.extend(ports.into_iter().filter_map(ManagedPort::into_device));
        self.close_lost();
    }

    /// Closes the devices that were lost since: all those of a namespace at once. Sockets are closed here, so that their names are
    /// free at once.
    pub(crate) fn close_lost(&mut self) {
        let mut devices = mem::take(&mut self.lost);
        devices.retain(|device| device.watched().is_some());
        if let Some(thread) = self.thread.as_ref().filter(|_| !devices.is_empty()) {
            self.closing += 1;
            thread.give(Job::Close(devices));
        }
    }

    /// Lets the devices of this switch outlive the process.
    pub(crate) fn keep(&mut self, keeper: &mut Keeper) {
        for name in self.forgotten.drain(..) {
            keeper.forget(&name);
        }
        self.ports.iter_mut().for_each(|port| port.keep(keeper));
    }

    /// The descriptors of devices that outlive the process, with their names.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        self.ports.iter().filter_map(|port| Some((port.kept_as()?, port.device()?.as_tap()?.descriptor()?)))
    }

    /// No device outlives the process.
    pub(crate) fn let_all_go(&mut self) {
        self.ports.iter().filter_map(ManagedPort::device).filter_map(PortDevice::as_tap).for_each(Tap::let_go);
    }

    /// Waits until all devices are closed that were to be, so that their names can be had again.
    pub(crate) fn wait_until_closed(&mut self, end: Timestamp, fabric: &mut Fabric) {
        while self.closing > 0 {
            let left = end.since(fabric.now());
            let Some(done) = self.thread.as_ref().and_then(|thread| thread.wait(left)) else { return };
            self.take_in(done, fabric);
        }
    }

    /// Devices are about to be closed, whose names others may want.
    fn is_closing(&self) -> bool {
        self.closing > 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ManagedPort> {
        self.ports.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.ports.len()
    }

    /// The port of this number, if one has it.
    pub(crate) fn get(&self, id: PortId) -> Option<&ManagedPort> {
        self.ports.of(id)
    }

    /// Waits with this poller for guests that connect.
    pub(crate) fn watch(&self, poller: &Poller) -> anyhow::Result<()> {
        self.entrances.watch(poller)
    }

    /// Lets guests in that wait at the entrance of this token.
    pub(crate) fn let_in(&mut self, token: u64, poller: &Poller, fabric: &mut Fabric) {
        self.entrances.let_in(token, &mut self.ports, poller, fabric);
    }

    /// Once a second: listens again where too many guests came, or none could be accepted.
    pub(crate) fn open_shut_entrances(&mut self, poller: &Poller) {
        self.entrances.open_shut(poller);
    }

    /// When a device that is gone is looked for next.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.ports.iter().filter_map(ManagedPort::retry_at).min()
    }

    /// Frames that the kernel dropped before they were read, by port.
    pub(crate) fn dropped(&mut self) -> impl Iterator<Item = (PortId, u64)> {
        self.ports.iter_mut().map(|port| (port.id, port.dropped()))
    }

    /// Gives all devices to the workers.
    pub(crate) fn attach_all(&mut self, fabric: &Fabric) {
        self.ports.iter_mut().for_each(|port| attach(port, fabric));
    }

    /// Gives the devices of these ports to the workers.
    pub(crate) fn attach(&mut self, ids: &[PortId], fabric: &Fabric) {
        for id in ids {
            if let Some(port) = self.ports.of_mut(*id) {
                attach(port, fabric);
            }
        }
    }

    /// Looks how all devices are.
    pub(crate) fn look(&mut self, fabric: &mut Fabric) {
        for port in self.ports.iter_mut() {
            let found = port.look(fabric.now());
            drop(follow(port, found, fabric));
        }
        self.look_for_gone(fabric);
        // The look before may still wait for the kernel.
        if self.looking_since.is_none() {
            self.looking_since = Some(fabric.now());
            self.looks += 1;
            let watched = self.ports.iter().filter_map(ManagedPort::watched).collect();
            self.give(Job::Look(watched), fabric);
        }
    }

    /// Looks at all devices before the end, for their last counters, unless that takes too long.
    pub(crate) fn look_finally(&mut self, fabric: &mut Fabric) {
        let end = fabric.now().after(END_TIMEOUT);
        // The one that is under way is too early.
        let mut before = usize::from(self.looking_since.is_some());
        let watched = self.ports.iter().filter_map(ManagedPort::watched).collect();
        self.looks += 1;
        self.give(Job::Look(watched), fabric);
        while let Some(done) = self.thread.as_ref().and_then(|thread| thread.wait(end.since(fabric.now()))) {
            let is_look = matches!(done, Done::Looked(_) | Done::Failed(Failed::Look));
            self.take_in(done, fabric);
            if is_look && before == 0 {
                break;
            }
            before -= usize::from(is_look);
        }
        while let Some((id, attachment, seen, _)) = self.seen.pop_front() {
            self.see(id, attachment, seen, u64::MAX, fabric);
        }
    }

    /// What is wrong with the thread that opens, looks at and closes devices.
    pub(crate) fn problems(&self, now: Timestamp) -> Vec<String> {
        let panics = (self.panics > 0).then(|| format!("thread devices panicked {} times", self.panics));
        let waiting = self.looking_since.map(|since| now.since(since)).filter(|waiting| *waiting >= LONG_LOOK);
        let waiting = waiting.map(|waiting| {
            format!(
                "the kernel has not answered questions about devices for {} s: another process may hold its configuration lock; \
                 devices that come and go are not seen meanwhile",
                waiting.as_secs()
            )
        });
        panics.into_iter().chain(waiting).collect()
    }

    /// Looks for the devices that are gone.
    pub(crate) fn look_for_gone(&mut self, fabric: &mut Fabric) {
        let now = fabric.now();
        let to_open: Vec<_> = self.ports.iter_mut().filter_map(|port| port.begin_to_open(now)).collect();
        for port in to_open {
            self.give(Job::Open(Box::new(port)), fabric);
        }
    }

    /// Takes in what the other thread has done, for a short time. Returns whether there is more.
    pub(crate) fn hear_of_devices(&mut self, fabric: &mut Fabric) -> bool {
        let end = fabric.now().after(TURN);
        while fabric.now() < end {
            if let Some((id, attachment, seen, look)) = self.seen.pop_front() {
                self.see(id, attachment, seen, look, fabric);
                continue;
            }
            let Some(done) = self.thread.as_ref().and_then(DeviceThread::take) else { return false };
            self.take_in(done, fabric);
        }
        true
    }

    fn take_in(&mut self, done: Done, fabric: &mut Fabric) {
        match done {
            Done::Opened(opened) => {
                let id = opened.id;
                if self.abandoned.remove(&opened.attempt) {
                    self.closing = self.closing.saturating_sub(1);
                    return self.discard(opened);
                }
                let Some(port) = self.ports.of_mut(id) else {
                    // It was removed meanwhile.
                    return self.discard(opened);
                };
                let (found, late) = port.opened(*opened, fabric.now());
                let gone = follow(port, found, fabric);
                self.lost.extend(late.into_iter().chain(gone));
            }
            Done::Closed => self.closing = self.closing.saturating_sub(1),
            Done::Failed(failed) => {
                self.panics += 1;
                tracing::error!(thread = "devices", "a panic, which is a bug, ended {}; the thread goes on", failed.name());
                match failed {
                    Failed::Close => self.closing = self.closing.saturating_sub(1),
                    Failed::Look => self.looking_since = None,
                    Failed::Open { id, attempt, was_pending } => {
                        let result = Err(DeviceError::Panicked);
                        let opened = Opened { id, attempt, result, pending: None, was_pending };
                        self.take_in(Done::Opened(Box::new(opened)), fabric);
                    }
                }
            }
            Done::Looked(seen) => {
                self.looking_since = None;
                let look = self.looks;
                self.seen.extend(seen.into_iter().map(|(id, attachment, seen)| (id, attachment, seen, look)));
            }
        }
    }

    fn see(&mut self, id: PortId, attachment: u64, seen: Seen, look: u64, fabric: &mut Fabric) {
        let Some(port) = self.ports.of_mut(id) else { return };
        if port.attachment() == Some(attachment) && look > port.looked_at {
            let found = port.see(seen, fabric.now());
            let gone = follow(port, found, fabric);
            self.lost.extend(gone);
        }
    }

    /// A worker could not read the device of this number and attachment. Returns whether the number is a port's.
    pub(crate) fn hear_of_gone(&mut self, id: PortId, attachment: u64, fabric: &mut Fabric) -> bool {
        let Some(port) = self.ports.of_mut(id) else { return false };
        // Late news of an earlier device is ignored.
        if port.attachment() == Some(attachment) {
            let device = port.lose(fabric.now());
            detach(port, fabric);
            self.lost.extend(device);
        }
        true
    }
}

impl Drop for Ports {
    /// Deletes the devices that the daemon made and that do not outlive it, all at once.
    fn drop(&mut self) {
        let devices: Vec<_> = mem::take(&mut self.ports).into_iter().filter_map(ManagedPort::into_device).collect();
        let Some(thread) = &mut self.thread else { return thread::close(devices, true) };
        thread.give(Job::CloseAll(devices));
        if !thread.end(END_TIMEOUT) {
            tracing::error!("the kernel takes long to delete devices; vswitchd ends before that");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use api::What;

    use super::managed::tests::port;
    use super::*;
    use crate::fabric::tests::fabric;

    /// A path that is free when the test begins, and when it has ended.
    struct Path(PathBuf);

    impl Path {
        fn new(name: &str) -> Path {
            Path(std::env::temp_dir().join(format!("vswitchd-ports-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Path {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn is_attached(id: PortId, fabric: &Fabric) -> bool {
        fabric.workers.rehearsal().pipeline_mut().port(id).is_some()
    }

    #[test]
    fn late_news_of_an_earlier_device_is_ignored() {
        let (path, mut fabric) = (Path::new("dgram"), fabric(1, 4));
        let mut reader = fabric.events.sender().subscribe();
        let id = PortId(1);
        let open = [(id, port(&format!("dgram:{}", path.0.display())))];
        let mut ports =
            Ports::open(open.into_iter(), |_| 1, (&mut Past::default(), &mut Keeper::default()), fabric.now()).unwrap();
        ports.attach_all(&fabric);
        let attachment = ports.get(id).and_then(ManagedPort::attachment).unwrap();
        assert!(ports.hear_of_gone(id, attachment - 1, &mut fabric) && is_attached(id, &fabric));
        assert!(ports.hear_of_gone(id, attachment, &mut fabric) && !is_attached(id, &fabric));
        assert!(matches!(reader.try_recv().unwrap().what, What::PortGone { .. }));
        assert!(!ports.hear_of_gone(PortId(2), 1, &mut fabric), "no port has this number");
    }

    #[test]
    fn a_guest_gets_a_free_place_and_others_are_turned_away() {
        let (path, mut fabric, poller) = (Path::new("stream"), fabric(1, 4), Poller::new().unwrap());
        let mut reader = fabric.events.sender().subscribe();
        let id = PortId(1);
        let open = [(id, port(&format!("stream:{}:guests=1", path.0.display())))];
        let mut ports =
            Ports::open(open.into_iter(), |_| 1, (&mut Past::default(), &mut Keeper::default()), fabric.now()).unwrap();
        ports.watch(&poller).unwrap();
        ports.attach_all(&fabric);
        assert!(!is_attached(id, &fabric), "no guest yet");
        let _guests = [UnixStream::connect(&path.0).unwrap(), UnixStream::connect(&path.0).unwrap()];
        ports.let_in(FIRST_TOKEN, &poller, &mut fabric);
        assert!(is_attached(id, &fabric));
        assert!(matches!(reader.try_recv().unwrap().what, What::GuestCame { .. }));
        assert!(reader.try_recv().is_err(), "there is no place for the second");
    }
}
