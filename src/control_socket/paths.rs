//! The table of paths. Their handlers are in files by subject.

use std::sync::Arc;

use api::{Event, Problem};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router};
use tokio::sync::broadcast::Sender;
use utoipa::OpenApi;

use super::answer::{Everywhere, problem};
use super::ask::Asker;
use super::rights::{Guard, check, shows_payload};
use super::{capture, conntrack, events, fdb, log, metrics, nat, neighbours, reconfigure, show, trace};

/// Maximum length of a request body, in bytes.
const BODY_LIMIT: usize = 256 << 10;

/// The description of the API.
#[derive(OpenApi)]
#[openapi(
    info(title = "vswitchd", description = "The control socket of vswitchd. GET changes nothing."),
    paths(
        show::show,
        show::ports,
        show::stats,
        show::tunnels,
        fdb::list,
        fdb::flush,
        fdb::add,
        fdb::remove,
        neighbours::list,
        neighbours::flush,
        conntrack::list,
        conntrack::flush,
        nat::list,
        events::follow,
        reconfigure::apply,
        reconfigure::add_port,
        reconfigure::delete_port,
        reconfigure::publish,
        reconfigure::unpublish,
        reconfigure::add_tunnel,
        reconfigure::delete_tunnel,
        log::show,
        log::set,
        trace::imagine,
        trace::follow,
        metrics::scrape,
        capture::stream,
        description,
    ),
    components(schemas(Problem)),
    modifiers(&Everywhere)
)]
struct Description;

pub(super) fn router(asker: Asker, events: Sender<Arc<Event>>, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    Router::new()
        .route("/v1/show", get(show::show))
        .route("/v1/ports", get(show::ports).post(reconfigure::add_port))
        .route("/v1/ports/{name}", delete(reconfigure::delete_port))
        .route("/v1/apply", post(reconfigure::apply))
        .route("/v1/stats", get(show::stats))
        .route("/v1/tunnels", get(show::tunnels).post(reconfigure::add_tunnel))
        .route("/v1/tunnels/{name}", delete(reconfigure::delete_tunnel))
        .route("/v1/fdb", get(fdb::list).delete(fdb::flush))
        .route("/v1/fdb/{mac}", put(fdb::add).delete(fdb::remove))
        .route("/v1/neighbours", get(neighbours::list).delete(neighbours::flush))
        .route("/v1/conntrack", get(conntrack::list).delete(conntrack::flush))
        .route("/v1/nat", get(nat::list))
        .route("/v1/events", get(events::follow).layer(Extension(events)))
        .route("/v1/nat/publish", post(reconfigure::publish).delete(reconfigure::unpublish))
        .route("/v1/trace", get(trace::imagine))
        .route("/v1/trace/live", shows_payload(get(trace::follow)))
        .route("/v1/log", get(log::show).put(log::set))
        .route("/v1/capture", shows_payload(get(capture::stream)))
        .route("/v1/openapi.json", get(description))
        .route("/metrics", get(metrics::scrape))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such path; see /v1/openapi.json") })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method; see /v1/openapi.json")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(refuse_long_bodies))
        .layer(from_fn(move |request, next| check(Arc::clone(&guard), request, next)))
        .with_state(asker)
}

/// This description (OpenAPI)
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = serde_json::Value)))]
async fn description() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

/// Refuses a body whose declared length is too long before it is received.
async fn refuse_long_bodies(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_LIMIT) {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "the request body has more than 256 KiB");
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
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
}
