//! Guests: ports with their addresses, names and published ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A guest that is there
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Guest {
    /// The name that its maker gave it.
    pub id: String,
    /// Name of its bridge.
    pub network: String,
    /// Name of its port.
    pub port: String,
    /// Name of its interface.
    pub interface: String,
    /// The namespace of its interface; `null` if it is the switch's own.
    pub netns: Option<String>,
    /// MAC address of its interface; `null` if the kernel chose one.
    pub mac: Option<String>,
    /// Its addresses with the lengths of their prefixes.
    pub addresses: Vec<String>,
    /// Its names.
    pub names: Vec<String>,
    /// Its published ports.
    pub publish: Vec<String>,
    /// Notes of its maker, by name.
    pub labels: BTreeMap<String, String>,
    /// Whether its maker is a verb of the control socket; otherwise it is the configuration file's.
    pub made_by_verb: bool,
}

/// A guest to add
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGuest {
    /// A name that no other guest or port has: 1 to 255 printable ASCII characters
    pub id: String,
    /// Name of its bridge [default: br0]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Its interface, which the switch makes: `NAME[@NETNS]`, where NETNS is a name under /run/netns, a path, or `pid:N` [default: vsw
    /// and 12 hexadecimal digits that follow from the id]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// MAC address of its interface [default: one that the kernel chooses]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its addresses with the lengths of their prefixes, such as `10.71.0.2/24`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Its names
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Its published ports: `[ADDR:]PORT[:PORT][/PROTOCOL]`, first outside, then of the guest
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    /// Notes of its maker, by name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// What a guest is; a change has the members that are to be other than they are, and an empty list or object takes a member away
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestKeys {
    /// Name of its bridge [default: br0]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Its interface, which the switch makes: `NAME[@NETNS]`, where NETNS is a name under /run/netns, a path, or `pid:N` [default: vsw
    /// and 12 hexadecimal digits that follow from the id]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// MAC address of its interface [default: one that the kernel chooses]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its addresses with the lengths of their prefixes, such as `10.71.0.2/24`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Its names
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Its published ports: `[ADDR:]PORT[:PORT][/PROTOCOL]`, first outside, then of the guest
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    /// Notes of its maker, by name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Guests that are not left over
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestsToKeep {
    /// Guests with another beginning of their ids stay
    pub prefix: String,
    /// Ids of the guests that stay
    #[serde(default)]
    pub keep: Vec<String>,
}
