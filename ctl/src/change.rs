//! Verbs that change the configuration: bridges, ports, rules, routes, tunnels, and all of it.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Context;
use api::Change;
use api::query::{Apply, BridgeKeys, PortKeys, RouteTo, Rule, target};
use hyper::Method;
use serde::Serialize;

use crate::client::{Body, segment};
use crate::get::Get;
use crate::table::plain;

/// Adds what the body describes.
pub(crate) fn add(get: &Get<'_>, path: &str, body: &impl Serialize) -> anyhow::Result<String> {
    get.changed(Method::POST, path, Some(Body::Json(serde_json::to_string(body)?)), lines)
}

/// Removes the thing of this name.
pub(crate) fn delete(get: &Get<'_>, path: &str, name: &str) -> anyhow::Result<String> {
    get.changed(Method::DELETE, &format!("{path}/{}", segment(name)), None, lines)
}

/// Changes keys of a bridge: `NAME:KEY=VALUE...`.
pub(crate) fn set_bridge(get: &Get<'_>, words: &str) -> anyhow::Result<String> {
    let (name, keys) = words.split_once(':').unwrap_or((words, ""));
    let body = serde_json::to_string(&BridgeKeys { keys: keys.to_owned() })?;
    get.changed(Method::PATCH, &format!("/v1/bridges/{}", segment(name)), Some(Body::Json(body)), lines)
}

/// Changes keys of a port, each `KEY=VALUE[:KEY=VALUE...]`.
pub(crate) fn set_port(get: &Get<'_>, path: &str, name: &str, keys: &[String]) -> anyhow::Result<String> {
    let body = serde_json::to_string(&PortKeys { keys: keys.join(":") })?;
    get.changed(Method::PATCH, &format!("{path}/{}", segment(name)), Some(Body::Json(body)), lines)
}

/// Removes a rule for published ports.
pub(crate) fn unpublish(get: &Get<'_>, rule: &str) -> anyhow::Result<String> {
    let target = target("/v1/nat/publish", &Rule { rule: rule.to_owned() })?;
    get.changed(Method::DELETE, &target, None, lines)
}

/// Removes the route to a network.
pub(crate) fn delete_route(get: &Get<'_>, to: &str) -> anyhow::Result<String> {
    let target = target("/v1/routes", &RouteTo { to: to.to_owned() })?;
    get.changed(Method::DELETE, &target, None, lines)
}

/// Applies a configuration. The file is read here, so the switch need not be able to read it.
pub(crate) fn apply(get: &Get<'_>, file: &Path, dry_run: bool, prune: bool) -> anyhow::Result<String> {
    let name = file.display().to_string();
    let text = if name == "-" {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("{}: reading the configuration", plain(&name)))?;
    let target = target("/v1/apply", &Apply { dry_run, prune, file: Some(name) })?;
    get.changed(Method::POST, &target, Some(Body::Toml(text)), lines)
}

/// A line for each change.
#[expect(clippy::ptr_arg, reason = "it is the type that the answer is read as")]
pub(crate) fn lines(changes: &Vec<Change>) -> String {
    if changes.is_empty() {
        return "configuration unchanged\n".to_owned();
    }
    changes.iter().map(|change| plain(&change.line) + "\n").collect()
}
