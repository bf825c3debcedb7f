//! The flows that a worker saw last, so that most packets need no keyed hash.
//!
//! One place for each of 512 values of a cheap hash that anybody could compute: who aims at a place gains
//! that packets are looked up in the table, as without the cache. What stands here is believed only if
//! the connection's version is still the same.

use crate::table::Found;
use crate::tuple::Tuple;

const PLACES: usize = 512;

/// One worker's flows.
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
        // Multiplied by the golden ratio, the upper bits depend on all (Knuth, volume 3, section 6.4).
        (mixed.wrapping_mul(0x9e37_79b1) >> 23) as usize % PLACES
    }

    /// What was found for this tuple before.
    #[inline]
    pub(crate) fn get(&self, tuple: &Tuple) -> Option<&Found> {
        match &self.0[FlowCache::place(tuple)] {
            Some((cached, found)) if cached == tuple => Some(found),
            _ => None,
        }
    }

    /// Remembers what was found.
    #[inline]
    pub(crate) fn put(&mut self, tuple: &Tuple, found: &Found) {
        self.0[FlowCache::place(tuple)] = Some((*tuple, *found));
    }
}
