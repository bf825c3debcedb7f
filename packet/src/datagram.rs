//! A UDP datagram as a socket delivers it, or several in one buffer.
//!
//! The kernel may merge consecutive datagrams of one flow (UDP GRO) into one buffer. It reports the common length of
//! all but the last, which may be shorter.

use std::net::IpAddr;

/// The result of one receive operation.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The sender's address; IPv4 addresses are never IPv4-mapped IPv6 addresses.
    pub from: IpAddr,
    /// IPv4's type of service or IPv6's traffic class.
    pub tos: u8,
    /// Length of each datagram but the last; 0 if it is a single one.
    pub segment_size: u16,
    /// The payloads of all datagrams, one after the other, without UDP headers.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The payload of each datagram. An empty datagram yields one empty slice.
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
