//! A guest's connection: frames in a stream, each behind its length.

use std::io;

use config::Port;
use netio::backlog::unread;
use netio::guest::{MAX_BACKLOG, Stream, StreamReader, StreamWriter};
use netio::{LinkState, PortReader, PortWriter};
use vswitch::PortId;

use super::{Device, DeviceError, PortDevice, always_up};
use crate::fabric::Workers;
use crate::model::guest_address;
use crate::worker::{Sink, Source};

/// A guest's connection.
#[derive(Debug)]
struct StreamDevice {
    link: LinkState,
    /// The receiving half, until a worker gets it.
    reader: Option<StreamReader>,
    writer: StreamWriter,
}

/// Connects to a guest. `None`: the connection is on its way, and is kept in `pending` for the next time.
pub(super) fn open(
    stream: &config::port::Stream,
    config: &Port,
    pending: &mut Option<Stream>,
) -> Result<Option<Device>, DeviceError> {
    let failed = |error| DeviceError::NoGuest { address: stream.address.to_string(), error };
    let connection = pending.take().map_or_else(|| Stream::connect(&guest_address(&stream.address)), Ok).map_err(failed)?;
    if !connection.is_connected().map_err(failed)? {
        *pending = Some(connection);
        return Ok(None);
    }
    Ok(Some(connected(connection, config)))
}

/// A guest that is connected.
pub(crate) fn connected(stream: Stream, config: &Port) -> Device {
    let (reader, writer) = stream.split();
    Box::new(StreamDevice { link: always_up(config), reader: Some(reader), writer })
}

impl PortDevice for StreamDevice {
    fn ends(&mut self, id: PortId, worker: usize, workers: &Workers) -> (Option<Source>, Sink) {
        let rx = self.reader.take_if(|_| workers.reads(id, worker)).map(|reader| Source::Port(PortReader::Stream(reader)));
        (rx, Sink::Port(PortWriter::Stream(self.writer.clone())))
    }

    /// That a guest is gone is found by the worker that reads.
    fn state(&self) -> io::Result<Option<LinkState>> {
        Ok(Some(self.link.clone()))
    }

    fn set_mtu(&mut self, mtu: u32) -> io::Result<()> {
        self.link.mtu = mtu;
        Ok(())
    }

    fn summary(&self) -> String {
        "plain frames in a stream".to_owned()
    }

    fn rx_queue(&self) -> Option<u64> {
        unread(&self.writer).ok()
    }

    fn tx_queue(&self) -> Option<(u64, u64)> {
        Some((self.writer.backlog() as u64, MAX_BACKLOG as u64))
    }

    fn is_connection(&self) -> bool {
        true
    }
}
