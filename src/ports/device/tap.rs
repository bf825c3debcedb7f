//! TAP and TUN devices of the daemon, or the network side of a TAP that another process holds.

use std::io;

use config::{Netns, port};
use netio::netns::Began;
use netio::tap::{Layer, Setup, TapSpec};
use netio::{LinkState, PortReader, PortWriter, Tap, TapError};
use packet::{Features, MacAddr};
use vswitch::PortId;

use super::packet::PacketDevice;
use super::{Device, DeviceError, PortDevice, Watched, offload_text};
use crate::fabric::Workers;
use crate::model::netns;
use crate::state::LeftDevice;
use crate::worker::{Sink, Source};

/// Frames of each queue that the kernel keeps for us to read. Its own default (1000) holds 2 ms of small frames; more only
/// adds delay behind super-frames.
const TX_QUEUE_LEN: u32 = 1000;

/// Opens the device. With `attach` it may be there already, and another process may hold it.
pub(super) fn open(
    config: &port::Tap,
    port: &config::Port,
    queues: usize,
    process: Option<Began>,
) -> Result<Device, DeviceError> {
    let mtu = port.mtu;
    let spec = spec(&config.name, (config.netns.as_ref(), process), Layer::Ethernet, mtu, queues);
    match Tap::open_for(&TapSpec { offload: config.offload, mac: port.station.mac, ..spec }, &setup(config)) {
        Err(TapError::Busy { .. }) if config.attach => beside_holder(config, mtu, queues),
        opened => {
            let tap = opened?;
            if config.setup.gateway.is_some() && tap.is_here() {
                tracing::info!(port = config.name, "no default route by it: its interface is where vswitchd runs");
            }
            Ok(Box::new(tap))
        }
    }
}

/// Takes over the device of an earlier process. Its port may have got another MAC address or other addresses since.
pub(super) fn adopt(
    config: &port::Tap,
    port: &config::Port,
    queues: usize,
    process: Option<Began>,
    left: LeftDevice,
) -> io::Result<Option<Device>> {
    let spec = spec(&config.name, (config.netns.as_ref(), process), Layer::Ethernet, port.mtu, queues);
    let spec = TapSpec { offload: config.offload, mac: port.station.mac, ..spec };
    Ok(Tap::adopt(&spec, &setup(config), left.descriptor, left.made_in)?.map(|tap| Box::new(tap) as Device))
}

fn setup(config: &port::Tap) -> Setup<'_> {
    let port::Setup { addresses, gateway, stays_down } = &config.setup;
    Setup { addresses, gateway: *gateway, stays_down: *stays_down }
}

/// A TAP or TUN with offload, in a namespace; if that is of a process, then of the one that began at this time, if that is known.
pub(super) fn spec(
    name: &str,
    (namespace, process): (Option<&Netns>, Option<Began>),
    layer: Layer,
    mtu: Option<u32>,
    queues: usize,
) -> TapSpec {
    let netns = namespace.map(|namespace| netns(namespace).of(process));
    TapSpec { name: name.to_owned(), netns, layer, queues, mtu, tx_queue_len: TX_QUEUE_LEN, offload: true, mac: None }
}

/// The network side of a TAP that another process holds.
fn beside_holder(config: &port::Tap, mtu: Option<u32>, queues: usize) -> Result<Device, DeviceError> {
    let port::Tap { name, offload, .. } = config;
    tracing::info!(port = name, "another process holds this TAP: joining its network side, as packet:{name}");
    let packet = port::Packet { interface: name.clone(), offload: *offload };
    Ok(Box::new(PacketDevice::open(&packet, mtu, queues)?))
}

impl PortDevice for Tap {
    fn ends(&mut self, id: PortId, worker: usize, workers: &Workers) -> (Option<Source>, Sink) {
        let rx = workers.queue_to_read(self.queues(), id, worker).map(|queue| Source::Port(PortReader::Tap(queue)));
        (rx, Sink::Port(PortWriter::Tap(workers.queue_to_write(self.queues(), worker).clone())))
    }

    fn state(&self) -> io::Result<Option<LinkState>> {
        self.state()
    }

    fn watched(&self) -> Option<Watched> {
        Tap::watched(self).map(Watched::Tap)
    }

    fn as_tap(&self) -> Option<&Tap> {
        Some(self)
    }

    fn station_mac(&self) -> Option<MacAddr> {
        Some(self.mac()).filter(|mac| mac.is_station())
    }

    fn set_station_mac(&mut self, mac: MacAddr) -> io::Result<()> {
        self.set_mac(mac)
    }

    fn set_mtu(&mut self, mtu: u32) -> io::Result<()> {
        Tap::set_mtu(self, mtu)
    }

    fn features(&self) -> Features {
        self.features()
    }

    fn bursts(&self) -> bool {
        false
    }

    fn summary(&self) -> String {
        offload_text(self.features(), self.refused())
    }

    fn dropped(&mut self) -> u64 {
        Tap::dropped(self).unwrap_or(0)
    }
}
