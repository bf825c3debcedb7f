//! The marks: which ports of the shared address are the translation's, in memory that the gate's program reads.
//!
//! ```text
//!   0          8              8,200            16,392              24,584
//!  +---------+--------------+----------------+--------------------+
//!  | address | TCP: 1 bit a | UDP: 1 bit a   | UDP, published:    |    port P is bit P % 8 of byte P / 8
//!  |         | port         | port           | 1 bit a port       |
//!  +---------+--------------+----------------+--------------------+
//! ```
//!
//! The address is in network byte order, as the program finds it in a packet; 0.0.0.0 is nobody's. A change is one store,
//! in force with the next packet.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::bpf::{self, MapShape, MappedValues};
use crate::reservation::PortProtocol;

/// Bytes of one bit for each port.
const BITS: usize = 65_536 / 8;

pub(super) const ADDRESS: usize = 0;
pub(super) const TCP: usize = 8;
pub(super) const UDP: usize = TCP + BITS;
pub(super) const UDP_PUBLISHED: usize = UDP + BITS;
/// Length of the value of the array, in bytes.
const LEN: usize = UDP_PUBLISHED + BITS;

/// The array that holds them.
pub(super) const SHAPE: MapShape =
    MapShape { map_type: bpf::ARRAY, key_size: 4, value_size: LEN as u32, max_entries: 1, flags: bpf::MMAPABLE };

/// Whose packets to a port are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The host's, whose stack gets them.
    Host,
    /// A guest's, unless a socket of the host that is not a TCP listener expects them.
    Mapping,
    /// A published port's, unless a connected socket of the host expects them.
    Published,
}

/// The marks of one gate. Clones share them.
#[derive(Clone, Debug)]
pub struct Marks(Arc<MappedValues>);

impl Marks {
    /// Maps the marks of an array; all ports are the host's.
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Marks> {
        Ok(Marks(Arc::new(MappedValues::new(map, LEN)?)))
    }

    /// Says whose a port is. Takes effect with the next packet.
    pub fn set(&self, protocol: PortProtocol, port: u16, owner: Owner) {
        match protocol {
            PortProtocol::Tcp => self.set_bit(TCP, port, owner != Owner::Host),
            PortProtocol::Udp => {
                self.set_bit(UDP_PUBLISHED, port, owner == Owner::Published);
                self.set_bit(UDP, port, owner != Owner::Host);
            }
        }
    }

    /// Whether a port is the translation's.
    #[must_use]
    pub fn is_marked(&self, protocol: PortProtocol, port: u16) -> bool {
        let table = if protocol == PortProtocol::Tcp { TCP } else { UDP };
        let (at, bit) = place(table, port);
        self.byte(at).is_some_and(|byte| byte.load(Ordering::Relaxed) & bit != 0)
    }

    /// Sets the shared address. During the change no packet, or one of a mixture of both addresses, is the translation's.
    pub(super) fn set_address(&self, address: Option<Ipv4Addr>) {
        for (at, byte) in address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets().into_iter().enumerate() {
            if let Some(place) = self.byte(ADDRESS + at) {
                place.store(byte, Ordering::Relaxed);
            }
        }
    }

    fn set_bit(&self, table: usize, port: u16, is_set: bool) {
        let (at, bit) = place(table, port);
        let Some(byte) = self.byte(at) else { return };
        if is_set {
            byte.fetch_or(bit, Ordering::Relaxed);
        } else {
            byte.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    fn byte(&self, at: usize) -> Option<&AtomicU8> {
        self.0.bytes().get(at)
    }
}

fn place(table: usize, port: u16) -> (usize, u8) {
    (table + usize::from(port / 8), 1 << (port % 8))
}
