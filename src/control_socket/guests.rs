//! Guests: each is added, changed and removed in one change, with its port and its rules.

use api::{Change, Guest, GuestKeys, GuestsToKeep, NewGuest, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use config::GuestWords;

use super::answer::{Body, InPath, busy, problem};
use super::ask::Asker;
use super::query::{Query, Verb};
use super::reconfigure::change;

/// All guests
#[utoipa::path(get, path = "/v1/guests", operation_id = "guests", responses((status = 200, description = "The guests", body = [Guest])))]
pub(super) async fn list(State(asker): State<Asker>) -> Result<Json<Vec<Guest>>, Response> {
    asker.ask(Query::Guests).await.map(Json).ok_or_else(busy)
}

/// One guest
#[utoipa::path(get, path = "/v1/guests/{id}", operation_id = "guest", params(("id" = String, Path, description = "Id of the guest")),
    responses(
    (status = 200, description = "The guest", body = Guest),
    (status = 404, description = "No such guest", body = Problem),
))]
pub(super) async fn show(State(asker): State<Asker>, InPath(id): InPath<String>) -> Result<Json<Guest>, Response> {
    let guests = asker.ask(Query::Guests).await.ok_or_else(busy)?;
    let found = guests.into_iter().find(|guest| guest.id == id);
    found.map(Json).ok_or_else(|| problem(StatusCode::NOT_FOUND, &format!("there is no guest {}", id.escape_debug())))
}

/// Add a guest: its port, addresses, names and published ports, all or nothing
#[utoipa::path(post, path = "/v1/guests", operation_id = "add_guest", request_body = NewGuest, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn add(State(asker): State<Asker>, Body(guest): Body<NewGuest>) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::AddGuest(guest.id.clone(), words(guest.keys())), false).await
}

/// Change a guest; what is not named stays
#[utoipa::path(patch, path = "/v1/guests/{id}", operation_id = "set_guest", params(("id" = String, Path, description = "Id of the guest")),
    request_body = GuestKeys, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 404, description = "No such guest", body = Problem),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn set(
    State(asker): State<Asker>,
    InPath(id): InPath<String>,
    Body(keys): Body<GuestKeys>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::SetGuest(id, words(keys)), false).await
}

/// Remove a guest with all that belongs to it; nothing happens if it is not there
#[utoipa::path(delete, path = "/v1/guests/{id}", operation_id = "delete_guest", params(("id" = String, Path, description = "Id of the guest")), responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn delete(State(asker): State<Asker>, InPath(id): InPath<String>) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::DeleteGuest(id), false).await
}

/// Remove the guests that are left over: all that verbs have made and whose ids have this beginning, but those that are named
#[utoipa::path(post, path = "/v1/guests-to-keep", operation_id = "keep_guests", request_body = GuestsToKeep, responses(
    (status = 200, description = "The changes made", body = [Change]),
    (status = 409, description = "Conflict; nothing was changed", body = Problem),
))]
pub(super) async fn keep(
    State(asker): State<Asker>,
    Body(GuestsToKeep { prefix, keep }): Body<GuestsToKeep>,
) -> Result<Json<Vec<Change>>, Response> {
    change(&asker, Verb::KeepGuests { prefix, keep }, false).await
}

fn words(keys: GuestKeys) -> GuestWords {
    let GuestKeys { network, interface, mac, addresses, names, publish, isolated, labels } = keys;
    let labels = labels.map(|labels| labels.into_iter().collect());
    GuestWords { network, interface, mac, addresses, names, publish, isolated, labels }
}
