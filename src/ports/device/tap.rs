//! TAP and TUN devices of the daemon, or the network side of a TAP that another process holds.

use std::io;

use netio::tap::TapSpec;
use netio::{LinkState, Tap, TapError, link};
use packet::Features;
use vswitch::PortId;

use super::packet::PacketDevice;
use super::{Device, DeviceError, PortDevice, offload_text};
use crate::config::{PacketConfig, PortConfig};
use crate::fabric::Workers;
use crate::worker::{Sink, Source};

/// Opens the device. `attach`: it is there already, and another process may hold it.
pub(super) fn open(spec: &TapSpec, attach: bool, config: &PortConfig) -> Result<Device, DeviceError> {
    // The kernel would attach to a held device as one more queue, which would get a part of its flows.
    if attach && spec.queues > 1 && is_attached(&spec.name) {
        return beside_holder(spec);
    }
    match Tap::open(spec) {
        Err(error) if attach && is_held(&error, &spec.name) => beside_holder(spec),
        Err(error) => Err(error.into()),
        Ok(tap) => {
            give_address(&tap, config);
            Ok(Box::new(tap))
        }
    }
}

/// The network side of a TAP that another process holds.
fn beside_holder(spec: &TapSpec) -> Result<Device, DeviceError> {
    tracing::info!(port = spec.name, "another process holds this TAP: joining its network side, as packet:{}", spec.name);
    let (interface, queues) = (spec.name.clone(), spec.queues);
    let config = PacketConfig { interface, queues, mtu: spec.mtu, offload: spec.offload };
    Ok(Box::new(PacketDevice::open(&config)?))
}

impl PortDevice for Tap {
    fn ends(&mut self, id: PortId, worker: usize, workers: &Workers) -> (Option<Source>, Sink) {
        let rx = workers.queue_to_read(self.queues(), id, worker).map(Source::Tap);
        (rx, Sink::Tap(workers.queue_to_write(self.queues(), worker).clone()))
    }

    fn state(&self) -> io::Result<Option<LinkState>> {
        self.state()
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

/// Whether the error says that another process holds the TAP. A multi-queue TAP is refused as of a different kind.
fn is_held(error: &TapError, name: &str) -> bool {
    match error {
        TapError::Busy { .. } => true,
        TapError::NotTap { .. } => is_attached(name),
        _ => false,
    }
}

/// Whether a process holds its descriptor.
fn is_attached(name: &str) -> bool {
    link::get(name).is_ok_and(|link| link.is_tun && link.carrier)
}

/// A TUN is the host's own, where a TAP is another host's.
fn give_address(tap: &Tap, config: &PortConfig) {
    if let Some(address) = config.address
        && let Err(error) = tap.add_address(address.address.into(), address.prefix_len)
    {
        tracing::warn!(port = config.name, %address, %error, "cannot give the TUN device its address");
    }
}
