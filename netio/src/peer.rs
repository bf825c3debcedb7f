//! Credentials of the process at the other end of a Unix socket, as the kernel recorded them when the connection was
//! made (`SO_PEERCRED` in unix(7)). The process cannot change them afterwards.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt::socket_peercred;

use crate::option;

/// The user and groups of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Its effective user.
    pub user: u32,
    /// Its effective group.
    pub group: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// The credentials of the process that connected this socket. Before Linux 4.13 (`SO_PEERGROUPS`), without
    /// supplementary groups.
    pub fn of_peer(socket: impl AsFd) -> io::Result<Credentials> {
        let peer = socket_peercred(socket.as_fd())?;
        let groups = option::list(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS).unwrap_or_default();
        Ok(Credentials { user: peer.uid.as_raw(), group: peer.gid.as_raw(), groups })
    }

    /// True if this is the effective group or a supplementary one.
    #[must_use]
    pub fn is_in(&self, group: u32) -> bool {
        self.group == group || self.groups.contains(&group)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::process::{getegid, geteuid, getgroups};

    use super::*;

    #[test]
    fn credentials_of_a_socket_pair_are_our_own() {
        let (one, _other) = UnixStream::pair().unwrap();
        let us = Credentials::of_peer(&one).unwrap();
        assert_eq!((us.user, us.group), (geteuid().as_raw(), getegid().as_raw()));
        assert!(us.is_in(us.group) && !us.is_in(4_000_000_123));
        assert!(getgroups().unwrap().iter().all(|group| us.is_in(group.as_raw())));
    }
}
