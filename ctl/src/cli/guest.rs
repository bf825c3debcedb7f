//! The command line of guests.

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Guest {
    /// List guests with their networks, addresses and published ports
    #[command(visible_alias = "show")]
    List,
    /// Add a guest, with all that belongs to it or not at all: web --network blue --interface eth0@pid:4711 --address 10.71.0.2/24
    Add {
        /// A name that no other guest or port has
        id: String,
        #[command(flatten)]
        keys: GuestKeys,
    },
    /// Change a guest; what is not named stays. An empty value takes a key away: --publish ''
    Set {
        /// The guest
        id: String,
        #[command(flatten)]
        keys: GuestKeys,
    },
    /// Remove a guest with all that belongs to it; no error if it is not there
    Del {
        /// The guest
        id: String,
    },
    /// Remove what is left over: all guests that guest add has made and whose ids begin with PREFIX, but those to keep
    Gc {
        /// Beginning of ids
        prefix: String,
        /// Ids of guests that stay
        #[arg(long, value_name = "ID", num_args = 1.., required = true)]
        keep: Vec<String>,
    },
}

/// What is on or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Switch {
    /// It is so
    On,
    /// It is not
    Off,
}

/// What a guest is.
#[derive(Debug, Args)]
pub(crate) struct GuestKeys {
    /// Its bridge [default: br0]
    #[arg(long, value_name = "BRIDGE")]
    pub(crate) network: Option<String>,
    /// Its interface, which the switch makes; NETNS is a name under /run/netns, a path, or pid:N [default: vsw and 12 digits]
    #[arg(long, value_name = "NAME[@NETNS]")]
    pub(crate) interface: Option<String>,
    /// MAC address of its interface
    #[arg(long)]
    pub(crate) mac: Option<String>,
    /// Its addresses, or auto for a free one; with one in the network of the bridge's gateway, the guest gets a default route
    #[arg(long = "address", value_name = "CIDR", num_args = 1..)]
    pub(crate) addresses: Option<Vec<String>>,
    /// Its names
    #[arg(long = "name", value_name = "NAME", num_args = 1..)]
    pub(crate) names: Option<Vec<String>>,
    /// Ports of the uplink's address, and the guest's behind them, the same by default: 8080:80. Any free port: 0:80
    #[arg(long, value_name = "[ADDR:]PORT[:PORT][/PROTOCOL]", num_args = 1..)]
    pub(crate) publish: Option<Vec<String>>,
    /// Its port reaches only ports that are not isolated, the gateway, and a bridged uplink [default: as its bridge says]
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub(crate) isolated: Option<Switch>,
    /// Labels, shown in lists of guests
    #[arg(long = "label", value_name = "NAME=VALUE", num_args = 1..)]
    pub(crate) labels: Option<Vec<String>>,
}
