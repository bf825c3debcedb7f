//! The switch as a whole, its ports and their counters.

use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::busy;
use super::ask::Asker;
use super::query::Query;
use super::views;

/// The switch as a whole
#[utoipa::path(get, path = "/v1/show", responses((status = 200, body = views::Show)))]
pub(super) async fn show(State(asker): State<Asker>) -> Result<Json<views::Show>, Response> {
    asker.ask(Query::Show).await.map(Json).ok_or_else(busy)
}

/// The ports and how they are
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, body = [views::Port])))]
pub(super) async fn ports(State(asker): State<Asker>) -> Result<Json<Vec<views::Port>>, Response> {
    asker.ask(Query::Show).await.map(|show| Json(show.ports)).ok_or_else(busy)
}

/// All counters
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = views::Stats)))]
pub(super) async fn stats(State(asker): State<Asker>) -> Result<Json<views::Stats>, Response> {
    asker.ask(Query::Stats).await.map(Json).ok_or_else(busy)
}

/// Tunnels and the hosts at their other ends
#[utoipa::path(get, path = "/v1/tunnels", responses((status = 200, body = [views::Tunnel])))]
pub(super) async fn tunnels(State(asker): State<Asker>) -> Result<Json<Vec<views::Tunnel>>, Response> {
    asker.ask(Query::Show).await.map(|show| Json(show.tunnels)).ok_or_else(busy)
}
