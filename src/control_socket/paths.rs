//! The table of paths. Their handlers are in files by subject.

use std::sync::Arc;

use api::{Event, Problem};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{delete, get, patch, post, put};
use axum::{Extension, Json, Router};
use tokio::sync::broadcast::Sender;
use utoipa::OpenApi;

use super::answer::{problem, too_long};
use super::ask::Asker;
use super::description::Complete;
use super::rights::{Guard, check, shows_payload};
use super::{
    capture, conntrack, events, fdb, guests, log, metrics, nat, neighbours, reconfigure, routes, show, stop, trace, upgrade,
};

/// Maximum length of a request body, in bytes.
const BODY_LIMIT: usize = 256 << 10;

/// The description of the API.
#[derive(OpenApi)]
#[openapi(
    info(title = "vswitchd", description = "The control socket of vswitchd. GET changes nothing."),
    paths(
        show::show,
        show::bridges,
        show::ports,
        show::port_by_id,
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
        reconfigure::show,
        reconfigure::apply,
        reconfigure::add_bridge,
        reconfigure::set_bridge,
        reconfigure::delete_bridge,
        reconfigure::add_port,
        reconfigure::set_port,
        reconfigure::set_port_by_id,
        reconfigure::delete_port,
        reconfigure::delete_port_by_id,
        guests::list,
        guests::show,
        guests::add,
        guests::set,
        guests::delete,
        guests::keep,
        routes::list,
        routes::add,
        routes::delete,
        reconfigure::publish,
        reconfigure::unpublish,
        reconfigure::add_tunnel,
        reconfigure::delete_tunnel,
        log::show,
        log::set,
        stop::stop,
        upgrade::upgrade,
        trace::imagine,
        trace::follow,
        metrics::scrape,
        capture::stream,
        description,
    ),
    components(schemas(Problem)),
    modifiers(&Complete)
)]
struct Description;

pub(super) fn router(asker: Asker, events: Sender<Arc<Event>>, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    Router::new()
        .route("/v1/show", get(show::show))
        .route("/v1/ports", get(show::ports).post(reconfigure::add_port))
        .route("/v1/ports/{name}", patch(reconfigure::set_port).delete(reconfigure::delete_port))
        .route(
            "/v1/ports/id/{id}",
            get(show::port_by_id).patch(reconfigure::set_port_by_id).delete(reconfigure::delete_port_by_id),
        )
        .route("/v1/bridges", get(show::bridges).post(reconfigure::add_bridge))
        .route("/v1/bridges/{name}", patch(reconfigure::set_bridge).delete(reconfigure::delete_bridge))
        .route("/v1/guests", get(guests::list).post(guests::add))
        .route("/v1/guests/{id}", get(guests::show).patch(guests::set).delete(guests::delete))
        .route("/v1/routes", get(routes::list).post(routes::add).delete(routes::delete))
        .route("/v1/guests-to-keep", post(guests::keep))
        .route("/v1/config", get(reconfigure::show))
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
        .route("/v1/stop", post(stop::stop))
        .route("/v1/upgrade", post(upgrade::upgrade))
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
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "The description", body = serde_json::Value)))]
async fn description() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

/// Refuses a body whose declared length is too long before it is received.
async fn refuse_long_bodies(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_LIMIT) {
        return too_long();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn document() -> Value {
        serde_json::to_value(Description::openapi()).unwrap()
    }

    /// All operations, each with its method and path.
    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let of_path =
            |(path, item): (&String, &'_ Value)| (path.clone(), item.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
        let paths = document["paths"].as_object().unwrap().iter().map(of_path);
        let named = paths.flat_map(|(path, methods)| methods.into_iter().map(move |method| (path.clone(), method)));
        named.map(|(path, method)| (format!("{} {path}", method.to_uppercase()), &document["paths"][&path][&method])).collect()
    }

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

    #[test]
    fn openapi_operations_have_ids_of_their_own() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (name, operation) in operations(&document) {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no id"));
            assert!(ids.insert(id), "{name}: a second {id}");
        }
    }

    #[test]
    fn openapi_parts_are_all_described() {
        let document = document();
        let is_described = |part: &Value| {
            let of = |part: &Value| part["description"].as_str().is_some_and(|text| !text.is_empty());
            of(part) || part["oneOf"].as_array().is_some_and(|one_of| one_of.iter().any(of))
        };
        for (name, operation) in operations(&document) {
            assert!(operation["summary"].is_string(), "{name} has no summary");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let responses = operation["responses"].as_object().unwrap().values();
            for part in parameters.chain(responses).chain(operation.get("requestBody")) {
                assert!(is_described(part), "{name}: no description: {part}");
            }
        }
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            assert!(is_described(schema), "{name}");
            for (property, part) in schema["properties"].as_object().into_iter().flatten() {
                assert!(is_described(part), "{name}.{property}: no description: {part}");
            }
        }
    }

    /// Examples are in `examples.json`. A capture is binary, and the description itself is long enough.
    #[test]
    fn openapi_examples_fit_their_schemas() {
        let document = document();
        let mut problems = Vec::new();
        for (name, operation) in operations(&document) {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let what = format!("{name}: parameter {}", parameter["name"]);
                check(&document, &parameter["schema"], parameter.get("example"), &what, &mut problems);
            }
            let bodies = operation["responses"].as_object().unwrap().values().chain(operation.get("requestBody"));
            for (_, content) in bodies.filter_map(|body| body["content"].as_object()).flatten() {
                if !["GET /v1/capture", "GET /v1/openapi.json"].contains(&name.as_str()) {
                    check(&document, &content["schema"], content.get("example"), &name, &mut problems);
                }
            }
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    /// The part of JSON Schema that the description uses.
    fn check(document: &Value, schema: &Value, value: Option<&Value>, at: &str, problems: &mut Vec<String>) {
        let Some(value) = value else { return problems.push(format!("{at}: no example")) };
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) {
            return check(document, &document["components"]["schemas"][name], Some(value), at, problems);
        }
        if let Some(all) = schema["allOf"].as_array() {
            return all.iter().for_each(|one| check(document, one, Some(value), at, problems));
        }
        if let Some(one_of) = schema["oneOf"].as_array() {
            let mut best: Option<Vec<String>> = None;
            for one in one_of {
                let mut found = Vec::new();
                check(document, one, Some(value), at, &mut found);
                if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                    best = Some(found);
                }
            }
            return problems.extend(best.unwrap_or_default());
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is_of = |wanted: &Value| wanted == kind || wanted == "number" && kind == "integer";
        let fits = match &schema["type"] {
            Value::Null => true,
            Value::Array(kinds) => kinds.iter().any(is_of),
            wanted => is_of(wanted),
        };
        if !fits || schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            problems.push(format!("{at}: {value} does not fit {schema}"));
        }
        let properties = schema["properties"].as_object();
        if let (Some(members), Some(properties)) = (value.as_object(), properties) {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !members.contains_key(name) {
                    problems.push(format!("{at}: no {name}"));
                }
            }
            for (name, member) in members.iter().filter(|(name, _)| properties.contains_key(*name)) {
                check(document, &properties[name], Some(member), &format!("{at}: {name}"), problems);
            }
        }
        for item in value.as_array().into_iter().flatten() {
            check(document, &schema["items"], Some(item), at, problems);
        }
    }
}
