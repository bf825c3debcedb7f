//! What a worker receives frames from.

use std::os::fd::{AsFd, BorrowedFd};

use netio::PortReader;

use super::underlay::DatagramSource;

/// A descriptor to receive from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A port of a bridge, an uplink or a TUN device.
    Port(PortReader),
    /// A socket that receives the datagrams of tunnels.
    Datagrams(DatagramSource),
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Port(reader) => reader.as_fd(),
            Source::Datagrams(source) => source.queue.as_fd(),
        }
    }
}
