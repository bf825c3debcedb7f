//! What a port's frames come from and go to, of each kind.

use std::io;

use netio::backlog::{receive_queue, unread};
use netio::guest::{Dgram, DgramQueue, GuestError, Stream, StreamReader, StreamWriter};
use netio::packet_socket::{PacketError, PacketSocket, PacketSpec};
use netio::tap::{self, TapSpec};
use netio::{LinkState, Silence, Tap, TapError, link, packet_socket};
use packet::Features;
use thiserror::Error;

use crate::config::{DeviceConfig, DgramConfig, PacketConfig, PortConfig, StreamConfig};
use crate::hints::{without_interface, without_namespace};

/// The MTU of a device that did not say (the kernel's default).
pub(crate) const DEFAULT_MTU: u32 = 1500;

/// A port's device while it is there.
#[derive(Debug)]
pub(crate) enum Device {
    Tap(Tap),
    Packet(Box<PacketDevice>),
    Stream(StreamDevice),
    Dgram(DgramDevice),
}

/// A guest's connection.
#[derive(Debug)]
pub(crate) struct StreamDevice {
    link: LinkState,
    /// Until a worker has it.
    reader: Option<StreamReader>,
    writer: StreamWriter,
}

/// A socket of datagrams.
#[derive(Debug)]
pub(crate) struct DgramDevice {
    link: LinkState,
    socket: Dgram,
}

/// What workers read and write: one reads each queue, and all may write.
pub(crate) enum Ends {
    Tap(Vec<tap::Queue>),
    Packet(Vec<packet_socket::Queue>, packet_socket::Writer),
    /// The reader is given away once.
    Stream(Option<StreamReader>, StreamWriter),
    Dgram(DgramQueue),
}

/// The network side of an interface.
#[derive(Debug)]
pub(crate) struct PacketDevice {
    socket: PacketSocket,
    config: PacketConfig,
    /// Where the interface is a TAP that another process holds.
    #[expect(dead_code, reason = "held for as long as the port is there")]
    silence: Option<Silence>,
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

impl Device {
    /// Opens what the configuration names. `None`: a connection is on its way, and is kept in `pending` for the
    /// next time.
    pub(crate) fn open(config: &PortConfig, pending: &mut Option<Stream>) -> Result<Option<Device>, DeviceError> {
        Ok(Some(match &config.device {
            // One of several queues of a device that is held would be given to us, and we would have half of its flows.
            DeviceConfig::Tap { spec, attach: true } if spec.queues > 1 && is_attached(&spec.name) => {
                Device::beside_holder(spec)?
            }
            DeviceConfig::Tap { spec, attach } => match Tap::open(spec) {
                Err(error) if *attach && is_held(&error, &spec.name) => Device::beside_holder(spec)?,
                Err(error) => return Err(error.into()),
                Ok(tap) => {
                    give_address(&tap, config);
                    Device::Tap(tap)
                }
            },
            DeviceConfig::Packet(config) => Device::Packet(Box::new(PacketDevice::open(config)?)),
            DeviceConfig::Dgram(DgramConfig { path, remote, .. }) => {
                let socket = Dgram::open(path, remote.as_deref())?;
                Device::Dgram(DgramDevice { link: always_up(config), socket })
            }
            DeviceConfig::Stream(StreamConfig { address, .. }) => {
                let failed = |error| DeviceError::NoGuest { address: address.to_string(), error };
                let connection = pending.take().map_or_else(|| Stream::connect(address), Ok).map_err(failed)?;
                if !connection.is_connected().map_err(failed)? {
                    *pending = Some(connection);
                    return Ok(None);
                }
                Device::connected(connection, config)
            }
        }))
    }

    /// The network side of a TAP that another process holds.
    fn beside_holder(spec: &TapSpec) -> Result<Device, DeviceError> {
        tracing::info!("{}: held by another process, so it is joined as packet:{0}", spec.name);
        let (interface, queues) = (spec.name.clone(), spec.queues);
        let config = PacketConfig { interface, queues, mtu: spec.mtu, offload: spec.offload };
        Ok(Device::Packet(Box::new(PacketDevice::open(&config)?)))
    }

    /// A guest that is there.
    pub(crate) fn connected(stream: Stream, config: &PortConfig) -> Device {
        let (reader, writer) = stream.split();
        Device::Stream(StreamDevice { link: always_up(config), reader: Some(reader), writer })
    }

    /// What workers read and write.
    pub(crate) fn ends(&mut self) -> Ends {
        match self {
            Device::Tap(tap) => Ends::Tap(tap.queues().to_vec()),
            Device::Packet(packet) => Ends::Packet(packet.socket.queues().to_vec(), packet.socket.writer().clone()),
            Device::Stream(stream) => Ends::Stream(stream.reader.take(), stream.writer.clone()),
            Device::Dgram(dgram) => Ends::Dgram(dgram.socket.queue().clone()),
        }
    }

    /// How it is now; `None` if it is gone.
    pub(crate) fn state(&self) -> io::Result<Option<LinkState>> {
        match self {
            Device::Tap(tap) => tap.state(),
            Device::Packet(packet) => packet.state(),
            // That a guest is gone is told by who reads.
            Device::Stream(StreamDevice { link, .. }) | Device::Dgram(DgramDevice { link, .. }) => Ok(Some(link.clone())),
        }
    }

    /// The same; what cannot be read is taken at the configuration's word.
    pub(crate) fn first_state(&self, config: &PortConfig) -> LinkState {
        let (up, error) = match self.state() {
            Ok(Some(link)) => return link,
            Ok(None) => (false, None),
            Err(error) => (true, Some(error)),
        };
        if let Some(error) = error {
            tracing::debug!("the state of {} cannot be read: {error}", config.name);
        }
        LinkState { name: config.name.clone(), up, mtu: config.mtu().unwrap_or(DEFAULT_MTU) }
    }

    /// The longest packet that it is sent, in bytes. A device of our own is told so, and may say no.
    pub(crate) fn set_mtu(&mut self, mtu: u32) -> io::Result<()> {
        match self {
            Device::Tap(tap) => tap.set_mtu(mtu)?,
            Device::Packet(packet) => packet.config.mtu = Some(mtu),
            Device::Stream(StreamDevice { link, .. }) | Device::Dgram(DgramDevice { link, .. }) => link.mtu = mtu,
        }
        Ok(())
    }

    /// What its far side takes without help.
    pub(crate) fn features(&self) -> Features {
        match self {
            Device::Tap(tap) => tap.features(),
            // What the interface cannot do, the kernel does after us.
            Device::Packet(packet) if packet.config.offload => Features::ALL,
            Device::Packet(_) | Device::Stream(_) | Device::Dgram(_) => Features::NONE,
        }
    }

    /// Are many frames written in one call?
    pub(crate) fn bursts(&self) -> bool {
        match self {
            Device::Tap(_) => false,
            Device::Packet(_) | Device::Stream(_) | Device::Dgram(_) => true,
        }
    }

    /// What it takes, in words.
    pub(crate) fn summary(&self) -> String {
        match self {
            Device::Tap(tap) => offload_text(tap.features(), tap.refused()),
            Device::Packet(packet) => {
                format!("{}, beside the host on {}", offload_text(self.features(), &[]), packet.config.interface)
            }
            Device::Stream(_) => "plain frames in a stream".to_owned(),
            Device::Dgram(_) => "a plain frame a datagram".to_owned(),
        }
    }

    /// Bytes that wait in the kernel for us to read them, as far as it tells: of a TAP and of a socket of datagrams it does not.
    pub(crate) fn rx_queue(&self) -> Option<u64> {
        match self {
            Device::Tap(_) | Device::Dgram(_) => None,
            Device::Packet(packet) => {
                Some(packet.socket.queues().iter().filter_map(|queue| receive_queue(queue).ok()).map(u64::from).sum())
            }
            Device::Stream(stream) => unread(&stream.writer).ok(),
        }
    }

    /// Bytes that wait with us for it to take them, and how many that may be, where something may wait.
    pub(crate) fn tx_queue(&self) -> Option<(u64, u64)> {
        match self {
            Device::Stream(stream) => Some((stream.writer.left() as u64, netio::guest::MAX_LEFT as u64)),
            Device::Tap(_) | Device::Packet(_) | Device::Dgram(_) => None,
        }
    }

    /// Frames that the kernel dropped because they were not read soon enough.
    pub(crate) fn dropped(&mut self) -> u64 {
        match self {
            Device::Tap(tap) => tap.dropped().unwrap_or(0),
            // Of a socket to a guest nothing is dropped: its sender waits, or is told.
            Device::Stream(_) | Device::Dgram(_) => 0,
            Device::Packet(packet) => packet.socket.statistics().dropped,
        }
    }
}

impl PacketDevice {
    fn open(config: &PacketConfig) -> Result<PacketDevice, PacketError> {
        let socket = PacketSocket::open(&PacketSpec {
            interface: config.interface.clone(),
            queues: config.queues,
            promiscuous: true,
            own_macs: Vec::new(),
            filter: None,
            old_kernel: false,
        })?;
        let silence = silence(&config.interface);
        Ok(PacketDevice { socket, config: config.clone(), silence })
    }

    /// How it was opened.
    pub(crate) fn config(&self) -> &PacketConfig {
        &self.config
    }

    /// A TAP that nobody holds any more has no carrier.
    fn state(&self) -> io::Result<Option<LinkState>> {
        let PacketConfig { interface, mtu, .. } = &self.config;
        match link::get(interface) {
            _ if self.socket.is_gone() => Ok(None),
            Ok(link) if link.index == self.socket.index() => {
                Ok(Some(LinkState { up: link.carrier, mtu: mtu.unwrap_or(u32::MAX).min(link.mtu), name: link.name }))
            }
            // Another of that name: ours is called otherwise now.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn always_up(config: &PortConfig) -> LinkState {
    LinkState { name: config.name.clone(), up: true, mtu: config.mtu().unwrap_or(DEFAULT_MTU) }
}

/// A TAP's cable leads to a guest, and the host has nothing to say there.
fn silence(interface: &str) -> Option<Silence> {
    if !link::get(interface).is_ok_and(|link| link.is_tun) {
        return None;
    }
    match Silence::of(interface) {
        Ok(Some(silence)) => return Some(silence),
        Ok(None) => tracing::warn!(
            "{interface} has an IPv4 address of the host's, so the host takes part there, beside the bridge: take it away if it \
             should not"
        ),
        Err(error) => tracing::warn!("{interface}: the host's stack speaks there and cannot be kept silent: {error}"),
    }
    None
}

/// Is this the error of a TAP that another process holds? One of several queues is refused as of another kind.
fn is_held(error: &TapError, name: &str) -> bool {
    match error {
        TapError::Busy { .. } => true,
        TapError::NotTap { .. } => is_attached(name),
        _ => false,
    }
}

/// Has somebody its descriptor?
fn is_attached(name: &str) -> bool {
    link::get(name).is_ok_and(|link| link.is_tun && link.carrier)
}

/// A TUN is the host's own, where a TAP is another host's.
fn give_address(tap: &Tap, config: &PortConfig) {
    if let Some(address) = config.address
        && let Err(error) = tap.add_address(address.address.into(), address.prefix_len)
    {
        tracing::warn!("{}: giving it {address}: {error}", config.name);
    }
}

fn offload_text(features: Features, refused: &[&str]) -> String {
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
