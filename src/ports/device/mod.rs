//! What a port's frames come from and go to, whatever its kind.
//!
//! Each kind is one file with one implementation of [`PortDevice`]: how it is opened, what workers read and write, how it is
//! watched, and what is shown of it. A new kind is such a file, a variant in the configuration, and one each of what a worker reads
//! ([`Source`]) and writes ([`Sink`]).

mod dgram;
pub(super) mod kinds;
mod packet;
pub(super) mod stream;
mod tap;

use std::fmt::Debug;
use std::io;

use ::packet::Features;
use netio::guest::GuestError;
use netio::packet_socket::PacketError;
use netio::{LinkState, TapError};
use thiserror::Error;
use vswitch::PortId;

use crate::config::{DeviceConfig, PortConfig};
use crate::fabric::Workers;
use crate::hints::{without_interface, without_namespace};
use crate::worker::{Sink, Source};

/// The MTU of a device that has none configured (the kernel's default), in bytes.
pub(crate) const DEFAULT_MTU: u32 = 1500;

/// A port's device while it is there.
pub(crate) type Device = Box<dyn PortDevice>;

/// A device of any kind.
pub(crate) trait PortDevice: Debug {
    /// What this worker reads, if it is the one that reads a queue of the port, and what it writes to.
    fn ends(&mut self, id: PortId, worker: usize, workers: &Workers) -> (Option<Source>, Sink);

    /// How its link is now; `None` if the device is gone.
    fn state(&self) -> io::Result<Option<LinkState>>;

    /// Sets the longest packet that is sent to it, in bytes. A device of our own is told so, and may refuse.
    fn set_mtu(&mut self, mtu: u32) -> io::Result<()>;

    /// Its MTU where none is configured, in bytes.
    fn usual_mtu(&self) -> u32 {
        DEFAULT_MTU
    }

    /// Offloads that its far side understands.
    fn features(&self) -> Features;

    /// Are many frames written in one call?
    fn bursts(&self) -> bool;

    /// What `show` and the start's summary say of it.
    fn summary(&self) -> String;

    /// Bytes that wait in the kernel to be read, where the kernel can be asked.
    fn rx_queue(&self) -> Option<u64> {
        None
    }

    /// Bytes that wait here for the guest to take them, and their limit, where frames can wait.
    fn tx_queue(&self) -> Option<(u64, u64)> {
        None
    }

    /// Frames that the kernel dropped because they were not read soon enough. To a guest's socket nothing is dropped: its sender
    /// waits, or gets an error.
    fn dropped(&mut self) -> u64 {
        0
    }

    /// Does it end with its guest, so that one that comes and goes quickly is not tried for at once?
    fn is_connection(&self) -> bool {
        false
    }

    /// What is opened when it is gone, if that is not what the port's configuration says.
    fn reopened_as(&self) -> Option<DeviceConfig> {
        None
    }
}

/// Why there is no such device.
#[derive(Debug, Error)]
pub(crate) enum DeviceError {
    /// Of a TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Of an interface's network side.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// Of a guest's socket.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Nobody listens where we are to connect to, or not yet.
    #[error("{address}: {error}")]
    NoGuest {
        /// Where.
        address: String,
        /// What the kernel said.
        error: io::Error,
    },
}

impl DeviceError {
    /// The error, with the name of the namespace or interface that was probably meant.
    pub(crate) fn with_hint(self) -> anyhow::Error {
        match self {
            DeviceError::Packet(error) => without_interface(error),
            DeviceError::Tap(error) => without_namespace(error),
            error => error.into(),
        }
    }
}

/// The link's state when the device has just been opened; if it cannot be read, what the configuration says.
pub(super) fn first_state(device: &dyn PortDevice, config: &PortConfig) -> LinkState {
    let up = match device.state() {
        Ok(Some(link)) => return link,
        Ok(None) => false,
        Err(error) => {
            tracing::debug!(port = config.name, %error, "cannot read the state of the port's device");
            true
        }
    };
    LinkState { up, ..always_up(config) }
}

/// The link of a device that has none to be read.
pub(super) fn always_up(config: &PortConfig) -> LinkState {
    LinkState { name: config.name.clone(), up: true, mtu: config.mtu().unwrap_or(DEFAULT_MTU) }
}

/// "offload checksum tso4", and what the kernel refused.
pub(super) fn offload_text(features: Features, refused: &[&str]) -> String {
    let granted = [
        (features.checksum, "checksum"),
        (features.tso4, "tso4"),
        (features.tso6, "tso6"),
        (features.tso_ecn, "tso-ecn"),
        (features.uso, "uso"),
    ];
    let granted: Vec<&str> = granted.into_iter().filter_map(|(granted, name)| granted.then_some(name)).collect();
    let mut text = format!("offload {}", if granted.is_empty() { "none".to_owned() } else { granted.join(" ") });
    if !refused.is_empty() {
        text += &format!(" (the kernel refused {})", refused.join(" "));
    }
    text
}
