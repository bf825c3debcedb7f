//! Extractors for parameters and bodies, and error responses, whose body is always a [`Problem`].

use api::{PROBLEM_JSON, Problem, Refusal};
use axum::body::Bytes;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::input;

/// An error response.
pub(super) fn problem(status: StatusCode, text: &str) -> Response {
    respond(status, &problem_of(status, text))
}

fn problem_of(status: StatusCode, text: &str) -> Problem {
    Problem::new(status.as_u16(), status.canonical_reason().unwrap_or_default(), text)
}

fn respond(status: StatusCode, problem: &Problem) -> Response {
    let body = serde_json::to_vec(problem).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response()
}

/// Why there is no answer: too many requests wait, or the daemon ends.
pub(crate) const BUSY: &str = "the switch is busy or shutting down; try again";

/// The response in that case.
pub(super) fn busy() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, BUSY)
}

/// The response where there is no address translation.
pub(super) fn without_nat() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no translation: the switch has no uplink in nat mode")
}

/// The response to a request that is refused.
pub(super) fn refused(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = problem_of(status, &refusal.text);
    respond(status, &Problem { field: refusal.field, in_the_way: refusal.in_the_way, ..problem })
}

/// The response to a body that cannot be received.
pub(super) fn not_received(status: StatusCode) -> Response {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => too_long(),
        status => problem(status, "the request body is incomplete"),
    }
}

/// The response to a body that is too long.
pub(super) fn too_long() -> Response {
    problem(StatusCode::PAYLOAD_TOO_LARGE, "the request body has more than 256 KiB")
}

/// A request body in JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Response> {
        if !is_json(request.headers()) {
            let text = "the request body is not marked as JSON: send it with Content-Type: application/json";
            return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| not_received(rejection.status()))?;
        input::body(&bytes).map(Body).map_err(refused)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(media_type)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else { return false };
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}

/// Query parameters.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Parameters<T>, Response> {
        input::parameters(parts.uri.query().unwrap_or_default()).map(Parameters).map_err(refused)
    }
}

/// A parameter in the path.
pub(super) struct InPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InPath<T>, Response> {
        let path = extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|extract::Path(path)| InPath(path)).map_err(|error| problem(error.status(), "the path is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_its_media_type() {
        let of = |text: &'static str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]));
        assert!(
            ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"].map(of).iter().all(|is| *is)
        );
        assert!(!of("text/plain") && !of("application/xml") && !is_json(&HeaderMap::new()));
    }
}
