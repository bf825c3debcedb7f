//! What a worker reads frames from, of each kind of port.

use std::os::fd::{AsFd, BorrowedFd};

use netio::guest::{DgramQueue, StreamReader};
use netio::{packet_socket, tap};

use super::underlay::DatagramSource;

/// A descriptor to read frames from.
#[derive(Debug)]
pub(crate) enum Source {
    Tap(tap::Queue),
    Packet(packet_socket::Queue),
    Datagrams(DatagramSource),
    Stream(StreamReader),
    Dgram(DgramQueue),
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Tap(queue) => queue.as_fd(),
            Source::Packet(queue) => queue.as_fd(),
            Source::Datagrams(source) => source.queue.as_fd(),
            Source::Stream(reader) => reader.as_fd(),
            Source::Dgram(queue) => queue.as_fd(),
        }
    }
}
