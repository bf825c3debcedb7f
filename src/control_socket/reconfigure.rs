//! What the switch is to be: a whole configuration, or one port, rule or tunnel more or less.
//!
//! All of it is one change after another by the control thread, and each is done whole or not at all
//! ([docs/changes.md](../../docs/changes.md)). Nothing of it is kept: after a restart the switch is what its file and flags say.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answer::{Body, InPath, Parameters, problem};
use super::ask::Asker;
use super::query::{Query, Verb};
use super::views;

/// How it is to be done.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Change nothing, and tell what would be changed
    #[serde(default)]
    dry_run: bool,
    /// What the configuration is called where it is in error [default: the request]
    file: Option<String>,
}

/// A body that is text.
pub(super) struct Text(String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Text, Response> {
        let text = String::from_request(request, state).await;
        text.map(Text).map_err(|error| problem(error.status(), &error.body_text()))
    }
}

/// Make the switch what a configuration in TOML says
#[utoipa::path(post, path = "/v1/apply", params(How), request_body(content = String, content_type = "application/toml"), responses(
    (status = 200, body = [views::Change]),
    (status = 409, description = "something is in the way; nothing was changed", body = views::Problem),
    (status = 422, description = "it needs a restart; nothing was changed", body = views::Problem),
))]
pub(super) async fn apply(
    State(asker): State<Asker>,
    Parameters(How { dry_run, file }): Parameters<How>,
    Text(text): Text,
) -> Result<Json<Vec<views::Change>>, Response> {
    let file = file.unwrap_or_else(|| "the request".to_owned());
    change(&asker, Verb::Apply { file, text }, dry_run).await
}

/// One more port.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPort {
    /// In the words of `--tap` or `--port`, such as `tap3:vlan=10` or `packet:veth0`.
    port: String,
}

/// Add a port
#[utoipa::path(post, path = "/v1/ports", request_body = NewPort, responses(
    (status = 200, body = [views::Change]),
    (status = 409, description = "something is in the way; nothing was changed", body = views::Problem),
))]
pub(super) async fn add_port(
    State(asker): State<Asker>,
    Body(NewPort { port }): Body<NewPort>,
) -> Result<Json<Vec<views::Change>>, Response> {
    change(&asker, Verb::AddPort(port), false).await
}

/// Take a port away
#[utoipa::path(delete, path = "/v1/ports/{name}", params(
    ("name" = String, Path, description = "the port's, or NAME@NETNS where there are several of that name")
), responses(
    (status = 200, body = [views::Change]),
    (status = 404, description = "there is no such port", body = views::Problem),
))]
pub(super) async fn delete_port(
    State(asker): State<Asker>,
    InPath(name): InPath<String>,
) -> Result<Json<Vec<views::Change>>, Response> {
    change(&asker, Verb::DeletePort(name), false).await
}

/// A rule.
#[derive(Debug, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Rule {
    /// In the words of `--publish`, such as `8080:10.77.0.2:80/tcp`
    rule: String,
}

/// Publish ports
#[utoipa::path(post, path = "/v1/nat/publish", request_body = Rule, responses(
    (status = 200, body = [views::Change]),
    (status = 409, description = "something is in the way; nothing was changed", body = views::Problem),
))]
pub(super) async fn publish(
    State(asker): State<Asker>,
    Body(Rule { rule }): Body<Rule>,
) -> Result<Json<Vec<views::Change>>, Response> {
    change(&asker, Verb::Publish(rule), false).await
}

/// Take a rule back, with all connections by it
#[utoipa::path(delete, path = "/v1/nat/publish", params(Rule), responses(
    (status = 200, body = [views::Change]),
    (status = 404, description = "there is no such rule", body = views::Problem),
))]
pub(super) async fn unpublish(
    State(asker): State<Asker>,
    Parameters(Rule { rule }): Parameters<Rule>,
) -> Result<Json<Vec<views::Change>>, Response> {
    change(&asker, Verb::Unpublish(rule), false).await
}

/// One more tunnel.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTunnel {
    /// In the words of `--vxlan` (those with `vni=`), `--udp-ip` (those with `tun=`) or `--udp`.
    tunnel: String,
}

/// Add a tunnel
#[utoipa::path(post, path = "/v1/tunnels", request_body = NewTunnel, responses(
    (status = 200, body = [views::Change]),
    (status = 409, description = "something is in the way; nothing was changed", body = views::Problem),
))]
pub(super) async fn add_tunnel(
    State(asker): State<Asker>,
    Body(NewTunnel { tunnel }): Body<NewTunnel>,
) -> Result<Json<Vec<views::Change>>, Response> {
    change(&asker, Verb::AddTunnel(tunnel), false).await
}

/// Take a tunnel away
#[utoipa::path(delete, path = "/v1/tunnels/{name}", params(("name" = String, Path, description = "as it is listed")), responses(
    (status = 200, body = [views::Change]),
    (status = 404, description = "there is no such tunnel", body = views::Problem),
))]
pub(super) async fn delete_tunnel(
    State(asker): State<Asker>,
    InPath(name): InPath<String>,
) -> Result<Json<Vec<views::Change>>, Response> {
    change(&asker, Verb::DeleteTunnel(name), false).await
}

async fn change(asker: &Asker, verb: Verb, dry_run: bool) -> Result<Json<Vec<views::Change>>, Response> {
    asker.change(|reply| Query::Reconfigure { verb, dry_run, reply }).await.map(Json)
}
