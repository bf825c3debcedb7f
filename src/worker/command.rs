//! What the control thread and a worker send each other.

use std::sync::Arc;

use capture::Probe;
use netio::{PortReader, PortWriter, udp};
use vswitch::{
    BridgeId, IpTunnel, MacTable, Neighbours, NewSource, Pipeline, Port, PortId, ReceivingSocket, Router, Routing, Watch,
};

use super::output::Sink;
use super::source::Source;
use crate::service::Answers;

/// A command of the control thread, taken between two batches.
#[derive(Debug)]
pub(crate) enum Command {
    /// A port has a device, perhaps again.
    Attach {
        /// Its number.
        id: PortId,
        /// Which of its devices this is.
        attachment: u64,
        /// Its configuration for the pipeline.
        port: Box<Port>,
        /// To be read by this worker.
        rx: Option<Source>,
        /// To be written.
        tx: Sink,
    },
    /// A tunnel's receiving socket is new, or its peers have changed.
    ReceivingSocket {
        /// Its number among the ports.
        id: PortId,
        /// Its configuration for the pipeline.
        socket: ReceivingSocket,
        /// The longest packet in its datagrams.
        mtu: u32,
        /// The socket, if this worker reads it from now on; `None` leaves readers as they are.
        rx: Option<udp::Queue>,
    },
    /// A port is a TUN device, or leads to a host behind one.
    IpTunnel {
        /// Its number.
        id: PortId,
        /// The tunnel.
        tunnel: Arc<IpTunnel>,
    },
    /// A port's configuration has changed; it keeps its device.
    View {
        /// Its number.
        id: PortId,
        /// Its configuration for the pipeline.
        port: Box<Port>,
    },
    /// A port's device is gone.
    Detach(PortId),
    /// A port or a receiving socket is removed.
    Remove(PortId),
    /// A bridge is added, gets another MAC table, or with `None` is removed.
    Bridge {
        /// Its number.
        id: BridgeId,
        /// Its table.
        table: Option<Arc<MacTable>>,
    },
    /// The switch has its first gateway: it routes from now on, between its networks.
    Router {
        /// The networks.
        routing: Arc<Routing>,
        /// Shared with the other workers.
        neighbours: Arc<Neighbours>,
        /// Whether this worker polls the router for what is due by time.
        polls: bool,
    },
    /// The router's networks or its way out have changed.
    Route(Arc<Routing>),
    /// A port's MTU changed.
    Mtu {
        /// Its number.
        id: PortId,
        /// Its MTU now, in bytes.
        mtu: u32,
    },
    /// The live traces from now on; `None` if there are none.
    Watch(Option<Box<Watch>>),
    /// Answered with [`Event::Obeyed`] and the same number, once all commands before it have been obeyed.
    Barrier(u64),
    /// Answered by counting down, to show that the worker still takes commands.
    Answer(Answers),
    /// A capture begins; this is the worker's part of it.
    BeginCapture(Option<Box<Probe>>),
    /// The capture of this number ends.
    EndCapture(u64),
    /// The end.
    Stop,
}

/// An event that a worker reports to the control thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// A port's device is gone.
    Gone {
        /// The port.
        id: PortId,
        /// Which of its devices.
        attachment: u64,
    },
    /// A queue that this worker does not use any more. Closing the last descriptor of a device waits for the
    /// kernel's configuration lock, so workers leave that to the control thread.
    Released(Released),
    /// A host sent to a multicast group and is believed, but has no port yet.
    NewSource(NewSource),
    /// All commands before this [`Command::Barrier`] have been obeyed.
    Obeyed(u64),
    /// The worker panicked, and goes on with the next batch.
    Panicked,
}

/// What a worker does not use any more, to be dropped by the control thread.
#[derive(Debug)]
pub(crate) enum Released {
    Source(Source),
    Sink(Sink),
    /// The MAC table of a bridge.
    MacTable(#[expect(dead_code, reason = "held to be dropped elsewhere")] Arc<MacTable>),
    /// What a worker had of a capture.
    Probe(#[expect(dead_code, reason = "held to be dropped elsewhere")] Box<Probe>),
    /// What it had of live traces.
    Watch(#[expect(dead_code, reason = "held to be dropped elsewhere")] Box<Watch>),
}

impl Released {
    /// Whether to drop it may wait for the kernel.
    pub(crate) fn is_of_device(&self) -> bool {
        match self {
            Released::Source(Source::Port(PortReader::Tap(_) | PortReader::Packet(_))) => true,
            Released::Sink(Sink::Port(PortWriter::Tap(_) | PortWriter::Packet(_))) => true,
            Released::Source(_) | Released::Sink(_) | Released::MacTable(_) | Released::Probe(_) | Released::Watch(_) => false,
        }
    }
}

impl Command {
    /// The port, or the receiving socket, that the command is about.
    pub(crate) fn port(&self) -> Option<PortId> {
        match self {
            Command::Attach { id, .. }
            | Command::ReceivingSocket { id, .. }
            | Command::IpTunnel { id, .. }
            | Command::View { id, .. }
            | Command::Mtu { id, .. }
            | Command::Detach(id)
            | Command::Remove(id) => Some(*id),
            Command::Bridge { .. } | Command::Router { .. } | Command::Route(_) => None,
            Command::BeginCapture(_) | Command::EndCapture(_) | Command::Watch(_) => None,
            Command::Barrier(_) | Command::Answer(_) | Command::Stop => None,
        }
    }

    /// Applies the command to a pipeline, as far as it is about the pipeline's configuration: the same for workers and for the
    /// rehearsal, which has no devices. Returns the MAC table that it replaced, whose memory the control thread frees.
    pub(crate) fn configure(&self, pipeline: &mut Pipeline) -> Option<Arc<MacTable>> {
        match self {
            Command::Attach { id, port, .. } | Command::View { id, port } => pipeline.set_port(*id, Some((**port).clone())),
            Command::ReceivingSocket { id, socket, .. } => pipeline.set_receiving_socket(*id, Some(socket.clone())),
            Command::IpTunnel { id, tunnel } => pipeline.set_ip_tunnel(*id, Some(Arc::clone(tunnel))),
            Command::Detach(id) => pipeline.set_port(*id, None),
            Command::Remove(id) => {
                pipeline.set_port(*id, None);
                pipeline.set_receiving_socket(*id, None);
                pipeline.set_ip_tunnel(*id, None);
            }
            Command::Bridge { id, table } => return pipeline.set_bridge(*id, table.clone()),
            Command::Router { routing, neighbours, .. } => {
                pipeline.set_router(Router::new(Arc::clone(routing), None, Arc::clone(neighbours)));
            }
            Command::Route(routing) => pipeline.set_routing(Arc::clone(routing)),
            Command::Mtu { id, mtu } => {
                if let Some(port) = pipeline.port_mut(*id) {
                    port.mtu = *mtu;
                }
            }
            // Observers of real frames, and messages to the worker itself.
            Command::BeginCapture(_) | Command::EndCapture(_) | Command::Watch(_) => {}
            Command::Barrier(_) | Command::Answer(_) | Command::Stop => {}
        }
        None
    }
}
