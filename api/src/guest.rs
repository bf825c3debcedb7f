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
    /// The gateway of its network; `null` if it has none.
    pub gateway: Option<String>,
    /// Its names.
    pub names: Vec<String>,
    /// Its published ports.
    pub publish: Vec<String>,
    /// Whether its port reaches only ports that are not isolated.
    #[serde(default)]
    pub isolated: bool,
    /// Notes of its maker, by name.
    pub labels: BTreeMap<String, String>,
    /// Whether its maker is a verb of the control socket; otherwise it is the configuration file's.
    pub made_by_verb: bool,
}

/// The members of a guest that its maker chooses, in the body that adds it and in the body that changes it. Macro, since `serde(flatten)`
/// does not go with `deny_unknown_fields`.
macro_rules! bodies {
    ($($(#[$doc:meta])* $member:ident: $type:ty,)*) => {
        /// A guest to add
        #[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct NewGuest {
            /// A name that no other guest or port has: 1 to 255 printable ASCII characters
            pub id: String,
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $member: Option<$type>,)*
        }

        /// Members of a guest to change; the others stay, and an empty list or object takes a member away
        #[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct GuestKeys {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $member: Option<$type>,)*
        }

        impl NewGuest {
            /// A guest with this id.
            #[must_use]
            pub fn new(id: String, keys: GuestKeys) -> NewGuest {
                NewGuest { id, $($member: keys.$member,)* }
            }

            /// The members besides the id.
            #[must_use]
            pub fn keys(self) -> GuestKeys {
                GuestKeys { $($member: self.$member,)* }
            }
        }
    };
}

bodies! {
    /// Name of its bridge [default: br0]
    network: String,
    /// Its interface, which the switch makes: `NAME[@NETNS]`, where NETNS is a name under /run/netns, a path, or `pid:N` [default: vsw
    /// and 12 hexadecimal digits that follow from the id]
    interface: String,
    /// MAC address of its interface [default: one that the kernel chooses]
    mac: String,
    /// Its addresses with the lengths of their prefixes, such as `10.71.0.2/24`, or `auto` for a free one of its network
    addresses: Vec<String>,
    /// Its names
    names: Vec<String>,
    /// Its published ports: `[ADDR:]PORT[:PORT][/PROTOCOL]`, first outside, then of the guest. 0 is any free port outside, and so is a
    /// range of them for one port of the guest
    publish: Vec<String>,
    /// Whether its port reaches only ports that are not isolated [default: as its bridge says]
    isolated: bool,
    /// Notes of its maker, by name
    labels: BTreeMap<String, String>,
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
