//! Responses that may be megabytes: two at a time, one of them for clients with less than full rights.
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
use super::listener::Stay;

/// Time limit for waiting for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// A place for such a response; a handler takes it as an argument.
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
