//! Frames that wait for the first fragment of their datagram: a fixed pool.

use packet::Timestamp;

use super::{FragmentError, Key};

/// Maximum number of held frames.
pub const HELD: usize = 64;

/// Maximum number of held frames of one owner; fewer if fewer places are free.
pub const HELD_AN_OWNER: usize = 16;

/// The longest frame that can be held, in bytes, with its link header.
pub const HELD_LEN: usize = 2048;

#[derive(Clone, Copy, Debug)]
struct Slip {
    key: Key,
    tag: u64,
    owner: u16,
    len: usize,
    deadline: Timestamp,
    /// Sequence number of the frame.
    order: u64,
}

/// A free place in the pool.
#[derive(Clone, Copy, Debug)]
pub struct HeldPlace(usize);

/// The pool. Frames are found by looking at all places, because there are few.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Box<[u8]>,
    slips: [Option<Slip>; HELD],
    len: usize,
    order: u64,
}

impl Held {
    pub(super) fn new() -> Held {
        Held { bytes: vec![0; HELD * HELD_LEN].into_boxed_slice(), slips: [None; HELD], len: 0, order: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.drop_if(|_| true);
        self.order = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A place for a frame of this length, after frames that are too old have been removed.
    pub(super) fn decide(&self, len: usize, owner: u16, now: Timestamp) -> Result<HeldPlace, FragmentError> {
        if len > HELD_LEN {
            return Err(FragmentError::FrameTooLong);
        }
        let is_free = |slip: &Option<Slip>| slip.is_none_or(|slip| slip.deadline <= now);
        let place = self.slips.iter().position(is_free).map(HeldPlace).ok_or(FragmentError::HeldFull)?;
        let held = |is_counted: &dyn Fn(&Slip) -> bool| {
            self.slips.iter().flatten().filter(|slip| slip.deadline > now && is_counted(slip)).count()
        };
        let free = HELD - held(&|_| true);
        if held(&|slip| slip.owner == owner) >= HELD_AN_OWNER.min(free) {
            return Err(FragmentError::OwnerHeldFull);
        }
        Ok(place)
    }

    /// Copies a frame into a place that was decided on, and that [`Held::expire`] has emptied.
    pub(super) fn put(&mut self, place: HeldPlace, key: Key, frame: &[u8], tag: u64, owner: u16, deadline: Timestamp) {
        let HeldPlace(place) = place;
        self.bytes[place * HELD_LEN..][..frame.len()].copy_from_slice(frame);
        self.slips[place] = Some(Slip { key, tag, owner, len: frame.len(), deadline, order: self.order });
        self.order += 1;
        self.len += 1;
    }

    pub(super) fn release(&mut self, key: Key, mut give: impl FnMut(&[u8], u64)) {
        while let Some((place, slip)) = self.first(key) {
            give(&self.bytes[place * HELD_LEN..][..slip.len], slip.tag);
            self.slips[place] = None;
            self.len -= 1;
        }
    }

    pub(super) fn forget(&mut self, key: Key) {
        self.drop_if(|slip| slip.key == key);
    }

    pub(super) fn disown(&mut self, owner: u16) {
        self.drop_if(|slip| slip.owner == owner);
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        self.drop_if(|slip| slip.deadline <= now);
    }

    fn first(&self, key: Key) -> Option<(usize, Slip)> {
        if self.len == 0 {
            return None;
        }
        let places = self.slips.iter().enumerate();
        let of_key = places.filter_map(|(place, slip)| Some((place, (*slip)?))).filter(|(_, slip)| slip.key == key);
        of_key.min_by_key(|(_, slip)| slip.order)
    }

    fn drop_if(&mut self, condition: impl Fn(&Slip) -> bool) {
        if self.len == 0 {
            return;
        }
        for slip in &mut self.slips {
            if slip.is_some_and(|slip| condition(&slip)) {
                *slip = None;
                self.len -= 1;
            }
        }
    }
}
