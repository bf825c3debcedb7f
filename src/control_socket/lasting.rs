//! Streaming responses: events, captures, live traces.
//!
//! At most 16 run at a time, 4 of them for root alone, and 8 of the others for clients with less than full rights. A response ends with its stream, or when its
//! reader disconnects or does not accept a chunk within 30 seconds. The time limit is suspended while there is nothing to send.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::problem;
use super::listener::Stay;

/// Time limit while there is nothing to send: practically unlimited.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The right to send one streaming response; handlers take it as an argument.
#[derive(Debug)]
pub(super) struct Lasting {
    stay: Stay,
    _place: Vec<OwnedSemaphorePermit>,
}

impl<S: Send + Sync> FromRequestParts<S> for Lasting {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Lasting, Response> {
        let full =
            || problem(StatusCode::SERVICE_UNAVAILABLE, "too many follow events, captures or traces already; end one of them");
        let stay = parts.extensions.get::<Stay>().ok_or_else(full)?.clone();
        let place = stay.lasting.try_take().ok_or_else(full)?;
        Ok(Lasting { stay, _place: place })
    }
}

impl Lasting {
    /// A response with the chunks of `stream`.
    pub(super) fn answer(self, content_type: &'static str, stream: impl Stream<Item = Bytes> + Send + 'static) -> Response {
        let body = Body::from_stream(stream.map(Ok::<Bytes, Infallible>));
        self.bound(([(header::CONTENT_TYPE, content_type)], body).into_response())
    }

    /// Applies the limits of a streaming response to an existing one.
    pub(super) fn bound(self, answer: Response) -> Response {
        answer.map(|body| Body::from_stream(Timed { stream: body.into_data_stream(), lasting: self }))
    }
}

/// A body that restarts the connection's time limit with each chunk, and suspends it between chunks.
struct Timed {
    stream: BodyDataStream,
    lasting: Lasting,
}

impl Stream for Timed {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.poll_next_unpin(context);
        match polled {
            Poll::Pending => self.lasting.stay.extend(YEAR),
            Poll::Ready(_) => self.lasting.stay.renew(),
        }
        polled
    }
}
