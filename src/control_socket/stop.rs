//! The end of the daemon, as by SIGINT.

use api::Problem;
use axum::Json;
use axum::response::Response;
use signal_hook::consts::SIGINT;

use super::answer::refused;

/// End the daemon for good, as SIGINT does: nothing outlives it. The answer comes before the end
#[utoipa::path(post, path = "/v1/stop", responses(
    (status = 200, description = "The process that ends", body = api::Stopping),
    (status = 409, description = "The signal cannot be sent", body = Problem),
))]
pub(super) async fn stop() -> Result<Json<api::Stopping>, Response> {
    tracing::info!("ending, as a client of the control socket asked for");
    // The handler only sets a flag and wakes the control thread, so this answer is sent first or within the time of the end.
    let raised = signal_hook::low_level::raise(SIGINT);
    raised.map_err(|error| refused(api::Refusal::conflict(format!("the daemon cannot signal itself: {error}"))))?;
    Ok(Json(api::Stopping { pid: std::process::id() }))
}
