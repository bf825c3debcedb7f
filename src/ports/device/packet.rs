//! The network side of an interface, beside the host's own stack; of a TAP that another process holds, too.

use std::io;

use config::PortKind;
use config::port::Packet;
use netio::backlog::receive_queue;
use netio::packet_socket::{PacketError, PacketSocket, PacketSpec};
use netio::{LinkState, PortReader, PortWriter, Silence, link};
use packet::Features;
use vswitch::PortId;

use super::{PortDevice, Watched, offload_text};
use crate::fabric::Workers;
use crate::worker::{Sink, Source};

/// The network side of an interface.
#[derive(Debug)]
pub(super) struct PacketDevice {
    socket: PacketSocket,
    config: Packet,
    /// The longest packet that is sent there, in bytes, if not as long as the interface takes.
    mtu: Option<u32>,
    /// Where the interface is a TAP that another process holds.
    #[expect(dead_code, reason = "held for as long as the port is there")]
    silence: Option<Silence>,
}

impl PacketDevice {
    /// Opens the interface's network side.
    pub(super) fn open(config: &Packet, mtu: Option<u32>, queues: usize) -> Result<PacketDevice, PacketError> {
        let socket = PacketSocket::open(&PacketSpec {
            interface: config.interface.clone(),
            queues,
            promiscuous: true,
            own_macs: Vec::new(),
            filter: None,
            old_kernel: false,
        })?;
        let silence = silence(&config.interface);
        Ok(PacketDevice { socket, config: config.clone(), mtu, silence })
    }
}

/// What is needed to look at an interface.
#[derive(Debug)]
pub(crate) struct WatchedInterface {
    name: String,
    index: u32,
    mtu: Option<u32>,
    is_gone: bool,
}

impl PacketDevice {
    fn interface(&self) -> WatchedInterface {
        let (index, is_gone) = (self.socket.index(), self.socket.is_gone());
        WatchedInterface { name: self.config.interface.clone(), index, mtu: self.mtu, is_gone }
    }
}

impl WatchedInterface {
    /// The link state. A TAP that no process holds has no carrier.
    pub(super) fn state(&self) -> io::Result<Option<LinkState>> {
        match link::get(&self.name) {
            _ if self.is_gone => Ok(None),
            Ok(link) if link.index == self.index => {
                Ok(Some(LinkState { up: link.carrier, mtu: self.mtu.unwrap_or(u32::MAX).min(link.mtu), name: link.name }))
            }
            // Another of that name: ours is called otherwise now.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl PortDevice for PacketDevice {
    fn ends(&mut self, id: PortId, worker: usize, workers: &Workers) -> (Option<Source>, Sink) {
        let rx = workers.queue_to_read(self.socket.queues(), id, worker).map(|queue| Source::Port(PortReader::Packet(queue)));
        (rx, Sink::Port(PortWriter::Packet(self.socket.writer().clone())))
    }

    fn state(&self) -> io::Result<Option<LinkState>> {
        self.interface().state()
    }

    fn watched(&self) -> Option<Watched> {
        Some(Watched::Interface(self.interface()))
    }

    fn set_mtu(&mut self, mtu: u32) -> io::Result<()> {
        self.mtu = Some(mtu);
        Ok(())
    }

    fn own_mtu(&self, _: &LinkState) -> u32 {
        self.mtu.unwrap_or(u32::MAX)
    }

    /// The interface's own MTU, which applies unless the port has a smaller one.
    fn usual_mtu(&self) -> u32 {
        u32::MAX
    }

    fn features(&self) -> Features {
        // The kernel does whatever the interface cannot.
        if self.config.offload { Features::ALL } else { Features::NONE }
    }

    fn summary(&self) -> String {
        format!("{}, beside the host on {}", offload_text(self.features(), &[]), self.config.interface)
    }

    fn rx_queue(&self) -> Option<u64> {
        Some(self.socket.queues().iter().filter_map(|queue| receive_queue(queue).ok()).map(u64::from).sum())
    }

    fn dropped(&mut self) -> u64 {
        self.socket.statistics().dropped
    }

    /// A monitor's TAP that was joined at its network side is joined there again. If the daemon took its user side while the
    /// monitor is away, the monitor could not open it again.
    fn reopened_as(&self) -> Option<PortKind> {
        Some(PortKind::Packet(self.config.clone()))
    }
}

/// Keeps the host's network stack silent on a TAP, whose link belongs to a guest.
fn silence(interface: &str) -> Option<Silence> {
    if !link::get(interface).is_ok_and(|link| link.is_tun) {
        return None;
    }
    match Silence::of(interface) {
        Ok(Some(silence)) => return Some(silence),
        Ok(None) => tracing::warn!(
            interface,
            "this interface has an IPv4 address of the host's, so the host answers there beside the bridge; remove the address if \
             it should not"
        ),
        Err(error) => tracing::warn!(interface, %error, "cannot keep the host's stack from sending by this interface"),
    }
    None
}
