//! Guests that verbs add to the running switch, change and remove.
//!
//! *Owners.* A guest that a verb has added is its maker's, not the configuration file's, wherever its network is from: the origin of its
//! table is the verb. A file that is applied, by a verb or by SIGHUP, [takes it over](Document::take_over_guests).

use std::net::IpAddr;

use crate::bridge::DEFAULT_BRIDGE;
use crate::desired::{Desired, EditError, named, no_such};
use crate::document::Document;
use crate::guest::{Guest, GuestKeys};
use crate::keys::{Keys, list_of};
use crate::problem::{At, Origin, Problem, Problems};
use crate::raw::{Entry, Raw, RawValue};

/// A guest in the words of a verb; what is `None` is left out, or stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GuestWords {
    /// Its bridge.
    pub network: Option<String>,
    /// `NAME[@NETNS]`.
    pub interface: Option<String>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// Its addresses with the lengths of their prefixes.
    pub addresses: Option<Vec<String>>,
    /// Its names.
    pub names: Option<Vec<String>>,
    /// Its published ports.
    pub publish: Option<Vec<String>>,
    /// Whether its port is isolated.
    pub isolated: Option<bool>,
    /// Names and values of its labels.
    pub labels: Option<Vec<(String, String)>>,
}

impl GuestWords {
    /// The keys that are given.
    fn entries(&self, origin: &Origin) -> Vec<Entry> {
        let raw = |value| Raw { origin: origin.clone(), value };
        let list = |items: &Vec<String>| RawValue::List(items.iter().map(|item| Raw::word(item, origin)).collect());
        let (interface, netns) = match self.interface.as_ref().map(|text| text.split_once('@').ok_or(text)) {
            None => (None, None),
            Some(Ok((name, netns))) => (Some(name.to_owned()), Some(netns.to_owned())),
            Some(Err(name)) => (Some(name.clone()), None),
        };
        let labels = self.labels.as_ref().map(|labels| {
            let entry = |(name, value): &(String, String)| Entry { key: name.clone(), raw: Raw::word(value, origin) };
            RawValue::Table(labels.iter().map(entry).collect())
        });
        let words = [("network", self.network.clone()), ("interface", interface), ("netns", netns), ("mac", self.mac.clone())];
        let lists = [("address", &self.addresses), ("name", &self.names), ("publish", &self.publish)];
        let words = words.into_iter().filter_map(|(key, word)| Some((key, RawValue::Word(word?))));
        let lists = lists.into_iter().filter_map(|(key, items)| Some((key, list(items.as_ref()?))));
        let isolated = self.isolated.map(|isolated| ("isolated", RawValue::Switch(isolated)));
        let all = words.chain(lists).chain(isolated).chain(labels.map(|labels| ("labels", labels)));
        let is_empty = |value: &RawValue| match value {
            RawValue::List(items) => items.is_empty(),
            RawValue::Table(entries) => entries.is_empty(),
            _ => false,
        };
        all.filter(|(_, value)| !is_empty(value)).map(|(key, value)| Entry { key: key.to_owned(), raw: raw(value) }).collect()
    }
}

impl Desired {
    /// This configuration with one more guest.
    pub fn with_guest(&self, id: &str, words: &GuestWords) -> Result<Desired, EditError> {
        let verb = format!("guest add {}", id.escape_debug());
        if self.config.guests.iter().any(|guest| guest.id == id) {
            let problem =
                format!("there is a guest {id} already: change it with 'guest set', or remove it first with 'guest del'");
            return Err(EditError::taken(&verb, problem, id));
        }
        let origin = Origin::Verb(verb.into());
        let words = self.with_choices(id, words, &origin)?;
        let mut problems = Problems::default();
        let mut entries = words.entries(&origin);
        entries.push(Entry::word("id", id, &origin));
        let keys = GuestKeys::of(&entries, &mut problems);
        if !problems.is_empty() {
            return Err(problems.into());
        }
        let mut document = self.document.clone();
        list_of(&mut document.guests).push(At::new(keys, &origin));
        self.of_document(document)
    }

    /// The same for an engine, whose choice of addresses is final: guests of its own, whose ids begin with `prefix`, go if they have the
    /// id, the MAC address or an address of the new one in its network. It has forgotten them.
    pub fn with_guest_instead(&self, prefix: &str, id: &str, words: &GuestWords) -> Result<Desired, EditError> {
        let network = words.network.as_deref().unwrap_or(DEFAULT_BRIDGE);
        let is_in_the_way = |guest: &Guest| {
            let has_address = |(address, _): &(IpAddr, u8)| {
                let is_it = |text: &String| text.split('/').next().and_then(|text| text.parse().ok()) == Some(*address);
                words.addresses.iter().flatten().any(is_it)
            };
            let has_mac = guest.mac.is_some() && guest.mac == words.mac.as_ref().and_then(|mac| mac.parse().ok());
            guest.id == id || guest.network == network && (has_mac || guest.addresses.iter().any(has_address))
        };
        let is_own = |guest: &&Guest| guest.id.starts_with(prefix) && guest.origin.is_verb();
        let gone: Vec<&str> = self
            .config
            .guests
            .iter()
            .filter(is_own)
            .filter(|guest| is_in_the_way(guest))
            .map(|guest| guest.id.as_str())
            .collect();
        match gone.is_empty() {
            true => self.with_guest(id, words),
            false => self.without_guests(|guest| gone.iter().any(|gone| has_id(guest, gone)))?.with_guest(id, words),
        }
    }

    /// This configuration with other values for what these words say of a guest. An empty list takes the key away.
    pub fn with_guest_set(&self, id: &str, words: &GuestWords) -> Result<Desired, EditError> {
        let origin = named(&format!("guest set {id}"));
        let mut document = self.document.clone();
        let tables = document.guests.iter_mut().flat_map(|guests| &mut guests.value.0);
        let Some(guest) = tables.into_iter().find(|guest| has_id(guest, id)) else { return Err(self.no_such_guest(id)) };
        let words = self.with_choices(id, words, &origin)?;
        let mut problems = Problems::default();
        let new = GuestKeys::of(&words.entries(&origin), &mut problems);
        if !problems.is_empty() {
            return Err(problems.into());
        }
        let keys = &mut guest.value;
        if words.interface.is_some() {
            (keys.interface, keys.netns) = (new.interface, new.netns);
        }
        keys.network = new.network.or(keys.network.take());
        keys.mac = new.mac.or(keys.mac.take());
        if words.addresses.is_some() {
            keys.addresses = new.addresses;
        }
        if words.names.is_some() {
            keys.names = new.names;
        }
        if words.publish.is_some() {
            keys.publish = new.publish;
        }
        keys.isolated = new.isolated.or(keys.isolated.take());
        if words.labels.is_some() {
            keys.labels = new.labels;
        }
        self.of_document(document)
    }

    /// This configuration without the guest of this id; unchanged if there is none, so that a client can repeat a deletion.
    pub fn without_guest(&self, id: &str) -> Result<Desired, EditError> {
        self.without_guests(|guest| has_id(guest, id))
    }

    /// This configuration without the guests that verbs have made, whose ids begin with `prefix`, and that are not among `keep`.
    pub fn without_left_over_guests(&self, prefix: &str, keep: &[String]) -> Result<Desired, EditError> {
        self.without_guests(|guest| {
            let id = guest.value.id.as_ref().map_or("", |id| id.value.0.as_str());
            guest.origin.is_verb() && id.starts_with(prefix) && !keep.iter().any(|kept| kept == id)
        })
    }

    fn without_guests(&self, goes: impl Fn(&At<GuestKeys>) -> bool) -> Result<Desired, EditError> {
        let mut document = self.document.clone();
        let tables = document.guests.iter_mut().map(|guests| &mut guests.value.0);
        tables.into_iter().for_each(|guests| guests.retain(|guest| !goes(guest)));
        document.guests = document.guests.filter(|guests| !guests.value.0.is_empty());
        self.of_document(document)
    }

    fn no_such_guest(&self, id: &str) -> EditError {
        no_such("guest", id, self.config.guests.iter().map(|guest| guest.id.clone()))
    }

    /// The refusal to remove a part of a guest: its port, or a rule.
    pub(crate) fn refuse_part(&self, name: &str, is_part: impl Fn(&Guest) -> bool) -> Result<(), EditError> {
        let Some(guest) = self.config.guests.iter().find(|guest| is_part(guest)) else { return Ok(()) };
        let problem =
            format!("it is a part of guest {id}: change it with 'guest set {id}', or remove 'guest del {id}'", id = guest.id);
        Err(EditError::Refused(Problem { in_the_way: Some(guest.id.clone()), ..Problem::new(&named(name), problem) }.into()))
    }
}

fn has_id(guest: &At<GuestKeys>, id: &str) -> bool {
    guest.value.id.as_ref().is_some_and(|own| own.value.0 == id)
}

impl Document {
    /// Takes over the guests that verbs added to the running configuration. Their networks must stay.
    pub(crate) fn take_over_guests(&mut self, running: &Document, whole: &Origin, problems: &mut Problems) {
        for guest in running.guests().iter().filter(|guest| guest.origin.is_verb()) {
            let id = guest.value.id.as_ref().map_or("", |id| id.value.0.as_str());
            let owner = format!(
                "which is not the file's, but made by '{}': remove it first with 'guest del {id}', or use apply --prune",
                guest.origin
            );
            if let Some(other) = self.guests().iter().find(|other| has_id(other, id)) {
                problems.add_clash(&other.origin, format!("there is a guest {id} already, {owner}"), id);
                continue;
            }
            let network = guest.value.network.as_ref().map_or(DEFAULT_BRIDGE, |network| network.value.as_str());
            if network == DEFAULT_BRIDGE && !self.has_own_bridge() {
                self.default_bridge();
            }
            if self.bridge_named(network).is_none() {
                let problem = format!("bridge {network} is not there, but has guest {id}, {owner}");
                problems.add_clash(whole, problem, id);
                continue;
            }
            list_of(&mut self.guests).push(guest.clone());
        }
    }
}
