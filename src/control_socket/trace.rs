//! What happens to packets: imagined ones, and real ones as they come.

use std::time::Duration;

use api::Refusal;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use filter::Filter;
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::time::sleep;
use utoipa::IntoParams;

use super::answer::{Parameters, problem, refused};
use super::ask::Asker;
use super::lasting::Lasting;
use super::query::Query;
use super::story;
use crate::trace::{self, Words};
use crate::watch::traces::Following;

/// How often it is looked whether a story is there.
const LOOK: Duration = Duration::from_millis(50);
/// After the last packet was taken, its story is there within this, or lost with a worker's batch.
const LAST_LOOKS: u32 = 40;
/// So many stories at most.
const MOST: u32 = 1_000_000;

/// An imaginary packet
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Imagined {
    /// Its words, such as `port=tap0,src=10.0.0.2,dst=198.51.100.7,tcp,dport=80`
    packet: String,
}

/// What would happen to an imaginary packet; nothing changes by it
#[utoipa::path(get, path = "/v1/trace", params(Imagined), responses(
    (status = 200, body = story::Story),
    (status = 404, description = "there is no such port", body = super::views::Problem),
    (status = 409, description = "nothing can come in by that port now", body = super::views::Problem),
    (status = 422, description = "words that are no packet", body = super::views::Problem),
))]
pub(super) async fn imagine(
    State(asker): State<Asker>,
    Parameters(Imagined { packet }): Parameters<Imagined>,
) -> Result<Json<story::Story>, Response> {
    let words: Words = packet.parse().map_err(|problem| refused(Refusal::Unprocessable(problem)))?;
    asker.change(|reply| Query::Imagine(Box::new(words), reply)).await.map(Json)
}

/// Which real packets
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Followed {
    /// So many, 1 to 1,000,000
    count: u32,
    /// Those that come in through this port
    port: Option<String>,
    /// Of these, those that a filter in tcpdump's words takes
    filter: Option<String>,
}

/// What happens to the next real packets: JSON, a line for each, and one at the end
#[utoipa::path(get, path = "/v1/trace/live", params(Followed), responses(
    (status = 200, body = story::Story, content_type = "application/x-ndjson"),
    (status = 404, description = "there is no such port", body = super::views::Problem),
    (status = 409, description = "too many are traced already", body = super::views::Problem),
))]
pub(super) async fn follow(
    State(asker): State<Asker>,
    Parameters(Followed { count, port, filter }): Parameters<Followed>,
    lasting: Lasting,
) -> Result<Response, Response> {
    if !(1..=MOST).contains(&count) {
        return Err(problem(StatusCode::BAD_REQUEST, "count is from 1 to 1000000"));
    }
    let filter = filter.map(|text| text.parse::<Filter>()).transpose();
    let filter = filter.map_err(|error| refused(Refusal::BadRequest(format!("filter: {error}"))))?;
    let following = asker.change(|reply| Query::Follow { count, port, filter, reply }).await?;
    let telling = Telling { following, count, told: 0, waited: 0, is_over: false };
    Ok(lasting.answer("application/x-ndjson", lines(telling)))
}

/// Stories on their way to a client.
struct Telling {
    following: Following,
    count: u32,
    told: u32,
    /// Looks in vain since nothing more was wanted.
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
                return line(&story::End { told: self.told, lost: live.lost(), port_is_gone });
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
