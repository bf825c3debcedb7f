//! Commands of the control thread, taken between two batches.

use super::command::{Command, Event, Released};
use super::output::Sink;
use super::rests::Left;
use super::source::Source;
use super::underlay::DatagramSource;
use super::{CAN_WRITE, Reader, Worker};
use crate::service;
use netio::{PortReader, PortWriter, udp};
use tunnel::FramingKind;
use vswitch::PortId;

impl Worker {
    /// Takes all commands that have arrived.
    #[cold]
    pub(super) fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            if let Some(id) = command.port() {
                self.make_room(id);
            }
            if let Some(before) = command.configure(&mut self.pipeline) {
                self.tell(Event::Released(Released::MacTable(before)));
            }
            self.execute(command);
        }
    }

    /// Allocates what a port needs, before the first frame that comes or goes through it.
    pub(super) fn make_room(&mut self, id: PortId) {
        let ports = id.index() + 1;
        if ports > self.readers.len() {
            self.readers.resize_with(ports, || None);
            self.outputs.sinks.resize(ports, None);
            self.turns.make_room(ports);
            self.pauses.make_room(ports);
            for list in [&mut self.ready, &mut self.unfinished, &mut self.writable] {
                list.reserve(ports - list.len().min(ports));
            }
        }
        self.egress.make_room(id);
    }

    /// The part of a command that is not about the pipeline's configuration: devices, observers, and the worker itself.
    fn execute(&mut self, command: Command) {
        match command {
            Command::Attach { id, attachment, port, rx, tx } => {
                self.turns.set_network(id, port.leads_to_network());
                self.attach(id, attachment, rx, tx);
            }
            Command::View { id, port } => self.turns.set_network(id, port.leads_to_network()),
            Command::ReceivingSocket { id, socket, mtu, rx } => self.receive_datagrams(id, socket.framing, mtu, rx),
            Command::Detach(id) => {
                self.stop_reading(id);
                self.write_to(id, None);
            }
            Command::Remove(id) => {
                self.stop_reading(id);
                self.write_to(id, None);
                self.egress.remove(id);
            }
            Command::Router { polls, .. } => self.next_poll = polls.then(|| self.clock.now()),
            Command::IpTunnel { .. } | Command::Bridge { .. } => {}
            Command::Route(_) | Command::Mtu { .. } => {}
            Command::Watch(watch) => {
                if let Some(watch) = self.pipeline.set_watch(watch) {
                    self.tell(Event::Released(Released::Watch(watch)));
                }
            }
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
            Command::Barrier(number) => self.tell(Event::Obeyed(number)),
            Command::Answer(answers) => service::answer(&answers),
            Command::Stop => self.stopped = true,
        }
    }

    fn attach(&mut self, id: PortId, attachment: u64, rx: Option<Source>, tx: Sink) {
        self.stop_reading(id);
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

    fn receive_datagrams(&mut self, id: PortId, framing: FramingKind, mtu: u32, rx: Option<udp::Queue>) {
        if let Some(queue) = rx {
            let source = Source::Datagrams(DatagramSource { queue, framing, mtu });
            self.stop_reading(id);
            self.turns.set_network(id, true);
            self.start_reading(id, Reader { source, attachment: 0 });
        } else if let Some(Reader { source: Source::Datagrams(source), .. }) = &mut self.readers[id.index()] {
            source.mtu = mtu;
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

    /// Drops the frames of a port that were read already, because it is removed or leads to somebody else.
    fn discard_rest(&mut self, id: PortId) {
        match (self.rests.get_mut(id), &self.readers[id.index()]) {
            (Some(Left::Frames { batch, next }), _) => self.pipeline.discard(id, batch, *next),
            (Some(Left::Datagrams(underlay)), Some(Reader { source: Source::Datagrams(source), .. })) => {
                underlay.discard(id, source, &mut self.pipeline);
            }
            _ => return,
        }
        self.rests.release(id);
    }

    pub(super) fn stop_reading(&mut self, id: PortId) {
        self.pauses.forget(id);
        self.discard_rest(id);
        if let Some(Reader { source, .. }) = self.readers[id.index()].take() {
            // The descriptor may live on in other workers' hands, so it would not leave by itself.
            let _ = self.poller.remove(&source);
            self.tell(Event::Released(Released::Source(source)));
        }
    }
}
