//! Waiting for conditions: the only clock in these tests is the time limit.

use std::thread;
use std::time::{Duration, Instant};

/// Time limit of every wait, long enough for a busy machine.
pub(crate) const NEVER: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(5);

/// Repeats `attempt` until it returns a value.
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

/// Repeats `attempt` for this time, which may be too short on a busy machine.
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
