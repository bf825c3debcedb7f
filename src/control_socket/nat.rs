//! Mappings, outside addresses and published ports.

use api::query::MappingList;
use api::{Mapping, Nat, Problem, Protocol};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};

use super::answer::{Parameters, busy, without_nat};
use super::ask::Asker;
use super::conntrack::listed;
use super::large::Large;
use super::query::Query;
use super::rights::Rights;

/// Outside addresses, published ports, and mappings
#[utoipa::path(get, path = "/v1/nat", params(MappingList), responses(
    (status = 200, description = "The translation", body = Nat),
    (status = 404, description = "No uplink in NAT mode", body = Problem),
))]
pub(super) async fn list(
    State(asker): State<Asker>,
    Extension(rights): Extension<Rights>,
    Parameters(MappingList { limit }): Parameters<MappingList>,
    _: Large,
) -> Result<Json<Nat>, Response> {
    let most = listed(limit, rights);
    let (mut view, mut mappings) =
        asker.ask(|reply| Query::Nat { most, reply }).await.ok_or_else(busy)?.ok_or_else(without_nat)?;
    mappings
        .sort_unstable_by_key(|mapping| (mapping.inside.address, mapping.protocol.0, mapping.inside.port, mapping.outside.port));
    view.mappings = mappings.iter().map(mapping_view).collect();
    Ok(Json(view))
}

fn mapping_view(mapping: &::nat::PortMapping) -> Mapping {
    Mapping {
        protocol: Protocol(mapping.protocol.0),
        inside: mapping.inside.to_string(),
        outside: mapping.outside.to_string(),
        connections: mapping.connections as usize,
        published: mapping.is_published,
    }
}
