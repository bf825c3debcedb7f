//! The option lists of IPv4 and TCP headers, which have the same format (RFC 791 section 3.1, RFC 9293
//! section 3.1).
//!
//! ```text
//! +------+------+-----------+------+------+----
//! | kind | len  | data ...  | 1    | 0    | padding
//! +------+------+-----------+------+------+----
//!         len bytes in all    no-op  end
//! ```
//!
//! The header length limits a list to 40 bytes, and each step consumes at least one, so a walk ends.

use std::ops::Range;

/// The list ends here; what follows is padding.
pub const END: u8 = 0;

/// One byte of padding, for alignment.
pub const NO_OPERATION: u8 = 1;

/// An option whose length is missing, too small for its own header, or beyond the end of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedOption;

/// One option that is not [`NO_OPERATION`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) kind: u8,
    /// Kind, length and data, in bytes from the list's start.
    pub(crate) range: Range<usize>,
}

/// Walks a list of options up to its end or the first malformed one, which is the last item.
#[derive(Clone, Debug)]
pub(crate) struct Walk<'a> {
    list: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(list: &'a [u8]) -> Walk<'a> {
        Walk { list, at: 0 }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, MalformedOption>;

    #[inline]
    fn next(&mut self) -> Option<Result<Found, MalformedOption>> {
        loop {
            let start = self.at;
            let kind = *self.list.get(start)?;
            match kind {
                END => {
                    self.at = self.list.len();
                    return None;
                }
                NO_OPERATION => self.at += 1,
                _ => {
                    let len = self.list.get(start + 1).map_or(0, |len| usize::from(*len));
                    if len < 2 || start + len > self.list.len() {
                        self.at = self.list.len();
                        return Some(Err(MalformedOption));
                    }
                    self.at = start + len;
                    return Some(Ok(Found { kind, range: start..start + len }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_over_literal_lists() {
        let walk = |list: &[u8]| Walk::new(list).map(|found| found.map(|found| (found.kind, found.range))).collect::<Vec<_>>();
        assert_eq!(walk(&[]), []);
        assert_eq!(walk(&[2, 4, 5, 0xb4, 1, 3, 3, 7]), [Ok((2, 0..4)), Ok((3, 5..8))]);
        assert_eq!(walk(&[1, 4, 2, 0, 9, 9]), [Ok((4, 1..3))], "what follows the end is padding");
        for malformed in [&[2][..], &[2, 0], &[2, 1], &[2, 5, 5, 0xb4], &[1, 1, 8]] {
            assert_eq!(walk(malformed), [Err(MalformedOption)], "{malformed:?}");
        }
        assert_eq!(walk(&[4, 2, 2, 0, 0, 0]), [Ok((4, 0..2)), Err(MalformedOption)]);
    }
}
