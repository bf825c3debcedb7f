//! Large receive offload (LRO), which a switch cannot use.
//!
//! Generic receive offload merges frames so that they can be split again. LRO, in some drivers, merges for a host that
//! terminates the connection: headers are lost, so forwarding the merged frame changes the traffic. The kernel's
//! documentation requires LRO to be off where a host forwards packets.

use std::io;
use std::os::fd::AsRawFd;

use crate::option::check;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// Reports whether LRO is on for an interface of the calling thread's namespace (`ETHTOOL_GFLAGS`). False if the driver
/// does not support it.
pub fn has_lro(interface: &str) -> io::Result<bool> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // `struct ethtool_value`: the command, and the driver's answer.
    let mut value = [ETHTOOL_GFLAGS, 0];
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL with this command writes one `ethtool_value`; both it and the `ifreq` are valid for the call.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) }) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        answered => answered.map(|_| value[1] & ETH_FLAG_LRO != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_lro() {
        assert!(!has_lro("lo").unwrap());
        assert_eq!(has_lro("none-such").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(has_lro("a-name-that-is-too-long").is_err());
    }
}
