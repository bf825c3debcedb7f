//! The paths, and who may wait how long for what they lead to.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query as Parameters, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use utoipa::{IntoParams, OpenApi};

use super::{Asker, CONNECTIONS, MacTableNow, Query, log, metrics, views};
use crate::config::bridge::unknown_bridge;

/// A request's head has to come within this time.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// And all of it, with its answer, within this.
const REQUEST_TIME: Duration = Duration::from_secs(30);
const BODY_LIMIT: usize = 256 << 10;
/// What a client may make us keep of a head.
const HEAD_LIMIT: usize = 16 << 10;
/// After an error of accept(2), which mostly is a want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So many connections are listed unless asked otherwise.
const USUAL_LIST: usize = 10_000;

/// The description of it all.
#[derive(OpenApi)]
#[openapi(
    info(title = "vswitchd", description = "The control socket of vswitchd. What is read here changes nothing."),
    paths(show, ports, stats, fdb, neighbours, conntrack, nat, tunnels, log::show, log::set, metrics_text)
)]
struct Description;

/// Serves until `stopped`, or who could stop it is gone.
pub(super) async fn serve(listener: UnixListener, asker: Asker, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    tokio::select! {
        never = accept(listener, router(asker)) => match never {},
        _ = stopped => Ok(()),
    }
}

async fn accept(listener: tokio::net::UnixListener, router: Router) -> std::convert::Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            // Nobody closes it.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("the control socket accepts nobody: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).keep_alive(false).max_buf_size(HEAD_LIMIT);
            // What a client did wrong is its own business.
            let _ = timeout(REQUEST_TIME, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

fn router(asker: Asker) -> Router {
    Router::new()
        .route("/v1/show", get(show))
        .route("/v1/ports", get(ports))
        .route("/v1/stats", get(stats))
        .route("/v1/fdb", get(fdb))
        .route("/v1/neighbours", get(neighbours))
        .route("/v1/conntrack", get(conntrack))
        .route("/v1/nat", get(nat))
        .route("/v1/tunnels", get(tunnels))
        .route("/v1/log", get(log::show).put(log::set))
        .route("/v1/openapi.json", get(|| async { Json(Description::openapi()) }))
        .route("/metrics", get(metrics_text))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is no such path; see /v1/openapi.json") })
        .method_not_allowed_fallback(|| async { problem(StatusCode::METHOD_NOT_ALLOWED, "this can only be read") })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(refuse_long_bodies))
        .with_state(asker)
}

/// One that says how long it is need not be sent first.
async fn refuse_long_bodies(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_LIMIT) {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "a body is at most 256 KiB long");
    }
    next.run(request).await
}

pub(super) fn problem(status: StatusCode, what: &str) -> Response {
    (status, Json(views::Problem { error: what.to_owned() })).into_response()
}

/// Too many ask, or the daemon ends.
fn busy() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the switch is busy or about to end; try again")
}

fn without_nat() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no translation: the switch has no uplink in nat mode")
}

/// The switch as a whole
#[utoipa::path(get, path = "/v1/show", responses((status = 200, body = views::Show)))]
async fn show(State(asker): State<Asker>) -> Result<Json<views::Show>, Response> {
    asker.ask(Query::Show).await.map(Json).ok_or_else(busy)
}

/// The ports and how they are
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, body = [views::Port])))]
async fn ports(State(asker): State<Asker>) -> Result<Json<Vec<views::Port>>, Response> {
    asker.ask(Query::Show).await.map(|show| Json(show.ports)).ok_or_else(busy)
}

/// All counters
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = views::Stats)))]
async fn stats(State(asker): State<Asker>) -> Result<Json<views::Stats>, Response> {
    asker.ask(Query::Stats).await.map(Json).ok_or_else(busy)
}

/// Which bridge's MAC table.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct OfBridge {
    /// Of this bridge only
    bridge: Option<String>,
}

/// The MAC tables
#[utoipa::path(get, path = "/v1/fdb", params(OfBridge), responses(
    (status = 200, body = [views::MacEntry]),
    (status = 404, description = "there is no such bridge", body = views::Problem),
))]
async fn fdb(
    State(asker): State<Asker>,
    of: Result<Parameters<OfBridge>, QueryRejection>,
) -> Result<Json<Vec<views::MacEntry>>, Response> {
    let Parameters(OfBridge { bridge }) = of.map_err(|error| problem(StatusCode::BAD_REQUEST, &error.body_text()))?;
    let MacTableNow { mut bridges, names } = asker.ask(Query::MacTable).await.ok_or_else(busy)?;
    if let Some(name) = bridge {
        let known = bridges.iter().map(|(bridge, _)| bridge.as_str());
        if !known.clone().any(|bridge| bridge == name) {
            return Err(problem(StatusCode::NOT_FOUND, &unknown_bridge(&name, known)));
        }
        bridges.retain(|(bridge, _)| *bridge == name);
    }
    let view = |bridge: &str, entry: &vswitch::MacEntry| views::MacEntry {
        bridge: bridge.to_owned(),
        vlan: entry.vlan.get(),
        mac: entry.mac.to_string(),
        port: names.get(entry.port.index()).cloned().unwrap_or_default(),
        age: entry.age,
    };
    // Each table's entries come in the order of VLANs and addresses.
    let all = bridges.iter().flat_map(|(bridge, entries)| entries.iter().map(move |entry| view(bridge, entry)));
    Ok(Json(all.collect()))
}

/// The hosts that the router sends to
#[utoipa::path(get, path = "/v1/neighbours", responses((status = 200, body = [views::Neighbour])))]
async fn neighbours(State(asker): State<Asker>) -> Result<Json<Vec<views::Neighbour>>, Response> {
    asker.ask(Query::Neighbours).await.map(Json).ok_or_else(busy)
}

/// Which connections are listed; all of what is given has to match.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// An address of either end, inside or outside
    #[param(value_type = Option<String>)]
    address: Option<std::net::Ipv4Addr>,
    /// A port of either end
    port: Option<u16>,
    /// tcp, udp, icmp, or IP's number
    protocol: Option<String>,
    /// At most so many [default: 10,000]
    limit: Option<usize>,
}

impl Filter {
    fn matches(&self, connection: &nat::Connection) -> bool {
        let nat::Connection { original, reply, .. } = connection;
        let ends = [original.src, original.dst, reply.src, reply.dst];
        self.address.is_none_or(|address| ends.iter().any(|end| end.address == address))
            && self.port.is_none_or(|port| ends.iter().any(|end| end.port == port))
            && self.protocol.as_ref().is_none_or(|protocol| original.protocol.to_string() == *protocol)
    }
}

/// The router's connections
#[utoipa::path(get, path = "/v1/conntrack", params(Filter), responses(
    (status = 200, body = views::Connections),
    (status = 404, description = "there is no translation", body = views::Problem),
))]
async fn conntrack(
    State(asker): State<Asker>,
    filter: Result<Parameters<Filter>, QueryRejection>,
) -> Result<Json<views::Connections>, Response> {
    let Parameters(filter) = filter.map_err(|error| problem(StatusCode::BAD_REQUEST, &error.body_text()))?;
    let connections = asker.ask(Query::Connections).await.ok_or_else(busy)?.ok_or_else(without_nat)?;
    let matching = || connections.iter().filter(|connection| filter.matches(connection));
    let listed = matching().take(filter.limit.unwrap_or(USUAL_LIST)).map(connection_view).collect();
    Ok(Json(views::Connections { total: matching().count(), connections: listed }))
}

fn connection_view(connection: &nat::Connection) -> views::Connection {
    let flow = |tuple: &nat::Tuple| views::Flow {
        src: tuple.src.address.to_string(),
        src_port: tuple.src.port,
        dst: tuple.dst.address.to_string(),
        dst_port: tuple.dst.port,
    };
    let phase = connection.phase.map(|phase| match phase {
        nat::tcp::Phase::Opening => "opening",
        nat::tcp::Phase::Established => "established",
        nat::tcp::Phase::Closing => "closing",
        nat::tcp::Phase::Reset => "reset",
    });
    views::Connection {
        protocol: connection.original.protocol.to_string(),
        protocol_number: connection.original.protocol.0,
        opened_by: match connection.original.side {
            nat::Side::Inside => "inside".to_owned(),
            nat::Side::Outside => "outside".to_owned(),
        },
        phase: phase.map(str::to_owned),
        expires_in: connection.expires_in,
        original: flow(&connection.original),
        reply: flow(&connection.reply),
    }
}

/// Outside addresses, published ports, and guests' endpoints outside
#[utoipa::path(get, path = "/v1/nat", responses(
    (status = 200, body = views::Nat),
    (status = 404, description = "there is no translation", body = views::Problem),
))]
async fn nat(State(asker): State<Asker>) -> Result<Json<views::Nat>, Response> {
    let (mut view, connections) = asker.ask(Query::Nat).await.ok_or_else(busy)?.ok_or_else(without_nat)?;
    view.mappings = mappings(&connections);
    Ok(Json(view))
}

/// The endpoints that guests have outside, each once.
fn mappings(connections: &[nat::Connection]) -> Vec<views::Mapping> {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for nat::Connection { original, reply, .. } in connections {
        let (inside, outside) = match original.side {
            nat::Side::Inside => (original.src, reply.dst),
            nat::Side::Outside => (reply.src, original.dst),
        };
        let key = (inside.address, original.protocol.0, inside.port, outside.address, outside.port);
        *counts.entry(key).or_default() += 1;
    }
    let view = |((inside, protocol, inside_port, outside, outside_port), connections)| views::Mapping {
        protocol: nat::Protocol(protocol).to_string(),
        inside: nat::Endpoint::new(inside, inside_port).to_string(),
        outside: nat::Endpoint::new(outside, outside_port).to_string(),
        connections,
    };
    counts.into_iter().map(view).collect()
}

/// Tunnels and the hosts at their other ends
#[utoipa::path(get, path = "/v1/tunnels", responses((status = 200, body = [views::Tunnel])))]
async fn tunnels(State(asker): State<Asker>) -> Result<Json<Vec<views::Tunnel>>, Response> {
    asker.ask(Query::Show).await.map(|show| Json(show.tunnels)).ok_or_else(busy)
}

/// All numbers for Prometheus
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
async fn metrics_text(State(asker): State<Asker>) -> Result<Response, Response> {
    let stats = asker.ask(Query::Stats).await.ok_or_else(busy)?;
    let show = asker.ask(Query::Show).await.ok_or_else(busy)?;
    let text = metrics::text(&stats, &show.tunnels).map_err(|_| busy())?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// To write it anew: `UPDATE=1 cargo test -p vswitchd --bin vswitchd openapi`.
    #[test]
    fn the_openapi_document_in_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let now = Description::openapi().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), now);
    }

    fn connection(guest: u8, port: u16, to: u16) -> nat::Connection {
        let inside = nat::Endpoint::new(Ipv4Addr::new(10, 77, 0, guest), port);
        let outside = nat::Endpoint::new(Ipv4Addr::new(203, 0, 113, 1), port + 1);
        let server = nat::Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), to);
        let protocol = nat::Protocol::UDP;
        nat::Connection {
            original: nat::Tuple { side: nat::Side::Inside, protocol, src: inside, dst: server },
            reply: nat::Tuple { side: nat::Side::Outside, protocol, src: server, dst: outside },
            phase: None,
            expires_in: 300,
        }
    }

    #[test]
    fn a_mapping_is_listed_once_however_many_connections_use_it() {
        let listed = mappings(&[connection(12, 5000, 53), connection(11, 4000, 53), connection(11, 4000, 80)]);
        let short = |mapping: &views::Mapping| format!("{} {} {}", mapping.inside, mapping.outside, mapping.connections);
        let listed: Vec<String> = listed.iter().map(short).collect();
        assert_eq!(listed, ["10.77.0.11:4000 203.0.113.1:4001 2", "10.77.0.12:5000 203.0.113.1:5001 1"]);
    }

    #[test]
    fn all_of_a_filter_has_to_match() {
        let filter = |address: Option<[u8; 4]>, port, protocol: Option<&str>| Filter {
            address: address.map(Ipv4Addr::from),
            port,
            protocol: protocol.map(str::to_owned),
            limit: None,
        };
        let one = connection(11, 4000, 53);
        assert!(filter(None, None, None).matches(&one));
        assert!(filter(Some([203, 0, 113, 1]), Some(53), Some("udp")).matches(&one), "an address of the reply's");
        assert!(!filter(Some([10, 77, 0, 12]), Some(53), Some("udp")).matches(&one));
        assert!(!filter(None, Some(54), None).matches(&one));
        assert!(!filter(None, None, Some("tcp")).matches(&one));
    }
}
