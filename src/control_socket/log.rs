//! Log levels. They belong to the process, so the control thread is not asked.

use api::{Level, Log, LogChange, Problem, Refusal};
use axum::Json;
use axum::response::Response;
use tracing_subscriber::filter::LevelFilter;

use super::answer::{Body, refused};
use crate::log::{self, Change, Levels, PARTS};

/// Log levels
#[utoipa::path(get, path = "/v1/log", responses((status = 200, description = "The levels", body = Log)))]
pub(super) async fn show() -> Json<Log> {
    Json(view(&log::levels()))
}

/// Set the log level of one part or of all; answers with the levels in force
#[utoipa::path(put, path = "/v1/log", request_body = LogChange, responses(
    (status = 200, description = "The levels in force", body = Log),
    (status = 422, description = "Unknown part or level", body = Problem),
))]
pub(super) async fn set(Body(LogChange { part, level }): Body<LogChange>) -> Result<Json<Log>, Response> {
    let change = Change::new(part.as_deref(), &level).map_err(|error| refused(Refusal::unprocessable(error)))?;
    let levels = log::change(change);
    tracing::info!(level = %change, "log level changed");
    Ok(Json(view(&levels)))
}

fn view(levels: &Levels) -> Log {
    let (level, parts) = levels.each();
    Log {
        level: level_of(level),
        parts: parts.map(|(part, level)| (part.to_owned(), level_of(level))).collect(),
        known: PARTS.map(str::to_owned).to_vec(),
    }
}

fn level_of(filter: LevelFilter) -> Level {
    match filter {
        LevelFilter::OFF => Level::Off,
        LevelFilter::ERROR => Level::Error,
        LevelFilter::WARN => Level::Warn,
        LevelFilter::INFO => Level::Info,
        LevelFilter::DEBUG => Level::Debug,
        LevelFilter::TRACE => Level::Trace,
    }
}
