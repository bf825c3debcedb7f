//! The control thread's view of one port: its device appears, changes and disappears.
//!
//! ```text
//!             opened                     device or namespace gone
//!   (start) ---------> attached <-----+ -----------------------> gone
//!                       |    ^        |                            |
//!             link down |    | up     +----------------------------+
//!                       v    |           opened again: tried after
//!                      attached, down    0.1, 0.2, 0.4 .. 5 seconds
//! ```
//!
//! A link that is set down causes no event on its descriptor, and a device may have been moved into a namespace whose events
//! cannot be received without keeping the namespace alive. So each device is checked once per second, wherever it is; a
//! worker reports what it notices earlier. What may wait for the kernel is done by [another thread](super::device::thread); this
//! file says what is to be done, and takes in what was.
//!
//! The number of a process is used again when that has ended. So a device that was in the namespace of a process (`pid:7`) is opened
//! again only as long as that is the same process.
//!
//! A guest that connects is attached to one of the places for guests; when it disconnects, the place is free again, and
//! nothing is retried. A guest that the daemon connects to need not exist at the start.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::State;
use netio::guest::Stream;
use netio::netns::Began;
use netio::{LinkState, Tap};
use packet::Timestamp;
use vswitch::{Port, PortId};

use super::device::thread::{Fresh, Opened, Seen, ToOpen};
use super::device::{self, Device, DeviceError, PortDevice, Watched, stream};
use crate::model::{bridge_id, coalesce, guard, port_vlan, storm_limits};
use crate::state::{Keeper, name_of};

/// The pause before a device is opened again, and the longest one, to which it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The longest pause of a port that was told to wait for its device.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// One port of the bridge and its device, if it has one now.
#[derive(Debug)]
pub(crate) struct ManagedPort {
    pub(crate) id: PortId,
    pub(crate) config: config::Port,
    /// Queues of its device, each of which one worker reads.
    queues: usize,
    /// When the process began in whose namespace its device is, once that is known.
    process: Option<Began>,
    life: Life,
    /// The number of devices that it has had.
    attachments: u64,
    /// Looks of the other thread up to this number were begun before its device was changed.
    pub(super) looked_at: u64,
    /// Frames dropped by the kernel: at earlier devices, at this one before it was attached, and since.
    dropped_before: u64,
    dropped_at_start: u64,
    dropped: u64,
    /// The device that outlives the process.
    kept: Option<Kept>,
}

/// How a device is kept.
#[derive(Debug)]
struct Kept {
    /// The device's serial number.
    serial: u64,
    /// The name of its descriptor.
    name: String,
    /// The keeper's round.
    round: u64,
}

#[derive(Debug)]
enum Life {
    Attached {
        device: Device,
        link: LinkState,
        since: Timestamp,
        /// The last pause before it was there.
        pause: Duration,
    },
    Gone {
        retry_at: Timestamp,
        pause: Duration,
        /// A connection that is on its way.
        pending: Option<Stream>,
        /// When it is given up.
        until: Timestamp,
        /// The number of the attempt to open it that another thread is about to make.
        opening: Option<u64>,
        /// It is known that the device or its namespace is not there.
        is_missing: bool,
    },
    /// A place for a guest that is to come.
    Free,
}

/// The result of a check of a port.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing new.
    Same,
    /// The device is gone; it is to be closed.
    Gone(Option<Device>),
    /// The link changed.
    Link(LinkState),
    /// The device is back.
    Back,
}

impl ManagedPort {
    /// Opens the port's device, or leaves a place for its guest.
    pub(crate) fn open(
        id: PortId,
        config: config::Port,
        queues: usize,
        process: Option<Began>,
        now: Timestamp,
    ) -> Result<ManagedPort, DeviceError> {
        let mut port = ManagedPort { queues, ..ManagedPort::later(id, config, process, now) };
        if port.config.slot().is_some() {
            return Ok(port);
        }
        let mut pending = None;
        match device::open(&port.config, queues, process, &mut pending) {
            Ok(Some(device)) => {
                let fresh = Fresh::new(device, &port.config);
                port.attach(fresh, now, FIRST_RETRY);
            }
            Ok(None) => port.life = gone(now, FIRST_RETRY, pending),
            Err(error) if port.config.absence.waits && error.is_missing() => {
                tracing::info!(port = port.config.name, %error, "waiting for the port's device");
                port.life = gone(now, FIRST_RETRY, None);
            }
            Err(error @ DeviceError::NoGuest { .. }) => {
                tracing::warn!(port = port.config.name, %error, "no guest yet; trying again until one listens");
                port.life = gone(now, FIRST_RETRY, None);
            }
            Err(error) => return Err(error),
        }
        Ok(port)
    }

    /// A port with a device that an earlier process left.
    pub(super) fn adopt(id: PortId, config: config::Port, queues: usize, device: Device, now: Timestamp) -> ManagedPort {
        let mut port = ManagedPort { queues, ..ManagedPort::later(id, config, None, now) };
        let fresh = Fresh::new(device, &port.config);
        port.attach(fresh, now, FIRST_RETRY);
        port
    }

    /// Lets its device outlive the process, if that is ours.
    pub(super) fn keep(&mut self, keeper: &mut Keeper) {
        let tap = self.device().and_then(PortDevice::as_tap).filter(|tap| tap.is_ours());
        let serial = tap.map(Tap::serial);
        let round = keeper.round();
        if self.kept.as_ref().map(|kept| (kept.serial, kept.round)) == serial.map(|serial| (serial, round)) {
            return;
        }
        let before = self.kept.as_ref().map(|kept| kept.name.as_str());
        let name = tap.map(|tap| name_of(&self.config.full_name(), tap.made_in()));
        if let Some(before) = before.filter(|before| Some(*before) != name.as_deref()) {
            keeper.forget(before);
        }
        let (Some(tap), Some(name), Some(serial)) = (tap, name, serial) else {
            self.kept = None;
            return;
        };
        match tap.keep() {
            Ok(()) => {
                if let Some(descriptor) = tap.descriptor() {
                    keeper.keep(&name, serial, descriptor);
                }
            }
            Err(error) => tracing::debug!(port = self.config.name, %error, "the device does not outlive the process"),
        }
        // What was not taken is tried again.
        self.kept = keeper.has(&name, serial).then_some(Kept { serial, name, round });
    }

    /// The name under which its device's descriptor is kept.
    pub(super) fn kept_as(&self) -> Option<String> {
        self.kept.as_ref().map(|kept| kept.name.clone())
    }

    /// A port whose device cannot be opened yet, because a port that is removed still has it: it is tried at once, and then like
    /// a device that is gone.
    pub(crate) fn later(id: PortId, config: config::Port, process: Option<Began>, now: Timestamp) -> ManagedPort {
        let gone = Life::Gone { retry_at: now, pause: FIRST_RETRY, pending: None, until: now, opening: None, is_missing: false };
        let life = if config.slot().is_some() { Life::Free } else { gone };
        ManagedPort {
            id,
            config,
            queues: 1,
            process,
            life,
            attachments: 0,
            looked_at: 0,
            dropped_before: 0,
            dropped_at_start: 0,
            dropped: 0,
            kept: None,
        }
    }

    /// Sets the MTU of its device. Returns the former MTU; `None` if there is no device, or the MTU is the same.
    pub(crate) fn set_mtu(&mut self, mtu: Option<u32>) -> io::Result<Option<u32>> {
        let Life::Attached { device, link, .. } = &mut self.life else { return Ok(None) };
        let (former, mtu) = (device.own_mtu(link), mtu.unwrap_or_else(|| device.usual_mtu()));
        if mtu == former {
            return Ok(None);
        }
        device.set_mtu(mtu)?;
        Ok(Some(former))
    }

    fn attach(&mut self, Fresh { device, link, dropped }: Fresh, now: Timestamp, pause: Duration) {
        if let Some(kind) = device.reopened_as() {
            self.config.kind = kind;
        }
        self.process = device.as_tap().and_then(Tap::process).or(self.process);
        self.dropped_at_start = dropped;
        self.life = Life::Attached { device, link, since: now, pause };
        self.attachments += 1;
    }

    /// Whether it is a place for a guest, without a guest.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self.life, Life::Free)
    }

    /// Whether it waits for its first device.
    pub(crate) fn is_awaited(&self) -> bool {
        self.config.absence.waits && self.is_unused()
    }

    /// Whether it goes, because its device has gone.
    pub(super) fn is_over(&self) -> bool {
        let is_missing = matches!(self.life, Life::Gone { is_missing: true, .. });
        self.config.absence.is_transient && is_missing && !self.is_awaited()
    }

    /// The number of the attempt to open its device that is being made.
    pub(super) fn opening(&self) -> Option<u64> {
        match self.life {
            Life::Gone { opening, .. } => opening,
            Life::Attached { .. } | Life::Free => None,
        }
    }

    /// Whether it has never had a device.
    pub(crate) fn is_unused(&self) -> bool {
        self.attachments == 0
    }

    /// A guest has come.
    pub(crate) fn seat(&mut self, guest: Stream, now: Timestamp) {
        let device = stream::connected(guest, &self.config);
        let fresh = Fresh::new(device, &self.config);
        self.attach(fresh, now, FIRST_RETRY);
    }

    /// Its name as configured.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Its device, if there is one now.
    pub(crate) fn device(&self) -> Option<&dyn PortDevice> {
        match &self.life {
            Life::Attached { device, .. } => Some(&**device),
            Life::Gone { .. } | Life::Free => None,
        }
    }

    /// Its device, for the workers to read and write.
    pub(super) fn device_mut(&mut self) -> Option<&mut Device> {
        match &mut self.life {
            Life::Attached { device, .. } => Some(device),
            Life::Gone { .. } | Life::Free => None,
        }
    }

    /// Number of the present device, counted from 1; late news of an earlier one is ignored.
    pub(crate) fn attachment(&self) -> Option<u64> {
        self.device().map(|_| self.attachments)
    }

    /// Its link as last seen.
    pub(crate) fn link(&self) -> Option<&LinkState> {
        match &self.life {
            Life::Attached { link, .. } => Some(link),
            Life::Gone { .. } | Life::Free => None,
        }
    }

    /// The port as workers know it; `None` while there is no device.
    pub(crate) fn to_pipeline(&self) -> Option<Port> {
        let Life::Attached { device, link, .. } = &self.life else { return None };
        let port = Port {
            bridge: bridge_id(self.config.bridge),
            vlan: port_vlan(&self.config.vlans),
            mtu: link.mtu,
            features: device.features(),
            coalesce: coalesce(self.config.gro),
            bursts: device.bursts(),
            kind: if self.config.is_bridged() { vswitch::PortKind::Link } else { vswitch::PortKind::Tun },
            limits: storm_limits(self.config.limits),
            guard: None,
            isolated: self.config.station.isolated,
        };
        Some(match self.config.station.guard {
            true => port.guarded_by(guard(&self.config.station, device.station_mac())),
            false => port,
        })
    }

    /// Frames that the kernel dropped because they were not read soon enough; those of a TAP as last seen.
    pub(crate) fn dropped(&mut self) -> u64 {
        if let Life::Attached { device, .. } = &mut self.life
            && device.as_tap().is_none()
        {
            let dropped = device.dropped();
            self.count_dropped(dropped);
        }
        self.dropped_before + self.dropped
    }

    /// A counter that cannot be read at the moment has not decreased.
    fn count_dropped(&mut self, dropped: u64) {
        self.dropped = self.dropped.max(dropped.saturating_sub(self.dropped_at_start));
    }

    /// The device is gone. Returns it, to be closed, so that neither it nor its namespace is kept alive. A connection that
    /// does not last is tried no more often than one that fails.
    #[must_use]
    pub(crate) fn lose(&mut self, now: Timestamp) -> Option<Device> {
        self.dropped_before = self.dropped();
        self.dropped = 0;
        let pause = match &self.life {
            Life::Attached { device, since, pause, .. } if device.is_connection() && now < since.after(LAST_RETRY) => {
                (*pause * 2).min(LAST_RETRY)
            }
            _ => FIRST_RETRY,
        };
        let life = match self.config.slot() {
            Some(_) => Life::Free,
            None => missing(now, pause),
        };
        match mem::replace(&mut self.life, life) {
            Life::Attached { device, .. } => Some(device),
            Life::Gone { .. } | Life::Free => None,
        }
    }

    /// Its device, to be closed.
    pub(crate) fn into_device(self) -> Option<Device> {
        match self.life {
            Life::Attached { device, .. } => Some(device),
            Life::Gone { .. } | Life::Free => None,
        }
    }

    /// Its state as `show` names it.
    pub(crate) fn state(&self) -> State {
        match self.link() {
            Some(link) if link.up => State::Up,
            Some(_) => State::Down,
            None if self.is_free() || self.is_awaited() => State::Waiting,
            None => State::Gone,
        }
    }

    /// The kind of its device as `show` names it.
    pub(crate) fn kind(&self) -> api::PortKind {
        device::kind_in_api(&self.config.kind)
    }

    /// How to look at its device on another thread, with the device's number.
    pub(super) fn watched(&self) -> Option<(PortId, u64, Watched)> {
        Some((self.id, self.attachment()?, self.device()?.watched()?))
    }

    /// Looks how the device is, where that needs no other thread.
    pub(super) fn look(&mut self, now: Timestamp) -> Found {
        match self.device() {
            Some(device) if device.watched().is_none() => self.look_now(now),
            _ => Found::Same,
        }
    }

    /// Looks how the device is, whatever it takes.
    pub(super) fn look_now(&mut self, now: Timestamp) -> Found {
        let Some(device) = self.device() else { return Found::Same };
        let dropped = device.as_tap().and_then(|tap| tap.dropped().ok());
        let seen = Seen { link: device.state(), dropped };
        self.see(seen, now)
    }

    /// Takes in what was seen of its device.
    pub(super) fn see(&mut self, seen: Seen, now: Timestamp) -> Found {
        if let Some(dropped) = seen.dropped {
            self.count_dropped(dropped);
        }
        let Life::Attached { link, .. } = &mut self.life else { return Found::Same };
        match seen.link {
            Ok(Some(state)) if state == *link => Found::Same,
            Ok(Some(state)) => {
                *link = state.clone();
                Found::Link(state)
            }
            Ok(None) => Found::Gone(self.lose(now)),
            Err(error) => {
                tracing::debug!(port = self.config.name, %error, "cannot read the state of the port's device");
                Found::Same
            }
        }
    }

    /// What is to be opened, if it is time; [`opened`](Self::opened) follows.
    pub(super) fn begin_to_open(&mut self, now: Timestamp) -> Option<ToOpen> {
        let (id, queues, process) = (self.id, self.queues, self.process);
        let Life::Gone { retry_at, pending, until, opening, .. } = &mut self.life else { return None };
        if opening.is_some() || now < *retry_at {
            return None;
        }
        let attempt = next_attempt();
        *opening = Some(attempt);
        let pending = pending.take().filter(|_| now < *until);
        let config = self.config.clone();
        Some(ToOpen { id, attempt, config, queues, process, was_pending: pending.is_some(), pending })
    }

    /// Takes in the outcome of opening its device. Returns a device that is none of its, because the port has had another since, or
    /// another port had its number before.
    pub(super) fn opened(&mut self, opened: Opened, now: Timestamp) -> (Found, Option<Device>) {
        let Opened { attempt, result, pending, was_pending, .. } = opened;
        let (pause, until) = match &self.life {
            Life::Gone { pause, until, opening: Some(now), .. } if *now == attempt => (*pause, *until),
            _ => return (Found::Same, result.ok().flatten().map(|fresh| fresh.device)),
        };
        match result {
            Ok(Some(fresh)) => {
                self.attach(fresh, now, pause);
                return (Found::Back, None);
            }
            Ok(None) if was_pending => {
                let retry_at = now.after(FIRST_RETRY);
                self.life = Life::Gone { retry_at, pause, pending, until, opening: None, is_missing: false };
            }
            Ok(None) => self.life = gone(now, pause, pending),
            Err(error) => {
                tracing::debug!(port = self.config.name, %error, "port is still gone");
                let pause = (pause * 2).min(if self.is_awaited() { LAST_WAIT } else { LAST_RETRY });
                self.life = if error.is_missing() { missing(now, pause) } else { gone(now, pause, None) };
            }
        }
        (Found::Same, None)
    }

    /// When to look again if a device is missing.
    pub(crate) fn retry_at(&self) -> Option<Timestamp> {
        match self.life {
            Life::Attached { .. } | Life::Free => None,
            Life::Gone { opening: Some(_), .. } => None,
            Life::Gone { retry_at, .. } => Some(retry_at),
        }
    }
}

/// The state without a device, which is retried after a pause, or soon if a connection is on its way.
fn gone(now: Timestamp, pause: Duration, pending: Option<Stream>) -> Life {
    let retry_at = now.after(if pending.is_some() { FIRST_RETRY } else { pause });
    Life::Gone { retry_at, pause, pending, until: now.after(LAST_RETRY), opening: None, is_missing: false }
}

/// The same of a device that is known not to be there.
fn missing(now: Timestamp, pause: Duration) -> Life {
    Life::Gone { retry_at: now.after(pause), pause, pending: None, until: now, opening: None, is_missing: true }
}

/// A number that no other attempt to open a device has.
fn next_attempt() -> u64 {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    ATTEMPTS.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The port of this word of `--port`.
    pub(in crate::ports) fn port(word: &str) -> config::Port {
        let flag = config::Flag::new("--port", word);
        config::Desired::of_flags(&[flag]).unwrap().config.ports.remove(0)
    }

    /// Nothing listens there.
    #[test]
    fn what_cannot_be_made_is_tried_for_less_and_less() {
        let config = port("stream:/nowhere/at-all:mode=client");
        let mut now = Timestamp::from_millis(5);
        let mut port = ManagedPort::later(PortId(0), config, None, now);
        assert_eq!(port.retry_at(), Some(now), "once the old device is let go");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let to_open = port.begin_to_open(now).expect("it is time");
            assert!(port.begin_to_open(now).is_none() && port.retry_at().is_none(), "once");
            assert!(matches!(port.opened(to_open.open(), now), (Found::Same, None)));
            let next = port.retry_at().expect("it is gone");
            pauses.push(next.since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    /// A port of an interface that no machine has, with these keys, after a number of attempts to open it.
    fn missing(keys: &str, attempts: usize) -> (ManagedPort, Timestamp) {
        let mut now = Timestamp::from_millis(5);
        let mut port = ManagedPort::later(PortId(0), port(&format!("packet:vswitchd-none{keys}")), None, now);
        for _ in 0..attempts {
            let to_open = port.begin_to_open(now).expect("it is time");
            assert!(!port.is_over());
            assert!(matches!(port.opened(to_open.open(), now), (Found::Same, None)));
            now = port.retry_at().expect("it is gone");
        }
        (port, now)
    }

    #[test]
    fn a_port_that_waits_is_looked_for_each_second_and_is_not_over() {
        let (mut port, now) = missing(":wait=on:transient=on", 6);
        assert!(!port.is_over() && port.state() == State::Waiting);
        assert!(port.begin_to_open(Timestamp::from_millis(now.as_millis() - 1)).is_none());
        assert!(now.since(Timestamp::from_millis(5)).as_millis() <= 5 * 1000);
        // It has had a device.
        port.attachments = 1;
        assert!(port.is_over() && port.state() == State::Gone);
    }

    #[test]
    fn a_transient_port_is_over_when_its_device_is_known_to_be_missing() {
        assert!(!missing(":transient=on", 0).0.is_over());
        assert!(missing(":transient=on", 1).0.is_over());
        assert!(!missing("", 1).0.is_over());
    }

    #[test]
    fn an_attempt_for_the_former_port_of_a_number_is_not_taken() {
        let (mut former, now) = missing("", 0);
        let (mut port, _) = missing("", 0);
        let late = former.begin_to_open(now).expect("it is time").open();
        let own = port.begin_to_open(now).expect("it is time");
        assert!(matches!(port.opened(late, now), (Found::Same, None)) && port.opening().is_some(), "still on its way");
        assert!(matches!(port.opened(own.open(), now), (Found::Same, None)) && port.opening().is_none());
    }
}
