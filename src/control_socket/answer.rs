//! Extractors for parameters and bodies, and error responses, whose body is always a [`Problem`].

use api::{Problem, Refusal};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Json, extract};
use serde::de::DeserializeOwned;
use utoipa::Modify;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, ResponseBuilder};

/// An error response.
pub(super) fn problem(status: StatusCode, what: &str) -> Response {
    (status, Json(Problem { error: what.to_owned() })).into_response()
}

/// The response if too many requests wait, or the daemon ends.
pub(super) fn busy() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the switch is busy or shutting down; try again")
}

/// The response where there is no address translation.
pub(super) fn without_nat() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no translation: the switch has no uplink in nat mode")
}

/// The response to a request that is refused.
pub(super) fn refused(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    problem(status, &refusal.to_string())
}

/// A request body in JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Response> {
        let body = Json::<T>::from_request(request, state).await;
        body.map(|Json(body)| Body(body)).map_err(|error| problem(error.status(), &error.body_text()))
    }
}

/// Query parameters.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Parameters<T>, Response> {
        let query = extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|extract::Query(query)| Parameters(query)).map_err(|error| problem(error.status(), &error.body_text()))
    }
}

/// A parameter in the path.
pub(super) struct InPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InPath<T>, Response> {
        let path = extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|extract::Path(path)| InPath(path)).map_err(|error| problem(error.status(), &error.body_text()))
    }
}

/// Adds the responses that every operation may have to the description.
#[derive(Debug)]
pub(super) struct Everywhere;

impl Modify for Everywhere {
    fn modify(&self, document: &mut OpenApi) {
        for item in document.paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch];
            operations.into_iter().flatten().for_each(describe);
        }
    }
}

fn describe(operation: &mut Operation) {
    let mut answers = vec![("403", "Forbidden"), ("503", "The switch is busy or shutting down")];
    if operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) || operation.request_body.is_some() {
        answers.push(("400", "Bad request"));
    }
    if operation.request_body.is_some() {
        answers.extend([("413", "Request body of more than 256 KiB"), ("415", "Content type of the request body is not JSON")]);
        answers.push(("422", "Request body does not match its schema"));
    }
    for (status, what) in answers {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(what).content("application/json", content).build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.into());
    }
}
