//! Stories of real packets, in the order of time.
//!
//! Each worker hands over the stories of a batch when it has written the batch. A reply can be read, and its story handed over, by
//! another worker before the story of the request comes. So stories are held for [`HOLD`], much longer than a batch takes, and leave
//! sorted by the time at which their frames were read; those of one batch, which have the same time, stay in their order.

use std::collections::VecDeque;
use std::time::Duration;

use vswitch::Story;

/// How long a story is held.
pub(crate) const HOLD: Duration = Duration::from_millis(50);

/// Maximum number of stories held; the oldest of more leave early. Each has about 2 KiB.
const MOST_HELD: usize = 2048;

/// Stories that are held.
#[derive(Debug, Default)]
pub(crate) struct Ordered {
    held: VecDeque<Story>,
}

impl Ordered {
    /// Takes a story in.
    pub(crate) fn push(&mut self, story: Story) {
        // Most come in order.
        let later = self.held.iter().rev().take_while(|held| held.nanoseconds > story.nanoseconds).count();
        self.held.insert(self.held.len() - later, story);
    }

    /// The next story to tell at this time of the workers' clock, in nanoseconds.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Story> {
        let hold = u64::try_from(HOLD.as_nanos()).unwrap_or(u64::MAX);
        let is_due = self.held.front().is_some_and(|first| first.nanoseconds.saturating_add(hold) <= now);
        if is_due || self.is_full() { self.held.pop_front() } else { None }
    }

    /// The next story when no more will come.
    pub(crate) fn pop_last(&mut self) -> Option<Story> {
        self.held.pop_front()
    }

    /// Whether the next story is to be taken out before another is taken in.
    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= MOST_HELD
    }

    /// Whether none is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(nanoseconds: u64, len: u32) -> Story {
        let mut story = Story::blank();
        (story.nanoseconds, story.len) = (nanoseconds, len);
        story
    }

    #[test]
    fn a_request_is_told_before_its_reply() {
        let mut ordered = Ordered::default();
        for (nanoseconds, len) in [(3_000, 1), (2_000, 2), (2_000, 3), (1_000, 4), (4_000, 5)] {
            ordered.push(story(nanoseconds, len));
        }
        let hold = HOLD.as_nanos() as u64;
        assert!(ordered.pop(hold + 999).is_none(), "an earlier one may still come");
        let mut due = || ordered.pop(hold + 3_000).map(|story| story.len);
        assert_eq!([due(), due(), due(), due(), due()], [Some(4), Some(2), Some(3), Some(1), None]);
        assert_eq!(ordered.pop_last().map(|story| story.len), Some(5));
    }

    #[test]
    fn the_number_held_is_limited() {
        let mut ordered = Ordered::default();
        (0..MOST_HELD as u64).for_each(|at| ordered.push(story(at, 0)));
        assert!(ordered.is_full() && ordered.pop(0).is_some_and(|story| story.nanoseconds == 0) && ordered.pop(0).is_none());
    }
}
