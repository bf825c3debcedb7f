//! The control thread's view of one port: its device comes, changes and goes.
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
//! A link that is set down makes no event on its descriptor, and a device can have been moved into a
//! namespace whose events we do not hear without keeping it alive. So each device is asked once a
//! second how it is, wherever it is; what a worker finds out earlier, it says.

use std::time::Duration;

use netio::LinkState;
use packet::Timestamp;
use vswitch::{Port, PortId, PortKind};

use crate::config::PortConfig;
use crate::device::{Device, DeviceError};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// One port of the bridge and its device, if it has one now.
#[derive(Debug)]
pub(crate) struct ManagedPort {
    pub(crate) id: PortId,
    pub(crate) config: PortConfig,
    life: Life,
    /// How many devices it has had.
    attachments: u64,
    /// Frames that earlier devices' sockets dropped for want of room.
    dropped_before: u64,
}

#[derive(Debug)]
enum Life {
    Attached { device: Device, link: LinkState },
    Gone { retry_at: Timestamp, pause: Duration },
}

/// What a look at a port found.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing new.
    Same,
    /// The device is gone.
    Gone,
    /// The link changed.
    Link(LinkState),
    /// The device is back.
    Back,
}

impl ManagedPort {
    /// Opens the port's device.
    pub(crate) fn open(id: PortId, config: PortConfig) -> Result<ManagedPort, DeviceError> {
        let device = Device::open(&config)?;
        let link = device.first_state(&config);
        Ok(ManagedPort { id, config, life: Life::Attached { device, link }, attachments: 1, dropped_before: 0 })
    }

    /// Its name as configured.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Its device, if there is one now.
    pub(crate) fn device(&self) -> Option<&Device> {
        match &self.life {
            Life::Attached { device, .. } => Some(device),
            Life::Gone { .. } => None,
        }
    }

    /// Which of the devices that it has had it has now: late news of an earlier one is no news.
    pub(crate) fn attachment(&self) -> Option<u64> {
        self.device().map(|_| self.attachments)
    }

    /// Its link as last seen.
    pub(crate) fn link(&self) -> Option<&LinkState> {
        match &self.life {
            Life::Attached { link, .. } => Some(link),
            Life::Gone { .. } => None,
        }
    }

    /// What workers are to know of it; `None` while there is no device.
    pub(crate) fn to_pipeline(&self) -> Option<Port> {
        let Life::Attached { device, link } = &self.life else { return None };
        Some(Port {
            vlan: self.config.vlan.clone(),
            mtu: link.mtu,
            features: device.features(),
            coalesce: self.config.coalesce,
            bursts: device.bursts(),
            kind: if self.config.is_bridged() { PortKind::Link } else { PortKind::Tun },
        })
    }

    /// Frames that the kernel dropped because they were not read soon enough.
    pub(crate) fn dropped(&mut self) -> u64 {
        let now = match &mut self.life {
            Life::Attached { device, .. } => device.dropped(),
            Life::Gone { .. } => 0,
        };
        self.dropped_before + now
    }

    /// The device is gone: lets go of it, so that nothing of it or its namespace is kept alive.
    pub(crate) fn lose(&mut self, now: Timestamp) {
        self.dropped_before = self.dropped();
        self.life = Life::Gone { retry_at: now.after(FIRST_RETRY), pause: FIRST_RETRY };
    }

    /// Looks how the device is, or tries to open it again if it is time.
    pub(crate) fn look(&mut self, now: Timestamp) -> Found {
        match &mut self.life {
            Life::Attached { device, link } => match device.state() {
                Ok(Some(state)) if state == *link => Found::Same,
                Ok(Some(state)) => {
                    *link = state.clone();
                    Found::Link(state)
                }
                Ok(None) => {
                    self.lose(now);
                    Found::Gone
                }
                Err(error) => {
                    tracing::debug!("the state of {} cannot be read: {error}", self.config.name);
                    Found::Same
                }
            },
            Life::Gone { retry_at, .. } if now < *retry_at => Found::Same,
            Life::Gone { retry_at, pause } => match Device::open(&self.config) {
                Ok(device) => {
                    let link = device.first_state(&self.config);
                    self.life = Life::Attached { device, link };
                    self.attachments += 1;
                    Found::Back
                }
                Err(error) => {
                    tracing::debug!("{} is still gone: {error}", self.config.name);
                    *pause = (*pause * 2).min(LAST_RETRY);
                    *retry_at = now.after(*pause);
                    Found::Same
                }
            },
        }
    }

    /// When to look again if a device is missing.
    pub(crate) fn retry_at(&self) -> Option<Timestamp> {
        match self.life {
            Life::Attached { .. } => None,
            Life::Gone { retry_at, .. } => Some(retry_at),
        }
    }
}
