//! The IPv4 options in which routers leave their mark: record route and Internet timestamp (RFC 791 section 3.1).
//!
//! ```text
//! +----+-----+---------+---------+---------+----
//! |  7 | len | pointer | address | address | ...                  record route
//! +----+-----+---------+----+----+---------+----
//! | 68 | len | pointer |over|flag| address, timestamp, or both ..  Internet timestamp
//! +----+-----+---------+----+----+---------+----
//!   1     1       1      4    4 bits
//! ```
//!
//! The pointer counts bytes from 1 and names the first free one; beyond the end, the option is full. A full record route
//! passes unchanged; a full timestamp counts the routers that found no room. An option with room for less than a mark is
//! in error, and its packet is dropped.

use std::net::Ipv4Addr;

use crate::options::{MalformedOption, Walk};

/// Record route.
pub const RECORD_ROUTE: u8 = 7;

/// Internet timestamp.
pub const TIMESTAMP: u8 = 68;

/// Maximum length of the list, in bytes: the header length counts at most 15 words.
pub(crate) const MAX_LEN: usize = 40;

/// Offsets within both options, in bytes.
mod field {
    pub(super) const POINTER: usize = 2;
    /// Of a timestamp: overflow count and flag.
    pub(super) const OVERFLOW: usize = 3;
}

/// Values of a timestamp's flag.
mod flag {
    /// Timestamps alone.
    pub(super) const TIME: u8 = 0;
    /// Each preceded by the address of the router.
    pub(super) const ADDRESS_AND_TIME: u8 = 1;
    /// By the routers whose addresses the sender has written.
    pub(super) const PRESPECIFIED: u8 = 3;
}

/// Length of an address and of a timestamp, in bytes.
const WORD: usize = 4;

/// A router that leaves its mark.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Its address on the link that the packet leaves by.
    pub address: Ipv4Addr,
    /// Milliseconds since midnight UT; with the highest bit set, since any moment.
    pub time: u32,
}

/// Leaves a mark in each option of the list that takes one. `is_ours` tells the router's own addresses.
pub(crate) fn mark(list: &mut [u8], mark: Mark, is_ours: impl Fn(Ipv4Addr) -> bool) -> Result<(), MalformedOption> {
    let mut before = [0; MAX_LEN];
    let before = before.get_mut(..list.len()).ok_or(MalformedOption)?;
    before.copy_from_slice(list);
    for found in Walk::new(before) {
        let found = found?;
        let option = &mut list[found.range];
        match found.kind {
            RECORD_ROUTE => record_route(option, mark)?,
            TIMESTAMP => record_time(option, mark, &is_ours)?,
            _ => {}
        }
    }
    Ok(())
}

fn record_route(option: &mut [u8], mark: Mark) -> Result<(), MalformedOption> {
    let Some(room) = room(option, field::POINTER + 1, WORD)? else { return Ok(()) };
    room.copy_from_slice(&mark.address.octets());
    option[field::POINTER] += WORD as u8;
    Ok(())
}

fn record_time(option: &mut [u8], mark: Mark, is_ours: impl Fn(Ipv4Addr) -> bool) -> Result<(), MalformedOption> {
    let overflow = *option.get(field::OVERFLOW).ok_or(MalformedOption)?;
    let (flag, len) = match overflow & 0x0f {
        flag @ flag::TIME => (flag, WORD),
        flag @ (flag::ADDRESS_AND_TIME | flag::PRESPECIFIED) => (flag, 2 * WORD),
        _ => return Err(MalformedOption),
    };
    let Some(room) = room(option, field::OVERFLOW + 1, len)? else {
        option[field::OVERFLOW] = overflow.checked_add(0x10).ok_or(MalformedOption)?;
        return Ok(());
    };
    let (address, time) = room.split_at_mut(len - WORD);
    match flag {
        flag::ADDRESS_AND_TIME => address.copy_from_slice(&mark.address.octets()),
        flag::PRESPECIFIED => {
            let named = address.first_chunk::<WORD>().is_some_and(|octets| is_ours((*octets).into()));
            if !named {
                return Ok(());
            }
        }
        _ => {}
    }
    time.copy_from_slice(&mark.time.to_be_bytes());
    option[field::POINTER] += len as u8;
    Ok(())
}

/// The free bytes that the pointer names. `None` if the option is full.
fn room(option: &mut [u8], first: usize, len: usize) -> Result<Option<&mut [u8]>, MalformedOption> {
    let pointer = usize::from(*option.get(field::POINTER).ok_or(MalformedOption)?);
    let at = pointer.checked_sub(1).filter(|at| *at >= first).ok_or(MalformedOption)?;
    if at >= option.len() {
        return Ok(None);
    }
    option.get_mut(at..at + len).map(Some).ok_or(MalformedOption)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn marked(list: &[u8]) -> Result<Vec<u8>, MalformedOption> {
        let mut list = list.to_vec();
        let us = Mark { address: OURS, time: 0x8000_0102 };
        mark(&mut list, us, |address| address == OURS || address == Ipv4Addr::new(10, 0, 9, 1)).map(|()| list)
    }

    #[test]
    fn literal_routes() {
        assert_eq!(marked(&[7, 7, 4, 0, 0, 0, 0, 0]), Ok(vec![7, 7, 8, 10, 0, 0, 1, 0]));
        let second = [1, 7, 11, 8, 192, 0, 2, 9, 0, 0, 0, 0];
        assert_eq!(marked(&second), Ok(vec![1, 7, 11, 12, 192, 0, 2, 9, 10, 0, 0, 1]));
        assert_eq!(marked(&[7, 7, 8, 192, 0, 2, 9, 0]), Ok(vec![7, 7, 8, 192, 0, 2, 9, 0]), "full");
        assert_eq!(marked(&[7, 3, 4, 0]), Ok(vec![7, 3, 4, 0]), "full from the start");
        assert_eq!(marked(&[148, 4, 0, 0]), Ok(vec![148, 4, 0, 0]), "another option");
    }

    #[test]
    fn literal_times() {
        assert_eq!(marked(&[68, 8, 5, 0, 0, 0, 0, 0]), Ok(vec![68, 8, 9, 0, 0x80, 0, 1, 2]));
        let with_address = [68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(marked(&with_address), Ok(vec![68, 12, 13, 1, 10, 0, 0, 1, 0x80, 0, 1, 2]));
        let ours = [68, 12, 5, 3, 10, 0, 9, 1, 0, 0, 0, 0];
        assert_eq!(marked(&ours), Ok(vec![68, 12, 13, 3, 10, 0, 9, 1, 0x80, 0, 1, 2]));
        let anothers = [68, 12, 5, 3, 10, 0, 9, 2, 0, 0, 0, 0];
        assert_eq!(marked(&anothers), Ok(anothers.to_vec()));
        assert_eq!(marked(&[68, 8, 9, 0x10, 1, 2, 3, 4]), Ok(vec![68, 8, 9, 0x20, 1, 2, 3, 4]), "full: counted");
        assert_eq!(marked(&[68, 8, 9, 0xf0, 1, 2, 3, 4]), Err(MalformedOption), "the count overflows");
    }

    /// Whatever a guest writes: a mark within the option, or an error.
    #[test]
    fn hostile_lengths_and_pointers() {
        for kind in [RECORD_ROUTE, TIMESTAMP] {
            for (len, pointer, third) in (0..=16u8).flat_map(|len| (0..=255u8).map(move |pointer| (len, pointer, len ^ pointer)))
            {
                let list = [kind, len, pointer, third, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
                let Ok(after) = marked(&list) else { continue };
                let end = usize::from(len);
                assert_eq!((&after[..2], &after[end..]), (&list[..2], &list[end..]), "{list:?}");
            }
        }
        assert_eq!(marked(&[7, 7, 3, 0, 0, 0, 0, 0]), Err(MalformedOption), "into the pointer itself");
        assert_eq!(marked(&[7, 7, 5, 0, 0, 0, 0, 0]), Err(MalformedOption), "room for a part");
        assert_eq!(marked(&[68, 8, 5, 2, 0, 0, 0, 0]), Err(MalformedOption), "an unknown flag");
        assert_eq!(marked(&[7, 2, 0, 0]), Err(MalformedOption), "no pointer");
    }
}
