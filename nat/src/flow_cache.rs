//! A worker's cache of recent flows, so that most packets need no keyed hash.
//!
//! It has one place for each of 512 values of a cheap hash. Anybody can compute that hash, but an attack on a place only
//! has the effect that packets are looked up in the table, as without the cache. A cached connection is used only if its
//! version has not changed.

use crate::table::Found;
use crate::tuple::Tuple;

const PLACES: usize = 512;

/// One worker's recent flows.
#[derive(Debug)]
pub struct FlowCache(Box<[Option<(Tuple, Found)>; PLACES]>);

impl Default for FlowCache {
    fn default() -> FlowCache {
        FlowCache(Box::new([None; PLACES]))
    }
}

impl FlowCache {
    #[inline]
    fn place(tuple: &Tuple) -> usize {
        let ports = u32::from(tuple.src.port) << 16 | u32::from(tuple.dst.port);
        let mixed = tuple.src.address.to_bits() ^ tuple.dst.address.to_bits().rotate_left(13) ^ ports.rotate_left(7);
        // After multiplication by the golden ratio the upper bits depend on all bits (Knuth, volume 3, section 6.4).
        (mixed.wrapping_mul(0x9e37_79b1) >> 23) as usize % PLACES
    }

    /// The connection that was found for this tuple before.
    #[inline]
    pub(crate) fn get(&self, tuple: &Tuple) -> Option<&Found> {
        match &self.0[FlowCache::place(tuple)] {
            Some((cached, found)) if cached == tuple => Some(found),
            _ => None,
        }
    }

    /// Remembers the connection that was found for a tuple.
    #[inline]
    pub(crate) fn put(&mut self, tuple: &Tuple, found: &Found) {
        self.0[FlowCache::place(tuple)] = Some((*tuple, *found));
    }
}
