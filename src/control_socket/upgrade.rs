//! The upgrade: another program goes on in place of this one.

use api::Problem;
use api::query::Program;
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Body, refused};
use super::ask::Asker;
use super::query::Query;
use crate::state::upgrade::{self, Begin, Upgrade};

/// Go on as another program, in the same process; the answer comes before the change
#[utoipa::path(post, path = "/v1/upgrade", request_body = Program, responses(
    (status = 200, description = "The process, which goes on as the other program", body = api::Stopping),
    (status = 409, description = "Nothing outlives the daemon, or the program cannot go on; nothing was changed", body = Problem),
))]
pub(super) async fn upgrade(
    State(asker): State<Asker>,
    Body(Program { path }): Body<Program>,
) -> Result<Json<api::Stopping>, Response> {
    // It starts the program, which takes a while.
    let checked = tokio::task::spawn_blocking(move || upgrade::check(path.as_deref())).await;
    let program = checked.map_err(|error| refused(api::Refusal::internal(error.to_string())))?.map_err(refused)?;
    let begin = Begin::default();
    let upgrade = Upgrade { program, begin: begin.clone() };
    asker.change(|reply| Query::Upgrade { upgrade, reply }).await?;
    // Not before: this answer is sent first or within the time of the end.
    begin.set();
    asker.wake();
    Ok(Json(api::Stopping { pid: std::process::id() }))
}
