//! One captured frame on its way through a [`ring`](crate::ring): a header, and bytes.
//!
//! ```text
//!  0                8      10      11     12         16
//! +----------------+------+-------+------+----------+----------------------+
//! | time           | port | which | why  | original | the frame's bytes ..  |
//! +----------------+------+-------+------+----------+----------------------+
//!                           |       the reason's number; 255: not dropped
//!                           direction, and 0x80: some copies of it were dropped
//! ```

/// Length of the header.
pub const HEADER_LEN: usize = 16;

const NO_REASON: u8 = 255;
const SOME_COPIES: u8 = 0x80;

/// Which way a frame went by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Into the switch, by the port.
    Received,
    /// Out of it.
    Sent,
    /// Neither: it waited within, or was made there.
    Within,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It went on.
    Passed,
    /// It was dropped, for the reason of this number.
    Dropped(u8),
    /// It went on, but to some of the ports that it was for it did not.
    CopiesDropped(u8),
}

/// What is known of a frame besides its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Nanoseconds on the switch's clock.
    pub time: u64,
    /// The port's number.
    pub port: u16,
    /// Which way.
    pub direction: Direction,
    /// What became of it.
    pub verdict: Verdict,
    /// The frame's length, of which perhaps less was kept, in bytes.
    pub original_len: u32,
}

impl Verdict {
    /// The number of the reason for which it, or a copy, was dropped.
    #[must_use]
    pub fn reason(self) -> Option<u8> {
        match self {
            Verdict::Passed => None,
            Verdict::Dropped(reason) | Verdict::CopiesDropped(reason) => Some(reason),
        }
    }
}

impl Header {
    /// As it stands before the frame.
    #[inline]
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let direction = match self.direction {
            Direction::Received => 0,
            Direction::Sent => 1,
            Direction::Within => 2,
        };
        let (copies, reason) = match self.verdict {
            Verdict::Passed => (0, NO_REASON),
            Verdict::Dropped(reason) => (0, reason),
            Verdict::CopiesDropped(reason) => (SOME_COPIES, reason),
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&self.time.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.port.to_ne_bytes());
        bytes[10] = direction | copies;
        bytes[11] = reason;
        bytes[12..].copy_from_slice(&self.original_len.to_ne_bytes());
        bytes
    }

    /// A record's header, and the frame's bytes behind it. `None` of what is no record.
    #[must_use]
    pub fn split(record: &[u8]) -> Option<(Header, &[u8])> {
        let (bytes, frame) = record.split_first_chunk::<HEADER_LEN>()?;
        let header = Header {
            time: u64::from_ne_bytes(*bytes.first_chunk()?),
            port: u16::from_ne_bytes([bytes[8], bytes[9]]),
            direction: match bytes[10] & !SOME_COPIES {
                0 => Direction::Received,
                1 => Direction::Sent,
                _ => Direction::Within,
            },
            verdict: match bytes[11] {
                NO_REASON => Verdict::Passed,
                reason if bytes[10] & SOME_COPIES != 0 => Verdict::CopiesDropped(reason),
                reason => Verdict::Dropped(reason),
            },
            original_len: u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
        };
        Some((header, frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was() {
        for direction in [Direction::Received, Direction::Sent, Direction::Within] {
            for verdict in [Verdict::Passed, Verdict::Dropped(0), Verdict::Dropped(48), Verdict::CopiesDropped(8)] {
                let header = Header { time: u64::MAX - 1, port: 0xfffe, direction, verdict, original_len: 65_557 };
                let record = [&header.to_bytes()[..], b"frame"].concat();
                assert_eq!(Header::split(&record), Some((header, &b"frame"[..])));
            }
        }
        assert_eq!(Header::split(&[0; HEADER_LEN - 1]), None);
    }
}
