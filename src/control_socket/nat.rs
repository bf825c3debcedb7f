//! What is translated to what.

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Parameters, busy, without_nat};
use super::ask::Asker;
use super::conntrack::listed;
use super::large::Large;
use super::query::Query;
use super::rights::Rights;
use super::views;

/// How many mappings
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    /// At most so many mappings [default: 10,000], of which 100,000 are given, and 10,000 to those who may only read
    #[param(value_type = Option<u64>, maximum = 4294967295u32)]
    limit: Option<u32>,
}

/// Outside addresses, published ports, and guests' endpoints outside
#[utoipa::path(get, path = "/v1/nat", params(Limit), responses(
    (status = 200, body = views::Nat),
    (status = 404, description = "there is no translation", body = views::Problem),
))]
pub(super) async fn list(
    State(asker): State<Asker>,
    Extension(rights): Extension<Rights>,
    Parameters(limit): Parameters<Limit>,
    _: Large,
) -> Result<Json<views::Nat>, Response> {
    let most = listed(limit.limit, rights);
    let (mut view, mut mappings) =
        asker.ask(|reply| Query::Nat { most, reply }).await.ok_or_else(busy)?.ok_or_else(without_nat)?;
    mappings
        .sort_unstable_by_key(|mapping| (mapping.inside.address, mapping.protocol.0, mapping.inside.port, mapping.outside.port));
    view.mappings = mappings.iter().map(mapping_view).collect();
    Ok(Json(view))
}

fn mapping_view(mapping: &::nat::PortMapping) -> views::Mapping {
    views::Mapping {
        protocol: mapping.protocol.to_string(),
        inside: mapping.inside.to_string(),
        outside: mapping.outside.to_string(),
        connections: mapping.connections as usize,
        published: mapping.is_published,
    }
}
