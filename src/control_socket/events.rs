//! Events as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::sync::Arc;

use api::{Event, What};
use axum::Extension;
use axum::response::sse;
use axum::response::{IntoResponse, Response, Sse};
use futures_util::stream::{self, Stream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};

use super::lasting::Lasting;
use crate::events::now;

/// Follow events, as server-sent events
///
/// Each has its type as name, its number as id, and an Event in JSON as data. The response ends when its reader does not
/// read for 30 seconds, or the daemon ends.
#[utoipa::path(get, path = "/v1/events", responses((status = 200, description = "Events, until the reader disconnects", body = Event, content_type = "text/event-stream")))]
pub(super) async fn follow(Extension(events): Extension<Sender<Arc<Event>>>, lasting: Lasting) -> Response {
    lasting.bound(Sse::new(following(events.subscribe())).into_response())
}

fn following(events: Receiver<Arc<Event>>) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send {
    stream::unfold(Reader { events, behind_missed: None }, async |mut reader| {
        let event = reader.next().await?;
        Some((Ok(framed(&event)), reader))
    })
}

/// A reader's place among the events.
struct Reader {
    events: Receiver<Arc<Event>>,
    /// The first event behind those that were missed.
    behind_missed: Option<Arc<Event>>,
}

impl Reader {
    /// The next event; or, where some were missed, how many, with the number of the last of them.
    async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.behind_missed.take() {
            return Some(event);
        }
        let mut missed = 0;
        loop {
            match self.events.recv().await {
                Ok(event) if missed == 0 => return Some(event),
                Ok(event) => {
                    let sequence = event.sequence.saturating_sub(1);
                    self.behind_missed = Some(event);
                    return Some(Arc::new(Event { sequence, time: now(), what: What::Missed { events: missed } }));
                }
                // Others may be missed while this is found out.
                Err(RecvError::Lagged(count)) => missed += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn framed(event: &Event) -> sse::Event {
    let framed = sse::Event::default().id(event.sequence.to_string()).event(event.what.name());
    framed.json_data(event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;
    use crate::events::{Events, KEPT};

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let mut events = Events::new();
        let up = || What::PortUp { port: "a".to_owned(), mtu: 1500 };
        events.tell(up());
        let reader = || Reader { events: events.sender().subscribe(), behind_missed: None };
        let (mut slow, mut slower) = (reader(), reader());
        events.tell(up());
        assert_eq!(wait(slow.next()).unwrap().sequence, 2);
        (0..KEPT + 5).for_each(|_| events.tell(up()));
        let missed = wait(slow.next()).unwrap();
        assert_eq!((missed.sequence, &missed.what), (7, &What::Missed { events: 5 }));
        assert_eq!(wait(slow.next()).unwrap().sequence, 8);
        let missed = wait(slower.next()).unwrap();
        assert_eq!((missed.sequence, &missed.what), (7, &What::Missed { events: 6 }), "before its first event");
        drop(events);
        let rest = std::iter::from_fn(|| wait(slow.next()));
        assert_eq!(rest.count(), KEPT - 1);
    }

    #[test]
    fn an_event_has_its_name_and_number_before_it() {
        let mut events = Events::new();
        let reader = events.sender().subscribe();
        events.tell(What::PortUp { port: "a\nid: 9".to_owned(), mtu: 1500 });
        drop(events);
        let body = Sse::new(following(reader)).into_response().into_body();
        let text = String::from_utf8(wait(to_bytes(body, usize::MAX)).unwrap().to_vec()).unwrap();
        assert!(text.starts_with("id: 1\nevent: port_up\ndata: {\"sequence\":1,\"time\":\"2"), "{text}");
        assert!(text.ends_with("}\n\n") && text.lines().count() == 4, "a name cannot end its line: {text}");
    }
}
