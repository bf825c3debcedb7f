//! Checksums of the payloads of segments, so that a super-frame which is flooded to many ports is summed once.
//!
//! Most of the time in which a super-frame is cut goes into the sums of its segments: they read all of its bytes. Headers differ
//! from port to port by the VLAN tag, sums do not.

/// Maximum number of segments in a batch whose sums are kept: 16 super-frames of 64 segments. Those beyond are summed each time.
const MAX_SUMS: usize = 1024;

/// The sums of a batch's segments. All of its memory is allocated at the start.
#[derive(Debug)]
pub(crate) struct PayloadSums {
    /// `None` until the segment was written for the first time.
    sums: Vec<Option<u16>>,
    /// The super-frames: where each begins in the arena, and where its sums are.
    frames: Vec<(usize, usize)>,
}

impl PayloadSums {
    /// Room for the sums of a batch of at most this number of frames.
    pub(crate) fn new(frames: usize) -> PayloadSums {
        PayloadSums { sums: Vec::with_capacity(MAX_SUMS), frames: Vec::with_capacity(frames) }
    }

    /// A new batch begins.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if !self.frames.is_empty() {
            self.frames.clear();
            self.sums.clear();
        }
    }

    /// The sums of the super-frame at this position of the arena, which has this number of segments.
    #[cold]
    pub(crate) fn of(&mut self, start: usize, segments: usize) -> Sums<'_> {
        let PayloadSums { sums, frames } = self;
        let first = if let Some((_, first)) = frames.iter().find(|(frame, _)| *frame == start) {
            *first
        } else {
            let first = sums.len();
            if first + segments <= MAX_SUMS && frames.len() < frames.capacity() {
                frames.push((start, first));
                sums.resize(first + segments, None);
            }
            first
        };
        let end = (first + segments).min(sums.len());
        Sums(sums.get_mut(first..end).unwrap_or_default().iter_mut())
    }
}

/// The sums of one super-frame, segment by segment.
pub(crate) struct Sums<'a>(std::slice::IterMut<'a, Option<u16>>);

impl Sums<'_> {
    /// The sum of the next segment, which `compute` returns if it is not known.
    #[inline]
    pub(crate) fn next(&mut self, compute: impl FnOnce() -> u16) -> u16 {
        match self.0.next() {
            Some(sum) => *sum.get_or_insert_with(compute),
            None => compute(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sums: &mut PayloadSums, start: usize, values: &[u16]) -> usize {
        let mut computed = 0;
        let mut of = sums.of(start, values.len());
        for value in values {
            let sum = of.next(|| {
                computed += 1;
                *value
            });
            assert_eq!(sum, *value);
        }
        computed
    }

    #[test]
    fn each_sum_is_computed_once() {
        let mut sums = PayloadSums::new(4);
        assert_eq!((run(&mut sums, 0, &[1, 2, 3]), run(&mut sums, 100, &[4, 5]), run(&mut sums, 0, &[1, 2, 3])), (3, 2, 0));
        assert_eq!(run(&mut sums, 100, &[4, 5]), 0);
        sums.clear();
        assert_eq!(run(&mut sums, 0, &[7, 8, 9]), 3);
    }

    #[test]
    fn a_port_that_refuses_a_segment_leaves_the_rest_to_others() {
        let mut sums = PayloadSums::new(4);
        assert_eq!(sums.of(0, 3).next(|| 1), 1);
        assert_eq!((run(&mut sums, 100, &[4, 5]), run(&mut sums, 0, &[1, 2, 3]), run(&mut sums, 100, &[4, 5])), (2, 2, 0));
    }

    #[test]
    fn beyond_the_room_they_are_computed_each_time() {
        let mut sums = PayloadSums::new(4);
        let many = [7; MAX_SUMS];
        assert_eq!((run(&mut sums, 0, &many), run(&mut sums, 0, &many)), (MAX_SUMS, 0));
        assert_eq!((run(&mut sums, 50, &[1, 2]), run(&mut sums, 50, &[1, 2])), (2, 2));
    }
}
