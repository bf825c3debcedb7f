//! A socket of datagrams to a guest: a frame in each.

use std::cell::Cell;
use std::io;

use config::Port;
use netio::guest::{Dgram, Refusal};
use netio::{LinkState, PortReader, PortWriter};
use vswitch::PortId;

use super::{Device, DeviceError, PortDevice, always_up};
use crate::fabric::Workers;
use crate::worker::{Sink, Source};

/// A socket of datagrams.
#[derive(Debug)]
struct DgramDevice {
    link: LinkState,
    socket: Dgram,
    /// Why the guest's name was not taken, as last told.
    told: Cell<Option<Refusal>>,
}

/// Opens the socket.
pub(super) fn open(dgram: &config::port::Dgram, config: &Port) -> Result<Device, DeviceError> {
    let socket = Dgram::open(&dgram.path, dgram.remote.as_deref())?;
    Ok(Box::new(DgramDevice { link: always_up(config), socket, told: Cell::new(None) }))
}

impl PortDevice for DgramDevice {
    fn ends(&mut self, id: PortId, worker: usize, workers: &Workers) -> (Option<Source>, Sink) {
        let queue = self.socket.queue();
        let rx = workers.reads(id, worker).then(|| Source::Port(PortReader::Dgram(queue.clone())));
        (rx, Sink::Port(PortWriter::Dgram(queue.clone())))
    }

    fn state(&self) -> io::Result<Option<LinkState>> {
        let refusal = self.socket.queue().refusal();
        if self.told.replace(refusal) != refusal
            && let Some(refusal) = refusal
        {
            tracing::warn!(port = self.link.name, "frames are not sent to the guest: {refusal}");
        }
        Ok(Some(self.link.clone()))
    }

    fn set_mtu(&mut self, mtu: u32) -> io::Result<()> {
        self.link.mtu = mtu;
        Ok(())
    }

    fn summary(&self) -> String {
        match self.socket.queue().refusal() {
            Some(refusal) => format!("one plain frame per datagram; none is sent: {refusal}"),
            None => "one plain frame per datagram".to_owned(),
        }
    }
}
