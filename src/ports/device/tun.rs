//! TUN devices of our own, for tunnels of IP packets. For the workers such a device is a TAP without Ethernet.

use std::io;
use std::net::IpAddr;

use config::port::Tun;
use netio::Tap;
use netio::netns::Began;
use netio::tap::{Layer, Setup};

use super::tap::spec;
use super::{Device, DeviceError};
use crate::state::LeftDevice;

/// Opens the device.
pub(super) fn open(config: &Tun, mtu: Option<u32>, queues: usize, process: Option<Began>) -> Result<Device, DeviceError> {
    let spec = spec(&config.name, (config.netns.as_ref(), process), Layer::Ip, mtu, queues);
    let addresses = addresses(config);
    Ok(Box::new(Tap::open_for(&spec, &Setup { addresses: &addresses, ..Setup::default() })?))
}

/// Takes over the device of an earlier process.
pub(super) fn adopt(
    config: &Tun,
    mtu: Option<u32>,
    queues: usize,
    process: Option<Began>,
    left: LeftDevice,
) -> io::Result<Option<Device>> {
    let spec = spec(&config.name, (config.netns.as_ref(), process), Layer::Ip, mtu, queues);
    let addresses = addresses(config);
    let setup = Setup { addresses: &addresses, ..Setup::default() };
    Ok(Tap::adopt(&spec, &setup, left.descriptor, left.made_in)?.map(|tun| Box::new(tun) as Device))
}

/// Its address, as a list. A TUN is the host's own, where a TAP is another host's.
fn addresses(config: &Tun) -> Vec<(IpAddr, u8)> {
    config.address.iter().map(|address| (address.address.into(), address.prefix_len)).collect()
}
