//! A UDP datagram as a socket gives it, or several at once.
//!
//! The kernel may merge datagrams of one flow that came one behind the other (UDP GRO) and hand them over as
//! one buffer with the length of each but the last, which may be shorter.

use std::net::IpAddr;

/// What one receive brought.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The sender's address; IPv4 is never mapped into IPv6 here.
    pub from: IpAddr,
    /// IPv4's type of service or IPv6's traffic class.
    pub tos: u8,
    /// Length of each datagram but the last; 0 if it is a single one.
    pub segment_size: u16,
    /// What stands behind the UDP header or headers.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagrams, each by itself. An empty one is one of no bytes.
    pub fn segments(self) -> impl Iterator<Item = &'a [u8]> {
        let size = match usize::from(self.segment_size) {
            0 => self.payload.len().max(1),
            size => size,
        };
        let empty = self.payload.is_empty().then_some(self.payload);
        self.payload.chunks(size).chain(empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_many_and_none() {
        let lens = |segment_size, payload: &[u8]| {
            let datagram = Datagram { from: IpAddr::from([192, 0, 2, 1]), tos: 0, segment_size, payload };
            datagram.segments().map(<[u8]>::len).collect::<Vec<usize>>()
        };
        assert_eq!(lens(0, &[1; 9]), [9]);
        assert_eq!(lens(4, &[1; 9]), [4, 4, 1]);
        assert_eq!(lens(9, &[1; 9]), [9]);
        assert_eq!(lens(0, &[]), [0]);
        assert_eq!(lens(4, &[]), [0]);
    }
}
