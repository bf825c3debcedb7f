//! Who is at the other end of a Unix socket: what the kernel noted when the connection was made (unix(7),
//! `SO_PEERCRED`). Nothing that the other side says or does later changes it.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt::socket_peercred;

use crate::option;

/// A process by its user and its groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Its effective user.
    pub user: u32,
    /// Its effective group.
    pub group: u32,
    /// Further groups that it is in.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Those of whoever connected this socket. A kernel without `SO_PEERGROUPS` (before 4.13) tells of one group only.
    pub fn of_peer(socket: impl AsFd) -> io::Result<Credentials> {
        let peer = socket_peercred(socket.as_fd())?;
        let groups = option::list(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS).unwrap_or_default();
        Ok(Credentials { user: peer.uid.as_raw(), group: peer.gid.as_raw(), groups })
    }

    /// Is it in this group?
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
    fn we_are_who_we_are() {
        let (one, _other) = UnixStream::pair().unwrap();
        let us = Credentials::of_peer(&one).unwrap();
        assert_eq!((us.user, us.group), (geteuid().as_raw(), getegid().as_raw()));
        assert!(us.is_in(us.group) && !us.is_in(4_000_000_123));
        assert!(getgroups().unwrap().iter().all(|group| us.is_in(group.as_raw())));
    }
}
