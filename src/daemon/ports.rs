//! The ports' part of the daemon: their devices go to the workers, and what became of them is looked at.

use netio::LinkState;
use vswitch::PortId;

use super::Daemon;
use crate::control_socket::What;
use crate::ports::device::Ends;
use crate::ports::{Found, ManagedPort};
use crate::worker::{Command, Sink, Source};

impl Daemon {
    pub(super) fn look_at_ports(&mut self) {
        for at in 0..self.ports.len() {
            self.look_at(at);
        }
    }

    pub(super) fn look_for_gone_ports(&mut self) {
        for at in 0..self.ports.len() {
            if self.ports[at].retry_at().is_some() {
                self.look_at(at);
            }
        }
    }

    pub(super) fn look_at(&mut self, at: usize) {
        let id = self.ports[at].id;
        match self.ports[at].look(self.clock.now()) {
            Found::Same => {}
            Found::Gone => self.detach(id),
            Found::Link(link) => self.change_link(id, &link),
            Found::Back => {
                let port = self.ports[at].name().to_owned();
                tracing::info!("{port} is back");
                self.attach(at);
                self.tell(What::PortBack { port });
            }
        }
    }

    /// The port of this number, if one has it.
    pub(super) fn port(&self, id: PortId) -> Option<&ManagedPort> {
        self.ports.iter().find(|port| port.id == id)
    }

    /// Gives a port's device to the workers: one reads each queue, all may write.
    pub(super) fn attach(&mut self, at: usize) {
        let port = &mut self.ports[at];
        let (Some(mut ends), Some(view), Some(attachment)) = (port.ends(), port.to_pipeline(), port.attachment()) else { return };
        let (id, count, workers) = (port.id, self.readers, self.workers.len());
        let at = id.index();
        self.tell_workers(|worker| {
            let (rx, tx) = match &mut ends {
                Ends::Tap(queues) => {
                    let rx = queue_to_read(queues, at, worker, count, workers).map(Source::Tap);
                    (rx, Sink::Tap(queues[(worker / count) % queues.len()].clone()))
                }
                Ends::Packet(queues, writer) => {
                    let rx = queue_to_read(queues, at, worker, count, workers);
                    (rx.map(Source::Packet), Sink::Packet(writer.clone()))
                }
                Ends::Stream(reader, writer) => {
                    let rx = reader.take_if(|_| is_read_by(at, worker, workers));
                    (rx.map(Source::Stream), Sink::Stream(writer.clone()))
                }
                Ends::Dgram(queue) => {
                    let rx = is_read_by(at, worker, workers).then(|| queue.clone());
                    (rx.map(Source::Dgram), Sink::Dgram(queue.clone()))
                }
            };
            Command::Attach { id, attachment, port: Box::new(view.clone()), rx, tx }
        });
    }

    /// A port's device is gone: its entries too, and all else goes on.
    pub(super) fn detach(&mut self, id: PortId) {
        let Some(managed) = self.port(id) else { return };
        let port = managed.name().to_owned();
        let what = if managed.config.slot().is_some() {
            tracing::info!("{port}: the guest is gone");
            What::GuestWent { port }
        } else {
            tracing::warn!("{port} is gone");
            What::PortGone { port }
        };
        self.tell(what);
        self.tell_workers(|_| Command::Detach(id));
        self.forget(id);
    }

    pub(super) fn change_link(&mut self, id: PortId, link: &LinkState) {
        let Some(port) = self.port(id).map(|port| port.name().to_owned()) else { return };
        tracing::info!("{port}: link {}, mtu {}", if link.up { "up" } else { "down" }, link.mtu);
        self.tell(if link.up { What::PortUp { port, mtu: link.mtu } } else { What::PortDown { port } });
        self.tell_workers(|_| Command::Mtu { id, mtu: link.mtu });
        if !link.up {
            self.forget(id);
        }
    }
}

/// Is this the worker that reads a port of one queue?
pub(super) fn is_read_by(port: usize, worker: usize, workers: usize) -> bool {
    port % workers == worker
}

/// Which of a port's queues this worker reads: workers take ports in turn, and where there were more
/// workers than ports at the start, the port's next queue.
pub(super) fn queue_to_read<Q: Clone>(queues: &[Q], port: usize, worker: usize, ports: usize, workers: usize) -> Option<Q> {
    let mut numbered = queues.iter().enumerate();
    let (_, queue) = numbered.find(|(number, _)| (port + number * ports) % workers == worker)?;
    Some(queue.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::queues_of;

    #[test]
    fn each_queue_has_one_reader_and_each_worker_one_queue_of_a_port() {
        for (ports, workers) in [(1, 1), (3, 2), (2, 5), (1, 4), (2, 2), (7, 3)] {
            let mut read = vec![0; workers];
            for port in 0..ports {
                let queues: Vec<usize> = (0..queues_of(port, ports, workers)).collect();
                let mut readers: Vec<usize> = Vec::new();
                for (worker, read) in read.iter_mut().enumerate() {
                    if let Some(queue) = queue_to_read(&queues, port, worker, ports, workers) {
                        readers.push(queue);
                        *read += 1;
                    }
                }
                readers.sort_unstable();
                assert_eq!(readers, queues, "port {port} of {ports}, {workers} workers");
            }
            assert!(read.iter().all(|read| *read > 0), "{ports} ports, {workers} workers: {read:?}");
        }
        // One that came later has one queue.
        assert_eq!((0..3).filter(|worker| queue_to_read(&[()], 9, *worker, 1, 3).is_some()).count(), 1);
    }
}
