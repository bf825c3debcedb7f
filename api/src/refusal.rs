//! Errors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request failed, with the cause and the remedy as text. Each has a status of HTTP (RFC 9110 section 15.5).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Bad request: a word or value that cannot be read.
    #[error("{0}")]
    BadRequest(String),
    /// Not found.
    #[error("{0}")]
    NotFound(String),
    /// Conflict with the present state of the switch.
    #[error("{0}")]
    Conflict(String),
    /// Unprocessable: readable, but never possible.
    #[error("{0}")]
    Unprocessable(String),
    /// Internal error: a fault of the switch.
    #[error("{0}")]
    Internal(String),
}

impl Refusal {
    /// The status of HTTP.
    pub const fn status(&self) -> u16 {
        match self {
            Refusal::BadRequest(_) => 400,
            Refusal::NotFound(_) => 404,
            Refusal::Conflict(_) => 409,
            Refusal::Unprocessable(_) => 422,
            Refusal::Internal(_) => 500,
        }
    }
}

/// The body of every response that is an error.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The cause and, where there is one, the remedy.
    pub error: String,
}
