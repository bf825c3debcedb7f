//! The number of bytes that wait in a socket's receive queue.

use std::io;
use std::os::fd::AsFd;

use crate::option;

/// `SO_MEMINFO` (linux/sock_diag.h): an array of counters, of which `RMEM_ALLOC` is an index.
const SO_MEMINFO: libc::c_int = 55;
const NUMBERS: usize = 9;
const RMEM_ALLOC: usize = 0;

/// The bytes in the receive queue of a packet or UDP socket, including the kernel's overhead for each packet. The number
/// compares with the socket's buffer size (`SO_RCVBUF`), not with the length of the packets. A TAP is not a socket, and for
/// Unix sockets the kernel charges the sender, so this function works for neither.
pub fn receive_queue(socket: impl AsFd) -> io::Result<u32> {
    let numbers = option::get(socket.as_fd(), libc::SOL_SOCKET, SO_MEMINFO, [0u32; NUMBERS])?;
    Ok(numbers[RMEM_ALLOC])
}

/// The bytes that can be read from a stream socket.
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
    fn unread_bytes_are_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(receive_queue(&socket).unwrap(), 0);
        socket.send_to(&[1; 1000], socket.local_addr().unwrap()).unwrap();
        assert!(receive_queue(&socket).unwrap() >= 1000);
        socket.recv(&mut [0; 1000]).unwrap();
        // The kernel returns memory in larger steps, so a part may still be charged.
        assert!(receive_queue(&socket).unwrap() <= 4096);
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(&[1; 1000]).unwrap();
        b.read_exact(&mut [0; 300]).unwrap();
        assert_eq!(unread(&b).unwrap(), 700);
        assert!(receive_queue(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
