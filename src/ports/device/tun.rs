//! TUN devices of our own, for tunnels of IP packets. For the workers such a device is a TAP without Ethernet.

use std::io;

use config::port::Tun;
use netio::Tap;
use netio::netns::Began;
use netio::tap::{Layer, Setup};

use super::tap::spec;
use super::{Device, DeviceError};
use crate::state::LeftDevice;

/// Opens the device.
pub(super) fn open(config: &Tun, mtu: Option<u32>, queues: usize, process: Option<Began>) -> Result<Device, DeviceError> {
    Ok(begin(Tap::open(&spec(&config.name, (config.netns.as_ref(), process), Layer::Ip, mtu, queues))?, config))
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
    Ok(Tap::adopt(&spec, &Setup::default(), left.descriptor, left.made_in)?.map(|tun| begin(tun, config)))
}

fn begin(tun: Tap, config: &Tun) -> Device {
    // A TUN is the host's own, where a TAP is another host's.
    if let Some(address) = config.address
        && let Err(error) = tun.add_address(address.address.into(), address.prefix_len)
    {
        tracing::warn!(port = config.name, %address, %error, "cannot give the TUN device its address");
    }
    Box::new(tun)
}
