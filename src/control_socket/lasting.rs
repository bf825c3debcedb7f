//! Responses without an end: events, captures, live traces.
//!
//! There are 16 at a time, 8 of them for clients with less than full rights. A response goes on until its stream ends, or its
//! reader goes or stops reading: each chunk has to be taken within 30 seconds. While there is nothing to send, that time does not
//! pass.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
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

/// As good as never.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A place for such a response; a handler takes it as an argument.
#[derive(Debug)]
pub(super) struct Lasting {
    stay: Stay,
    _place: OwnedSemaphorePermit,
}

impl<S: Send + Sync> FromRequestParts<S> for Lasting {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Lasting, Response> {
        let full =
            || problem(StatusCode::SERVICE_UNAVAILABLE, "too many follow events, captures or traces already; end one of them");
        let stay = parts.extensions.get::<Stay>().ok_or_else(full)?.clone();
        let place = Arc::clone(&stay.lasting).try_acquire_owned().map_err(|_| full())?;
        Ok(Lasting { stay, _place: place })
    }
}

impl Lasting {
    /// The answer: all that comes, until it ends, or its reader goes or takes nothing for 30 seconds.
    pub(super) fn answer(self, content_type: &'static str, stream: impl Stream<Item = Bytes> + Send + 'static) -> Response {
        let body = Body::from_stream(stream.map(Ok::<Bytes, Infallible>));
        self.bound(([(header::CONTENT_TYPE, content_type)], body).into_response())
    }

    /// The same for an answer that is there already.
    pub(super) fn bound(self, answer: Response) -> Response {
        answer.map(|body| Body::from_stream(Timed { stream: body.into_data_stream(), lasting: self }))
    }
}

/// A reader that is given something has to take it in time; while there is nothing to give, its time does not pass.
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
