//! How much is logged, and the way to change it. The levels are the process's, so nobody need be asked for them.

use api::Refusal;
use axum::Json;
use axum::response::Response;

use super::answer::{Body, refused};
use super::views;
use crate::log::{self, Change, Levels, PARTS};

/// How much is logged
#[utoipa::path(get, path = "/v1/log", responses((status = 200, body = views::Log)))]
pub(super) async fn show() -> Json<views::Log> {
    Json(view(&log::levels()))
}

/// Sets a level: that of one part, or that of all. Answers with the levels that are now
#[utoipa::path(put, path = "/v1/log", request_body = views::LogChange, responses(
    (status = 200, body = views::Log),
    (status = 422, description = "no such part or level", body = views::Problem),
))]
pub(super) async fn set(Body(change): Body<views::LogChange>) -> Result<Json<views::Log>, Response> {
    let views::LogChange { part, level } = change;
    let change = Change::new(part.as_deref(), &level).map_err(|problem| refused(Refusal::Unprocessable(problem)))?;
    let levels = log::change(change);
    tracing::info!(level = %change, "log level changed");
    Ok(Json(view(&levels)))
}

fn view(levels: &Levels) -> views::Log {
    let (level, parts) = levels.words();
    views::Log {
        level: level.to_owned(),
        parts: parts.map(|(part, level)| (part.to_owned(), level.to_owned())).collect(),
        known: PARTS.map(str::to_owned).to_vec(),
    }
}
