//! Routes to networks behind guests.

use api::query::{NewRoute, RouteTo};
use api::{Change, Problem, Route};
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Body, Parameters, busy};
use super::ask::Asker;
use super::query::{Query, Verb};
use super::reconfigure::change;

/// All routes to networks behind guests
#[utoipa::path(get, path = "/v1/routes", operation_id = "routes", responses((status = 200, description = "The routes", body = [Route])))]
pub(super) async fn list(State(asker): State<Asker>) -> Result<Json<Vec<Route>>, Response> {
    asker.ask(Query::Routes).await.map(Json).ok_or_else(busy)
}

/// Add a route to a network behind a guest
#[utoipa::path(post, path = "/v1/routes", operation_id = "add_route", request_body = NewRoute, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn add(
    State(asker): State<Asker>,
    Body(NewRoute { route }): Body<NewRoute>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::AddRoute(route), false).await
}

/// Remove a route, and end the connections of what was behind its guest
#[utoipa::path(delete, path = "/v1/routes", operation_id = "delete_route", params(RouteTo), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such route", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn delete(
    State(asker): State<Asker>,
    Parameters(RouteTo { to }): Parameters<RouteTo>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::DeleteRoute(to), false).await
}
