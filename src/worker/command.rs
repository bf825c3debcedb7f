//! What the control thread and a worker send each other.

use std::sync::Arc;

use capture::Probe;
use netio::udp;
use vswitch::{Endpoint, IpTunnel, NewSource, Pipeline, Port, PortId, Routing, Watch};

use super::output::Sink;
use super::source::Source;
use crate::service::Answers;

/// A command of the control thread, taken between two batches.
#[derive(Debug)]
pub(crate) enum Command {
    /// A port is there, or there again.
    Attach {
        /// Its number.
        id: PortId,
        /// Which of its devices this is.
        attachment: u64,
        /// What the pipeline is to know of it.
        port: Box<Port>,
        /// To be read by this worker.
        rx: Option<Source>,
        /// To be written.
        tx: Sink,
    },
    /// A socket that receives datagrams is there, or its peers are others now.
    Endpoint {
        /// Its number among the ports.
        id: PortId,
        /// What the pipeline is to know of it.
        endpoint: Endpoint,
        /// The longest packet in its datagrams.
        mtu: u32,
        /// To be read by this worker; `None`: it goes on reading what it reads.
        rx: Option<udp::Queue>,
    },
    /// A port is a TUN device, or leads to a host behind one.
    IpTunnel {
        /// Its number.
        id: PortId,
        /// The tunnel.
        tunnel: Arc<IpTunnel>,
    },
    /// A port is another now, with the device that it has.
    View {
        /// Its number.
        id: PortId,
        /// What the pipeline is to know of it.
        port: Box<Port>,
    },
    /// A port's device is gone.
    Detach(PortId),
    /// A port, or a socket that receives, is none any more.
    Remove(PortId),
    /// The router's networks, or its way out, are others now.
    Route(Arc<Routing>),
    /// A port's MTU changed.
    Mtu {
        /// Its number.
        id: PortId,
        /// Its MTU now, in bytes.
        mtu: u32,
    },
    /// These want to know what happens to which frames; `None`: nobody any more.
    Watch(Option<Box<Watch>>),
    /// To be answered with the same number, once all before it was obeyed.
    Barrier(u64),
    /// Does it still take commands? It is to say so.
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
    /// A queue that is not used here any more. Closing the last descriptor of a device waits for the
    /// kernel's configuration lock, which frames must not.
    Released(Released),
    /// A host spoke in a multicast group and is believed, but has no port yet.
    NewSource(NewSource),
    /// All that was told before this [`Command::Barrier`] was obeyed.
    Obeyed(u64),
    /// The worker panicked, and goes on with the next batch.
    Panicked,
}

/// What a worker does not use any more, to be dropped by the control thread.
#[derive(Debug)]
#[expect(dead_code, reason = "held to be dropped elsewhere")]
pub(crate) enum Released {
    Source(Source),
    Sink(Sink),
    /// What a worker had of a capture.
    Probe(Box<Probe>),
    /// What it had of live traces.
    Watch(Box<Watch>),
}

impl Command {
    /// Lets a pipeline that carries no frames know what those of workers will know.
    pub(crate) fn tell(&self, pipeline: &mut Pipeline) {
        match self {
            Command::Attach { id, port, .. } | Command::View { id, port } => pipeline.set_port(*id, Some((**port).clone())),
            Command::Endpoint { id, endpoint, .. } => pipeline.set_endpoint(*id, Some(endpoint.clone())),
            Command::IpTunnel { id, tunnel } => pipeline.set_ip_tunnel(*id, Some(Arc::clone(tunnel))),
            Command::Detach(id) => pipeline.set_port(*id, None),
            Command::Remove(id) => {
                pipeline.set_port(*id, None);
                pipeline.set_endpoint(*id, None);
                pipeline.set_ip_tunnel(*id, None);
            }
            Command::Route(routing) => pipeline.set_routing(Arc::clone(routing)),
            Command::Mtu { id, mtu } => {
                if let Some(port) = pipeline.port_mut(*id) {
                    port.mtu = *mtu;
                }
            }
            // Of frames that are real.
            Command::BeginCapture(_) | Command::EndCapture(_) => {}
            Command::Watch(_) | Command::Barrier(_) | Command::Answer(_) | Command::Stop => {}
        }
    }
}
