//! The devices of ports: where frames come from and go to, for each kind of port.
//!
//! Each kind is one file with one implementation of [`PortDevice`]: how it is opened, what workers read and write, how its
//! state is checked, and what is shown of it. A new kind is such a file, an arm in [`open`] and [`kind_in_api`], a variant in the
//! configuration, and a variant each of netio's `PortReader`, which a worker reads, and `PortWriter`, which it writes to.

mod dgram;
mod packet;
pub(super) mod stream;
mod tap;
pub(crate) mod thread;
mod tun;

use std::fmt::Debug;
use std::io;

use ::packet::{Features, MacAddr};
use config::{Origin, Port, PortKind};
use netio::guest::{GuestError, Stream};
use netio::netns::Began;
use netio::packet_socket::PacketError;
use netio::tap::visit;
use netio::{LinkState, Tap, TapError};
use thiserror::Error;
use vswitch::PortId;

use self::packet::PacketDevice;
use crate::fabric::Workers;
use crate::hints::{without_interface, without_namespace};
use crate::state::LeftDevice;
use crate::worker::{Sink, Source};

/// The MTU of a device that has none configured (the kernel's default), in bytes.
pub(crate) const DEFAULT_MTU: u32 = 1500;

/// A port's device while it is there.
pub(crate) type Device = Box<dyn PortDevice>;

/// Opens the device that the configuration names, with this many queues. `None`: a connection is on its way, and is kept in
/// `pending` for the next time.
pub(super) fn open(
    port: &Port,
    queues: usize,
    process: Option<Began>,
    pending: &mut Option<Stream>,
) -> Result<Option<Device>, DeviceError> {
    match &port.kind {
        PortKind::Tap(tap) => tap::open(tap, port, queues, process).map(Some),
        PortKind::Tun(tun) => tun::open(tun, port.mtu, queues, process).map(Some),
        PortKind::Packet(packet) => Ok(Some(Box::new(PacketDevice::open(packet, port.mtu, queues)?))),
        PortKind::Stream(stream) => stream::open(stream, port, pending),
        PortKind::Dgram(dgram) => dgram::open(dgram, port).map(Some),
    }
}

/// Takes over the device that an earlier process left for a port. `None` if it is not the one that the configuration names: then
/// it is closed.
pub(super) fn adopt(port: &Port, left: LeftDevice, queues: usize, process: Option<Began>) -> Option<Device> {
    let adopted = match &port.kind {
        PortKind::Tap(tap) => tap::adopt(tap, port, queues, process, left),
        PortKind::Tun(tun) => tun::adopt(tun, port.mtu, queues, process, left),
        PortKind::Packet(_) | PortKind::Stream(_) | PortKind::Dgram(_) => Ok(None),
    };
    adopted.unwrap_or_else(|error| {
        tracing::warn!(port = port.name, %error, "cannot take over the device of the process before");
        None
    })
}

/// The kind as the API names it.
pub(super) fn kind_in_api(kind: &PortKind) -> api::PortKind {
    match kind {
        PortKind::Tap(_) => api::PortKind::Tap,
        PortKind::Tun(_) => api::PortKind::Tun,
        PortKind::Packet(_) => api::PortKind::Packet,
        PortKind::Stream(_) => api::PortKind::Stream,
        PortKind::Dgram(_) => api::PortKind::Dgram,
    }
}

/// What is needed to look at a device on the thread that may wait for the kernel.
#[derive(Debug)]
pub(crate) enum Watched {
    Tap(visit::Watched),
    Interface(packet::WatchedInterface),
}

/// A device of any kind.
pub(crate) trait PortDevice: Debug + Send {
    /// The source for this worker, if it reads a queue of the port, and the sink that it writes to.
    fn ends(&mut self, id: PortId, worker: usize, workers: &Workers) -> (Option<Source>, Sink);

    /// The state of its link; `None` if the device is gone. It may wait for the kernel if the device is [watched](Self::watched).
    fn state(&self) -> io::Result<Option<LinkState>>;

    /// How to look at it without it; `None` if its state is known here, without the kernel.
    fn watched(&self) -> Option<Watched> {
        None
    }

    /// The TAP or TUN that it is.
    fn as_tap(&self) -> Option<&Tap> {
        None
    }

    /// The MAC address of the station behind it, if it is the device's own: that which it had when it was opened.
    fn station_mac(&self) -> Option<MacAddr> {
        None
    }

    /// Gives a device that has the MAC address of its station another one.
    fn set_station_mac(&mut self, _: MacAddr) -> io::Result<()> {
        Ok(())
    }

    /// Sets the MTU of packets that are sent to it, in bytes. A device that the daemon owns gets that MTU, and may refuse it.
    fn set_mtu(&mut self, mtu: u32) -> io::Result<()>;

    /// The MTU that it was given, in bytes: that of its link, unless the link has a limit of its own.
    fn own_mtu(&self, link: &LinkState) -> u32 {
        link.mtu
    }

    /// Its MTU where none is configured, in bytes.
    fn usual_mtu(&self) -> u32 {
        DEFAULT_MTU
    }

    /// Offloads that it accepts.
    fn features(&self) -> Features {
        Features::NONE
    }

    /// Whether several frames are written in one call.
    fn bursts(&self) -> bool {
        true
    }

    /// Its description in `show` and in the summary at the start.
    fn summary(&self) -> String;

    /// Bytes that wait in the kernel to be read, where the kernel can be asked.
    fn rx_queue(&self) -> Option<u64> {
        None
    }

    /// Bytes that wait here for the guest to take them, and their limit, where frames can wait.
    fn tx_queue(&self) -> Option<(u64, u64)> {
        None
    }

    /// Frames that the kernel dropped because they were not read soon enough; a TAP asks the kernel and may wait for it. To a guest's socket nothing is dropped: its sender
    /// waits, or gets an error.
    fn dropped(&mut self) -> u64 {
        0
    }

    /// Whether it ends with its guest. It is then not reopened at once, in case the guest connects and disconnects quickly.
    fn is_connection(&self) -> bool {
        false
    }

    /// The configuration with which it is reopened, if that differs from the port's.
    fn reopened_as(&self) -> Option<PortKind> {
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
    /// No guest listens at the address to connect to.
    #[error("{address}: {error}")]
    NoGuest {
        /// Where.
        address: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// A bug ended the attempt.
    #[error("a panic, which is a bug: report it with what the log says about it")]
    Panicked,
}

impl DeviceError {
    /// Whether there is no device or namespace of that name, so that it may come.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            DeviceError::Tap(TapError::Namespace { error, .. }) => error.kind() != io::ErrorKind::PermissionDenied,
            DeviceError::Packet(PacketError::NoInterface { .. }) => true,
            DeviceError::Tap(_) | DeviceError::Packet(_) | DeviceError::Guest(_) => false,
            DeviceError::NoGuest { .. } | DeviceError::Panicked => false,
        }
    }

    /// The error, with the line or flag that asked for the device, and the name of the namespace or interface that was probably
    /// meant.
    pub(crate) fn with_hint(self, origin: &Origin) -> anyhow::Error {
        let error = match self {
            DeviceError::Packet(error) => without_interface(error),
            DeviceError::Tap(error) => without_namespace(error),
            error => error.into(),
        };
        error.context(origin.to_string())
    }
}

/// The link's state when the device has just been opened; if it cannot be read, what the configuration says.
pub(super) fn first_state(device: &dyn PortDevice, config: &Port) -> LinkState {
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

/// The link state of a device without a readable link.
pub(super) fn always_up(config: &Port) -> LinkState {
    LinkState { name: config.name.clone(), up: true, mtu: config.mtu.unwrap_or(DEFAULT_MTU) }
}

/// The offloads as text, such as "offload checksum tso4", and those that the kernel refused.
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
