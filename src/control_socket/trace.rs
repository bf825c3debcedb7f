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
use crate::trace::{self, Words};
use crate::watch::traces::Following;

/// How often the ring of stories is read.
const LOOK: Duration = Duration::from_millis(50);
/// Reads after the last packet was taken; a story that is not there by then was lost with a batch of its worker.
const LAST_LOOKS: u32 = 40;
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
    let telling = Telling { following, count, told: 0, waited: 0, is_over: false };
    Ok(lasting.answer("application/x-ndjson", lines(telling)))
}

/// Stories on their way to a client.
struct Telling {
    following: Following,
    count: u32,
    told: u32,
    /// Reads without a story since the last packet was taken.
    waited: u32,
    is_over: bool,
}

impl Telling {
    fn all_are_told(&mut self) -> bool {
        let live = &self.following.live;
        if live.remaining() > 0 {
            return false;
        }
        self.waited += 1;
        u64::from(self.told) + live.lost() >= u64::from(self.count) || self.waited > LAST_LOOKS
    }

    async fn next_line(&mut self) -> Option<Bytes> {
        while !self.is_over {
            if let Some(told) = self.following.live.next_story() {
                self.told += 1;
                return line(&trace::story(&told, &self.following.names(), Vec::new()));
            }
            if self.all_are_told() {
                self.is_over = true;
                let Following { live, .. } = &self.following;
                let port_is_gone = self.following.port_is_gone();
                return line(&End { told: self.told, lost: live.lost(), port_is_gone });
            }
            sleep(LOOK).await;
        }
        None
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
