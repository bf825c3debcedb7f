//! How often the same thing is logged: at most [`BURST`] times in [`WINDOW`] about the same port.
//!
//! A guest that connects and leaves, or a link that goes up and down, would fill the log at the expense of what others have to
//! say. Two lines are the same if they come from the same place in the code with the same words about the same thing: the
//! fields [`THINGS`] are compared; others, such as an error or the guest's process, are not, because whoever causes the
//! lines may choose them. When the window is over, one line tells how many more there were.
//!
//! Lines about what an operator does ([`OPERATORS`]) are not limited: each answers a request of somebody with full rights.
//!
//! *Limits.* [`SLOTS`] different lines are remembered, by a hash of their identity. A line whose slot is taken by another takes
//! it over, and so may be logged once more than it should be.
//!
//! *Threads.* Whoever logs takes a lock for one look-up.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines about the same thing in each [`WINDOW`].
const BURST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Number of lines that are remembered.
const SLOTS: usize = 2048;

/// Longest text of a line that the summary repeats, in bytes.
const MAX_TEXT: usize = 256;

/// The fields that name what a line is about.
const THINGS: [&str; 8] = ["port", "tunnel", "socket", "address", "interface", "uplink", "network", "thread"];

/// Modules whose lines answer an operator.
const OPERATORS: [&str; 2] = ["vswitchd::daemon::reconfigure", "vswitchd::control_socket"];

/// Where the summaries come from.
const OWN: &str = module_path!();

/// The lines logged lately.
#[derive(Debug)]
pub(super) struct Recent {
    slots: Mutex<Vec<Slot>>,
    /// Some line was left out and has not been told of.
    is_untold: AtomicBool,
}

/// One line.
#[derive(Clone, Debug)]
struct Slot {
    identity: u64,
    window: Instant,
    /// Lines in this window.
    lines: u32,
    left_out: Option<LeftOut>,
}

/// Lines that were not logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LeftOut {
    count: u64,
    /// The words of the line, with what it is about.
    text: String,
    /// When they are told of.
    due: Instant,
}

/// The layer that leaves lines out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(pub(super) &'static Recent);

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let target = event.metadata().target();
        if target == OWN || OPERATORS.iter().any(|module| target.starts_with(module)) {
            return true;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let mut hasher = DefaultHasher::new();
        event.metadata().callsite().hash(&mut hasher);
        line.text.hash(&mut hasher);
        self.0.admits(hasher.finish(), &line.text, Instant::now())
    }
}

/// Tells what was left out, once its window is over, or at the end of the process all of it.
pub(super) fn tell(recent: &Recent, is_end: bool) {
    for LeftOut { count, text, .. } in recent.due(Instant::now(), is_end) {
        tracing::warn!("{count} more like this: {text}");
    }
}

impl Recent {
    pub(super) fn new() -> Recent {
        Recent { slots: Mutex::default(), is_untold: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this line may be logged now.
    fn admits(&self, identity: u64, text: &str, now: Instant) -> bool {
        let mut slots = self.lock();
        if slots.is_empty() {
            slots.resize(SLOTS, Slot { identity: 0, window: now, lines: 0, left_out: None });
        }
        let slot = &mut slots[identity as usize % SLOTS];
        if slot.identity != identity {
            // What was left out of the former line is told of all the same.
            let left_out = slot.left_out.take();
            *slot = Slot { identity, window: now, lines: 0, left_out };
        } else if now.saturating_duration_since(slot.window) >= WINDOW {
            (slot.window, slot.lines) = (now, 0);
        }
        slot.lines += 1;
        if slot.lines <= BURST {
            return true;
        }
        slot.lines = BURST;
        let begin = || LeftOut { count: 0, text: text.to_owned(), due: now + WINDOW };
        slot.left_out.get_or_insert_with(begin).count += 1;
        self.is_untold.store(true, Ordering::Relaxed);
        false
    }

    /// Takes what is to be told.
    fn due(&self, now: Instant, is_end: bool) -> Vec<LeftOut> {
        if !self.is_untold.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut slots = self.lock();
        let is_due = |left_out: &mut LeftOut| is_end || now >= left_out.due;
        let due = slots.iter_mut().filter_map(|slot| slot.left_out.take_if(is_due)).collect();
        self.is_untold.store(slots.iter().any(|slot| slot.left_out.is_some()), Ordering::Relaxed);
        due
    }
}

/// The words of a line, and what it is about.
#[derive(Default)]
struct Line {
    text: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let before = mem::take(&mut self.text);
        let mut text = Cut(before);
        // A text that is full refuses more.
        let _ = match field.name() {
            "message" => {
                let rest = mem::take(&mut text.0);
                text.write_fmt(value).and_then(|()| text.write_str(&rest))
            }
            name if THINGS.contains(&name) => write!(text, " {name}={value}"),
            _ => Ok(()),
        };
        self.text = text.0;
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

/// A text of at most [`MAX_TEXT`] bytes.
struct Cut(String);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_TEXT.saturating_sub(self.0.len());
        let end = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        if end == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_line_is_limited_and_the_rest_is_told() {
        let (recent, start) = (Recent::new(), Instant::now());
        let admitted = |identity: u64, now| (0..25).filter(|_| recent.admits(identity, "a guest connected", now)).count();
        assert_eq!((admitted(1, start), admitted(2, start)), (10, 10), "each on its own");
        assert_eq!(recent.due(start, false), []);
        let later = start + WINDOW;
        assert_eq!(admitted(1, later), 10, "a window of its own");
        let due = recent.due(later, false);
        assert_eq!(due.iter().map(|left_out| left_out.count).collect::<Vec<_>>(), [30, 15]);
        assert_eq!((due[0].text.as_str(), recent.due(later, true)), ("a guest connected", vec![]));
        // Two lines of one slot.
        assert_eq!(admitted(3, later), 10);
        assert!(recent.admits(3 + SLOTS as u64, "another", later));
        assert_eq!(recent.due(later, true)[0].count, 15);
    }

    #[test]
    fn a_line_is_its_words_and_what_it_is_about() {
        use std::sync::Arc;
        use tracing_subscriber::layer::SubscriberExt;

        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<String>>>);
        impl<S: Subscriber> Layer<S> for Lines {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut line = Line::default();
                event.record(&mut line);
                self.0.lock().unwrap().push(line.text);
            }
        }
        let lines = Lines::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.clone()), || {
            tracing::info!(port = "tap0\n", guest = "process 7", error = %fmt::Error, "a guest {}", "came");
            tracing::info!("{}", "x".repeat(2 * MAX_TEXT));
        });
        let lines = lines.0.lock().unwrap();
        assert_eq!(lines[0], "a guest came port=\"tap0\\n\"");
        assert_eq!(lines[1].len(), MAX_TEXT);
    }
}
