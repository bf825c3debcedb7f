//! The switch as a whole, its ports, tunnels and counters.

use api::{Bridge, Port, Show, Stats, Tunnel};
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::busy;
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
