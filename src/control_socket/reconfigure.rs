//! Changes of the configuration: a whole file, or one port, rule or tunnel.
//!
//! The control thread makes one change after another, each completely or not at all
//! ([docs/changes.md](../../docs/changes.md)). Changes are not saved: after a restart the file and flags apply again.

use api::query::{self, BridgeKeys, NewBridge, NewPort, NewTunnel, PortKeys, Rule};
use api::{Change, Configuration, Problem};
use axum::Json;
use axum::extract::rejection::StringRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{Body, InPath, Parameters, busy, not_received, problem};
use super::ask::Asker;
use super::query::{PortName, Query, Verb};

/// A request body of text.
pub(super) struct Text(String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Text, Response> {
        let text = String::from_request(request, state).await;
        text.map(Text).map_err(|rejection| match rejection {
            StringRejection::InvalidUtf8(rejection) => problem(rejection.status(), "the request body is not UTF-8"),
            rejection => not_received(rejection.status()),
        })
    }
}

/// The configuration in force
#[utoipa::path(get, path = "/v1/config", responses((status = 200, description = "The configuration", body = Configuration)))]
pub(super) async fn show(State(asker): State<Asker>) -> Result<Json<Configuration>, Response> {
    asker.ask(Query::Configuration).await.map(|toml| Json(Configuration { toml })).ok_or_else(busy)
}

/// Apply a configuration in TOML
#[utoipa::path(post, path = "/v1/apply", params(query::Apply), request_body(content = String, content_type = "application/toml"), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
    (status = 422, description = "A change needs a restart; nothing was changed", body = Problem),
))]
pub(super) async fn apply(
    State(asker): State<Asker>,
    Parameters(query::Apply { dry_run, prune, file }): Parameters<query::Apply>,
    Text(text): Text,
) -> Result<Json<Vec<Change>>, Response> {
    let file = file.unwrap_or_else(|| "the request".to_owned());
    change(&asker, Verb::Apply { file, text, prune }, dry_run).await
}

/// Add a bridge
#[utoipa::path(post, path = "/v1/bridges", request_body = NewBridge, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn add_bridge(
    State(asker): State<Asker>,
    Body(NewBridge { bridge }): Body<NewBridge>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::AddBridge(bridge), false).await
}

/// Change keys of a bridge
#[utoipa::path(patch, path = "/v1/bridges/{name}", params(("name" = String, Path, description = "Name of the bridge")),
    request_body = BridgeKeys, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such bridge", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn set_bridge(
    State(asker): State<Asker>,
    InPath(name): InPath<String>,
    Body(BridgeKeys { keys }): Body<BridgeKeys>,
) -> Result<Json<Vec<Change>>, Response> {
    if name.contains(':') {
        return Err(problem(StatusCode::NOT_FOUND, "there is no such bridge: a name has no colon"));
    }
    change(&asker, Verb::SetBridge(format!("{name}:{keys}")), false).await
}

/// Remove a bridge that has no ports
#[utoipa::path(delete, path = "/v1/bridges/{name}", params(("name" = String, Path, description = "Name of the bridge")), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such bridge", body = Problem),
    (status = 409, description = "The bridge has ports; nothing was changed", body = Problem),
))]
pub(super) async fn delete_bridge(
    State(asker): State<Asker>,
    InPath(name): InPath<String>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::DeleteBridge(name), false).await
}

/// Add a port
#[utoipa::path(post, path = "/v1/ports", request_body = NewPort, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn add_port(
    State(asker): State<Asker>,
    Body(NewPort { port }): Body<NewPort>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::AddPort(port), false).await
}

/// Change keys of a port
#[utoipa::path(patch, path = "/v1/ports/{name}", params(
    ("name" = String, Path, description = "Name of the port, or NAME@NETNS if several have that name")
), request_body = PortKeys, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn set_port(
    State(asker): State<Asker>,
    InPath(name): InPath<String>,
    Body(PortKeys { keys }): Body<PortKeys>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::SetPort(PortName::Name(name), keys), false).await
}

/// Change keys of the port with an id
#[utoipa::path(patch, path = "/v1/ports/id/{id}", params(("id" = String, Path, description = "Id that the port's maker gave it")),
    request_body = PortKeys, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn set_port_by_id(
    State(asker): State<Asker>,
    InPath(id): InPath<String>,
    Body(PortKeys { keys }): Body<PortKeys>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::SetPort(PortName::Id(id), keys), false).await
}

/// Remove a port
#[utoipa::path(delete, path = "/v1/ports/{name}", params(
    ("name" = String, Path, description = "Name of the port, or NAME@NETNS if several have that name")
), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn delete_port(State(asker): State<Asker>, InPath(name): InPath<String>) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::DeletePort(PortName::Name(name)), false).await
}

/// Remove the port with an id
#[utoipa::path(delete, path = "/v1/ports/id/{id}", params(("id" = String, Path, description = "Id that the port's maker gave it")), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn delete_port_by_id(
    State(asker): State<Asker>,
    InPath(id): InPath<String>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::DeletePort(PortName::Id(id)), false).await
}

/// Publish ports
#[utoipa::path(post, path = "/v1/nat/publish", request_body = Rule, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn publish(State(asker): State<Asker>, Body(Rule { rule }): Body<Rule>) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::Publish(rule), false).await
}

/// Remove a rule, and end its connections
#[utoipa::path(delete, path = "/v1/nat/publish", params(Rule), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such rule", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn unpublish(
    State(asker): State<Asker>,
    Parameters(Rule { rule }): Parameters<Rule>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::Unpublish(rule), false).await
}

/// Add a tunnel
#[utoipa::path(post, path = "/v1/tunnels", request_body = NewTunnel, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn add_tunnel(
    State(asker): State<Asker>,
    Body(NewTunnel { tunnel }): Body<NewTunnel>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::AddTunnel(tunnel), false).await
}

/// Remove a tunnel
#[utoipa::path(delete, path = "/v1/tunnels/{name}", params(("name" = String, Path, description = "Name of the tunnel")), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such tunnel", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn delete_tunnel(
    State(asker): State<Asker>,
    InPath(name): InPath<String>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::DeleteTunnel(name), false).await
}

pub(super) async fn change(asker: &Asker, verb: Verb, dry_run: bool) -> Result<Json<Vec<Change>>, Response> {
    asker.change(|reply| Query::Reconfigure { verb, dry_run, reply }).await.map(Json)
}
