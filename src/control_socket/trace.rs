//! Traces of packets, imaginary and real.

use std::time::Duration;

use api::query::{Followed, Imagined};
use api::{End, Problem, Refusal, Story};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use filter::Filter;
use futures_util::{Stream, stream};
use tokio::time::sleep;

use super::answer::{Parameters, refused};
use super::ask::Asker;
use super::lasting::Lasting;
use super::query::Query;
use crate::trace::{self, Ordered, Words};
use crate::watch::traces::Following;

/// How often the ring of stories is read.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The same while stories are held to be told in the order of time, so that the ring has room for a burst.
const ORDERED_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long stories are waited for after the last packet was taken; one that is not there by then was lost with a batch of its
/// worker.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Maximum number of stories.
const MOST: u32 = 1_000_000;

/// Trace an imaginary packet; changes nothing
#[utoipa::path(get, path = "/v1/trace", params(Imagined), responses(
    (status = 200, description = "The story of the packet", body = Story),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "The port cannot receive now", body = Problem),
    (status = 422, description = "Not a description of a packet", body = Problem),
))]
pub(super) async fn imagine(
    State(asker): State<Asker>,
    Parameters(Imagined { packet }): Parameters<Imagined>,
) -> Result<Json<Story>, Response> {
    let words: Words = packet.parse().map_err(|error| refused(Refusal::unprocessable(error).of_field("packet")))?;
    asker.change(|reply| Query::Imagine(Box::new(words), reply)).await.map(Json)
}

/// Trace the next packets: a Story in JSON per line, and an End in the last line
#[utoipa::path(get, path = "/v1/trace/live", params(Followed), responses(
    (status = 200, description = "A story per line, and an End in the last line", body = Story, content_type = "application/x-ndjson"),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "Too many live traces", body = Problem),
))]
pub(super) async fn follow(
    State(asker): State<Asker>,
    Parameters(Followed { count, port, filter }): Parameters<Followed>,
    lasting: Lasting,
) -> Result<Response, Response> {
    if !(1..=MOST).contains(&count) {
        return Err(refused(Refusal::bad_request(format!("count is a number from 1 to {MOST}, not {count}")).of_field("count")));
    }
    let filter = filter.map(|text| text.parse::<Filter>()).transpose();
    let filter = filter.map_err(|error| refused(Refusal::bad_request(format!("filter: {error}")).of_field("filter")))?;
    let following = asker.change(|reply| Query::Follow { count, port, filter, reply }).await?;
    let telling = Telling::new(following, count);
    Ok(lasting.answer("application/x-ndjson", lines(telling)))
}

/// Stories on their way to a client, in the order of time.
struct Telling {
    following: Following,
    ordered: Ordered,
    /// Zero of the workers' clock, in nanoseconds since 1970.
    zero: i128,
    count: u32,
    /// Stories that came, told or still held.
    came: u32,
    /// Time on the workers' clock since which nothing came although all packets are taken, in nanoseconds.
    quiet_since: Option<u64>,
    is_over: bool,
}

impl Telling {
    fn new(following: Following, count: u32) -> Telling {
        let zero = jiff::Timestamp::now().as_nanosecond() - i128::from(following.clock.nanoseconds());
        Telling { following, ordered: Ordered::default(), zero, count, came: 0, quiet_since: None, is_over: false }
    }

    /// Takes in the stories that workers have handed over.
    fn take_in(&mut self) {
        while !self.ordered.is_full()
            && let Some(story) = self.following.live.next_story()
        {
            self.ordered.push(story);
            self.came += 1;
            self.quiet_since = None;
        }
    }

    /// Whether no more stories will come.
    fn have_all_come(&mut self, now: u64) -> bool {
        let live = &self.following.live;
        if live.remaining() > 0 {
            return false;
        }
        let quiet_since = *self.quiet_since.get_or_insert(now);
        let has_waited = Duration::from_nanos(now.saturating_sub(quiet_since)) > LAST_WAIT;
        u64::from(self.came) + live.lost() >= u64::from(self.count) || has_waited
    }

    async fn next_line(&mut self) -> Option<Bytes> {
        while !self.is_over {
            self.take_in();
            let now = self.following.clock.nanoseconds();
            if let Some(story) = self.ordered.pop(now) {
                return self.story_line(&story);
            }
            if self.have_all_come(now) {
                let Some(story) = self.ordered.pop_last() else {
                    self.is_over = true;
                    return self.end_line();
                };
                return self.story_line(&story);
            }
            sleep(if self.ordered.is_empty() { POLL_INTERVAL } else { ORDERED_POLL_INTERVAL }).await;
        }
        None
    }

    fn story_line(&self, story: &vswitch::Story) -> Option<Bytes> {
        let time = jiff::Timestamp::from_nanosecond(self.zero + i128::from(story.nanoseconds)).ok();
        let time = time.map(|time| format!("{time:.6}"));
        line(&trace::story(story, &self.following.names(), Vec::new(), time))
    }

    fn end_line(&self) -> Option<Bytes> {
        let port_is_gone = self.following.port_is_gone();
        line(&End { told: self.came, lost: self.following.live.lost(), port_is_gone })
    }
}

fn line(value: &impl serde::Serialize) -> Option<Bytes> {
    let mut line = serde_json::to_vec(value).ok()?;
    line.push(b'\n');
    Some(line.into())
}

fn lines(telling: Telling) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold(telling, |mut telling| async move {
        let line = telling.next_line().await?;
        Some((line, telling))
    })
}
