//! What a worker writes frames to, of each kind of port.

use std::io::IoSlice;

use std::net::SocketAddr;

use netio::packet_socket::Sender;
use netio::{PortWriter, udp};
use rustix::io::Errno;
use tunnel::{Train, Trains};
use vswitch::{DropReason, PortId, SendError, Transmit};

/// A descriptor to write frames to.
#[derive(Clone, Debug)]
pub(crate) enum Sink {
    Port(PortWriter),
    Peer(PeerSink),
}

/// A host at the other end of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct PeerSink {
    pub(crate) to: SocketAddr,
    /// Sockets for datagrams that must not be fragmented on their way.
    pub(crate) whole: udp::Writer,
    /// Sockets for datagrams that may be fragmented.
    pub(crate) cut: udp::Writer,
}

impl Sink {
    #[inline]
    fn send(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        match self {
            Sink::Port(writer) => writer.send(pieces),
            // Frames for a peer are sent in datagrams, by `send_trains`.
            Sink::Peer(_) => Err(Errno::INVAL),
        }
    }
}

/// Where a worker's frames go, with the buffers for sending them.
pub(super) struct Outputs {
    /// By port.
    pub(super) sinks: Vec<Option<Sink>>,
    frames: Sender,
    datagrams: udp::Sender,
}

impl Outputs {
    /// For no port yet.
    pub(super) fn new() -> Outputs {
        Outputs { sinks: Vec::new(), frames: Sender::new(), datagrams: udp::Sender::new() }
    }
}

impl Outputs {
    /// Sends what a port's socket did not take before. That its far side is gone is found by the worker that reads it.
    #[cold]
    pub(super) fn flush(&self, port: PortId) {
        if let Some(Sink::Port(writer)) = &self.sinks[port.index()] {
            let _ = writer.flush();
        }
    }
}

impl Transmit for &mut Outputs {
    #[inline]
    fn send(&mut self, port: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
        let Some(sink) = &self.sinks[port.index()] else { return Err(SendError::Drop(DropReason::PortGone)) };
        sink.send(pieces).map_err(name)
    }

    fn send_many(&mut self, port: PortId, frames: &[IoSlice<'_>], mut sent: impl FnMut(Result<(), SendError>)) {
        match &self.sinks[port.index()] {
            Some(Sink::Port(writer)) => writer.send_many(&mut self.frames, frames, |result| sent(result.map_err(name))),
            _ => frames.iter().for_each(|frame| sent(self.send(port, std::slice::from_ref(frame)))),
        }
    }

    fn send_trains(&mut self, trains: &Trains, arena: &[u8], mut sent: impl FnMut(&Train, Result<(), SendError>)) {
        let mut rest = trains.trains();
        while let Some(first) = rest.first() {
            let Some(Some(Sink::Peer(sink))) = self.sinks.get(usize::from(first.outer.port)) else {
                sent(first, Err(SendError::Drop(DropReason::PortGone)));
                rest = &rest[1..];
                continue;
            };
            let writer = sink.writer(first);
            let mut burst = self.datagrams.burst(writer);
            let mut collected = 0;
            for train in rest {
                let Some(Some(Sink::Peer(sink))) = self.sinks.get(usize::from(train.outer.port)) else { break };
                if !sink.writer(train).is_same(writer) || !burst.push(&sink.outgoing(train), trains.pieces(train, arena)) {
                    break;
                }
                collected += 1;
            }
            burst.flush(|index, result| sent(&rest[index], result.map_err(name_datagram)));
            rest = &rest[collected..];
        }
    }
}

impl PeerSink {
    #[inline]
    fn writer(&self, train: &Train) -> &udp::Writer {
        if train.outer.dont_fragment { &self.whole } else { &self.cut }
    }

    #[inline]
    fn outgoing(&self, train: &Train) -> udp::Outgoing {
        udp::Outgoing {
            to: self.to,
            source: train.outer.source,
            tos: train.outer.tos,
            ttl: train.outer.ttl,
            segment_size: if train.datagrams > 1 { train.size } else { 0 },
        }
    }
}

/// The drop reason for the kernel's error about a datagram.
fn name_datagram(errno: Errno) -> SendError {
    SendError::Drop(match errno {
        Errno::NETUNREACH
        | Errno::HOSTUNREACH
        | Errno::CONNREFUSED
        | Errno::ACCESS
        | Errno::PERM
        | Errno::INVAL
        | Errno::ADDRNOTAVAIL => DropReason::PeerUnreachable,
        Errno::NETDOWN | Errno::NODEV | Errno::NXIO => DropReason::PortDown,
        Errno::MSGSIZE => DropReason::TooLong,
        Errno::AGAIN | Errno::NOBUFS => DropReason::QueueFull,
        _ => DropReason::WriteFailed,
    })
}

/// The drop reason for the kernel's error about a write.
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
