//! Rests of batches: frames that were read, and wait until other ports have had their turn.
//!
//! A batch of floods can cause ten thousands of writes, which is not known before it is processed. The pipeline stops at
//! [`vswitch::MAX_WRITES`], and what is left of the batch becomes a *rest*: its memory is exchanged for that of a spare batch, so that
//! nothing is copied, and the port's next turn goes on with it. The port is not read meanwhile. If it is removed, its rest is dropped.
//!
//! ```text
//!  read 64 broadcasts, 32 ports --> 32 processed, written --> the rest of 32 --> others --> 32 processed, written --> read ...
//! ```
//!
//! While no spare of a kind is left, ports whose batches are of that kind are read [`FEW`] frames at a time, so that a rest is not
//! needed. A socket of tunnels, of which one message can hold 64 datagrams, is not read then until a rest of another is done.

use packet::Batch;
use packet::batch::MAX_FRAMES;
use vswitch::PortId;

use super::underlay::Underlay;

/// Number of ports of which a worker can have rests at once. Memory that is not used is address space only.
const PACKED: usize = 8;

/// The same for ports on sockets, whose batches have slots.
const STRIDED: usize = 8;

/// The same for receiving sockets of tunnels.
const RECEIVING: usize = 4;

/// Frames of a batch while no rest can be kept.
const FEW: usize = 4;

/// The rests of a worker's ports, and spare batches for them.
#[derive(Debug)]
pub(super) struct Rests {
    rests: Vec<Rest>,
    packed: Vec<Batch>,
    strided: Vec<Batch>,
    receiving: Vec<Underlay>,
}

/// What is left of a port's batch.
#[derive(Debug)]
struct Rest {
    port: PortId,
    left: Left,
}

#[derive(Debug)]
pub(super) enum Left {
    /// The frames of a batch from `next` on.
    Frames { batch: Batch, next: usize },
    /// Datagrams of a receiving socket.
    Datagrams(Underlay),
}

impl Rests {
    /// With all the memory that it will ever use. Batches on sockets have `burst` slots.
    pub(super) fn new(burst: usize) -> Rests {
        Rests {
            rests: Vec::with_capacity(PACKED + STRIDED + RECEIVING),
            packed: std::iter::repeat_with(Batch::new).take(PACKED).collect(),
            strided: std::iter::repeat_with(|| Batch::strided(burst)).take(STRIDED).collect(),
            receiving: std::iter::repeat_with(Underlay::new).take(RECEIVING).collect(),
        }
    }

    /// Maximum number of frames to read into a batch of this kind, so that no rest is left that could not be kept.
    #[inline]
    pub(super) fn most(&self, is_strided: bool) -> usize {
        let spares = if is_strided { &self.strided } else { &self.packed };
        if spares.is_empty() { FEW } else { MAX_FRAMES }
    }

    /// Keeps the frames of a port's batch from `next` on, and gives an empty batch for it. False, and nothing changes, if there is
    /// no spare.
    #[cold]
    pub(super) fn keep(&mut self, port: PortId, batch: &mut Batch, next: usize) -> bool {
        let spares = if batch.is_strided() { &mut self.strided } else { &mut self.packed };
        let Some(spare) = spares.pop() else { return false };
        self.rests.push(Rest { port, left: Left::Frames { batch: std::mem::replace(batch, spare), next } });
        true
    }

    /// Whether what is left of datagrams could be kept.
    #[inline]
    pub(super) fn has_room_for_datagrams(&self) -> bool {
        !self.receiving.is_empty()
    }

    /// Keeps what is left of the datagrams of a receiving socket. False, and nothing changes, if there is no spare.
    #[cold]
    pub(super) fn keep_datagrams(&mut self, port: PortId, underlay: &mut Underlay) -> bool {
        let Some(spare) = self.receiving.pop() else { return false };
        self.rests.push(Rest { port, left: Left::Datagrams(std::mem::replace(underlay, spare)) });
        true
    }

    /// Whether there is a rest of a port.
    #[inline]
    pub(super) fn has(&self, port: PortId) -> bool {
        self.rests.iter().any(|rest| rest.port == port)
    }

    /// The rest of a port.
    #[inline]
    pub(super) fn get_mut(&mut self, port: PortId) -> Option<&mut Left> {
        self.rests.iter_mut().find(|rest| rest.port == port).map(|rest| &mut rest.left)
    }

    /// A port's rest is done, or the port is gone.
    #[cold]
    pub(super) fn release(&mut self, port: PortId) {
        while let Some(at) = self.rests.iter().position(|rest| rest.port == port) {
            match self.rests.swap_remove(at).left {
                Left::Frames { mut batch, .. } => {
                    batch.clear();
                    if batch.is_strided() { &mut self.strided } else { &mut self.packed }.push(batch);
                }
                Left::Datagrams(mut underlay) => {
                    underlay.clear();
                    self.receiving.push(underlay);
                }
            }
        }
    }
}

impl Left {
    /// Whether all of it was processed.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Left::Frames { batch, next } => *next >= batch.spans().len(),
            Left::Datagrams(underlay) => underlay.is_done(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::VnetHeader;

    fn filled(mut batch: Batch, frame: u8) -> Batch {
        assert!(batch.push(VnetHeader::default(), &[frame; 60]));
        batch
    }

    #[test]
    fn the_memory_is_exchanged_and_returned() {
        let mut rests = Rests::new(4);
        let (mut packed, mut strided) = (filled(Batch::new(), 1), filled(Batch::strided(4), 2));
        assert!(rests.keep(PortId(1), &mut packed, 0) && rests.keep(PortId(2), &mut strided, 0));
        assert!(packed.spans().is_empty() && !packed.is_strided() && strided.spans().is_empty() && strided.is_strided());
        assert!(rests.has(PortId(1)) && !rests.has(PortId(3)));
        let rest = rests.get_mut(PortId(2)).unwrap();
        assert!(!rest.is_done());
        let Left::Frames { batch, next } = rest else { panic!("frames were kept") };
        assert_eq!(batch.frame(batch.spans()[0]), [2; 60]);
        *next = 1;
        assert!(rest.is_done());
        rests.release(PortId(2));
        rests.release(PortId(1));
        assert!(!rests.has(PortId(1)) && !rests.has(PortId(2)));
        assert_eq!((rests.packed.len(), rests.strided.len()), (PACKED, STRIDED));
    }

    #[test]
    fn without_spares_batches_are_short() {
        let mut rests = Rests::new(4);
        for port in 0..STRIDED as u16 {
            assert_eq!(rests.most(true), MAX_FRAMES);
            assert!(rests.keep(PortId(port), &mut filled(Batch::strided(4), 0), 0));
        }
        assert_eq!((rests.most(true), rests.most(false)), (FEW, MAX_FRAMES), "of that kind only");
        let mut one_more = filled(Batch::strided(4), 7);
        assert!(!rests.keep(PortId(77), &mut one_more, 0) && one_more.spans().len() == 1);
        rests.release(PortId(0));
        assert_eq!(rests.most(true), MAX_FRAMES);
    }
}
