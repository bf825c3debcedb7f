//! TUN devices of our own, for tunnels of IP packets. For the workers such a device is a TAP without Ethernet.

use config::port::Tun;
use netio::Tap;
use netio::tap::Layer;

use super::tap::spec;
use super::{Device, DeviceError};

/// Opens the device.
pub(super) fn open(config: &Tun, mtu: Option<u32>, queues: usize) -> Result<Device, DeviceError> {
    let tun = Tap::open(&spec(&config.name, config.netns.as_ref(), Layer::Ip, mtu, queues))?;
    // A TUN is the host's own, where a TAP is another host's.
    if let Some(address) = config.address
        && let Err(error) = tun.add_address(address.address.into(), address.prefix_len)
    {
        tracing::warn!(port = config.name, %address, %error, "cannot give the TUN device its address");
    }
    Ok(Box::new(tun))
}
