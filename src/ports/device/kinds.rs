//! The kinds of ports: which file opens which device.

use config::{Port, PortKind};
use netio::guest::Stream;

use super::packet::PacketDevice;
use super::{Device, DeviceError, dgram, stream, tap, tun};

/// Opens the device that the configuration names, with this many queues. `None`: a connection is on its way, and is kept in
/// `pending` for the next time.
pub(crate) fn open(port: &Port, queues: usize, pending: &mut Option<Stream>) -> Result<Option<Device>, DeviceError> {
    match &port.kind {
        PortKind::Tap(tap) => tap::open(tap, port.mtu, queues).map(Some),
        PortKind::Tun(tun) => tun::open(tun, port.mtu, queues).map(Some),
        PortKind::Packet(packet) => Ok(Some(Box::new(PacketDevice::open(packet, port.mtu, queues)?))),
        PortKind::Stream(stream) => stream::open(stream, port, pending),
        PortKind::Dgram(dgram) => dgram::open(dgram, port).map(Some),
    }
}
