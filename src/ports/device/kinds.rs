//! The kinds of ports: which file opens which device.

use netio::guest::Stream;

use super::packet::PacketDevice;
use super::{Device, DeviceError, dgram, stream, tap};
use crate::config::{DeviceConfig, PortConfig};

/// Opens the device that the configuration names. `None`: a connection is on its way, and is kept in `pending` for the next
/// time.
pub(crate) fn open(config: &PortConfig, pending: &mut Option<Stream>) -> Result<Option<Device>, DeviceError> {
    match &config.device {
        DeviceConfig::Tap { spec, attach } => tap::open(spec, *attach, config).map(Some),
        DeviceConfig::Packet(packet) => Ok(Some(Box::new(PacketDevice::open(packet)?))),
        DeviceConfig::Stream(stream) => stream::open(stream, config, pending),
        DeviceConfig::Dgram(dgram) => dgram::open(dgram, config).map(Some),
    }
}
