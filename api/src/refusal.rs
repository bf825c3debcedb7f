//! Errors.
//!
//! A request that fails is answered with a *problem* (RFC 9457), as `application/problem+json`: the status again, the reason and
//! the remedy as a sentence, and, where they are known, the part of the request that is wrong and the thing that is in the way.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Media type of a [`Problem`] (RFC 9457 section 6.1).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Type of all problems: the status says which it is (RFC 9457 section 4.2.1).
const ABOUT_BLANK: &str = "about:blank";

/// Why a request failed, with the reason and the remedy as text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Kind of the error.
    pub kind: RefusalKind,
    /// The reason and, where there is one, the remedy.
    pub text: String,
    /// Name of the parameter or member that is wrong.
    pub field: Option<String>,
    /// Name of the thing that has what the request asked for.
    pub in_the_way: Option<String>,
}

/// Kind of a refusal. Each has a status of HTTP (RFC 9110 section 15.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// A word or value that cannot be read.
    BadRequest,
    /// There is no such thing.
    NotFound,
    /// It is in conflict with the present state of the switch.
    Conflict,
    /// It is readable, but never possible.
    Unprocessable,
    /// A fault of the switch.
    Internal,
}

impl RefusalKind {
    /// The status of HTTP.
    pub const fn status(self) -> u16 {
        match self {
            RefusalKind::BadRequest => 400,
            RefusalKind::NotFound => 404,
            RefusalKind::Conflict => 409,
            RefusalKind::Unprocessable => 422,
            RefusalKind::Internal => 500,
        }
    }
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Refusal {
        Refusal { kind, text: text.into(), field: None, in_the_way: None }
    }

    /// A word or value cannot be read.
    pub fn bad_request(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::BadRequest, text)
    }

    /// There is no such thing.
    pub fn not_found(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::NotFound, text)
    }

    /// The request is in conflict with the present state of the switch.
    pub fn conflict(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Conflict, text)
    }

    /// The request is readable, but never possible.
    pub fn unprocessable(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Unprocessable, text)
    }

    /// A fault of the switch.
    pub fn internal(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Internal, text)
    }

    /// Names the parameter or member that is wrong, unless one is named already.
    #[must_use]
    pub fn of_field(mut self, field: impl Into<String>) -> Refusal {
        self.field.get_or_insert_with(|| field.into());
        self
    }

    /// Names the thing that has what the request asked for.
    #[must_use]
    pub fn in_the_way(mut self, thing: impl Into<String>) -> Refusal {
        self.in_the_way = Some(thing.into());
        self
    }

    /// The status of HTTP.
    pub const fn status(&self) -> u16 {
        self.kind.status()
    }
}

/// The body of every response that is an error: a problem (RFC 9457).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Type of the problem, a URI; `about:blank`, as the status says which it is.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// The status in words, such as `Not Found`.
    pub title: String,
    /// The status of the response.
    pub status: u16,
    /// The reason and, where there is one, the remedy.
    pub detail: String,
    /// The same as `detail`.
    pub error: String,
    /// Name of the parameter or member that is wrong, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Name of the thing that has what the request asked for, such as a port of the same name, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_the_way: Option<String>,
}

impl Problem {
    /// A problem with this status, which `title` puts into words.
    pub fn new(status: u16, title: &str, text: &str) -> Problem {
        Problem {
            problem_type: ABOUT_BLANK.to_owned(),
            title: title.to_owned(),
            status,
            detail: text.to_owned(),
            error: text.to_owned(),
            field: None,
            in_the_way: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_that_is_named_stays() {
        let refusal = Refusal::conflict("taken").of_field("port").of_field("body").in_the_way("tap0");
        assert_eq!((refusal.field.as_deref(), refusal.in_the_way.as_deref()), (Some("port"), Some("tap0")));
        assert_eq!((refusal.status(), refusal.to_string()), (409, "taken".to_owned()));
    }

    #[test]
    fn problems_have_the_members_of_rfc_9457() {
        let problem = serde_json::to_value(Problem::new(404, "Not Found", "there is no port 'x'")).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Not Found", "status": 404,
            "detail": "there is no port 'x'", "error": "there is no port 'x'",
        });
        assert_eq!(problem, expected);
    }
}
