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

use std::io;
use std::time::Duration;

use netio::{LinkState, Tap, TapError};
use packet::Timestamp;
use vswitch::{Port, PortId, PortKind};

use crate::config::PortConfig;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The MTU of a device that did not say (the kernel's default).
const DEFAULT_MTU: u32 = 1500;

/// One port of the bridge and its device, if it has one now.
#[derive(Debug)]
pub(crate) struct ManagedPort {
    pub(crate) id: PortId,
    pub(crate) config: PortConfig,
    device: Device,
    /// How many devices it has had.
    attachments: u64,
}

#[derive(Debug)]
enum Device {
    Attached { tap: Tap, link: LinkState },
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
    pub(crate) fn open(id: PortId, config: PortConfig) -> Result<ManagedPort, TapError> {
        let tap = open(&config)?;
        let link = first_link(&tap, &config);
        Ok(ManagedPort { id, config, device: Device::Attached { tap, link }, attachments: 1 })
    }

    /// Its name as configured.
    pub(crate) fn name(&self) -> &str {
        &self.config.tap.name
    }

    /// Its device, if there is one now.
    pub(crate) fn tap(&self) -> Option<&Tap> {
        match &self.device {
            Device::Attached { tap, .. } => Some(tap),
            Device::Gone { .. } => None,
        }
    }

    /// Which of the devices that it has had it has now: late news of an earlier one is no news.
    pub(crate) fn attachment(&self) -> Option<u64> {
        self.tap().map(|_| self.attachments)
    }

    /// Its link as last seen.
    pub(crate) fn link(&self) -> Option<&LinkState> {
        match &self.device {
            Device::Attached { link, .. } => Some(link),
            Device::Gone { .. } => None,
        }
    }

    /// What workers are to know of it; `None` while there is no device.
    pub(crate) fn to_pipeline(&self) -> Option<Port> {
        let Device::Attached { tap, link } = &self.device else { return None };
        Some(Port {
            vlan: self.config.vlan.clone(),
            mtu: link.mtu,
            features: tap.features(),
            coalesce: self.config.coalesce,
            bursts: false,
            kind: if self.config.is_tap() { PortKind::Link } else { PortKind::Tun },
        })
    }

    /// The device is gone: lets go of it, so that nothing of it or its namespace is kept alive.
    pub(crate) fn lose(&mut self, now: Timestamp) {
        self.device = Device::Gone { retry_at: now.after(FIRST_RETRY), pause: FIRST_RETRY };
    }

    /// Looks how the device is, or tries to open it again if it is time.
    pub(crate) fn look(&mut self, now: Timestamp) -> Found {
        match &mut self.device {
            Device::Attached { tap, link } => match tap.state() {
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
                    log_unknown(&self.config.tap.name, &error);
                    Found::Same
                }
            },
            Device::Gone { retry_at, .. } if now < *retry_at => Found::Same,
            Device::Gone { retry_at, pause } => match open(&self.config) {
                Ok(tap) => {
                    let link = first_link(&tap, &self.config);
                    self.device = Device::Attached { tap, link };
                    self.attachments += 1;
                    Found::Back
                }
                Err(error) => {
                    tracing::debug!("{} is still gone: {error}", self.config.tap.name);
                    *pause = (*pause * 2).min(LAST_RETRY);
                    *retry_at = now.after(*pause);
                    Found::Same
                }
            },
        }
    }

    /// When to look again if a device is missing.
    pub(crate) fn retry_at(&self) -> Option<Timestamp> {
        match self.device {
            Device::Attached { .. } => None,
            Device::Gone { retry_at, .. } => Some(retry_at),
        }
    }
}

/// The device, with the address that it is to have: a TUN is the host's own, where a TAP is another host's.
fn open(config: &PortConfig) -> Result<Tap, TapError> {
    let tap = Tap::open(&config.tap)?;
    if let Some(address) = config.address
        && let Err(error) = tap.add_address(address.address.into(), address.prefix_len)
    {
        tracing::warn!("{}: giving it {address}: {error}", config.tap.name);
    }
    Ok(tap)
}

/// A device whose state cannot be read is taken at its configuration's word.
fn first_link(tap: &Tap, config: &PortConfig) -> LinkState {
    match tap.state() {
        Ok(Some(link)) => link,
        Ok(None) => LinkState { name: config.tap.name.clone(), up: false, mtu: config.tap.mtu.unwrap_or(DEFAULT_MTU) },
        Err(error) => {
            log_unknown(&config.tap.name, &error);
            LinkState { name: config.tap.name.clone(), up: true, mtu: config.tap.mtu.unwrap_or(DEFAULT_MTU) }
        }
    }
}

fn log_unknown(name: &str, error: &io::Error) {
    tracing::debug!("the state of {name} cannot be read: {error}");
}
