//! How much of what was sent to a socket waits in the kernel to be read.

use std::io;
use std::os::fd::AsFd;

use crate::option;

/// `SO_MEMINFO` and the places of what it tells (linux/sock_diag.h).
const SO_MEMINFO: libc::c_int = 55;
const NUMBERS: usize = 9;
const RMEM_ALLOC: usize = 0;

/// The bytes that wait in the receive queue of a packet or UDP socket, with what the kernel needs to keep them: so it
/// compares with the socket's buffer (`SO_RCVBUF`), and is more than the frames' own length. A TAP is no socket, and what is
/// sent to a Unix socket is put to its sender's account.
pub fn receive_queue(socket: impl AsFd) -> io::Result<u32> {
    let numbers = option::get(socket.as_fd(), libc::SOL_SOCKET, SO_MEMINFO, [0u32; NUMBERS])?;
    Ok(numbers[RMEM_ALLOC])
}

/// The bytes that wait to be read from a stream.
pub fn unread(stream: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(stream)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_not_read_waits() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(receive_queue(&socket).unwrap(), 0);
        socket.send_to(&[1; 1000], socket.local_addr().unwrap()).unwrap();
        assert!(receive_queue(&socket).unwrap() >= 1000);
        socket.recv(&mut [0; 1000]).unwrap();
        // The kernel may give a part of it back later only, so as not to do it with each.
        assert!(receive_queue(&socket).unwrap() <= 4096);
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(&[1; 1000]).unwrap();
        b.read_exact(&mut [0; 300]).unwrap();
        assert_eq!(unread(&b).unwrap(), 700);
        assert!(receive_queue(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
