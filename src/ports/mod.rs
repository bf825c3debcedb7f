//! The ports that guests' frames come and go by: their devices, and the guests that connect to places kept for them.
//!
//! Each port has a number ([`crate::fabric::slots`]), a configuration, and a device while that is there ([`ManagedPort`]). Its
//! device goes to the workers: one worker reads each queue, all may write.
//!
//! *Loss.* A device that is gone is a port without a device until it is back: its MAC entries are flushed, its number and its
//! counters stay.
//!
//! *Change.* Ports are added, removed and altered while the switch runs; see [`change`].
//!
//! *Threads.* Owned by the control thread.

mod attach;
mod change;
pub(crate) mod device;
mod guests;
mod managed;

use config::Port;
use netio::Poller;
use packet::Timestamp;
use vswitch::PortId;

use crate::fabric::Fabric;
use attach::{attach, detach, look};
pub(crate) use change::NewPorts;
use guests::Entrances;
pub(crate) use guests::FIRST_TOKEN;
pub(crate) use managed::ManagedPort;

/// All ports but the uplink and those of tunnels, and where their guests connect to.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: Vec<ManagedPort>,
    entrances: Entrances,
}

impl Ports {
    /// Opens the devices of these ports, which have their numbers and as many queues as `queues` says, and the sockets that
    /// their guests connect to.
    pub(crate) fn open(
        ports: impl Iterator<Item = (PortId, Port)>,
        queues: impl Fn(PortId) -> usize,
        now: Timestamp,
    ) -> anyhow::Result<Ports> {
        let ports: Vec<(PortId, Port)> = ports.collect();
        let mut entrances = Entrances::default();
        entrances.add(entrances.prepare(ports.iter().map(|(_, port)| port), now)?);
        let open = |(id, port): (PortId, Port)| {
            let origin = port.origin.clone();
            ManagedPort::open(id, port, queues(id), now).map_err(|error| error.with_hint(&origin))
        };
        Ok(Ports { ports: ports.into_iter().map(open).collect::<anyhow::Result<_>>()?, entrances })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ManagedPort> {
        self.ports.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.ports.len()
    }

    /// The port of this number, if one has it.
    pub(crate) fn get(&self, id: PortId) -> Option<&ManagedPort> {
        self.ports.iter().find(|port| port.id == id)
    }

    /// Waits with this poller for guests that connect.
    pub(crate) fn watch(&self, poller: &Poller) -> anyhow::Result<()> {
        self.entrances.watch(poller)
    }

    /// Lets guests in that wait at the entrance of this token.
    pub(crate) fn let_in(&mut self, token: u64, poller: &Poller, fabric: &mut Fabric) {
        self.entrances.let_in(token, &mut self.ports, poller, fabric);
    }

    /// Once a second: listens again where too many guests came, or none could be accepted.
    pub(crate) fn open_shut_entrances(&mut self, poller: &Poller) {
        self.entrances.open_shut(poller);
    }

    /// When a device that is gone is looked for next.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.ports.iter().filter_map(ManagedPort::retry_at).min()
    }

    /// Frames that the kernel dropped before they were read, by port.
    pub(crate) fn dropped(&mut self) -> Vec<(PortId, String, u64)> {
        self.ports.iter_mut().map(|port| (port.id, port.name().to_owned(), port.dropped())).collect()
    }

    /// Gives all devices to the workers.
    pub(crate) fn attach_all(&mut self, fabric: &Fabric) {
        self.ports.iter_mut().for_each(|port| attach(port, fabric));
    }

    /// Gives the devices of these ports to the workers.
    pub(crate) fn attach(&mut self, ids: &[PortId], fabric: &Fabric) {
        self.ports.iter_mut().filter(|port| ids.contains(&port.id)).for_each(|port| attach(port, fabric));
    }

    /// Looks how all devices are.
    pub(crate) fn look(&mut self, fabric: &mut Fabric) {
        self.ports.iter_mut().for_each(|port| look(port, fabric));
    }

    /// Looks for the devices that are gone.
    pub(crate) fn look_for_gone(&mut self, fabric: &mut Fabric) {
        self.ports.iter_mut().filter(|port| port.retry_at().is_some()).for_each(|port| look(port, fabric));
    }

    /// A worker could not read the device of this number and attachment. Returns whether the number is a port's.
    pub(crate) fn hear_of_gone(&mut self, id: PortId, attachment: u64, fabric: &mut Fabric) -> bool {
        let Some(port) = self.ports.iter_mut().find(|port| port.id == id) else { return false };
        // Late news of an earlier device is ignored.
        if port.attachment() == Some(attachment) {
            port.lose(fabric.now());
            detach(port, fabric);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use api::What;

    use super::managed::tests::port;
    use super::*;
    use crate::fabric::tests::fabric;

    /// A path that is free when the test begins, and when it has ended.
    struct Path(PathBuf);

    impl Path {
        fn new(name: &str) -> Path {
            Path(std::env::temp_dir().join(format!("vswitchd-ports-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Path {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn is_attached(id: PortId, fabric: &Fabric) -> bool {
        fabric.workers.rehearsal().pipeline_mut().port(id).is_some()
    }

    #[test]
    fn late_news_of_an_earlier_device_is_ignored() {
        let (path, mut fabric) = (Path::new("dgram"), fabric(1, 4));
        let mut reader = fabric.events.sender().subscribe();
        let id = PortId(1);
        let open = [(id, port(&format!("dgram:{}", path.0.display())))];
        let mut ports = Ports::open(open.into_iter(), |_| 1, fabric.now()).unwrap();
        ports.attach_all(&fabric);
        let attachment = ports.get(id).and_then(ManagedPort::attachment).unwrap();
        assert!(ports.hear_of_gone(id, attachment - 1, &mut fabric) && is_attached(id, &fabric));
        assert!(ports.hear_of_gone(id, attachment, &mut fabric) && !is_attached(id, &fabric));
        assert!(matches!(reader.try_recv().unwrap().what, What::PortGone { .. }));
        assert!(!ports.hear_of_gone(PortId(2), 1, &mut fabric), "no port has this number");
    }

    #[test]
    fn a_guest_gets_a_free_place_and_others_are_turned_away() {
        let (path, mut fabric, poller) = (Path::new("stream"), fabric(1, 4), Poller::new().unwrap());
        let mut reader = fabric.events.sender().subscribe();
        let id = PortId(1);
        let open = [(id, port(&format!("stream:{}:guests=1", path.0.display())))];
        let mut ports = Ports::open(open.into_iter(), |_| 1, fabric.now()).unwrap();
        ports.watch(&poller).unwrap();
        ports.attach_all(&fabric);
        assert!(!is_attached(id, &fabric), "no guest yet");
        let _guests = [UnixStream::connect(&path.0).unwrap(), UnixStream::connect(&path.0).unwrap()];
        ports.let_in(FIRST_TOKEN, &poller, &mut fabric);
        assert!(is_attached(id, &fabric));
        assert!(matches!(reader.try_recv().unwrap().what, What::GuestCame { .. }));
        assert!(reader.try_recv().is_err(), "there is no place for the second");
    }
}
