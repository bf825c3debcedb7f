//! Commands of the control thread, taken between two batches.

use super::command::{Command, Event, Released};
use super::output::Sink;
use super::source::Source;
use super::underlay::DatagramSource;
use super::{CAN_WRITE, Reader, Worker};
use crate::service;
use netio::{PortReader, PortWriter};
use vswitch::{PortId, Router};

impl Worker {
    /// Takes all commands that have arrived.
    #[cold]
    pub(super) fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { id, attachment, port, rx, tx } => {
                    self.stop_reading(id);
                    self.turns.set_network(id, port.leads_to_network());
                    self.pipeline.set_port(id, Some(*port));
                    if let (Some(Source::Port(PortReader::Stream(_))), Sink::Port(PortWriter::Stream(writer))) = (&rx, &tx)
                        && let Err(error) = writer.watch(&self.poller, u64::from(id.0) | CAN_WRITE)
                    {
                        tracing::warn!(number = id.0, %error, "cannot wait for a guest's socket; what is left for it leaves with later frames only");
                    }
                    self.write_to(id, Some(tx));
                    if let Some(source) = rx {
                        self.start_reading(id, Reader { source, attachment });
                    }
                }
                Command::ReceivingSocket { id, socket, mtu, rx } => {
                    let framing = socket.framing;
                    self.pipeline.set_receiving_socket(id, Some(socket));
                    if let Some(queue) = rx {
                        let source = Source::Datagrams(DatagramSource { queue, framing, mtu });
                        self.stop_reading(id);
                        self.turns.set_network(id, true);
                        self.start_reading(id, Reader { source, attachment: 0 });
                    } else if let Some(Reader { source: Source::Datagrams(source), .. }) = &mut self.readers[id.index()] {
                        source.mtu = mtu;
                    }
                }
                Command::IpTunnel { id, tunnel } => self.pipeline.set_ip_tunnel(id, Some(tunnel)),
                Command::View { id, port } => {
                    self.turns.set_network(id, port.leads_to_network());
                    self.pipeline.set_port(id, Some(*port));
                }
                Command::Detach(id) => {
                    self.stop_reading(id);
                    self.pipeline.set_port(id, None);
                    self.write_to(id, None);
                }
                Command::Remove(id) => {
                    self.stop_reading(id);
                    self.pipeline.set_port(id, None);
                    self.pipeline.set_receiving_socket(id, None);
                    self.pipeline.set_ip_tunnel(id, None);
                    self.write_to(id, None);
                }
                Command::Bridge { id, table } => {
                    if let Some(before) = self.pipeline.set_bridge(id, table) {
                        self.tell(Event::Released(Released::MacTable(before)));
                    }
                }
                Command::Router { routing, neighbours, polls } => {
                    self.pipeline.set_router(Router::new(routing, None, neighbours));
                    self.next_poll = polls.then(|| self.clock.now());
                }
                Command::Route(routing) => self.pipeline.set_routing(routing),
                Command::Mtu { id, mtu } => {
                    if let Some(port) = self.pipeline.port_mut(id) {
                        port.mtu = mtu;
                    }
                }
                Command::Watch(watch) => {
                    if let Some(watch) = self.pipeline.set_watch(watch) {
                        self.tell(Event::Released(Released::Watch(watch)));
                    }
                }
                Command::Barrier(number) => self.tell(Event::Obeyed(number)),
                Command::Answer(answers) => service::answer(&answers),
                Command::BeginCapture(probe) => {
                    if let Some(Err(probe)) = probe.map(|probe| self.pipeline.begin_capture(probe)) {
                        self.tell(Event::Released(Released::Probe(probe)));
                    }
                }
                Command::EndCapture(id) => {
                    if let Some(probe) = self.pipeline.end_capture(id) {
                        self.tell(Event::Released(Released::Probe(Box::new(probe))));
                    }
                }
                Command::Stop => self.stopped = true,
            }
        }
    }

    fn start_reading(&mut self, id: PortId, reader: Reader) {
        let attachment = reader.attachment;
        let added = self.poller.add(&reader.source, u64::from(id.0));
        self.readers[id.index()] = Some(reader);
        if let Err(error) = added {
            tracing::error!(number = id.0, %error, "cannot wait for a port's frames");
            self.tell(Event::Gone { id, attachment });
        }
    }

    fn write_to(&mut self, id: PortId, sink: Option<Sink>) {
        if let Some(old) = std::mem::replace(&mut self.outputs.sinks[id.index()], sink) {
            self.tell(Event::Released(Released::Sink(old)));
        }
    }

    pub(super) fn stop_reading(&mut self, id: PortId) {
        self.pauses.forget(id);
        self.rests.release(id);
        if let Some(Reader { source, .. }) = self.readers[id.index()].take() {
            // The descriptor may live on in other workers' hands, so it would not leave by itself.
            let _ = self.poller.remove(&source);
            self.tell(Event::Released(Released::Source(source)));
        }
    }
}
