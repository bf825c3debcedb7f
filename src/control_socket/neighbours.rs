//! Neighbours: the hosts on the router's networks.

use api::query::NeighbourFilter;
use api::{Flushed, Neighbour};
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Parameters, busy};
use super::ask::Asker;
use super::query::Query;

/// All neighbours of the router
#[utoipa::path(get, path = "/v1/neighbours", responses((status = 200, description = "The neighbours, by network and address", body = [Neighbour])))]
pub(super) async fn list(State(asker): State<Asker>) -> Result<Json<Vec<Neighbour>>, Response> {
    asker.ask(Query::Neighbours).await.map(Json).ok_or_else(busy)
}

/// Remove neighbours; they are resolved again when a packet is for them
#[utoipa::path(delete, path = "/v1/neighbours", params(NeighbourFilter), responses((status = 200, description = "The number of neighbours removed", body = Flushed)))]
pub(super) async fn flush(
    State(asker): State<Asker>,
    Parameters(NeighbourFilter { address }): Parameters<NeighbourFilter>,
) -> Result<Json<Flushed>, Response> {
    let flushed = asker.ask(|reply| Query::FlushNeighbours { address, reply }).await.ok_or_else(busy)?;
    Ok(Json(Flushed { flushed }))
}
