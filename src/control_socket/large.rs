//! Responses of up to some megabytes: three at a time, one of them for root alone, and one of the others for clients with less
//! than full rights.
//!
//! Building one takes several times its size in memory, and sending it keeps the size allocated until the reader has read all
//! of it, within the time limit of a request. So the right to send one is held until the connection ends.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use tokio::time::timeout;

use super::answer::busy;
use super::listener::Stay;

/// Time limit for waiting while others are sent.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// The right to send one large response; handlers take it as an argument.
#[derive(Debug)]
pub(super) struct Large;

impl<S: Send + Sync> FromRequestParts<S> for Large {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Large, Response> {
        let stay = parts.extensions.get::<Stay>().ok_or_else(busy)?.clone();
        let place = timeout(QUEUE_TIMEOUT, stay.large.take()).await;
        stay.keep(place.ok().flatten().ok_or_else(busy)?);
        Ok(Large)
    }
}
