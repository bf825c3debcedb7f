//! `upgrade`: another program goes on in place of the switch.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use api::Show;
use api::query::Program;
use hyper::Method;

use crate::client::{self, Body};

/// Pause between two looks whether the program has begun.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks for the upgrade, and waits until the other program answers. Returns what to print.
pub(crate) fn upgrade(socket: &Path, path: Option<&Path>, patience: Duration) -> anyhow::Result<String> {
    let absolute = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    let path = path.map(absolute).transpose()?.map(|path| path.display().to_string());
    let body = Body::Json(serde_json::to_string(&Program { path })?);
    client::ask(socket, Method::POST, "/v1/upgrade", Some(body))?;
    let begin = Instant::now();
    let mut was_silent = false;
    while begin.elapsed() < patience {
        match client::ask(socket, Method::GET, "/v1/show", None) {
            Ok(answer) => {
                let show: Show = serde_json::from_str(&answer)?;
                // The switch before may answer once more.
                if was_silent || Duration::from_secs(show.uptime + 1) < begin.elapsed() {
                    return Ok(format!("vswitchd {}, pid {}\n", show.version, show.pid));
                }
            }
            Err(_) => was_silent = true,
        }
        thread::sleep(PAUSE);
    }
    bail!("waited {} s: the other program does not answer; see the log of the switch", patience.as_secs())
}
