//! Events: what happens in the switch, sent to those who follow it.
//!
//! The control thread sends each event once, whoever listens, and never waits. The last 1024 are kept for readers that are
//! behind; a reader that falls further behind is told how many events it missed. There is no history: a new reader gets what
//! happens from then on.

use std::sync::Arc;

use api::{Event, What};
use tokio::sync::broadcast::{self, Sender};

/// Events kept for readers that are behind.
pub(crate) const KEPT: usize = 1024;

/// Where the control thread sends events.
#[derive(Debug)]
pub(crate) struct Events {
    sender: Sender<Arc<Event>>,
    sequence: u64,
}

impl Events {
    pub(crate) fn new() -> Events {
        Events { sender: broadcast::channel(KEPT).0, sequence: 0 }
    }

    /// Where to subscribe.
    pub(crate) fn sender(&self) -> Sender<Arc<Event>> {
        self.sender.clone()
    }

    /// Does anybody listen?
    pub(crate) fn has_readers(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Sends an event to all readers.
    pub(crate) fn tell(&mut self, what: What) {
        self.sequence += 1;
        if self.has_readers() {
            let event = Event { sequence: self.sequence, time: now(), what };
            // The last reader may just have gone.
            let _ = self.sender.send(Arc::new(event));
        }
    }
}

/// The time as RFC 3339 has it, in UTC and milliseconds.
pub(crate) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_without_readers() {
        let mut events = Events::new();
        events.tell(What::ConfigApplied { changes: 0 });
        assert!(!events.has_readers());
        let mut reader = events.sender().subscribe();
        events.tell(What::ConfigApplied { changes: 1 });
        assert_eq!(reader.try_recv().unwrap().sequence, 2);
    }

    #[test]
    fn a_time_has_milliseconds_and_is_utc() {
        assert_eq!(format!("{:.3}", jiff::Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        let now = now();
        assert!(now.len() == "1970-01-01T00:00:00.000Z".len() && now.ends_with('Z'), "{now}");
    }
}
