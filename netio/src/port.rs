//! One way to receive and to send, for all kinds of ports.
//!
//! The kinds differ in their system calls and in where frames are received: a TAP and a stream append frames of any length to
//! a batch, while packet and datagram sockets fill the slots of a strided batch with one call. A further kind of port is a
//! file of its own and an arm in each function below.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

use packet::Batch;
use rustix::io::Errno;

use crate::guest::{DgramQueue, DgramReceiver, StreamReader, StreamWriter};
use crate::tap::Received;
use crate::{packet_socket, tap};

/// The receiving side of a port, used by one worker.
#[derive(Debug)]
pub enum PortReader {
    /// A queue of a TAP or TUN device.
    Tap(tap::Queue),
    /// A packet socket.
    Packet(packet_socket::Queue),
    /// The stream of a guest.
    Stream(StreamReader),
    /// The datagram socket of a guest.
    Dgram(DgramQueue),
}

/// The sending side of a port, shared by workers.
#[derive(Clone, Debug)]
pub enum PortWriter {
    /// A queue of a TAP or TUN device.
    Tap(tap::Queue),
    /// A packet socket.
    Packet(packet_socket::Writer),
    /// The stream of a guest.
    Stream(StreamWriter),
    /// The datagram socket of a guest.
    Dgram(DgramQueue),
}

/// The receive buffers of one worker, allocated once.
#[derive(Debug)]
pub struct RxBuffers {
    /// Frames of any length, one behind the other.
    pub batch: Batch,
    /// Slots for the frames of one recvmmsg(2).
    slots: Batch,
    packets: packet_socket::Receiver,
    datagrams: DgramReceiver,
}

impl RxBuffers {
    /// Allocates the buffers. Packet and datagram sockets receive at most `burst` frames per system call.
    #[must_use]
    pub fn new(burst: usize) -> RxBuffers {
        RxBuffers {
            batch: Batch::new(),
            slots: Batch::strided(burst),
            packets: packet_socket::Receiver::new(),
            datagrams: DgramReceiver::new(),
        }
    }
}

impl PortReader {
    /// Receives at most `most` frames into one of the batches, whose earlier contents are discarded, and returns that batch.
    #[inline]
    pub fn recv<'b>(&mut self, buffers: &'b mut RxBuffers, most: usize) -> (Received, &'b mut Batch) {
        let RxBuffers { batch, slots, packets, datagrams } = buffers;
        match self {
            PortReader::Tap(queue) => {
                batch.clear_for(most);
                (queue.recv(batch), batch)
            }
            PortReader::Packet(queue) => {
                let received = packets.recv(queue, slots.slots().take(most));
                slots.commit_all(packets.frames());
                (received, slots)
            }
            PortReader::Stream(reader) => {
                batch.clear_for(most);
                (reader.recv(batch), batch)
            }
            PortReader::Dgram(queue) => (queue.recv(datagrams, slots, most), slots),
        }
    }

    /// Whether its batches have slots: it reads from a socket that keeps frames apart.
    #[inline]
    #[must_use]
    pub fn is_strided(&self) -> bool {
        matches!(self, PortReader::Packet(_) | PortReader::Dgram(_))
    }

    /// True if frames have been read that did not fit into the batch: call [`recv`](Self::recv) again, as no poller reports
    /// them.
    #[inline]
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        match self {
            PortReader::Stream(reader) => reader.has_buffered(),
            PortReader::Tap(_) | PortReader::Packet(_) | PortReader::Dgram(_) => false,
        }
    }
}

impl AsFd for PortReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            PortReader::Tap(queue) => queue.as_fd(),
            PortReader::Packet(queue) => queue.as_fd(),
            PortReader::Stream(reader) => reader.as_fd(),
            PortReader::Dgram(queue) => queue.as_fd(),
        }
    }
}

impl PortWriter {
    /// Sends one frame or super-frame in one system call. The first piece contains the whole virtio-net header. For the errors
    /// see the kinds.
    #[inline]
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        match self {
            PortWriter::Tap(queue) => queue.send(pieces),
            PortWriter::Packet(writer) => writer.send(pieces),
            PortWriter::Stream(writer) => writer.send(pieces),
            PortWriter::Dgram(queue) => queue.send(pieces),
        }
    }

    /// Sends many frames, each with its virtio-net header first, in as few system calls as the kind permits, and calls `sent`
    /// with the result of each, in order.
    pub fn send_many(&self, sender: &mut packet_socket::Sender, frames: &[IoSlice<'_>], mut sent: impl FnMut(Result<(), Errno>)) {
        match self {
            PortWriter::Tap(queue) => frames.iter().for_each(|frame| sent(queue.send(std::slice::from_ref(frame)))),
            PortWriter::Packet(writer) => {
                let mut burst = sender.burst(writer);
                for frame in frames {
                    if !burst.push(frame) {
                        burst.flush(&mut sent);
                        let _ = burst.push(frame);
                    }
                }
                burst.flush(sent);
            }
            PortWriter::Stream(writer) => writer.send_many(frames, sent),
            PortWriter::Dgram(queue) => queue.send_many(frames, sent),
        }
    }

    /// Sends the backlog of a stream, as far as its socket takes it. Other kinds have none.
    pub fn flush(&self) -> Result<(), Errno> {
        match self {
            PortWriter::Stream(writer) => writer.flush(),
            PortWriter::Tap(_) | PortWriter::Packet(_) | PortWriter::Dgram(_) => Ok(()),
        }
    }
}
