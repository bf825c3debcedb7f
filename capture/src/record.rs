//! One captured frame on its way through a [`ring`](crate::ring): a header, and bytes.
//!
//! ```text
//!  0                8      10      11     12         16
//! +----------------+------+-------+------+----------+----------------------+
//! | time           | port | dir   | why  | original | the frame's bytes ..  |
//! +----------------+------+-------+------+----------+----------------------+
//!                           |       the reason's number; 255: not dropped
//!                           direction, and 0x80: some copies of it were dropped
//! ```

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 16;

const NO_REASON: u8 = 255;
const SOME_COPIES: u8 = 0x80;

/// Direction of a frame at a capture point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Received from the port.
    Received,
    /// Sent to the port.
    Sent,
    /// Neither: it waited in the switch, or the switch made it.
    Within,
}

/// Outcome of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was forwarded or sent.
    Passed,
    /// It was dropped, for the reason with this number.
    Dropped(u8),
    /// It was flooded, but dropped for some of the ports.
    CopiesDropped(u8),
}

/// Metadata of a captured frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Nanoseconds on the switch's clock.
    pub time: u64,
    /// Number of the port.
    pub port: u16,
    /// Direction.
    pub direction: Direction,
    /// Outcome.
    pub verdict: Verdict,
    /// Length of the whole frame, in bytes; less may have been captured.
    pub original_len: u32,
}

impl Verdict {
    /// Number of the reason for which the frame, or a copy of it, was dropped.
    #[must_use]
    pub fn reason(self) -> Option<u8> {
        match self {
            Verdict::Passed => None,
            Verdict::Dropped(reason) | Verdict::CopiesDropped(reason) => Some(reason),
        }
    }
}

impl Header {
    /// The header as bytes.
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

    /// Splits a record into its header and the frame's bytes. `None` if the bytes are not a record.
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
