//! Guests that dockerd has forgotten to remove: it was killed while a container went, or the switch did not run when it called.
//!
//! The engine is asked for the endpoints of each network that has guests, once a minute, beside all calls: dockerd may wait for an answer of
//! ours while it starts, so no call ever waits for it. A guest that the engine does not list at two looks one after the other is removed;
//! at the first look its container may be starting. An engine that does not answer says nothing about anybody.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::driver::{Driver, GUEST, NETWORK_LABEL};

/// Time until the first look, and between two.
const INTERVAL: Duration = Duration::from_secs(60);

/// Time limit for one answer of the engine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Maximum length of an answer, in bytes: a network of thousands of containers.
const LONGEST: usize = 16 << 20;

/// What the engine says of a network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Network {
    containers: Option<BTreeMap<String, Endpoint>>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    #[serde(rename = "EndpointID")]
    id: String,
}

/// Looks as long as the switch runs.
pub(super) async fn look(driver: Driver, engine: PathBuf) -> Infallible {
    let mut suspects = HashSet::new();
    loop {
        sleep(INTERVAL).await;
        let missing = missing(&driver, &engine).await;
        for guest in missing.intersection(&suspects) {
            match driver.delete_guest(guest).await {
                Ok(_) => tracing::info!(guest, "removed a guest that Docker does not know any more"),
                Err(problem) => tracing::warn!(guest, "a guest that Docker does not know any more cannot be removed: {problem}"),
            }
        }
        suspects = missing;
    }
}

/// The guests of networks that do not list them.
async fn missing(driver: &Driver, engine: &Path) -> HashSet<String> {
    let Ok(guests) = driver.guests().await else { return HashSet::new() };
    let mut by_network: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for guest in guests.into_iter().filter(|guest| guest.id.starts_with(GUEST) && guest.made_by_verb) {
        if let Some(network) = guest.labels.get(NETWORK_LABEL) {
            by_network.entry(network.clone()).or_default().push(guest.id);
        }
    }
    let mut missing = HashSet::new();
    for (network, guests) in by_network {
        match timeout(PATIENCE, endpoints(engine, &network)).await {
            Ok(Ok(endpoints)) => missing.extend(guests.into_iter().filter(|guest| !endpoints.contains(guest))),
            Ok(Err(error)) => tracing::debug!(network, "the engine does not say which containers there are: {error:#}"),
            Err(_) => tracing::debug!(network, "the engine does not answer"),
        }
    }
    missing
}

/// The ids of the guests that the engine's endpoints in a network have; none if it has no such network.
async fn endpoints(engine: &Path, network: &str) -> anyhow::Result<HashSet<String>> {
    ensure!(network.bytes().all(|byte| byte.is_ascii_alphanumeric()), "no id of a network");
    let stream = UnixStream::connect(engine).await.with_context(|| engine.display().to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // A failure of the connection shows in the response.
    drop(tokio::spawn(connection));
    let request = Request::get(format!("/networks/{network}")).header("Host", "docker").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    if status == StatusCode::NOT_FOUND {
        return Ok(HashSet::new());
    }
    ensure!(status == StatusCode::OK, "status {status}");
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    listed(&body)
}

fn listed(body: &[u8]) -> anyhow::Result<HashSet<String>> {
    let network: Network = serde_json::from_slice(body)?;
    Ok(network.containers.unwrap_or_default().into_values().map(|endpoint| format!("{GUEST}{}", endpoint.id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_a_network() {
        let body =
            br#"{"Name":"one","Id":"c1ff","Containers":{"0a":{"Name":"web","EndpointID":"78d5","IPv4Address":"10.71.0.2/24"}}}"#;
        assert_eq!(listed(body).unwrap(), HashSet::from(["docker:78d5".to_owned()]));
        assert!(listed(b"{\"Containers\":null}").unwrap().is_empty() && listed(b"{}").unwrap().is_empty());
        assert!(listed(b"7").is_err() && listed(b"{\"Containers\":{\"0a\":{}}}").is_err());
    }
}
