//! The switch as a whole, its ports, tunnels and counters.

use api::{Bridge, Port, Problem, Show, Stats, Tunnel};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{InPath, busy, problem};
use super::ask::Asker;
use super::query::Query;

/// The switch as a whole
#[utoipa::path(get, path = "/v1/show", responses((status = 200, description = "The switch", body = Show)))]
pub(super) async fn show(State(asker): State<Asker>) -> Result<Json<Show>, Response> {
    asker.ask(Query::Show).await.map(Json).ok_or_else(busy)
}

/// All bridges
#[utoipa::path(get, path = "/v1/bridges", responses((status = 200, description = "The bridges with their gateways", body = [Bridge])))]
pub(super) async fn bridges(State(asker): State<Asker>) -> Result<Json<Vec<Bridge>>, Response> {
    asker.ask(Query::Show).await.map(|show| Json(show.bridges)).ok_or_else(busy)
}

/// All ports
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, description = "The ports of all bridges, and TUN devices", body = [Port])))]
pub(super) async fn ports(State(asker): State<Asker>) -> Result<Json<Vec<Port>>, Response> {
    asker.ask(Query::Show).await.map(|show| Json(show.ports)).ok_or_else(busy)
}

/// The port with an id
#[utoipa::path(get, path = "/v1/ports/id/{id}", params(("id" = String, Path, description = "Id that the port's maker gave it")), responses(
    (status = 200, description = "The port; of the places for guests of one socket, the first", body = Port),
    (status = 404, description = "No such port", body = Problem),
))]
pub(super) async fn port_by_id(State(asker): State<Asker>, InPath(id): InPath<String>) -> Result<Json<Port>, Response> {
    let show = asker.ask(Query::Show).await.ok_or_else(busy)?;
    let port = show.ports.into_iter().find(|port| port.id.as_ref() == Some(&id));
    port.map(Json).ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no port with this id"))
}

/// All counters
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, description = "The counters", body = Stats)))]
pub(super) async fn stats(State(asker): State<Asker>) -> Result<Json<Stats>, Response> {
    asker.ask(Query::Stats).await.map(Json).ok_or_else(busy)
}

/// All tunnels and their peers
#[utoipa::path(get, path = "/v1/tunnels", responses((status = 200, description = "The tunnels", body = [Tunnel])))]
pub(super) async fn tunnels(State(asker): State<Asker>) -> Result<Json<Vec<Tunnel>>, Response> {
    asker.ask(Query::Show).await.map(|show| Json(show.tunnels)).ok_or_else(busy)
}
