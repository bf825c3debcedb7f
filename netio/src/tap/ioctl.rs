//! The ioctls of `/dev/net/tun` (`include/uapi/linux/if_tun.h`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use packet::VNET_LEN;

use super::MAX_NAME_LEN;
use crate::option::check;

/// `TUNGETDEVNETNS`: opens the interface's namespace.
const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;

/// `TUNSETIFF`: attaches the descriptor to an interface, and creates it if it does not exist. The kernel replaces `%d` in
/// the name by the first free number. Returns the interface's name.
pub(super) fn set_interface(fd: &OwnedFd, name: &str, flags: libc::c_int) -> io::Result<String> {
    let mut request = empty_request();
    if name.len() > MAX_NAME_LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) })?;
    Ok(name_of(&request))
}

/// `TUNGETIFF`: the interface's present name, and its flags.
pub(super) fn interface(fd: &OwnedFd) -> io::Result<(String, libc::c_int)> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one `ifreq`, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as libc::Ioctl, &raw mut request) })?;
    // SAFETY: TUNGETIFF writes the flags into this member, and every bit pattern is a value of it.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), libc::c_int::from(flags)))
}

/// Opens the namespace that the interface is in.
pub(super) fn interface_netns(fd: &OwnedFd) -> io::Result<File> {
    // SAFETY: TUNGETDEVNETNS has no argument, and returns a new descriptor or an error.
    let netns = check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETDEVNETNS) })?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(netns) }.into())
}

/// Requests a virtio-net header of 12 bytes with little-endian fields.
pub(super) fn set_vnet_header(fd: &OwnedFd) -> io::Result<()> {
    let len = VNET_LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as libc::Ioctl, &raw const len) })?;
    let little_endian: libc::c_int = 1;
    // SAFETY: TUNSETVNETLE reads one int, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETLE as libc::Ioctl, &raw const little_endian) }).map(drop)
}

/// `TUNSETOFFLOAD`: sets all of these flags, or returns an error and changes nothing.
pub(super) fn set_offload(fd: &OwnedFd, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as libc::Ioctl, libc::c_ulong::from(bits)) }).map(drop)
}

/// `TUNSETPERSIST`: whether the device stays when no process holds it.
pub(super) fn set_persist(fd: &OwnedFd, persists: bool) -> io::Result<()> {
    let persists = libc::c_ulong::from(persists);
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST as libc::Ioctl, persists) }).map(drop)
}

fn empty_request() -> libc::ifreq {
    libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } }
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
