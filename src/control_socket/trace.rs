//! What happens to packets: imagined ones, and real ones as they come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query as Parameters, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::time::sleep;
use utoipa::IntoParams;
use vswitch::Live;

use super::api::{busy, problem};
use super::{Asker, Query, story, views};
use crate::trace::{self, Names, Words};

/// How often it is looked whether a story is there.
const LOOK: Duration = Duration::from_millis(50);
/// After the last packet was taken, its story is there within this, or lost with a worker's batch.
const LAST_LOOKS: u32 = 40;
/// So many stories at most.
const MOST: u32 = 1_000_000;

/// An imaginary packet
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Imagined {
    /// Its words, such as `port=tap0,src=10.0.0.2,dst=198.51.100.7,tcp,dport=80`
    packet: String,
}

/// What would happen to an imaginary packet; nothing changes by it
#[utoipa::path(get, path = "/v1/trace", params(Imagined), responses(
    (status = 200, body = story::Story),
    (status = 400, description = "a word that is not understood", body = views::Problem),
))]
pub(super) async fn imagine(
    State(asker): State<Asker>,
    packet: Result<Parameters<Imagined>, QueryRejection>,
) -> Result<Json<story::Story>, Response> {
    let Parameters(Imagined { packet }) = packet.map_err(|error| problem(StatusCode::BAD_REQUEST, &error.body_text()))?;
    let wrong = |what: String| problem(StatusCode::BAD_REQUEST, &what);
    let words: Words = packet.parse().map_err(wrong)?;
    asker.ask(|reply| Query::Imagine(Box::new(words), reply)).await.ok_or_else(busy)?.map(Json).map_err(wrong)
}

/// Which real packets
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Followed {
    /// So many, 1 to 1,000,000
    count: u32,
    /// Those that come in through this port
    port: Option<String>,
}

/// What happens to the next real packets: JSON, a line for each, and one at the end
#[utoipa::path(get, path = "/v1/trace/live", params(Followed), responses(
    (status = 200, body = story::Story, content_type = "application/x-ndjson"),
    (status = 400, description = "a word that is not understood", body = views::Problem),
    (status = 409, description = "too many are traced already", body = views::Problem),
))]
pub(super) async fn follow(
    State(asker): State<Asker>,
    wanted: Result<Parameters<Followed>, QueryRejection>,
) -> Result<Response, Response> {
    let Parameters(Followed { count, port }) = wanted.map_err(|error| problem(StatusCode::BAD_REQUEST, &error.body_text()))?;
    if !(1..=MOST).contains(&count) {
        return Err(problem(StatusCode::BAD_REQUEST, "count is from 1 to 1000000"));
    }
    let answer = asker.ask(|reply| Query::Follow { count, port, reply }).await.ok_or_else(busy)?;
    let (live, names) = answer.map_err(|(status, what)| problem(status, &what))?;
    let telling = Telling { live, names, count, told: 0, waited: 0, is_over: false };
    let body = Body::from_stream(lines(telling));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Stories on their way to a client; ends the trace when the client is gone.
struct Telling {
    live: Arc<Live>,
    names: Names,
    count: u32,
    told: u32,
    /// Looks in vain since nothing more was wanted.
    waited: u32,
    is_over: bool,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.live.end();
    }
}

impl Telling {
    fn all_are_told(&mut self) -> bool {
        if self.live.remaining() > 0 {
            return false;
        }
        self.waited += 1;
        u64::from(self.told) + self.live.lost() >= u64::from(self.count) || self.waited > LAST_LOOKS
    }

    async fn next_line(&mut self) -> Option<Bytes> {
        while !self.is_over {
            if let Some(told) = self.live.next_story() {
                self.told += 1;
                return line(&trace::story(&told, &self.names, Vec::new()));
            }
            if self.all_are_told() {
                self.is_over = true;
                return line(&story::End { told: self.told, lost: self.live.lost() });
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

fn lines(telling: Telling) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::unfold(telling, |mut telling| async move {
        let line = telling.next_line().await?;
        Some((Ok(line), telling))
    })
}
