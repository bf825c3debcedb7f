//! The hosts that the router sends to.

use std::net::Ipv4Addr;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Parameters, busy};
use super::ask::Asker;
use super::query::Query;
use super::views;

/// The hosts that the router sends to
#[utoipa::path(get, path = "/v1/neighbours", responses((status = 200, body = [views::Neighbour])))]
pub(super) async fn list(State(asker): State<Asker>) -> Result<Json<Vec<views::Neighbour>>, Response> {
    asker.ask(Query::Neighbours).await.map(Json).ok_or_else(busy)
}

/// Which neighbours
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// With this address
    #[param(value_type = Option<String>, format = "ipv4")]
    address: Option<Ipv4Addr>,
}

/// Forget neighbours; they are asked for again when there is something for them
#[utoipa::path(delete, path = "/v1/neighbours", params(Which), responses((status = 200, body = views::Flushed)))]
pub(super) async fn flush(
    State(asker): State<Asker>,
    Parameters(which): Parameters<Which>,
) -> Result<Json<views::Flushed>, Response> {
    let flushed = asker.ask(|reply| Query::FlushNeighbours { address: which.address, reply }).await.ok_or_else(busy)?;
    Ok(Json(views::Flushed { flushed }))
}
