//! Events, to those who follow them, as server-sent events (WHATWG HTML, section 9.2).
//!
//! The control thread tells each event once, whoever listens, and never waits: the last 1024 are kept for readers that
//! are behind, and who is behind further is told how many he missed. There is no history: who comes is told what
//! happens from then on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::Bytes;
use axum::response::Response;
use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};

use super::event::{Event, What};
use super::lasting::Lasting;

/// So many are kept for those who are behind.
const KEPT: usize = 1024;

/// Where the control thread tells what happens.
#[derive(Debug)]
pub(super) struct Events {
    sender: Sender<Arc<Event>>,
    sequence: u64,
}

impl Events {
    pub(super) fn new() -> Events {
        Events { sender: broadcast::channel(KEPT).0, sequence: 0 }
    }

    /// Where to subscribe.
    pub(super) fn sender(&self) -> Sender<Arc<Event>> {
        self.sender.clone()
    }

    /// Does anybody listen?
    pub(super) fn has_readers(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(super) fn tell(&mut self, what: What) {
        self.sequence += 1;
        if self.has_readers() {
            let event = Event { sequence: self.sequence, time: timestamp(SystemTime::now()), what };
            // The last reader may just have gone.
            let _ = self.sender.send(Arc::new(event));
        }
    }
}

/// What happens from now on, as server-sent events
///
/// Each has the name of its type, its number as id, and as data an Event in JSON. The answer ends when the reader does
/// not take what comes for 30 seconds, or the daemon ends.
#[utoipa::path(get, path = "/v1/events", responses((status = 200, body = Event, content_type = "text/event-stream")))]
pub(super) async fn follow(Extension(events): Extension<Sender<Arc<Event>>>, lasting: Lasting) -> Response {
    lasting.answer("text/event-stream", stream::unfold((events.subscribe(), 0), next))
}

/// The next event in its lines, with the number of the last one.
async fn next((mut events, last): (Receiver<Arc<Event>>, u64)) -> Option<(Bytes, (Receiver<Arc<Event>>, u64))> {
    let (event, last) = match events.recv().await {
        Ok(event) => (lines(&event), event.sequence),
        Err(RecvError::Lagged(count)) => {
            let last = last + count;
            let what = What::Missed { events: count };
            (lines(&Event { sequence: last, time: timestamp(SystemTime::now()), what }), last)
        }
        Err(RecvError::Closed) => return None,
    };
    Some((event, (events, last)))
}

fn lines(event: &Event) -> Bytes {
    let json = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {json}\n\n", event.sequence, name_of(&event.what)).into()
}

/// As it is called in JSON.
fn name_of(what: &What) -> &'static str {
    match what {
        What::PortUp { .. } => "port_up",
        What::PortDown { .. } => "port_down",
        What::PortGone { .. } => "port_gone",
        What::PortBack { .. } => "port_back",
        What::GuestCame { .. } => "guest_came",
        What::GuestWent { .. } => "guest_went",
        What::UplinkChanged { .. } => "uplink_changed",
        What::MacMoved { .. } => "mac_moved",
        What::MacTableFull { .. } => "mac_table_full",
        What::NatTableFull { .. } => "nat_table_full",
        What::NatPortsExhausted { .. } => "nat_ports_exhausted",
        What::PeerFound { .. } => "peer_found",
        What::PeerChanged { .. } => "peer_changed",
        What::PortChanged { .. } => "port_changed",
        What::TunnelChanged { .. } => "tunnel_changed",
        What::RuleChanged { .. } => "rule_changed",
        What::SettingChanged { .. } => "setting_changed",
        What::ConfigApplied { .. } => "config_applied",
        What::Missed { .. } => "missed",
    }
}

/// A moment as RFC 3339 has it, in UTC and milliseconds.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // The Gregorian calendar repeats itself after 400 years; years that begin with March have their odd day at the end.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stream of a reader, as far as it can be read now.
    fn read(state: &mut Option<(Receiver<Arc<Event>>, u64)>) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut read = Vec::new();
        while state.as_ref().is_some_and(|(events, _)| !events.is_empty()) {
            let (bytes, after) = runtime.block_on(next(state.take().unwrap())).unwrap();
            *state = Some(after);
            read.push(String::from_utf8(bytes.to_vec()).unwrap());
        }
        read
    }

    #[test]
    fn who_is_too_slow_is_told_what_was_missed() {
        let mut events = Events::new();
        let up = || What::PortUp { port: "a\nid: 9".to_owned(), mtu: 1500 };
        events.tell(up());
        let mut slow = Some((events.sender().subscribe(), 0));
        events.tell(up());
        let first = read(&mut slow);
        assert!(first[0].starts_with("id: 2\nevent: port_up\ndata: {\"sequence\":2,\"time\":\"2"), "{first:?}");
        assert_eq!(first[0].lines().count(), 4, "a name cannot end its line");
        (0..KEPT + 5).for_each(|_| events.tell(up()));
        let rest = read(&mut slow);
        assert!(rest[0].starts_with("id: 7\nevent: missed\n") && rest[0].contains("\"events\":5"), "{}", rest[0]);
        assert!(rest[1].starts_with("id: 8\nevent: port_up\n"));
        assert_eq!(rest.len(), KEPT + 1);
    }

    #[test]
    fn nobody_listens() {
        let mut events = Events::new();
        events.tell(What::ConfigApplied { changes: 0 });
        assert!(!events.has_readers());
        assert_eq!(events.sequence, 1);
    }

    #[test]
    fn moments() {
        let text = |seconds, millis: u32| timestamp(SystemTime::UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000));
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(1_709_251_199, 999), "2024-02-29T23:59:59.999Z");
        assert_eq!(text(1_735_689_600, 7), "2025-01-01T00:00:00.007Z");
        assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    /// The name in front of an event is that within it.
    #[test]
    fn names_are_those_of_the_json() {
        for what in [
            What::MacMoved {
                bridge: String::new(),
                vlan: 0,
                mac: String::new(),
                from: String::new(),
                to: String::new(),
                more: 0,
            },
            What::UplinkChanged { interface: String::new(), state: String::new(), outside: None },
            What::Missed { events: 3 },
            What::NatPortsExhausted { mappings: 1 },
        ] {
            let event = Event { sequence: 1, time: String::new(), what: what.clone() };
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["type"], name_of(&what));
            assert_eq!(serde_json::from_value::<Event>(json).unwrap().what, what);
        }
    }
}
