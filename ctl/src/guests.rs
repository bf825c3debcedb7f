//! The verbs of guests.

use std::collections::BTreeMap;

use anyhow::Context;
use api::{GuestsToKeep, NewGuest};
use hyper::Method;

use crate::change::{self, lines};
use crate::cli::{Guest, GuestKeys, Switch};
use crate::client::{Body, segment};
use crate::get::Get;
use crate::print;
use crate::table::plain;

pub(crate) fn run(get: &Get<'_>, guest: &Guest) -> anyhow::Result<String> {
    match guest {
        Guest::List => get.shown("/v1/guests", print::guests),
        Guest::Add { id, keys } => change::add(get, "/v1/guests", &NewGuest::new(id.clone(), keys_of(keys)?)),
        Guest::Set { id, keys } => {
            let body = serde_json::to_string(&keys_of(keys)?)?;
            get.changed(Method::PATCH, &format!("/v1/guests/{}", segment(id)), Some(Body::Json(body)), lines)
        }
        Guest::Del { id } => change::delete(get, "/v1/guests", id),
        Guest::Gc { prefix, keep } => {
            change::add(get, "/v1/guests-to-keep", &GuestsToKeep { prefix: prefix.clone(), keep: keep.clone() })
        }
    }
}

/// The keys as the switch takes them; an empty word is no item.
fn keys_of(keys: &GuestKeys) -> anyhow::Result<api::GuestKeys> {
    let items = |list: &Option<Vec<String>>| {
        list.as_ref().map(|list| list.iter().filter(|item| !item.is_empty()).cloned().collect::<Vec<String>>())
    };
    let pair = |label: String| {
        let pair = label.split_once('=').with_context(|| format!("--label '{}': write NAME=VALUE", plain(&label)))?;
        anyhow::Ok((pair.0.to_owned(), pair.1.to_owned()))
    };
    let labels = items(&keys.labels).map(|labels| labels.into_iter().map(pair).collect::<anyhow::Result<BTreeMap<_, _>>>());
    Ok(api::GuestKeys {
        network: keys.network.clone(),
        interface: keys.interface.clone(),
        mac: keys.mac.clone(),
        addresses: items(&keys.addresses),
        names: items(&keys.names),
        publish: items(&keys.publish),
        isolated: keys.isolated.map(|isolated| isolated == Switch::On),
        labels: labels.transpose()?,
    })
}
