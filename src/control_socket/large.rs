//! Answers that may be megabytes: two at a time, and one of those who may not do everything.
//!
//! While one is made it takes several times its size, and then that until its reader has it, for which it has as long as
//! for a request. So a place for it is held until its connection ends.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use tokio::time::timeout;

use super::answer::busy;
use super::server::Stay;

/// Such answers at a time; and those of others.
pub(super) const LARGE: usize = 2;
pub(super) const LARGE_OF_OTHERS: usize = 1;

/// So long one waits for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// A place for such an answer, to be asked for by a handler.
#[derive(Debug)]
pub(super) struct Large;

impl<S: Send + Sync> FromRequestParts<S> for Large {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Large, Response> {
        let stay = parts.extensions.get::<Stay>().ok_or_else(busy)?.clone();
        let place = timeout(PATIENCE, Arc::clone(&stay.large).acquire_owned()).await;
        stay.keep(place.ok().and_then(Result::ok).ok_or_else(busy)?);
        Ok(Large)
    }
}
