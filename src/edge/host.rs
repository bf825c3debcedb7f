//! The host as a neighbour of its guests: a TUN device in the daemon's own namespace, and the host's addresses.
//!
//! ```text
//!   no network with the host --------> a network has it --------> TUN made, given to the workers
//!             ^                                                      |   ^
//!             |        none has it any more                          v   | deleted by somebody
//!             +----------- TUN closed <------------------------------+---+
//! ```
//!
//! The device has no Ethernet. It carries the gateway's address of each such network and a route for the network
//! ([`netio::host_link`]), so that the host's packets for guests come to the router as from an interface of its own; what the router
//! does with them is in `vswitch/src/routed/host.rs`. Only packets from an address of the host pass: netlink tells when the host's
//! addresses change, and they are read at once, at most each [`PAUSE`].
//!
//! *Without the right to make a TUN* the switch does without, and says so once.
//!
//! *Threads.* Owned by the control thread.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::State;
use netio::host_link::{HostNetwork, Networks, addresses_of_host};
use netio::route::Watch;
use netio::tap::{Layer, TapSpec};
use netio::{Poller, PortReader, PortWriter, Tap, TapError};
use packet::Timestamp;
use vswitch::{Coalesce, GuestRoute, Interface, Port, PortId, PortKind, PortVlan, StormLimits};

use super::Edge;
use super::router::RouterControl;
use crate::fabric::Fabric;
use crate::worker::{Command, Sink, Source};

/// The device's name, with the first number that is free.
const NAME: &str = "vswitch";

/// Number of names that are tried.
const NAMES: u32 = 100;

/// Frames that the kernel queues for us to read.
const TX_QUEUE_LEN: u32 = 1000;

/// Shortest time between two readings of the host's addresses.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause after a reading, in multiples of the time that it took.
const PAUSES: u32 = 100;

/// The host's side of the router.
#[derive(Debug, Default)]
pub(crate) struct HostNeighbour {
    device: Option<HostDevice>,
    /// Number of devices so far.
    attachments: u64,
    /// No device could be made, and that was told.
    has_complained: bool,
    /// Networks whose route could not be added, and that was told.
    refused: BTreeSet<HostNetwork>,
}

/// The device by which the host is a neighbour.
#[derive(Debug)]
pub(crate) struct HostDevice {
    pub(crate) id: PortId,
    pub(crate) name: String,
    tun: Tap,
    networks: Networks,
    watch: Watch,
    /// Something changed since the host's addresses were read, or since the device and its routes were looked at.
    has_changed: bool,
    is_stale: bool,
    /// When the former and the latter may be read again.
    due: Timestamp,
    look_due: Timestamp,
    mtu: u32,
    is_up: bool,
}

impl HostDevice {
    /// Its MTU in bytes.
    pub(crate) fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Its state as `show` names it.
    pub(crate) fn state(&self) -> State {
        if self.is_up { State::Up } else { State::Down }
    }

    /// The device itself.
    pub(crate) fn tun(&self) -> &Tap {
        &self.tun
    }

    fn to_pipeline(&self) -> Port {
        Port {
            bridge: vswitch::BridgeId::default(),
            vlan: PortVlan::default(),
            mtu: self.mtu,
            features: self.tun.features(),
            coalesce: Coalesce::Flows,
            bursts: false,
            kind: PortKind::Host,
            limits: StormLimits::NONE,
            guard: None,
            isolated: false,
        }
    }
}

impl HostNeighbour {
    pub(crate) fn device(&self) -> Option<&HostDevice> {
        self.device.as_ref()
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.device.as_ref().filter(|device| device.has_changed).map(|device| device.due)
    }

    /// Makes the device, which gets this number.
    fn open(&mut self, id: PortId, now: Timestamp) -> Result<HostDevice, TapError> {
        // Before the first look, so that nothing happens between.
        let failed = |name: &str, what, error| TapError::Io { name: name.to_owned(), what, error };
        let watch = Watch::new().map_err(|error| failed(NAME, "listening for changes", error))?;
        let name = free_name().map_err(|error| failed(NAME, "looking for a name", error))?;
        let tun = Tap::open(&TapSpec {
            name: name.clone(),
            netns: None,
            layer: Layer::Ip,
            queues: 1,
            mtu: None,
            tx_queue_len: TX_QUEUE_LEN,
            offload: true,
            mac: None,
        })?;
        netio::silence::without_ipv6(&name);
        let link = netio::link::get(&name).map_err(|error| failed(&name, "finding its link", error))?;
        self.attachments += 1;
        Ok(HostDevice {
            id,
            name,
            tun,
            networks: Networks::new(link.index),
            watch,
            has_changed: false,
            is_stale: false,
            due: now,
            look_due: now,
            mtu: link.mtu,
            is_up: true,
        })
    }

    /// Gives the device these networks.
    fn set_networks(&mut self, wanted: &BTreeSet<HostNetwork>) {
        let Some(device) = &mut self.device else { return };
        let failed = device.networks.set(wanted);
        self.refused.retain(|network| failed.iter().any(|(failed, _)| failed == network));
        for (network, error) in failed {
            if self.refused.insert(network) {
                let HostNetwork { address, network } = network;
                let why =
                    if error.kind() == io::ErrorKind::AlreadyExists { "it has another one" } else { "the kernel refuses it" };
                tracing::warn!(%network, %address, %error, "the host gets no route to the network: {why}");
            }
        }
    }
}

/// The pause after a reading that began then: a host may have a million routes, which change all the time.
fn pause_after(start: Instant) -> Duration {
    start.elapsed().saturating_mul(PAUSES).max(PAUSE)
}

/// The first name that no link has.
fn free_name() -> io::Result<String> {
    for number in 0..NAMES {
        let name = format!("{NAME}{number}");
        match netio::link::get(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The networks of guests whose neighbour the host is, and those behind these guests.
fn wanted(router: Option<&RouterControl>) -> BTreeSet<HostNetwork> {
    let has_host = |interface: &&Interface| interface.has_host;
    let networks = router.iter().flat_map(|router| router.interfaces()).filter(has_host);
    let networks = networks.map(|interface| HostNetwork { address: interface.address, network: interface.network });
    let behind = router.iter().flat_map(|router| {
        let home = |route: GuestRoute| Some((route.to, router.interface(route.interface).filter(has_host)?));
        router.guest_routes().into_iter().filter_map(home)
    });
    let behind = behind.map(|(network, interface)| HostNetwork { address: interface.address, network });
    networks.chain(behind).collect()
}

impl Edge {
    /// Makes the host a neighbour of the guests whose networks say so, and of no others. Returns a device that is to be closed.
    pub(crate) fn set_host(&mut self, fabric: &mut Fabric, poller: &Poller) -> Option<Tap> {
        let wanted = wanted(self.router.as_ref());
        let mut closed = None;
        if wanted.is_empty() {
            closed = self.remove_host(fabric);
            self.host.has_complained = false;
        } else if self.host.device.is_none() {
            self.add_host(fabric, poller);
        }
        self.host.set_networks(&wanted);
        // The gateways' addresses are the host's now.
        self.read_addresses(fabric);
        closed
    }

    fn add_host(&mut self, fabric: &mut Fabric, poller: &Poller) {
        let Some(id) = fabric.slots.take() else { return self.complain("there is no number left for one more port") };
        let watched = self.host.open(id, fabric.now()).map_err(|error| error.to_string()).and_then(|device| {
            let added = poller.add(&device.watch, crate::daemon::HOST);
            added.map(|()| device).map_err(|error| error.to_string())
        });
        let device = match watched {
            Ok(device) => device,
            Err(error) => {
                fabric.slots.put_back(&[id]);
                return self.complain(&error);
            }
        };
        tracing::info!(port = device.name, "the host is a neighbour of its guests");
        fabric.begin_to_count(id);
        self.host.device = Some(device);
        self.attach_host(fabric);
    }

    fn complain(&mut self, error: &str) {
        if !std::mem::replace(&mut self.host.has_complained, true) {
            tracing::warn!(error, "no TUN device: the host is no neighbour of its guests");
        }
    }

    /// Gives the device to the workers.
    fn attach_host(&self, fabric: &Fabric) {
        let Some(device) = &self.host.device else { return };
        let (id, queues, attachment) = (device.id, device.tun.queues(), self.host.attachments);
        fabric.tell(|worker| Command::Attach {
            id,
            attachment,
            port: Box::new(device.to_pipeline()),
            rx: fabric.workers.queue_to_read(queues, id, worker).map(|queue| Source::Port(PortReader::Tap(queue))),
            tx: Sink::Port(PortWriter::Tap(fabric.workers.queue_to_write(queues, worker).clone())),
        });
    }

    /// Workers route nothing to the host any more, and let go of its device, which is returned.
    fn remove_host(&mut self, fabric: &mut Fabric) -> Option<Tap> {
        let device = self.host.device.take()?;
        self.tell_router(fabric, None);
        fabric.remove(vec![device.id]);
        tracing::info!(port = device.name, "the host is no neighbour of guests any more");
        Some(device.tun)
    }

    fn tell_router(&mut self, fabric: &Fabric, host: Option<(PortId, Arc<[Ipv4Addr]>)>) {
        if let Some(router) = &mut self.router
            && router.set_host(host)
        {
            self.route(fabric);
        }
    }

    /// Reads the host's addresses, and tells the workers if they are others.
    fn read_addresses(&mut self, fabric: &Fabric) {
        let Some(id) = self.host.device.as_ref().map(|device| device.id) else { return };
        match addresses_of_host() {
            Ok(addresses) => self.tell_router(fabric, Some((id, addresses.into()))),
            Err(error) => tracing::warn!(%error, "cannot read the host's addresses; packets from new ones are dropped"),
        }
    }

    /// Looks at the host's addresses and at the device, if netlink has told of a change, or `in_any_case`. Returns a device that is to
    /// be closed.
    pub(crate) fn look_at_host(
        &mut self,
        now: Timestamp,
        in_any_case: bool,
        fabric: &mut Fabric,
        poller: &Poller,
    ) -> Option<Tap> {
        let Some(device) = &mut self.host.device else {
            return if in_any_case && !self.host.has_complained { self.set_host(fabric, poller) } else { None };
        };
        // Unless it is known that nothing has changed.
        device.has_changed |= device.watch.drain().unwrap_or(in_any_case);
        if device.has_changed && now >= device.due {
            (device.has_changed, device.is_stale) = (false, true);
            let start = Instant::now();
            self.read_addresses(fabric);
            if let Some(device) = &mut self.host.device {
                device.due = now.after(pause_after(start));
            }
        }
        if in_any_case { self.look_at_device(now, fabric, poller) } else { None }
    }

    /// Looks at the device, its addresses and its routes, if anything has changed.
    fn look_at_device(&mut self, now: Timestamp, fabric: &mut Fabric, poller: &Poller) -> Option<Tap> {
        let device = self.host.device.as_mut().filter(|device| device.is_stale && now >= device.look_due)?;
        device.is_stale = false;
        let start = Instant::now();
        match device.tun.state() {
            Ok(Some(link)) => {
                if device.mtu != link.mtu {
                    let (id, mtu) = (device.id, link.mtu);
                    fabric.tell(|_| Command::Mtu { id, mtu });
                }
                (device.is_up, device.mtu, device.name) = (link.up, link.mtu, link.name);
                if let Err(error) = device.networks.read() {
                    tracing::debug!(%error, "cannot read the routes of the host's device");
                }
                let wanted = wanted(self.router.as_ref());
                self.host.set_networks(&wanted);
                if let Some(device) = &mut self.host.device {
                    device.look_due = now.after(pause_after(start));
                }
                None
            }
            Ok(None) => {
                let gone = self.lose_host(fabric);
                self.set_host(fabric, poller);
                gone
            }
            Err(_) => None,
        }
    }

    /// A worker could not read the device of this number and attachment. Returns whether the number is that of the host's device.
    pub(super) fn hear_of_gone_host(&mut self, id: PortId, attachment: u64) -> bool {
        let Some(device) = self.host.device.as_mut().filter(|device| device.id == id) else { return false };
        device.has_changed |= attachment == self.host.attachments;
        true
    }

    fn lose_host(&mut self, fabric: &mut Fabric) -> Option<Tap> {
        tracing::warn!("the host's device is gone; making another one");
        self.remove_host(fabric)
    }
}

impl HostNeighbour {
    /// Whether the host cannot be a neighbour although a network says so.
    pub(crate) fn is_missing(&self) -> bool {
        self.has_complained && self.device.is_none()
    }
}

impl RouterControl {
    /// The host is a neighbour by this port, with these addresses. Returns whether that is new.
    fn set_host(&mut self, host: Option<(PortId, Arc<[Ipv4Addr]>)>) -> bool {
        if self.host == host {
            return false;
        }
        self.host = host;
        self.reroute();
        true
    }
}
