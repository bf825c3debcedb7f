//! What a worker writes to: each port's far side, as the kernel has it.

use std::io::IoSlice;

use netio::packet_socket::{Sender, Writer};
use netio::tap;
use rustix::io::Errno;
use vswitch::{DropReason, PortId, SendError, Transmit};

/// A descriptor to write frames to.
#[derive(Clone, Debug)]
pub(crate) enum Sink {
    Tap(tap::Queue),
    Uplink(Writer),
}

impl Sink {
    #[inline]
    fn send(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        match self {
            Sink::Tap(queue) => queue.send(pieces),
            Sink::Uplink(writer) => writer.send(pieces),
        }
    }
}

/// Where a worker's frames go.
pub(super) struct Output<'a> {
    pub(super) writers: &'a [Option<Sink>],
    pub(super) sender: &'a mut Sender,
}

impl Transmit for Output<'_> {
    #[inline]
    fn send(&mut self, port: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
        let Some(sink) = &self.writers[port.index()] else { return Err(SendError::Drop(DropReason::PortGone)) };
        sink.send(pieces).map_err(name)
    }

    fn send_many(&mut self, port: PortId, frames: &[IoSlice<'_>], mut sent: impl FnMut(Result<(), SendError>)) {
        let Some(Sink::Uplink(writer)) = &self.writers[port.index()] else {
            frames.iter().for_each(|frame| sent(self.send(port, std::slice::from_ref(frame))));
            return;
        };
        let mut burst = self.sender.burst(writer);
        for frame in frames {
            if !burst.push(frame) {
                burst.flush(|result| sent(result.map_err(name)));
                let _ = burst.push(frame);
            }
        }
        burst.flush(|result| sent(result.map_err(name)));
    }
}

/// Names what the kernel says against a write.
fn name(errno: Errno) -> SendError {
    match errno {
        Errno::INVAL => SendError::Invalid,
        Errno::IO | Errno::NETDOWN => SendError::Drop(DropReason::PortDown),
        Errno::BADFD | Errno::NXIO => SendError::Drop(DropReason::PortGone),
        Errno::MSGSIZE => SendError::Drop(DropReason::TooLong),
        Errno::AGAIN | Errno::NOBUFS => SendError::Drop(DropReason::QueueFull),
        _ => SendError::Drop(DropReason::WriteFailed),
    }
}
