//! Waiting for what must happen at some time: the only clock in these tests is one that says "never".

use std::thread;
use std::time::{Duration, Instant};

/// What has not happened by then never will, however busy the machine.
pub(crate) const NEVER: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(5);

/// Tries until there is an answer.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + NEVER;
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {NEVER:?} for {what}");
        thread::sleep(PAUSE);
    }
}

/// Tries for so long, which is not long enough to be sure.
pub(crate) fn for_at_most<T>(time: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        let answer = attempt();
        if answer.is_some() || Instant::now() >= end {
            return answer;
        }
        thread::sleep(Duration::from_micros(50));
    }
}
