//! The configuration of vswitchd: one typed model for file, flags and verbs.
//!
//! ```text
//!   vswitchd.toml --file--+                          +--> Problems: all of them, each where it was written
//!   command line --flags--+--> Document --check------+
//!   port add ... --verbs--+    (typed keys)          +--> Config --+
//!                                                                  +--> Plan: the changes
//!                                  Config of the running switch ---+
//! ```
//!
//! *The written form* is a `Document`: tables of typed keys, each value with its [`Origin`] (a line of a file, or a flag). TOML and the
//! words of flags become the same raw tables first, so there is one declaration of each key, and one check of each value.
//!
//! *The meaning* is a [`Config`], plain values with all defaults filled in. It knows nothing of devices or of the switch; the
//! daemon converts it.
//!
//! *Problems are collected*: reading continues with the next key, and each problem is reported at its line or flag, in the words of the
//! file or of the flags. A verb of the control socket is an edit of the document ([`Desired`]), and is checked as a file is. A [`Plan`]
//! is the difference of two configurations.

mod address;
mod bridge;
mod check;
mod control;
mod desired;
mod docker;
mod document;
mod file;
mod flags;
mod gro;
mod guest;
mod guest_choices;
mod guest_verbs;
mod identity;
mod keys;
mod limit;
mod metrics;
mod model;
mod name;
mod nat;
mod networks;
mod owned;
mod plan;
pub mod port;
mod port_verbs;
mod problem;
mod publish;
mod raw;
mod reach;
mod route;
mod router;
mod state;
mod station;
#[cfg(test)]
mod tests;
mod tunnel;
mod uplink;
mod value;
mod vlan;
mod written;

pub use self::address::Cidr;
pub use self::bridge::{Bridge, DEFAULT_BRIDGE, MAX_BRIDGES, Reach, unknown_bridge};
pub use self::control::{CONTROL_VARIABLE, Control, ControlPath, UserGroup, usual_path};
pub use self::desired::{Desired, EditError};
pub use self::docker::{DOCKER_SOCKET, Docker};
pub use self::flags::Flag;
pub use self::gro::Gro;
pub use self::guest::Guest;
pub use self::guest_verbs::GuestWords;
pub use self::identity::Identity;
pub use self::limit::Limits;
pub use self::metrics::Metrics;
pub use self::model::Config;
pub use self::name::Netns;
pub use self::nat::{Dependence, MssClamp, Nat, Timeouts};
pub use self::owned::{LeftOut, Owned, Restored};
pub use self::plan::{Action, Change, NeedsRestart, Plan};
pub use self::port::{Port, PortKind};
pub use self::problem::{At, Origin, Problem, Problems, nearest, unknown};
pub use self::publish::Publish;
pub use self::route::{MAX_ROUTES, StaticRoute};
pub use self::router::{Gateway, MAX_GATEWAYS, Router};
pub use self::state::StatePath;
pub use self::station::{Station, shown as address_text};
pub use self::tunnel::{Checksum, DontFragment, GROUP_PORTS, Group, IpTunnel, Outer, Tunnel};
pub use self::uplink::{BridgeUplink, GateMode, NatUplink};
pub use self::vlan::{Trunks, Vlans};
pub use ::tunnel::FramingKind;
